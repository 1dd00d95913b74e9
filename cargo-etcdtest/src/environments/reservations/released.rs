//! Giving reservations up that another process made.

use jiff::Timestamp;

use super::error::ReservationError;
use super::queue::Place;
use super::service::Reservations;
use crate::model::{Holder, Lock, Released};
use crate::store::{
    Commit, Compare, KeyRange, LeaseId, Op, StoreError, Txn, commit, decode, encode, keys, list,
};

impl Reservations {
    /// Gives up what a person, `user@host`, has reserved of an environment or waits for.
    ///
    /// # Errors
    /// [`ReservationError::TakenAway`] where somebody else did that before,
    /// [`ReservationError::NotYours`] where there is nothing to give up, or as the store fails.
    pub async fn release(&self, environment: &str, author: &str) -> Result<Vec<Lock>, ReservationError> {
        let queue = self.queue(environment).await?;
        let own =
            |place: &&Place| matches!(place.lock.holder, Holder::Person(_)) && place.lock.author == author;
        let own: Vec<_> = queue.places().iter().filter(own).map(|place| place.lock.clone()).collect();
        if own.is_empty() {
            let holders = queue.holders().map(|place| place.lock.clone()).collect();
            return Err(match self.note(environment, author).await? {
                Some(Released { by, .. }) => {
                    ReservationError::TakenAway { environment: environment.to_owned(), by }
                }
                None => ReservationError::NotYours { name: environment.to_owned(), holders },
            });
        }
        for lock in &own {
            match self.store.revoke(LeaseId(lock.lease)).await {
                Ok(()) | Err(StoreError::LeaseNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(own)
    }

    /// Takes an environment away from whoever holds it, and leaves them a note that says who
    /// did. `holder` is the id of the one that is meant, where there are several.
    ///
    /// # Errors
    /// [`ReservationError::Several`] where it is not clear who is meant,
    /// [`ReservationError::NotYours`] where nobody is, or as the store fails.
    pub async fn take_away(
        &self,
        environment: &str,
        holder: Option<&str>,
        by: &str,
    ) -> Result<Lock, ReservationError> {
        let queue = self.queue(environment).await?;
        let name = || environment.to_owned();
        let all = || queue.holders().map(|place| place.lock.clone()).collect();
        let mut meant = queue.places().iter().filter(|place| match holder {
            Some(id) => place.lock.holder.id() == id,
            None => place.lock.held.is_some(),
        });
        let Some(place) = meant.next() else {
            return Err(ReservationError::NotYours { name: name(), holders: all() });
        };
        if meant.next().is_some() {
            return Err(ReservationError::Several { name: name(), holders: all() });
        }
        let key = keys::lock(environment, &place.lock.holder);
        let note = keys::released(environment, &place.lock.holder);
        let value = encode(&Released { by: by.to_owned(), at: Timestamp::now() });
        let txn = Txn {
            compares: vec![Compare::created(key.clone(), place.created)],
            then: vec![
                // On the holder's lease: it is there as long as the reservation would have been.
                Op::Put { key: note.clone(), value, lease: Some(LeaseId(place.lock.lease)) },
                Op::Delete(KeyRange::key(key)),
            ],
            otherwise: vec![],
        };
        match commit(self.store.as_ref(), &txn, &note, self.patience).await {
            // Refused or without its lease, it has ended by itself meanwhile.
            Ok(Commit::Applied(_) | Commit::Refused(_)) | Err(StoreError::LeaseNotFound) => {
                Ok(place.lock.clone())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest note that says who took the environment away from this person.
    async fn note(&self, environment: &str, author: &str) -> Result<Option<Released>, ReservationError> {
        let notes = keys::released(environment, &Holder::Person(format!("{author}-")));
        let page = list(self.store.as_ref(), KeyRange::prefix(notes)).await?;
        let newest = page.pairs.iter().max_by_key(|pair| pair.modified);
        Ok(newest.map(decode).transpose()?)
    }
}
