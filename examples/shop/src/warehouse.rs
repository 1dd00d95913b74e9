//! The warehouse: what is in stock, and for which orders it is reserved.
//!
//! | request | answer |
//! | --- | --- |
//! | `PUT /items/{item}` `{stock, price_cents}` | 200 |
//! | `GET /items/{item}` | 200 `{stock, price_cents}`, the stock that is free; 404 |
//! | `POST /items/{item}/reservations` `{order, quantity}` | 201; 409 when there is too little; 404 |
//! | `DELETE /items/{item}/reservations/{order}` | 200 |

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Reply;
use crate::server::{Request, Service};

/// The service.
#[derive(Debug, Default)]
pub struct Warehouse {
    items: Mutex<BTreeMap<String, Item>>,
    cold: AtomicU64,
}

/// One kind of thing on the shelves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    stock: u64,
    price_cents: u64,
    #[serde(skip)]
    reserved: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Reservation {
    order: String,
    quantity: u64,
}

impl Warehouse {
    /// An empty warehouse that answers its first `cold` requests with 503, as services do
    /// that are not warm yet.
    pub fn new(cold: u64) -> Self {
        Self { cold: AtomicU64::new(cold), ..Self::default() }
    }
}

impl Item {
    /// Sets `quantity` aside for an order, once. False when there is too little.
    pub fn reserve(&mut self, order: &str, quantity: u64) -> bool {
        if self.reserved.contains_key(order) {
            return true;
        }
        let Some(left) = self.stock.checked_sub(quantity) else { return false };
        self.stock = left;
        self.reserved.insert(order.to_owned(), quantity);
        true
    }

    /// Gives back what was set aside for an order.
    pub fn release(&mut self, order: &str) {
        self.stock += self.reserved.remove(order).unwrap_or(0);
    }
}

impl Service for Warehouse {
    fn answer(&self, request: &Request) -> Reply {
        let warming = |left: u64| left.checked_sub(1);
        if self.cold.fetch_update(Ordering::Relaxed, Ordering::Relaxed, warming).is_ok() {
            return Reply::error(503, "the warehouse is still warming up");
        }
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let (method, path) = request.route();
        if let ("PUT", ["items", item]) = (method, path.as_slice()) {
            return match request.document::<Item>() {
                Ok(new) => {
                    items.insert((*item).to_owned(), new);
                    Reply::new(200, Value::Null)
                }
                Err(refusal) => refusal,
            };
        }
        let ["items", name, rest @ ..] = path.as_slice() else { return Reply::no_such_path() };
        let Some(item) = items.get_mut(*name) else { return Reply::error(404, "no such item") };
        match (method, rest) {
            ("GET", []) => Reply::new(200, json!(item)),
            ("POST", ["reservations"]) => match request.document::<Reservation>() {
                Ok(wish) if item.reserve(&wish.order, wish.quantity) => {
                    Reply::new(201, json!({ "price_cents": item.price_cents }))
                }
                Ok(_) => Reply::error(409, &format!("only {} left", item.stock)),
                Err(refusal) => refusal,
            },
            ("DELETE", ["reservations", order]) => {
                item.release(order);
                Reply::new(200, Value::Null)
            }
            _ => Reply::no_such_path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Item;

    fn lamps(stock: u64) -> Item {
        Item { stock, ..Item::default() }
    }

    #[test]
    fn an_order_that_asks_twice_reserves_once() {
        let mut item = lamps(3);
        assert!(item.reserve("a", 2));
        assert!(item.reserve("a", 2));
        assert_eq!(item.stock, 1);
    }

    #[test]
    fn more_than_the_stock_is_not_reserved() {
        let mut item = lamps(3);
        assert!(!item.reserve("a", 4));
        assert_eq!(item, lamps(3));
    }

    #[test]
    fn a_release_gives_back_what_was_reserved_and_no_more() {
        let mut item = lamps(3);
        assert!(item.reserve("a", 2));
        item.release("a");
        item.release("a");
        assert_eq!(item, lamps(3));
    }
}
