//! What references become.

use serde_json::json;

use super::*;
use crate::document::Document;
use crate::environments::EnvironmentFile;

fn definition(text: &str) -> Definition {
    EnvironmentFile::parse("staging", Document::new("staging.toml", text)).unwrap().whole()
}

fn bindings() -> Bindings {
    Bindings {
        environment: "staging".into(),
        ports: [("orders".to_owned(), 4000), ("stock".to_owned(), 4001)].into(),
        secrets: [("token".to_owned(), "hunter2 ${config.a} {port}".to_owned())].into(),
    }
}

#[test]
fn references_become_what_they_refer_to() {
    let definition = definition(
        r#"
        [config]
        orders = "${services.orders.url}/v1"
        port = "${services.orders.port}"
        ports = "${services.orders.port},${services.stock.port}"
        again = "${config.nested}"
        text = "limit ${config.nested.limit} in ${environment.name}, ${config.nested.on}"
        token = "Bearer ${secrets.token}"
        escaped = "$${config.x} {port}"
        [config.nested]
        limit = 3
        on = true
        list = ["${config.nested.limit}", "x"]
        [secrets]
        token = { prompt = true }
        [services.orders]
        command = "${config.nested.limit}"
        args = ["--port={port}", "--stock", "${services.stock.url}", "$${x}"]
        env = { TOKEN = "${secrets.token}", PORT = "{port}" }
        ready = { http = "${services.orders.url}/health" }
        [services.stock]
        command = "stock"
        cwd = "run/{port}"
        url = "http://${environment.name}.local:{port}"
        [[probes]]
        http = "${config.orders}"
        body = "${config.nested.limit}"
        [[probes]]
        command = ["probe", "${services.stock.port}"]
        "#,
    );
    let bound = bind(&definition, &bindings()).unwrap();
    let nested = json!({ "limit": 3, "on": true, "list": [3, "x"] });
    assert_eq!(
        Value::Object(bound.config.clone()),
        json!({
            "orders": "http://127.0.0.1:4000/v1", "port": 4000, "ports": "4000,4001",
            "again": nested, "nested": nested, "text": "limit 3 in staging, true",
            "token": "Bearer hunter2 ${config.a} {port}", "escaped": "${config.x} {port}",
        })
    );
    let orders = &bound.services["orders"];
    assert_eq!(orders.command, "3");
    assert_eq!(orders.args, ["--port=4000", "--stock", "http://staging.local:4001", "${x}"]);
    assert_eq!(orders.env["TOKEN"], "hunter2 ${config.a} {port}");
    assert_eq!(orders.env["PORT"], "4000");
    assert_eq!(orders.ready.as_ref().unwrap().by, ReadyBy::Http("http://127.0.0.1:4000/health".into()));
    assert_eq!(bound.services["stock"].cwd.as_deref(), Some("run/4001"));
    assert_eq!(bound.services["stock"].url, "http://staging.local:4001");
    let ProbeBy::Http { url, body, .. } = &bound.probes[0].by else { panic!("{:?}", bound.probes) };
    assert_eq!((url.as_str(), body.as_deref()), ("http://127.0.0.1:4000/v1", Some("3")));
    assert_eq!(bound.probes[1].by, ProbeBy::Command(vec!["probe".into(), "4001".into()]));
}

#[test]
fn what_the_bindings_lack_is_named() {
    let definition = definition(
        "[config]\na = \"${secrets.token}\"\n[secrets]\ntoken = { prompt = true }\n[services.orders]\ncommand = \"o\"\n",
    );
    let fault = bind(&definition, &Bindings { secrets: BTreeMap::new(), ..bindings() }).unwrap_err();
    assert_eq!(
        (fault.path.as_str(), fault.label.as_str()),
        ("config.a", "the secret `token` is not known here")
    );
    let fault = bind(&definition, &Bindings { ports: BTreeMap::new(), ..bindings() }).unwrap_err();
    assert_eq!(fault.label, "the service `orders` is not started");
    assert!(!format!("{:?}", bindings()).contains("hunter2"));
}

/// `a0 = "${config.a1}${config.a1}"`, and so on.
fn doubling(rounds: usize, last: &Value, join: impl Fn(&str) -> Value) -> Definition {
    let mut config: Map<String, Value> = (0..rounds)
        .map(|round| (format!("a{round}"), join(&format!("${{config.a{}}}", round + 1))))
        .collect();
    config.insert(format!("a{rounds}"), last.clone());
    Definition { config, ..Definition::default() }
}

#[test]
fn references_that_would_fill_the_memory_are_refused() {
    for last in ["", "x"] {
        let texts = doubling(40, &last.into(), |next| format!("{next}{next}").into());
        assert_eq!(bind(&texts, &bindings()).unwrap_err().message, "a value becomes too large");
    }
    let lists = doubling(40, &json!([]), |next| json!([next, next]));
    assert_eq!(bind(&lists, &bindings()).unwrap_err().message, "a value becomes too large");
    let long = doubling(100_000, &json!(1), |next| next.into());
    assert!(bind(&long, &bindings()).unwrap_err().label.contains("deeper than"));
    let few = doubling(10, &"x".into(), |next| format!("{next}{next}").into());
    assert_eq!(bind(&few, &bindings()).unwrap().config["a0"].as_str().unwrap().len(), 1024);
}

#[test]
fn tests_may_refer_to_services_that_start_with_them_and_probes_may_not() {
    let text =
        "[config]\nurl = \"${services.orders.url}\"\n[services.orders]\ncommand = \"o\"\nscope = \"test\"\n";
    let mut definition = definition(text);
    let bound = bind(&definition, &bindings()).unwrap();
    assert_eq!(bound.config["url"], "http://127.0.0.1:4000");
    definition.probes =
        vec![Probe { by: ProbeBy::Tcp("${config.url}".into()), timeout: std::time::Duration::from_secs(1) }];
    let fault = bind(&definition, &bindings()).unwrap_err();
    assert!(fault.help.unwrap().contains("`probes.0` is needed before that"));
}
