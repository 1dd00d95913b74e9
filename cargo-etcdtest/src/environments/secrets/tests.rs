use std::sync::Arc;

use age::secrecy::ExposeSecret as _;
use age::x25519;

use super::*;
use crate::model::Definition;
use crate::store::local::LocalStore;

struct Person {
    identities: Identities,
    recipients: Recipients,
}

fn person() -> Person {
    let identity = x25519::Identity::generate();
    let text = Secret::new(identity.to_string().expose_secret());
    Person {
        identities: Identities::load(None, Some(&text)).unwrap(),
        recipients: Recipients::parse(&[identity.to_public().to_string()]).unwrap(),
    }
}

fn store() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    (folder, Arc::new(store))
}

fn at(version: u64) -> SecretVersion {
    SecretVersion { environment: "staging".into(), version }
}

fn hunter(number: u8) -> Secret {
    Secret::new(format!("hunter{number}"))
}

#[tokio::test]
async fn a_value_makes_a_new_version_only_where_it_is_another_one() {
    let (_folder, store) = store();
    let secrets = Secrets::new(store, Identities::default());
    let nobody = Recipients::default();
    for (value, version) in [(1, 1), (1, 1), (2, 2), (1, 3)] {
        assert_eq!(secrets.put("staging", "db", &hunter(value), &nobody).await.unwrap(), at(version));
    }
    assert_eq!(secrets.get("db", &at(2)).await.unwrap(), hunter(2), "versions stay");
    let missing = secrets.get("db", &at(4)).await.unwrap_err();
    assert!(matches!(missing, SecretError::Missing { version: 4, .. }), "{missing}");
}

#[tokio::test]
async fn other_recipients_make_a_new_version_that_they_can_read() {
    let (_folder, store) = store();
    let (first, second) = (person(), person());
    let of = |person: &Person| Secrets::new(store.clone(), person.identities.clone());
    let put = async |by: &Secrets, who: &Person| by.put("staging", "db", &hunter(1), &who.recipients).await;
    assert_eq!(put(&of(&first), &first).await.unwrap(), at(1));
    assert_eq!(put(&of(&first), &first).await.unwrap(), at(1), "it could be compared");
    assert_eq!(put(&of(&second), &first).await.unwrap(), at(2), "it could not be compared");

    // Without the value at hand, whoever can read it hands it on.
    let refused = of(&second).keep("db", &at(2), &second.recipients).await.unwrap_err();
    assert!(matches!(refused, SecretError::OtherIdentity { .. }), "{refused}");
    assert_eq!(of(&first).keep("db", &at(2), &first.recipients).await.unwrap(), at(2));
    assert_eq!(of(&first).keep("db", &at(2), &second.recipients).await.unwrap(), at(3));
    assert_eq!(of(&second).get("db", &at(3)).await.unwrap(), hunter(1));
    assert!(of(&first).get("db", &at(3)).await.unwrap_err().is_of_environment());
}

#[tokio::test]
async fn a_record_under_another_key_is_refused() {
    let (_folder, store) = store();
    let person = person();
    let secrets = Secrets::new(store.clone(), person.identities.clone());
    secrets.put("staging", "db", &hunter(1), &person.recipients).await.unwrap();
    let stored = store::get(&*store, keys::secret("staging", "db", 1)).await.unwrap().unwrap();
    let moved = Txn {
        compares: vec![],
        then: vec![Op::put(keys::secret("production", "db", 1), stored.value)],
        otherwise: vec![],
    };
    store.txn(moved).await.unwrap();
    let production = SecretVersion { environment: "production".into(), version: 1 };
    let error = secrets.get("db", &production).await.unwrap_err();
    assert!(matches!(error, SecretError::Forged { .. }), "{error}");
}

#[tokio::test]
async fn several_at_once_write_different_versions() {
    let (_folder, store) = store();
    let writes = (0..8).map(|number| {
        let secrets = Secrets::new(store.clone(), Identities::default());
        async move { secrets.put("staging", "db", &hunter(number), &Recipients::default()).await.unwrap() }
    });
    let mut versions: Vec<u64> =
        futures::future::join_all(writes).await.into_iter().map(|written| written.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_values_of_environments_are_told_by_name_and_redacted() {
    let (_folder, store) = store();
    let secrets = Secrets::new(store, Identities::default());
    let db = secrets.put("staging", "db", &hunter(1), &Recipients::default()).await.unwrap();
    let definition = Definition { secrets: [("db".to_owned(), db)].into(), ..Definition::default() };
    let environment = Environment::unstored("derived", definition, "me@here");
    let values = secrets.of(&[environment]).await.unwrap();
    let told: Vec<_> = values.of("derived").map(|(name, value)| (name, value.expose())).collect();
    assert_eq!(told, [("db", "hunter1")]);
    assert_eq!(values.of("staging").count(), 0);
    assert_eq!(values.redactor().text("a hunter1".into()), "a [secret db]");
    assert!(!format!("{values:?}").contains("hunter1"));
}
