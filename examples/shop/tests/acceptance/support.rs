//! The shop under test: the one that the environment has, or one of the test's own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use etcdtest::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use shop::client::{Client, Reply};

/// A card whose bank pays at once.
pub(crate) const CARD: &str = "4000-0000-0000-0001";

/// What these tests read of the environment.
#[derive(Deserialize)]
pub(crate) struct Config {
    /// Where its services are; without the runner there are none.
    #[serde(default)]
    services: BTreeMap<String, Address>,
    #[serde(default)]
    payment_delay_ms: u64,
    #[serde(default)]
    cold_start: bool,
}

#[derive(Deserialize)]
struct Address {
    url: String,
}

/// A shop.
pub(crate) struct Shop {
    pub(crate) orders: Client,
    pub(crate) payments: Client,
    pub(crate) warehouse: Client,
    _started: Vec<Service>,
}

impl Shop {
    /// The shop of this environment, or one of its own where the environment has none.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        Self::open_with(config, 0)
    }

    /// The same, where the first attempt comes right after a deployment: to a shop whose
    /// warehouse is cold.
    pub(crate) fn open_after_deployment(config: &Config, cx: &Context) -> Result<Self> {
        Self::open_with(config, u32::from(config.cold_start && cx.attempt() == 1))
    }

    fn open_with(config: &Config, cold: u32) -> Result<Self> {
        let mut started = Vec::new();
        let mut address = |name: &str, program: &str, arguments: &[&str]| -> Result<String> {
            if let (0, Some(service)) = (cold, config.services.get(name)) {
                return Ok(service.url.clone());
            }
            let (service, url) = Service::start(program, arguments)?;
            started.push(service);
            Ok(url)
        };
        let warehouse =
            address("warehouse", env!("CARGO_BIN_EXE_warehouse"), &["--cold", &cold.to_string()])?;
        let payments = address(
            "payments",
            env!("CARGO_BIN_EXE_payments"),
            &["--delay-ms", &config.payment_delay_ms.to_string()],
        )?;
        let orders = address(
            "orders",
            env!("CARGO_BIN_EXE_orders"),
            &["--warehouse", &warehouse, "--payments", &payments],
        )?;
        Ok(Self {
            orders: Client::new(&orders),
            payments: Client::new(&payments),
            warehouse: Client::new(&warehouse),
            _started: started,
        })
    }

    /// Puts this many pieces of something new on the shelf, at 25.00 each, and says what it is.
    pub(crate) fn stock(&self, cx: &Context, pieces: u64) -> Result<String> {
        let item = cx.unique("lamp");
        let lamps = json!({ "stock": pieces, "price_cents": 2_500 });
        let reply = self.warehouse.call("PUT", &format!("/items/{item}"), &lamps)?;
        anyhow::ensure!(reply.status == 200, "the shelf was not filled: {reply:?}");
        Ok(item)
    }

    /// How many pieces are free.
    pub(crate) fn left(&self, item: &str) -> Result<Value> {
        Ok(self.warehouse.get(&format!("/items/{item}"))?.body["stock"].take())
    }

    /// Orders `quantity` pieces.
    pub(crate) fn order(&self, customer: &str, item: &str, quantity: u64) -> Result<Reply> {
        self.orders.post("/orders", &json!({ "customer": customer, "item": item, "quantity": quantity }))
    }

    /// Orders one piece, and gives the order's id.
    pub(crate) fn order_one(&self, customer: &str, item: &str) -> Result<String> {
        let reply = self.order(customer, item, 1)?;
        reply.body["id"].as_str().map(str::to_owned).with_context(|| format!("no order: {reply:?}"))
    }

    /// Pays an order.
    pub(crate) fn pay(&self, order: &str, card: &str) -> Result<Reply> {
        self.orders.post(&format!("/orders/{order}/pay"), &json!({ "card": card }))
    }
}

/// A service in a process of its own, which ends with this value, or with the test's process
/// however that ends: the service watches its standard input.
struct Service(Child);

impl Service {
    /// Starts the program on a free port, and waits until it says which.
    fn start(program: &str, arguments: &[&str]) -> Result<(Self, String)> {
        let child = Command::new(program)
            .args(["--attached", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {program}"))?;
        let mut service = Self(child);
        let stdout = service.0.stdout.take().context("a child has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ");
        let url =
            url.with_context(|| format!("{program} did not say where it listens: {line:?}"))?.to_owned();
        Ok((service, url))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
