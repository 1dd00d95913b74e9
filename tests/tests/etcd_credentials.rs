//! The etcd engine and who it is: passwords, tokens, permissions, certificates.

use std::time::Duration;

use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{KeyRange, Notice, Op, Read, Revision, Store, StoreError, Txn};
use etcd_client::{Permission, PermissionType};
use whole_program::certificates::{Authority, Certificate};
use whole_program::etcd::Etcd;
use whole_program::processes::in_time;
use whole_program::proxy::{Proxy, Traffic};

async fn put(store: &EtcdStore, key: &str) -> Result<Revision, StoreError> {
    Ok(store.txn(Txn { then: vec![Op::put(key, "value")], ..Txn::default() }).await?.revision)
}

async fn refused(options: EtcdOptions) -> StoreError {
    let error = EtcdStore::connect(options).await.expect_err("it must not connect");
    println!("{error}");
    error
}

#[tokio::test]
async fn a_wrong_password_is_told_and_never_shown() {
    let etcd = Etcd::with_users(&[]).await;
    let error = refused(etcd.options_as("root", "hunter2")).await;
    assert!(
        matches!(&error, StoreError::Unauthenticated { reason, .. } if reason.contains("invalid user ID or password"))
    );
    let missing = EtcdOptions { password: None, ..etcd.options_as("root", "") };
    assert!(matches!(refused(missing).await, StoreError::Unauthenticated { .. }));

    let store = EtcdStore::connect(etcd.options_as("root", "root")).await.unwrap();
    put(&store, "/a").await.unwrap();
    let shown = format!("{store:?} {:?} {error:?}", etcd.options_as("root", "hunter2"));
    assert!(!shown.contains("hunter2") && !shown.contains("\"root\", \"root\""), "{shown}");
}

#[tokio::test]
async fn without_a_user_an_etcd_that_asks_for_one_says_so() {
    let etcd = Etcd::with_users(&[]).await;
    let error = match EtcdStore::connect(etcd.options()).await {
        Ok(store) => store.read(Read::key("/a")).await.expect_err("it asks for a user"),
        Err(error) => error,
    };
    assert!(
        matches!(&error, StoreError::Unauthenticated { reason, .. } if reason.contains("user")),
        "{error}"
    );
}

#[tokio::test]
async fn a_user_is_no_harm_where_etcd_asks_for_none() {
    let etcd = Etcd::start();
    let store = EtcdStore::connect(etcd.options_as("root", "root")).await.unwrap();
    put(&store, "/a").await.unwrap();
}

#[tokio::test]
async fn what_a_role_may_not_do_is_denied_by_name_and_the_rest_works() {
    let etcd = Etcd::start();
    let client = etcd.client().await;
    let mut auth = client.auth_client();
    auth.user_add("ann", "ann", None).await.unwrap();
    auth.role_add("runner").await.unwrap();
    let runs = Permission::new(PermissionType::Readwrite, "/runs/").with_prefix();
    auth.role_grant_permission("runner", runs).await.unwrap();
    auth.user_grant_role("ann", "runner").await.unwrap();
    etcd.enable_auth().await;

    let store = EtcdStore::connect(etcd.options_as("ann", "ann")).await.unwrap();
    let revision = put(&store, "/runs/1").await.unwrap();
    let error = put(&store, "/secrets/1").await.unwrap_err();
    assert_eq!(error.to_string(), "the store denied a transaction on /secrets/1: permission denied");
    let error = store.read(KeyRange::prefix("/secrets/").into()).await.unwrap_err();
    assert_eq!(error.to_string(), "the store denied reading /secrets/: permission denied");
    let status = store.status().await.unwrap();
    assert_eq!(status.kind, "etcd");

    let mut watch = store.watch(KeyRange::prefix("/runs/"), revision).await.unwrap();
    assert!(matches!(in_time("the notice", watch.next()).await, Some(Ok(Notice::Changed { .. }))));
    let mut denied = store.watch(KeyRange::prefix("/secrets/"), revision).await.unwrap();
    assert!(matches!(in_time("the refusal", denied.next()).await, Some(Err(StoreError::Denied { .. }))));
    assert!(in_time("its end", denied.next()).await.is_none());
}

#[tokio::test]
async fn an_expired_token_is_replaced_under_requests_leases_and_watches() {
    let mut etcd = Etcd::with_users(&["--auth-token=simple", "--auth-token-ttl=1"]).await;
    let store = EtcdStore::connect(etcd.options_as("root", "root")).await.unwrap();
    let first = put(&store, "/a").await.unwrap();
    let lease = store.grant(Duration::from_mins(1)).await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("/"), first).await.unwrap();
    assert!(
        matches!(in_time("the notice", watch.next()).await, Some(Ok(Notice::Changed { revision, .. })) if revision == first)
    );

    // Any question about the token would prolong it, so its end can only be waited for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let second = put(&store, "/a").await.unwrap();
    assert!(
        matches!(in_time("the notice", watch.next()).await, Some(Ok(Notice::Changed { revision, .. })) if revision == second)
    );
    // A new watch opens with the expired token of the watches' connection.
    let mut late = store.watch(KeyRange::prefix("/"), second).await.unwrap();
    assert!(
        matches!(in_time("the notice", late.next()).await, Some(Ok(Notice::Changed { revision, .. })) if revision == second)
    );

    // No token survives a restart, which ends every stream as well.
    etcd.restart();
    etcd.wait_until_healthy();
    store.keep_alive(lease.id).await.unwrap();
    let third = put(&store, "/a").await.unwrap();
    for watch in [&mut watch, &mut late] {
        assert!(
            matches!(in_time("the notice", watch.next()).await, Some(Ok(Notice::Changed { revision, .. })) if revision == third)
        );
    }
}

#[tokio::test]
async fn a_watch_that_has_nothing_to_tell_outlives_any_number_of_tokens() {
    let etcd = Etcd::with_users(&["--auth-token=simple", "--auth-token-ttl=1"]).await;
    let proxy = Proxy::before(&etcd.endpoint());
    let options = EtcdOptions { endpoints: vec![proxy.endpoint()], ..etcd.options_as("root", "root") };
    let store = EtcdStore::connect(options).await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("/"), Revision(1)).await.unwrap();
    for _ in 0..3 {
        // Whoever opens it again comes with a token that has expired.
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.set(Traffic::Cut);
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.set(Traffic::Passes);
    }
    let revision = put(&store, "/a").await.unwrap();
    let notice = in_time("the notice", watch.next()).await;
    assert!(
        matches!(notice, Some(Ok(Notice::Changed { revision: told, .. })) if told == revision),
        "{notice:?}"
    );
}

#[tokio::test]
async fn tokens_that_are_too_old_whenever_they_come_are_refused_until_the_network_is_faster() {
    let etcd = Etcd::with_users(&["--auth-token=simple", "--auth-token-ttl=1"]).await;
    let proxy = Proxy::before(&etcd.endpoint());
    let request_timeout = Duration::from_mins(2);
    let endpoints = vec![proxy.endpoint()];
    let options = EtcdOptions { endpoints, request_timeout, ..etcd.options_as("root", "root") };
    let store = EtcdStore::connect(options).await.unwrap();
    let before = etcd.refused_tokens();
    // A token lives for two seconds at the most, and from now on is older than that when it is used.
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.set(Traffic::Delayed(Duration::from_millis(1100)));
    let request = put(&store, "/a");
    tokio::pin!(request);
    let refused = async {
        while etcd.refused_tokens() < before + 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        answer = &mut request => panic!("it was not waited for: {answer:?}"),
        () = in_time("tokens that are refused", refused) => {}
    }
    proxy.set(Traffic::Passes);
    request.await.unwrap();
}

struct Secure {
    /// Its folder holds the files.
    _authority: Authority,
    etcd: Etcd,
    options: EtcdOptions,
}

fn secure() -> Secure {
    let authority = Authority::new();
    let flags = authority.etcd_flags(&authority.sign("server"));
    let etcd = Etcd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let Certificate { cert, key } = authority.sign("client");
    let options =
        EtcdOptions { cacert: Some(authority.cacert()), cert: Some(cert), key: Some(key), ..etcd.options() };
    Secure { _authority: authority, etcd, options }
}

#[tokio::test]
async fn with_the_right_certificates_requests_and_watches_go_through_tls() {
    let secure = secure();
    let store = EtcdStore::connect(secure.options).await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("/"), Revision(0)).await.unwrap();
    let revision = put(&store, "/a").await.unwrap();
    assert!(
        matches!(in_time("the notice", watch.next()).await, Some(Ok(Notice::Changed { revision: r, .. })) if r == revision)
    );
}

#[tokio::test]
async fn a_wrong_authority_is_told_with_the_endpoint_and_the_flag() {
    let secure = secure();
    let stranger = Authority::new();
    let error = refused(EtcdOptions { cacert: Some(stranger.cacert()), ..secure.options.clone() }).await;
    let StoreError::Unauthenticated { location, reason } = &error else { panic!("{error:?}") };
    assert_eq!(*location, format!("https://{}", secure.etcd.endpoint()));
    assert!(reason.contains("--cacert"), "{reason}");
}

#[tokio::test]
async fn a_missing_or_foreign_client_certificate_is_told_with_the_flag() {
    let secure = secure();
    let none = EtcdOptions { cert: None, key: None, ..secure.options.clone() };
    let stranger = Authority::new();
    let Certificate { cert, key } = stranger.sign("stranger");
    let foreign = EtcdOptions { cert: Some(cert), key: Some(key), ..secure.options.clone() };
    for options in [none, foreign] {
        let error = refused(options).await;
        assert!(
            matches!(&error, StoreError::Unauthenticated { reason, .. } if reason.contains("--cert")),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_is_told() {
    let secure = secure();
    let stranger = Authority::new();
    let Certificate { key, .. } = stranger.sign("another");
    let told = refused(EtcdOptions { key: Some(key), ..secure.options }).await.to_string();
    assert!(told.contains("--key is not that of --cert"), "{told}");
}

#[tokio::test]
async fn a_missing_file_and_the_wrong_scheme_are_told() {
    let secure = secure();
    let missing = EtcdOptions { cacert: Some("/nowhere/ca.pem".into()), ..secure.options.clone() };
    assert!(refused(missing).await.to_string().contains("cannot read /nowhere/ca.pem"));

    let plain = EtcdOptions {
        endpoints: vec![format!("http://{}", secure.etcd.endpoint())],
        ..EtcdOptions::default()
    };
    let told = refused(plain).await;
    assert!(
        matches!(&told, StoreError::Unavailable { reason, .. } if reason.contains("https://")),
        "{told:?}"
    );

    let foreign = EtcdOptions { endpoints: vec!["ftp://127.0.0.1:1".into()], ..EtcdOptions::default() };
    assert!(refused(foreign).await.to_string().contains("ftp://127.0.0.1:1 failed: it is no endpoint"));

    let etcd = Etcd::start();
    let tls = EtcdOptions { endpoints: vec![etcd.endpoint()], ..secure.options };
    let told = refused(tls).await;
    assert!(matches!(&told, StoreError::Unavailable { reason, .. } if reason.contains("TLS")), "{told:?}");
}
