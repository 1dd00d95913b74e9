//! What may be prepared, and taken.
#![deny(warnings)]

use std::collections::HashMap;
use std::ops::Deref;

use etcdtest::Prepared;

struct Catalog {
    articles: HashMap<String, u32>,
}

#[etcdtest::prepare]
fn catalog() -> anyhow::Result<Catalog> {
    Ok(Catalog { articles: HashMap::from([("lamp".to_owned(), "3".parse()?)]) })
}

#[etcdtest::prepare]
fn numbers() -> Vec<u32> {
    (1..=3).collect()
}

mod elsewhere {
    #[etcdtest::prepare]
    pub(crate) fn text() -> Result<String, Box<dyn std::error::Error>> {
        Ok("lamp".parse()?)
    }
}

#[etcdtest::test(cases(lamps("lamp")))]
fn all_kinds(
    wanted: &str,
    catalog: &Prepared<Catalog>,
    numbers: &Prepared<Vec<u32>>,
    text: &etcdtest::Prepared<String>,
    cx: &etcdtest::Context,
) {
    assert_eq!(catalog.articles[wanted], numbers[2]);
    assert_eq!((text.deref(), cx.attempt()), (&wanted.to_owned(), 1));
    assert_eq!(format!("{numbers:?}"), "[1, 2, 3]");
}

#[etcdtest::test]
async fn asynchronous(text: &Prepared<String>) -> anyhow::Result<()> {
    anyhow::ensure!(text.len() == 4);
    Ok(())
}

etcdtest::main!();
