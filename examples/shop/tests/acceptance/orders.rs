//! From the order to the shelf.

use std::thread;

use anyhow::{Result, ensure};
use etcdtest::{Context, Environment};
use serde_json::{Value, json};

use crate::support::{CARD, Config, Shop};

/// An order sets its stock aside.
///
/// # Steps
/// 1. Put five lamps on the shelf.
/// 2. Order two.
///
/// # Expected
/// The order is unpaid and costs 50.00; three lamps are left.
#[etcdtest::test(tags = ["smoke"], owner = "orders")]
fn an_order_reserves_its_stock(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = cx.step("put five lamps on the shelf", || shop.stock(cx, 5))?;
    let order = cx.step("order two", || shop.order("ada", &item, 2))?;
    assert_eq!(order.status, 201);
    assert_eq!(order.body["state"], "unpaid");
    assert_eq!(order.body["total_cents"], 5_000);
    assert_eq!(shop.left(&item)?, 3);
    Ok(())
}

/// A paid order is listed as paid.
///
/// # Steps
/// 1. Create an order.
/// 2. Pay it.
/// 3. List the customer's orders.
///
/// # Expected
/// The list holds that order alone, as `paid`.
#[etcdtest::test(tags = ["smoke", "money"], owner = "orders", timeout = "30s")]
fn a_paid_order_is_listed_as_paid(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let customer = cx.unique("customer");
    let item = shop.stock(cx, 1)?;
    let order = cx.step("create an order", || shop.order_one(&customer, &item))?;
    let paid = cx.step("pay it", || shop.pay(&order, CARD))?;
    ensure!(paid.status == 200, "not paid: {paid:?}");
    let list = cx.step("list the orders", || shop.orders.get(&format!("/orders?customer={customer}")))?;
    cx.attach("orders.json", serde_json::to_vec_pretty(&list.body)?);
    let seen: Vec<_> =
        list.body.as_array().into_iter().flatten().map(|one| (&one["id"], &one["state"])).collect();
    assert_eq!(seen, [(&json!(order), &json!("paid"))]);
    Ok(())
}

/// What is not there cannot be ordered.
#[etcdtest::test(tags = ["stock"], owner = "warehouse", cases(none_left(0, 1), one_too_many(3, 4), all_and_more(3, 300)))]
fn an_order_beyond_the_stock_is_refused(
    stock: u64,
    quantity: u64,
    config: Config,
    cx: &Context,
) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, stock)?;
    let refused = shop.order("ada", &item, quantity)?;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.body["error"], format!("only {stock} left"));
    assert_eq!(shop.left(&item)?, stock);
    Ok(())
}

/// A cancelled order gives its stock back, once.
#[etcdtest::test(tags = ["stock"], owner = "orders")]
fn a_cancelled_order_gives_its_stock_back(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 2)?;
    let order = shop.order_one("ada", &item)?;
    for attempt in ["cancel", "cancel again"] {
        let cancel = format!("/orders/{order}/cancel");
        let cancelled = cx.step(attempt, || shop.orders.post(&cancel, &Value::Null))?;
        assert_eq!(cancelled.body["state"], "cancelled");
        assert_eq!(shop.left(&item)?, 2);
    }
    assert_eq!(shop.pay(&order, CARD)?.status, 409, "a cancelled order was paid");
    Ok(())
}

/// A paid order cannot be cancelled.
#[etcdtest::test(tags = ["money"], owner = "orders")]
fn a_paid_order_stays(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 1)?;
    let order = shop.order_one("ada", &item)?;
    shop.pay(&order, CARD)?;
    assert_eq!(shop.orders.post(&format!("/orders/{order}/cancel"), &Value::Null)?.status, 409);
    assert_eq!(shop.orders.get(&format!("/orders/{order}"))?.body["state"], "paid");
    Ok(())
}

/// Buyers who come at once get no more than there is.
#[etcdtest::test(tags = ["stock", "concurrency"], owner = "warehouse")]
fn buyers_at_once_never_oversell(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 5)?;
    let buy = || shop.order("ada", &item, 1).map(|reply| reply.status);
    let mut answers = thread::scope(|scope| {
        let buyers: Vec<_> = (0..12).map(|_| scope.spawn(buy)).collect();
        buyers.into_iter().map(|buyer| buyer.join().expect("a buyer panicked")).collect::<Result<Vec<_>>>()
    })?;
    answers.sort_unstable();
    assert_eq!(answers, [[201; 5].as_slice(), &[409; 7]].concat());
    assert_eq!(shop.left(&item)?, 0);
    Ok(())
}

/// The first order after a deployment may come too early for the warehouse; the next attempt
/// finds it warm.
#[etcdtest::test(tags = ["deployment"], owner = "warehouse", retries = 2)]
fn orders_are_taken_after_a_deployment(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open_after_deployment(&config, cx)?;
    let reply = shop.order("ada", "nothing-of-this-name", 1)?;
    assert_eq!(reply.status, 404, "the warehouse did not look: {}", reply.body);
    Ok(())
}

/// The shop says which of its services it can reach.
#[etcdtest::test(tags = ["smoke"], owner = "orders")]
fn the_health_of_each_service_is_known(
    config: Config,
    environment: &Environment,
    cx: &Context,
) -> Result<()> {
    let shop = Shop::open(&config)?;
    let health = shop.orders.get("/health")?;
    cx.attach("health.txt", format!("{}: {}", environment.name(), health.body));
    assert_eq!(health.body, json!({ "warehouse": true, "payments": true }));
    Ok(())
}

/// Nobody's order is nobody's to pay.
#[etcdtest::test(owner = "orders")]
#[should_panic(expected = "no such order")]
fn an_unknown_order_is_not_paid(config: Config) {
    let shop = Shop::open(&config).expect("a shop");
    let reply = shop.pay("no-1", CARD).expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// The public address leads to the shop, where the environment has one.
#[etcdtest::test(tags = ["deployment"], owner = "web")]
fn the_public_address_leads_to_the_shop(public_url: Option<String>) -> Result<()> {
    let Some(url) = public_url else { etcdtest::skip!("this environment has no `public_url`") };
    let front = shop::client::Client::new(&url);
    assert_eq!(front.get("/health")?.status, 200);
    Ok(())
}

/// A thousand orders in a row all arrive.
#[etcdtest::test(tags = ["load"], owner = "orders", timeout = "5m")]
#[ignore = "a thousand orders"]
fn a_thousand_orders_arrive(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let (customer, item) = (cx.unique("customer"), shop.stock(cx, 1_000)?);
    for _ in 0..1_000 {
        shop.order_one(&customer, &item)?;
    }
    let list = shop.orders.get(&format!("/orders?customer={customer}"))?;
    assert_eq!(list.body.as_array().map(Vec::len), Some(1_000));
    Ok(())
}

/// Fails on purpose, to show what a failure looks like: its step, its output, its message.
#[cfg(feature = "failing")]
#[etcdtest::test(tags = ["failing"], owner = "orders")]
fn an_order_of_nothing_is_taken(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 1)?;
    println!("ordering none of {item}");
    let order = cx.step("order nothing", || shop.order("ada", &item, 0))?;
    ensure!(order.status == 201, "the order was refused with {}: {}", order.status, order.body);
    Ok(())
}
