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
        recipients: recipients(&[identity.to_public().to_string()]),
    }
}

fn recipients(texts: &[String]) -> Recipients {
    Recipients::from(&Definition { recipients: texts.to_vec(), ..Definition::default() })
}

fn store() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    (folder, Arc::new(store))
}

fn at(version: u64) -> SecretVersion {
    SecretVersion { environment: "staging".into(), version, encrypted: false }
}

fn sealed(version: u64) -> SecretVersion {
    SecretVersion { encrypted: true, ..at(version) }
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
    assert_eq!(put(&of(&first), &first).await.unwrap(), sealed(1));
    assert_eq!(put(&of(&first), &first).await.unwrap(), sealed(1), "it could be compared");
    assert_eq!(put(&of(&second), &first).await.unwrap(), sealed(2), "it could not be compared");

    // Without the value at hand, whoever can read it hands it on.
    let refused = of(&second).keep("db", &sealed(2), &second.recipients).await.unwrap_err();
    assert!(matches!(refused, SecretError::OtherIdentity { .. }), "{refused}");
    assert_eq!(of(&first).keep("db", &sealed(2), &first.recipients).await.unwrap(), sealed(2));
    assert_eq!(of(&first).keep("db", &sealed(2), &second.recipients).await.unwrap(), sealed(3));
    assert_eq!(of(&second).get("db", &sealed(3)).await.unwrap(), hunter(1));
    assert!(of(&first).get("db", &sealed(3)).await.unwrap_err().is_of_environment());
}

#[tokio::test]
async fn a_value_that_is_not_encrypted_is_refused_where_one_is_that_is() {
    let (_folder, store) = store();
    let person = person();
    let secrets = Secrets::new(store.clone(), person.identities.clone());
    let at = secrets.put("staging", "db", &hunter(1), &person.recipients).await.unwrap();
    assert_eq!(at, sealed(1));
    let key = keys::secret("staging", "db", 1);
    let plain = encode(&StoredSecret { content: SecretContent::Value("forged".into()) });
    let forged = Txn { compares: vec![], then: vec![Op::put(key, plain)], otherwise: vec![] };
    store.txn(forged).await.unwrap();
    for error in [
        secrets.get("db", &at).await.unwrap_err(),
        secrets.keep("db", &at, &Recipients::default()).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("is not encrypted") && error.is_of_environment(), "{error}");
    }
    let definition = Definition { secrets: [("db".to_owned(), at)].into(), ..Definition::default() };
    assert_eq!(secrets.readable(&definition).await.unwrap(), []);
    assert_eq!(
        secrets.put("staging", "db", &hunter(1), &person.recipients).await.unwrap(),
        sealed(2),
        "what was forged is not taken for the same"
    );
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
    let production = SecretVersion { environment: "production".into(), version: 1, encrypted: true };
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
