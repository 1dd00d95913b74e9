//! Payments: charges cards, each key at most once.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /payments` `{key, amount_cents, card}` | 201; 200 when the key was charged before; 402 when the bank declines; 409 when the key was used for another amount; 400 |
//! | `GET /payments?key=…` | 200, a list |

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Reply;
use crate::server::{Request, Service};

/// A card whose bank declines.
pub const DECLINED_CARD: &str = "4000-0000-0000-0002";
/// A card whose bank takes a second to answer.
pub const SLOW_CARD: &str = "4000-0000-0000-0077";
const SLOW_BANK: Duration = Duration::from_secs(1);

/// The service.
#[derive(Debug, Default)]
pub struct Payments {
    charged: Mutex<Vec<Payment>>,
    delay: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Payment {
    key: String,
    amount_cents: u64,
    card: String,
}

/// What a bank says of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bank {
    /// It pays.
    Approves,
    /// It does not.
    Declines,
    /// The number is no card's.
    Unknown,
}

impl Payments {
    /// A service whose every charge takes `delay`.
    pub fn new(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    fn charge(&self, wish: Payment) -> Reply {
        thread::sleep(if wish.card == SLOW_CARD { SLOW_BANK } else { self.delay });
        match ask_bank(&wish.card) {
            Bank::Unknown => return Reply::error(400, "no such card"),
            Bank::Declines => return Reply::error(402, "the bank declines"),
            Bank::Approves => (),
        }
        // Looked up and written under one lock: the same key at the same time is charged once.
        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        match charged.iter().find(|payment| payment.key == wish.key) {
            Some(before) if before.amount_cents == wish.amount_cents => Reply::new(200, json!(before)),
            Some(_) => Reply::error(409, "the key was used for another amount"),
            None => {
                let reply = Reply::new(201, json!(wish));
                charged.push(wish);
                reply
            }
        }
    }
}

/// Asks the card's bank: a card has four groups of four digits.
pub fn ask_bank(card: &str) -> Bank {
    let groups: Vec<_> = card.split('-').collect();
    let is_group = |group: &&str| group.len() == 4 && group.bytes().all(|byte| byte.is_ascii_digit());
    match card {
        _ if groups.len() != 4 || !groups.iter().all(is_group) => Bank::Unknown,
        DECLINED_CARD => Bank::Declines,
        _ => Bank::Approves,
    }
}

impl Service for Payments {
    fn answer(&self, request: &Request) -> Reply {
        match (request.method.as_str(), request.route().1.as_slice()) {
            ("POST", ["payments"]) => match request.document() {
                Ok(wish) => self.charge(wish),
                Err(refusal) => refusal,
            },
            ("GET", ["payments"]) => {
                let charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
                let key = request.query.get("key");
                let found: Vec<_> =
                    charged.iter().filter(|payment| key.is_none_or(|key| *key == payment.key)).collect();
                Reply::new(200, json!(found))
            }
            _ => Reply::no_such_path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_four_groups_of_four_digits() {
        assert_eq!(ask_bank("4000-0000-0000-0001"), Bank::Approves);
        assert_eq!(ask_bank(DECLINED_CARD), Bank::Declines);
        for wrong in ["", "4000", "4000-0000-0000-000x", "4000-0000-0000-0001-0000", "40000-000-0000-0001"] {
            assert_eq!(ask_bank(wrong), Bank::Unknown, "{wrong}");
        }
    }
}
