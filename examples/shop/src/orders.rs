//! Orders: what customers want, and how far it got.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /orders` `{customer, item, quantity}` | 201, the order; what the warehouse says when it refuses |
//! | `GET /orders/{id}` | 200, the order; 404 |
//! | `GET /orders?customer=…` | 200, a list |
//! | `POST /orders/{id}/pay` `{card, wait_ms?}` | 200, the order; 504 when payments did not answer within `wait_ms`; what payments says when it refuses |
//! | `POST /orders/{id}/cancel` | 200, the order; 409 when it is paid |
//! | `GET /health` | 200 or 503 `{warehouse, payments}`: whether each can be reached |

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{Client, Reply};
use crate::server::{Request, Service};

/// The service.
#[derive(Debug)]
pub struct Orders {
    book: Mutex<BTreeMap<String, Order>>,
    next: AtomicU64,
    started: u128,
    warehouse: Client,
    payments: String,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// Who ordered.
    pub customer: String,
    /// What.
    pub item: String,
    /// How many.
    pub quantity: u64,
    /// For how much.
    pub total_cents: u64,
    /// How far it got.
    pub state: State,
}

/// How far an order got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its stock is reserved.
    Unpaid,
    /// Payments was asked, and has not answered yet, or not in time: it may be charged.
    Paying,
    /// It is paid.
    Paid,
    /// Its stock was given back.
    Cancelled,
}

#[derive(Deserialize)]
struct Wish {
    customer: String,
    item: String,
    quantity: u64,
}

#[derive(Deserialize)]
struct Pay {
    card: String,
    #[serde(default = "five_seconds")]
    wait_ms: u64,
}

fn five_seconds() -> u64 {
    5_000
}

impl Orders {
    /// No orders yet, in front of the services at these addresses.
    pub fn new(warehouse: &str, payments: &str) -> Self {
        Self {
            book: Mutex::default(),
            next: AtomicU64::new(1),
            // Ids must not come again after a restart: payments would know them.
            started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros(),
            warehouse: Client::new(warehouse),
            payments: payments.to_owned(),
        }
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<String, Order>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, wish: Wish) -> Result<Reply, Reply> {
        if wish.quantity == 0 {
            return Err(Reply::error(400, "an order of nothing"));
        }
        let id = format!("{:x}-{}", self.started, self.next.fetch_add(1, Ordering::Relaxed));
        let reservation = json!({ "order": id, "quantity": wish.quantity });
        let path = format!("/items/{}/reservations", wish.item);
        let reserved = reach(self.warehouse.post(&path, &reservation))?;
        let price = reserved.body["price_cents"].as_u64().unwrap_or(0);
        let order = Order {
            id: id.clone(),
            customer: wish.customer,
            item: wish.item,
            quantity: wish.quantity,
            total_cents: price.saturating_mul(wish.quantity),
            state: State::Unpaid,
        };
        let reply = Reply::new(201, json!(order));
        self.book().insert(id, order);
        Ok(reply)
    }

    /// The order's id is the key of its payment: paying again never charges again.
    fn pay(&self, id: &str, pay: &Pay) -> Result<Reply, Reply> {
        let order = self.find(id)?;
        if order.state == State::Paid {
            return Ok(Reply::new(200, json!(order)));
        }
        self.advance(id, State::Paying)?;
        let payments = Client::patient(&self.payments, Duration::from_millis(pay.wait_ms));
        let charge = json!({ "key": id, "amount_cents": order.total_cents, "card": pay.card });
        match reach(payments.post("/payments", &charge)) {
            Ok(_) => self.advance(id, State::Paid),
            Err(unknown) if unknown.status == 504 => Err(unknown),
            Err(refusal) => {
                self.advance(id, State::Unpaid)?;
                Err(refusal)
            }
        }
    }

    fn cancel(&self, id: &str) -> Result<Reply, Reply> {
        self.advance(id, State::Cancelled)?;
        let order = self.find(id)?;
        let path = format!("/items/{}/reservations/{id}", order.item);
        reach(self.warehouse.call("DELETE", &path, &Value::Null))?;
        Ok(Reply::new(200, json!(order)))
    }

    fn find(&self, id: &str) -> Result<Order, Reply> {
        self.book().get(id).cloned().ok_or_else(|| Reply::error(404, "no such order"))
    }

    /// Moves an order on where that is possible: what is paid stays paid, and what may have
    /// been charged is not cancelled.
    fn advance(&self, id: &str, to: State) -> Result<Reply, Reply> {
        let mut book = self.book();
        let order = book.get_mut(id).ok_or_else(|| Reply::error(404, "no such order"))?;
        match (order.state, to) {
            (State::Paid | State::Paying, State::Cancelled) => {
                Err(Reply::error(409, "the order is paid, or may be"))
            }
            (State::Cancelled, State::Paying) => Err(Reply::error(409, "the order is cancelled")),
            (State::Paid, _) => Ok(Reply::new(200, json!(order))),
            _ => {
                order.state = to;
                Ok(Reply::new(200, json!(order)))
            }
        }
    }

    fn health(&self) -> Reply {
        let payments = Client::new(&self.payments);
        let up = |client: &Client| client.get("/health").is_ok();
        let (warehouse, payments) = (up(&self.warehouse), up(&payments));
        let status = if warehouse && payments { 200 } else { 503 };
        Reply::new(status, json!({ "warehouse": warehouse, "payments": payments }))
    }
}

/// What another service granted, or the refusal to hand on.
fn reach(reply: anyhow::Result<Reply>) -> Result<Reply, Reply> {
    match reply {
        Ok(granted) if granted.status < 300 => Ok(granted),
        Ok(refusal) => Err(refusal),
        Err(error) => Err(Reply::error(504, &format!("{error:#}"))),
    }
}

impl Service for Orders {
    fn answer(&self, request: &Request) -> Reply {
        let reply = match (request.method.as_str(), request.route().1.as_slice()) {
            ("POST", ["orders"]) => request.document().and_then(|wish| self.create(wish)),
            ("GET", ["orders"]) => {
                let customer = request.query.get("customer");
                let orders = self.book();
                let found =
                    orders.values().filter(|order| customer.is_none_or(|name| *name == order.customer));
                Ok(Reply::new(200, json!(found.collect::<Vec<_>>())))
            }
            ("GET", ["orders", id]) => self.find(id).map(|order| Reply::new(200, json!(order))),
            ("POST", ["orders", id, "pay"]) => request.document().and_then(|pay| self.pay(id, &pay)),
            ("POST", ["orders", id, "cancel"]) => self.cancel(id),
            ("GET", ["health"]) => Ok(self.health()),
            _ => Err(Reply::no_such_path()),
        };
        reply.unwrap_or_else(|refusal| refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_handed_on_as_it_is() {
        let refusal = Reply::error(402, "the bank declines");
        assert_eq!(reach(Ok(refusal.clone())), Err(refusal));
    }

    #[test]
    fn a_service_out_of_reach_is_a_gateway_timeout() {
        let orders = Orders::new("http://127.0.0.1:9", "http://127.0.0.1:9");
        let wish = Wish { customer: "ada".into(), item: "lamp".into(), quantity: 1 };
        assert_eq!(orders.create(wish).unwrap_err().status, 504);
        assert!(orders.book().is_empty());
    }
}
