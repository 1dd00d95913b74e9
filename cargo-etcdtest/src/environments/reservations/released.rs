//! Giving reservations up that another process made.

use backon::Retryable;
use jiff::Timestamp;

use super::error::ReservationError;
use super::service::Reservations;
use crate::model::{Holder, Lock, Released};
use crate::nearest::suggestion;
use crate::store::{
    Commit, Compare, Key, KeyRange, KeyValue, LeaseId, Op, StoreError, Txn, commit, decode, encode, keys,
    list, pauses,
};

impl Reservations {
    /// Gives up what a person, `user@host`, has reserved of an environment or waits for.
    ///
    /// # Errors
    /// [`ReservationError::TakenAway`] where somebody else did that before,
    /// [`ReservationError::NotYours`] or [`ReservationError::Nobody`] where there is nothing
    /// to give up, or as the store fails.
    pub async fn release(&self, environment: &str, author: &str) -> Result<Vec<Lock>, ReservationError> {
        let queue = self.queue(environment).await?;
        let own: Vec<_> = queue.of_person(author).map(|place| place.lock.clone()).collect();
        if own.is_empty() {
            if let Some((_, Released { by, .. })) = self.notes(environment, author).await?.pop() {
                return Err(ReservationError::TakenAway { environment: environment.to_owned(), by });
            }
            let holders: Vec<_> = queue.holders().map(|place| place.lock.clone()).collect();
            let name = environment.to_owned();
            return Err(match holders[..] {
                [] => ReservationError::Nobody { name },
                _ => ReservationError::NotYours { name, holders },
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
    /// [`ReservationError::Nobody`] or [`ReservationError::NoHolder`] where nobody is, or as
    /// the store fails.
    pub async fn take_away(
        &self,
        environment: &str,
        holder: Option<&str>,
        by: &str,
    ) -> Result<Lock, ReservationError> {
        let queue = self.queue(environment).await?;
        let name = environment.to_owned();
        let mut meant = queue.places().iter().filter(|place| match holder {
            Some(id) => place.lock.holder.id() == id,
            None => place.lock.held.is_some(),
        });
        let Some(place) = meant.next() else {
            let ids: Vec<_> = queue.places().iter().map(|place| place.lock.holder.id()).collect();
            return Err(
                match (holder, suggestion(holder.unwrap_or_default(), ids.iter().map(String::as_str))) {
                    (Some(holder), Some(help)) => {
                        ReservationError::NoHolder { name, holder: holder.to_owned(), help }
                    }
                    _ => ReservationError::Nobody { name },
                },
            );
        };
        if meant.next().is_some() {
            let holders = queue.holders().map(|place| place.lock.clone()).collect();
            return Err(ReservationError::Several { name, holders });
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

    /// The notes that say who took the environment away from this person, the newest last.
    pub(super) async fn notes(
        &self,
        environment: &str,
        author: &str,
    ) -> Result<Vec<(Key, Released)>, ReservationError> {
        let notes = keys::released(environment, &Holder::Person(format!("{author}-")));
        let read = || list(self.store.as_ref(), KeyRange::prefix(notes.clone()));
        let read = read.retry(pauses().with_total_delay(Some(self.patience)));
        let mut page = read.when(StoreError::is_transient).await?;
        // What else begins so is the name of another person.
        page.pairs.retain(|pair| !pair.key.as_bytes()[notes.as_bytes().len()..].contains(&b'-'));
        page.pairs.sort_by_key(|pair| pair.modified);
        let note = |pair: KeyValue| Ok((pair.key.clone(), decode(&pair)?));
        page.pairs.into_iter().map(note).collect()
    }
}
