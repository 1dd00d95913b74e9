//! The machine that a worker runs on: it freezes, goes on, and dies, and its clock tells
//! another time than any other's.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;

/// A machine with one worker.
#[derive(Debug)]
pub struct Machine {
    name: String,
    power: Mutex<Power>,
    /// The power has changed. A watch channel would wake those who wait in a random order.
    changed: Notify,
    switched_on: Instant,
    /// What its clock told then.
    clock: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    Frozen { since: Instant },
    Off,
}

impl Machine {
    /// One that is switched on now.
    pub fn new(name: impl Into<String>) -> Self {
        let clock = Duration::from_millis(fastrand::u64(..1 << 40));
        let (power, changed) = (Mutex::new(Power::On), Notify::new());
        Self { name: name.into(), power, changed, switched_on: Instant::now(), clock }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Stops all of it where it stands. What it has sent before is under way all the same.
    pub fn freeze(&self) {
        if self.power() == Power::On {
            self.switch(Power::Frozen { since: Instant::now() });
        }
    }

    /// Lets it go on where it was stopped.
    pub fn thaw(&self) {
        if matches!(self.power(), Power::Frozen { .. }) {
            self.switch(Power::On);
        }
    }

    /// Ends it for good, in the middle of whatever it does.
    pub fn die(&self) {
        self.switch(Power::Off);
    }

    /// Whether it is dead.
    pub fn is_dead(&self) -> bool {
        self.power() == Power::Off
    }

    /// Returns while it runs: when it goes on, where it is frozen, and never once it is dead.
    pub async fn awake(&self) {
        self.until(|power| power == Power::On).await;
    }

    /// Returns when it dies.
    pub async fn dead(&self) {
        self.until(|power| power == Power::Off).await;
    }

    async fn until(&self, wanted: impl Fn(Power) -> bool) {
        loop {
            let changed = self.changed.notified();
            if wanted(self.power()) {
                return;
            }
            changed.await;
        }
    }

    fn power(&self) -> Power {
        *lock(&self.power)
    }

    fn switch(&self, power: Power) {
        *lock(&self.power) = power;
        self.changed.notify_waiters();
    }

    /// What a worker on it reads from its clock: while it is frozen it reads nothing new.
    pub fn clock(&self) -> Duration {
        let now = match self.power() {
            Power::Frozen { since } => since,
            Power::On | Power::Off => Instant::now(),
        };
        self.clock + (now - self.switched_on)
    }
}
