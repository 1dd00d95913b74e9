//! Parameters of every kind, in `fn` and `async fn`, and every kind of result.
#![deny(warnings)]

use std::error::Error;

use etcdtest::{Context, Environment};

/// All of its fields have defaults: the environment of this program is empty.
#[derive(serde::Deserialize)]
#[serde(default)]
struct Shop {
    orders_url: String,
}

impl Default for Shop {
    fn default() -> Self {
        Self { orders_url: "http://127.0.0.1".into() }
    }
}

#[etcdtest::test]
fn all_parameters(cx: &Context, environment: &Environment, shop: Shop, region: Option<String>, mut _tries: Option<u8>) {
    assert_eq!((cx.test(), cx.attempt()), ("all_parameters", 1));
    assert_eq!(environment.name(), "local");
    assert_eq!(shop.orders_url, "http://127.0.0.1");
    assert_eq!(region, None);
}

#[etcdtest::test]
async fn asynchronous(cx: &Context) -> anyhow::Result<()> {
    let name = cx.step_async("name", async { cx.unique("user") }).await;
    assert!(name.starts_with("user-"));
    Ok(())
}

#[etcdtest::test]
async fn asynchronous_without_a_result() {}

#[etcdtest::test]
fn boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
    Ok(())
}

#[etcdtest::test]
fn a_type_of_its_own() -> Result<(), NotAnError> {
    Ok(())
}

#[derive(Debug)]
struct NotAnError;

#[etcdtest::test]
fn diverges_by_skipping() -> Result<(), NotAnError> {
    let kind = "broker";
    etcdtest::skip!("no {kind} here");
}

etcdtest::main!();
