//! The queue for an environment.

use std::num::NonZeroU32;

use crate::model::{Holder, Lock};
use crate::store::{Page, Revision, StoreError, decode};

/// Everybody who holds an environment or waits for it, in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    places: Vec<Place>,
}

/// A place in a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Whose it is.
    pub lock: Lock,
    /// When its key came into being: decides the order.
    pub created: Revision,
}

/// What somebody in a queue waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The environment.
    pub environment: String,
    /// Those who hold it, the first first.
    pub holders: Vec<Lock>,
    /// How many wait before this one.
    pub ahead: usize,
}

impl Waiting {
    /// Whether it is the same wait for the same holders, whatever is known of them.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let of = |waiting: &Self| waiting.holders.iter().map(|lock| lock.holder.clone()).collect::<Vec<_>>();
        self.environment == other.environment && self.ahead == other.ahead && of(self) == of(other)
    }
}

/// Where somebody stands in a queue.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    /// It is among the first.
    Held,
    /// Others are before it.
    Waiting(Waiting),
    /// It is not in the queue any more.
    Gone,
}

impl Queue {
    /// The queue whose keys were read.
    pub(super) fn of(page: &Page) -> Result<Self, StoreError> {
        let place = |pair| Ok(Place { lock: decode(pair)?, created: pair.created });
        let mut places = page.pairs.iter().map(place).collect::<Result<Vec<_>, StoreError>>()?;
        places.sort_by_key(|place| place.created);
        Ok(Self { places })
    }

    /// Those who say that they hold it.
    pub fn holders(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.lock.held.is_some())
    }

    /// Those who wait for it.
    pub fn waiting(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.lock.held.is_none())
    }

    /// What a person, `user@host`, holds or waits for.
    pub(super) fn of_person(&self, author: &str) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |place| {
            matches!(place.lock.holder, Holder::Person(_)) && place.lock.author == author
        })
    }

    /// All of them, in their order.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Where the holder of a key that was created at this revision stands.
    pub(super) fn standing(
        &self,
        environment: &str,
        holder: &Holder,
        created: Revision,
        capacity: NonZeroU32,
    ) -> Standing {
        let own = |place: &Place| place.created == created && place.lock.holder == *holder;
        let Some(before) = self.places.iter().position(own) else { return Standing::Gone };
        let capacity = usize::try_from(capacity.get()).unwrap_or(usize::MAX);
        if before < capacity {
            return Standing::Held;
        }
        let holders = self.places[..capacity].iter().map(|place| place.lock.clone()).collect();
        Standing::Waiting(Waiting { environment: environment.to_owned(), holders, ahead: before - capacity })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::RunId;

    fn place(run: &str, created: i64) -> Place {
        let lock = Lock {
            holder: Holder::Run(RunId::new(run)),
            author: "ann@desk".into(),
            why: String::new(),
            lease: 1,
            since: Timestamp::UNIX_EPOCH,
            held: None,
            until: None,
        };
        Place { lock, created: Revision(created) }
    }

    #[test]
    fn the_first_hold_it_and_the_others_wait_behind_them() {
        let queue = Queue { places: vec![place("a", 3), place("b", 5), place("c", 8), place("d", 9)] };
        let standing = |run: &str, created, capacity| {
            let holder = Holder::Run(RunId::new(run));
            queue.standing("staging", &holder, Revision(created), NonZeroU32::new(capacity).unwrap())
        };
        assert_eq!((standing("a", 3, 1), standing("b", 5, 2)), (Standing::Held, Standing::Held));
        let waiting = |holders: &[Place], ahead| {
            let holders = holders.iter().map(|place| place.lock.clone()).collect();
            Standing::Waiting(Waiting { environment: "staging".into(), holders, ahead })
        };
        assert_eq!(standing("b", 5, 1), waiting(&queue.places[..1], 0));
        assert_eq!(standing("d", 9, 2), waiting(&queue.places[..2], 1));
        assert_eq!(standing("d", 7, 9), Standing::Gone, "a key of another life is not its own");
    }
}
