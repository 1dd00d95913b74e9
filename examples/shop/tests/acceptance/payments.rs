//! From the order to the bank.

use anyhow::Result;
use etcdtest::Context;
use serde_json::json;
use shop::payments::{DECLINED_CARD, SLOW_CARD};

use crate::support::{CARD, Config, Shop};

/// An order whose payment is declined can still be paid with another card.
///
/// # Steps
/// 1. Order a lamp.
/// 2. Pay with a card that the bank declines.
/// 3. Pay with another.
///
/// # Expected
/// The order is unpaid after the first and paid after the second.
#[etcdtest::test(tags = ["smoke", "money"], owner = "payments")]
fn a_declined_card_leaves_the_order_unpaid(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 1)?;
    let order = cx.step("order a lamp", || shop.order_one("ada", &item))?;
    let declined = cx.step("pay with a card that is declined", || shop.pay(&order, DECLINED_CARD))?;
    assert_eq!(declined.status, 402);
    assert_eq!(shop.orders.get(&format!("/orders/{order}"))?.body["state"], "unpaid");
    let paid = cx.step("pay with another", || shop.pay(&order, CARD))?;
    assert_eq!(paid.body["state"], "paid");
    Ok(())
}

/// What is no card is refused.
#[etcdtest::test(tags = ["money"], owner = "payments", cases(empty(""), short("4000"), letters("card-card-card-card")))]
fn a_wrong_card_is_refused(card: &'static str, config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 1)?;
    let order = shop.order_one("ada", &item)?;
    assert_eq!(shop.pay(&order, card)?.status, 400);
    Ok(())
}

/// An order paid twice is charged once.
#[etcdtest::test(tags = ["money"], owner = "payments")]
fn an_order_paid_twice_is_charged_once(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 1)?;
    let order = shop.order_one("ada", &item)?;
    for _ in 0..2 {
        assert_eq!(shop.pay(&order, CARD)?.body["state"], "paid");
    }
    let charges = shop.payments.get(&format!("/payments?key={order}"))?;
    assert_eq!(charges.body.as_array().map(Vec::len), Some(1), "{}", charges.body);
    Ok(())
}

/// A key pays one amount only.
#[etcdtest::test(tags = ["money"], owner = "payments")]
fn a_key_used_for_another_amount_is_refused(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let key = cx.unique("key");
    let charge = |amount: u64| {
        let charge = json!({ "key": key, "amount_cents": amount, "card": CARD });
        shop.payments.post("/payments", &charge).map(|reply| reply.status)
    };
    assert_eq!([charge(100)?, charge(100)?, charge(200)?], [201, 200, 409]);
    Ok(())
}

/// A bank that answers too late leaves the order open, and paying again charges once.
///
/// # Expected
/// While it is not known whether the bank paid, the order can be paid again but not cancelled.
#[etcdtest::test(tags = ["money", "slow"], owner = "payments", timeout = "1m")]
fn a_slow_bank_is_asked_again_and_charges_once(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let item = shop.stock(cx, 1)?;
    let order = shop.order_one("ada", &item)?;
    let (pay, cancel) = (format!("/orders/{order}/pay"), format!("/orders/{order}/cancel"));
    let late = cx.step("pay, and wait too short a time", || {
        shop.orders.post(&pay, &json!({ "card": SLOW_CARD, "wait_ms": 100 }))
    })?;
    assert_eq!(late.status, 504);
    assert_eq!(shop.orders.get(&format!("/orders/{order}"))?.body["state"], "paying");
    assert_eq!(shop.orders.post(&cancel, &json!({}))?.status, 409);
    let paid = cx.step("pay again", || shop.pay(&order, SLOW_CARD))?;
    assert_eq!(paid.body["state"], "paid");
    let charges = shop.payments.get(&format!("/payments?key={order}"))?;
    assert_eq!(charges.body.as_array().map(Vec::len), Some(1), "{}", charges.body);
    Ok(())
}

/// The same key at the same time is charged once.
#[etcdtest::test(tags = ["money", "concurrency"], owner = "payments")]
async fn one_key_at_the_same_time_is_charged_once(config: Config, cx: &Context) -> Result<()> {
    let shop = Shop::open(&config)?;
    let charge = json!({ "key": cx.unique("key"), "amount_cents": 100, "card": CARD });
    let charges: Vec<_> = (0..6)
        .map(|_| {
            let (payments, charge) = (shop.payments.clone(), charge.clone());
            tokio::task::spawn_blocking(move || payments.post("/payments", &charge))
        })
        .collect();
    let mut answers = Vec::new();
    for reply in charges {
        answers.push(reply.await??.status);
    }
    answers.sort_unstable();
    assert_eq!(answers, [200, 200, 200, 200, 200, 201]);
    Ok(())
}
