//! Files, right and wrong.

use serde_json::{Value, json};

use super::*;
use crate::document::rendered;

fn parse(text: &str) -> Result<EnvironmentFile, EnvironmentError> {
    EnvironmentFile::parse("staging", Document::new("environments/staging.toml", text))
}

#[test]
fn a_file_becomes_description_and_config() {
    let text = "description = \"the shop\"\n[config]\nurl = \"http://a\"\nports = [1, 0x10]\n\
        ratio = 1_0.5\nday = 2026-01-02\nat = 2026-01-02T03:04:05Z\non = true\n[config.nested]\n\"a b\".c = {}\n";
    let file = parse(text).unwrap();
    assert_eq!(file.definition.description, "the shop");
    let expected = json!({
        "url": "http://a", "ports": [1, 16], "ratio": 10.5, "day": "2026-01-02",
        "at": "2026-01-02T03:04:05Z", "on": true, "nested": { "a b": { "c": {} } },
    });
    assert_eq!(Value::Object(file.definition.config), expected);
}

#[test]
fn an_empty_file_is_an_empty_environment() {
    for text in ["", "\n# nothing\n", "[config]\n", "\u{feff}"] {
        let file = parse(text).unwrap().definition;
        assert!(file.description.is_empty() && file.config.is_empty(), "{text:?}");
    }
}

/// One wrong file each, with the name of its snapshot.
const WRONG: [(&str, &str); 91] = [
    ("unknown_top_level_key", "desciption = \"x\"\n"),
    ("config_outside_the_config_table", "orders_url = \"http://a\"\n"),
    ("header_misspelt", "[confg]\na = 1\n"),
    ("description_is_a_number", "description = 3\n"),
    ("description_is_a_table", "[description]\nx = 1\n"),
    ("config_is_a_text", "config = \"a\"\n"),
    ("config_is_an_array_of_tables", "[[config]]\na = 1\n"),
    ("not_a_number", "[config]\nx = nan\n"),
    ("infinite", "[config]\nlist = [1.0, [-inf]]\n"),
    ("float_too_large", "[config]\nx = 1e999\n"),
    ("integer_too_large", "[config]\nx = 9223372036854775808\n"),
    ("key_twice", "[config]\na = 1\na = 2\n"),
    ("table_twice", "[config]\na = 1\n[config]\nb = 1\n"),
    ("no_value", "[config]\na =\n"),
    ("no_equals_sign", "[config]\na 1\n"),
    ("text_not_closed", "[config]\na = \"x\nb = 2\n"),
    ("text_without_quotes", "[config]\nurl = http://a\n"),
    ("array_not_closed", "[config]\na = [1, 2\nb = 3\n"),
    ("unknown_escape", "[config]\na = \"\\q\"\n"),
    ("wrong_date", "[config]\nday = 2026-13-01\n"),
    ("json", "{ \"config\": { \"a\": 1 } }\n"),
    ("label_is_a_number", "[labels]\nteam = 3\n"),
    ("labels_are_a_list", "labels = [\"a\"]\n"),
    ("extends_is_a_list", "extends = [\"base\"]\n"),
    ("extends_is_no_name", "extends = \"../base.toml\"\n"),
    ("extends_itself", "extends = \"staging\"\n"),
    ("capacity_is_zero", "capacity = 0\n"),
    ("capacity_is_a_text", "capacity = \"1\"\n"),
    ("secret_is_a_text", "[config]\na = 1\n[secrets]\ntoken = \"hunter2\"\n"),
    ("secret_from_nowhere", "[secrets]\ntoken = {}\n"),
    ("secret_from_two_places", "[secrets]\ntoken = { env = \"A\", file = \"b\" }\n"),
    ("secret_from_an_unknown_place", "[secrets]\ntoken = { evn = \"TOKEN\" }\n"),
    ("secret_with_its_value", "[secrets]\ntoken = { value = \"hunter2\" }\n"),
    ("secret_from_a_variable_with_an_equals_sign", "[secrets]\ntoken = { env = \"A=hunter2\" }\n"),
    ("secret_from_an_empty_command", "[secrets]\ntoken = { command = [] }\n"),
    ("secret_from_a_command_line", "[secrets]\ntoken = { command = \"pass show token\" }\n"),
    ("secret_not_prompted_for", "[secrets]\ntoken = { prompt = false }\n"),
    ("secret_with_a_dot", "[secrets]\n\"db.password\" = { prompt = true }\n"),
    ("secret_version_of_no_environment", "[secrets]\ntoken = { version = 3 }\n"),
    ("secret_version_is_zero", "[secrets]\ntoken = { environment = \"staging\", version = 0 }\n"),
    ("secrets_misspelt", "[sercets]\ntoken = \"hunter2\"\n"),
    ("recipients_are_a_text", "recipients = \"age1x\"\n"),
    ("service_without_a_command", "[services.orders]\nargs = [\"-v\"]\n"),
    ("service_with_an_empty_command", "[services.orders]\ncommand = \" \"\n"),
    ("service_with_a_command_line", "[services.orders]\ncommand = [\"orders\", \"-v\"]\n"),
    ("service_key_misspelt", "[services.orders]\ncommand = \"orders\"\nstop_grace = \"5s\"\n"),
    ("service_is_a_text", "[services]\norders = \"orders\"\n"),
    ("service_with_a_blank", "[services.\"the orders\"]\ncommand = \"orders\"\n"),
    ("service_argument_is_a_number", "[services.orders]\ncommand = \"orders\"\nargs = [\"--port\", 80]\n"),
    ("service_variable_is_a_number", "[services.orders]\ncommand = \"orders\"\nenv = { PORT = 80 }\n"),
    (
        "service_variable_with_an_equals_sign",
        "[services.orders]\ncommand = \"o\"\nenv = { \"A=B\" = \"c\" }\n",
    ),
    ("service_restart_misspelt", "[services.orders]\ncommand = \"orders\"\nrestart = \"on-failiure\"\n"),
    ("service_scope_unknown", "[services.orders]\ncommand = \"orders\"\nscope = \"suite\"\n"),
    ("service_grace_without_a_unit", "[services.orders]\ncommand = \"orders\"\nstop-grace = 5\n"),
    ("service_ready_in_no_way", "[services.orders]\ncommand = \"orders\"\nready = { timeout = \"3s\" }\n"),
    (
        "service_ready_in_two_ways",
        "[services.orders]\ncommand = \"o\"\nready = { http = \"/\", tcp = \"a:1\" }\n",
    ),
    ("service_ready_at_no_url", "[services.orders]\ncommand = \"o\"\nready = { http = \"health\" }\n"),
    ("service_ready_at_no_port", "[services.orders]\ncommand = \"o\"\nready = { tcp = \"localhost\" }\n"),
    ("service_ready_by_no_pattern", "[services.orders]\ncommand = \"o\"\nready = { log = \"ready (\" }\n"),
    (
        "service_needs_an_unknown_one",
        "[services.orders]\ncommand = \"o\"\nneeds = [\"stokc\"]\n\
        [services.stock]\ncommand = \"s\"\n",
    ),
    ("service_needs_itself", "[services.orders]\ncommand = \"o\"\nneeds = [\"orders\"]\n"),
    (
        "services_need_each_other",
        "[services.a]\ncommand = \"a\"\nneeds = [\"b\"]\n\
        [services.b]\ncommand = \"b\"\nneeds = [\"c\"]\n[services.c]\ncommand = \"c\"\nneeds = [\"a\"]\n",
    ),
    (
        "service_needs_one_that_comes_later",
        "[services.a]\ncommand = \"a\"\nneeds = [\"b\"]\n\
        [services.b]\ncommand = \"b\"\nscope = \"test\"\n",
    ),
    ("probes_are_a_table", "[probes]\nhttp = \"http://a\"\n"),
    ("probe_of_nothing", "[[probes]]\ntimeout = \"3s\"\n"),
    ("probe_of_two_things", "[[probes]]\ntcp = \"a:1\"\ndns = \"a\"\n"),
    ("probe_key_misspelt", "[[probes]]\nhtpp = \"http://a\"\n"),
    ("probe_status_out_of_range", "[[probes]]\nhttp = \"http://a\"\nstatus = 20\n"),
    ("probe_status_of_tcp", "[[probes]]\ntcp = \"a:1\"\nstatus = 200\n"),
    ("probe_timeout_of_nothing", "[[probes]]\ndns = \"a\"\ntimeout = \"0s\"\n"),
    (
        "probe_refers_to_what_comes_later",
        "[services.db]\ncommand = \"db\"\nscope = \"test\"\n\
        [[probes]]\nhttp = \"${services.db.url}/\"\n",
    ),
    ("data_is_a_list", "[data]\nusers = [\"a.json\"]\n"),
    ("reference_not_closed", "[config]\na = \"x ${config.b\"\nb = 1\n"),
    ("reference_to_a_variable", "[config]\nhome = \"${HOME}/x\"\n"),
    (
        "reference_to_an_unknown_value",
        "[config]\nlist = [\"a\", \"${config.orders.ulr}/x\"]\n\
        [config.orders]\nurl = \"http://a\"\n",
    ),
    ("reference_to_itself", "[config]\na = \"${config.b}\"\nb = \"x${config.c}\"\nc = [\"${config.a}\"]\n"),
    (
        "reference_of_a_service_to_an_unknown_one",
        "[services.orders]\ncommand = \"o\"\n\
        env = { STOCK = \"${services.stock.url}\" }\n[services.stocks]\ncommand = \"s\"\n",
    ),
    (
        "reference_to_an_unknown_secret",
        "[secrets]\ntoken = { env = \"T\" }\n[config]\na = \"${secrets.tokn}\"\n",
    ),
    ("reference_to_a_table_in_a_text", "[config]\na = \"x ${config.b}\"\nb = { c = 1 }\n"),
    (
        "reference_begun_wrongly",
        "[config]\na = \"${service.orders.ulr}/v1\"\n[services.orders]\ncommand = \"o\"\n",
    ),
    ("service_at_no_url", "[services.orders]\ncommand = \"o\"\nurl = \"localhost:{port}\"\n"),
    (
        "service_ready_by_http_at_another_url",
        "[services.db]\ncommand = \"d\"\nurl = \"postgres://localhost:{port}/shop\"\nready = { http = \"/\" }\n",
    ),
    ("probe_with_the_port_of_no_service", "[[probes]]\ntcp = \"localhost:{port}\"\n"),
    ("services_under_config", "[config.services.orders]\ncommand = \"orders\"\n"),
    (
        "many_mistakes",
        "descripton = \"x\"\ncapacity = 0\n[config]\nn = nan\nm = [inf, 1e999]\n[secrets]\n\"a.b\" = { evn = \"T\" }\n\
        t = { env = \"A=B\" }\n[services.orders]\ncomand = \"o\"\nargs = [1, \"a\", 2]\nscope = \"suite\"\n\
        stop-grace = 5\n[[probes]]\ntcp = \"a:1\"\nstatus = 200\nbody = \"x\"\n[[probes]]\nhtpp = \"http://a\"\n",
    ),
    (
        "many_wrong_references",
        "[config]\na = \"${config.b} ${config.c}\"\nb = \"${config.x}\"\nlist = [\"${config.b}\", \"${secrets.t}\"]\n\
        one = \"${config.two}\"\ntwo = \"${config.three}\"\nthree = \"${config.one}\"\n\
        [services.p]\ncommand = \"p\"\nneeds = [\"q\", \"r\"]\n[services.q]\ncommand = \"q\"\nneeds = [\"p\"]\n\
        args = [\"${services.z.url}\", \"${HOME}\"]\n",
    ),
    ("service_needs_one_of_none", "[services.orders]\ncommand = \"o\"\nneeds = [\"stock\"]\n"),
    (
        "reference_to_a_service_misspelt",
        "[config]\na = \"${services.stokc.url}\"\n[services.stock]\ncommand = \"s\"\n",
    ),
    ("stored_secret_in_data", "[data]\nt = { environment = \"staging\", version = 3 }\n"),
    ("stored_secret_at_the_top", "t = { environment = \"staging\", version = 3 }\n[config]\na = 1\n"),
    ("service_at_its_own_url", "[services.a]\ncommand = \"a\"\nurl = \"${services.a.url}\"\n"),
];

#[test]
fn each_mistake_is_shown_at_its_place() {
    for (name, text) in WRONG {
        let error = parse(text).expect_err(name);
        insta::assert_snapshot!(name, rendered(&error), text);
    }
}

#[test]
fn a_file_of_nothing_but_mistakes_shows_the_first_and_their_number() {
    let text = format!(
        "[config]\n{}",
        "x = nan\n".replace('x', "list").replace("nan", &format!("[{}]", "nan, ".repeat(5000)))
    );
    let error = rendered(&parse(&text).unwrap_err());
    assert!(error.contains("100 mistakes, the first 20 are shown"), "{error}");
    assert_eq!(error.matches("staging.toml:2:").count(), 20);
}

#[test]
fn what_is_probably_meant_otherwise_is_shown_as_a_warning() {
    let text = "[config]\ncapacity = 1\nextends = \"base\"\nurl = [\"http://localhost:{port}/\"]\n\
        [config.limits]\ncapacity = 3\n";
    let file = parse(text).unwrap();
    let shown: Vec<_> = file.doubts.iter().map(|doubt| rendered(doubt)).collect();
    insta::assert_snapshot!(shown.join("\n\n"));
    assert!(parse("capacity = 1\n[config]\nport = 1\n").unwrap().doubts.is_empty());
}

#[test]
fn a_mistake_never_shows_what_stands_under_secrets() {
    for text in [
        "[secrets]\n\ntoken = \"hunter2\"\n",
        "extends = \"a\"\n[secrets.db]\npassword = \"hunter2\"\n[config]\n",
        "secrets = { token = \"hunter2\" }\n",
        "secrets.token = \"hunter2\"\n",
        "[secrets]\ntoken = hunter2\n",
        "[ \"secrets\" ]\ntoken = \"hunter2\"\n",
        "[\"\\u0073ecrets\"]\ntoken = \"hunter2\"\n",
        "secrets = {\n  token = \"hunter2\",\n  # once hunter2\n}\n",
        "[secrets]\ntoken = \"\"\"\n[config]\nhunter2\"\"\"\n",
        "[secrets]\nlist = [\n[\"hunter2\"],\n]\n",
        "[secrets]\nlist = [\n[\"hunter2\",\n",
        "[[secrets]]\n# hunter2\ntoken = \"hunter2\"\n",
        "[secret]\ntoken = \"hunter2\"\n",
        "[secerts]\ntoken = \"hunter2\"\n",
        "[secrets.token]\nhunter2 = 1\n",
        "[secrets.token]\nenv = [\"hunter2\"]\n",
        "wrong = 1\n[secrets]\ntoken = \"hunter2\"\n",
        "secrets = [\"hunter2\nx\"]",
        // An identity is a secret wherever it stands.
        "# created: today\nAGE-SECRET-KEY-1hunter2\n",
        "recipients = [\n  \"AGE-SECRET-KEY-1hunter2\"\n]\n",
        "[config]\nkey = \"age-secret-key-1hunter2\"\nkey = 1\n",
    ] {
        let error = rendered(&parse(text).unwrap_err());
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_no_recipient_is_shown_at_its_place() {
    let first = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    for (name, text) in [
        ("recipient_is_no_key", format!("recipients = [\"{first}\", \"age1x\"]\n")),
        ("recipient_is_an_identity", "recipients = [\"AGE-SECRET-KEY-1X\"]\n".into()),
        ("secret_is_encrypted_by_nobody", "[secrets]\ntoken = { encrypted = true }\n".into()),
        (
            "secret_is_somehow_encrypted",
            "[secrets]\ntoken = { environment = \"a\", version = 1, encrypted = \"yes\" }\n".into(),
        ),
    ] {
        insta::assert_snapshot!(name, rendered(&parse(&text).unwrap_err()), &text);
    }
    let both = format!("recipients = [\"{first}\", \" {first} \"]\n");
    assert_eq!(parse(&both).unwrap().definition.recipients, [first]);
}

#[test]
fn nesting_that_could_not_be_read_back_is_refused() {
    let nested = |levels: usize| format!("[config]\n{} = 1\n", vec!["a"; levels].join("."));
    assert!(parse(&nested(DEEPEST)).is_ok());
    assert!(parse(&nested(DEEPEST + 1)).is_err());
    assert!(parse(&nested(50_000)).is_err());
    assert!(parse(&format!("config.a = {}1{}", "[".repeat(50_000), "]".repeat(50_000))).is_err());
}

/// What reading these files of a folder fails with, the folder's own path left out.
fn wrong_files(files: &[(&str, &[u8])], paths: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let paths: Vec<_> = paths.iter().map(|path| folder.path().join(path)).collect();
    let error = rendered(&read_files(&paths).unwrap_err());
    error.replace(&format!("{}/", folder.path().display()), "").replace("\n  │ ", " ")
}

#[test]
fn a_folder_gives_its_toml_files_in_order_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.toml", "a.toml", "notes.md", ".hidden.toml"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    std::fs::create_dir(folder.path().join("c.toml")).unwrap();
    let files = read_files(&[folder.path().to_owned()]).unwrap();
    assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn files_that_are_no_environments_are_named() {
    insta::assert_snapshot!("missing_file", wrong_files(&[], &["missing.toml"]));
    let missing_folder = wrong_files(&[], &["missing"]);
    assert!(missing_folder.contains("failed to read missing\n"), "{missing_folder}");
    insta::assert_snapshot!("folder_without_files", wrong_files(&[("notes.md", b"")], &["."]));
    insta::assert_snapshot!("file_of_another_kind", wrong_files(&[("a.yaml", b"")], &["a.yaml"]));
    insta::assert_snapshot!("name_with_a_blank", wrong_files(&[("a b.toml", b"")], &["a b.toml"]));
    insta::assert_snapshot!("file_without_a_name", wrong_files(&[(".toml", b"")], &[".toml"]));
    insta::assert_snapshot!("one_file_twice", wrong_files(&[("a.toml", b"")], &["a.toml", "./a.toml"]));
    insta::assert_snapshot!(
        "file_that_is_not_utf8",
        wrong_files(&[("a.toml", b"[config]\nx = \"\xff\"\n")], &["a.toml"])
    );
}

#[test]
fn a_file_says_all_that_an_environment_is() {
    let text = r#"
        description = "the shop"
        extends = "base"
        capacity = 1
        recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
        [labels]
        team = "orders"
        [config]
        url = "${services.orders.url}/v1"
        [secrets]
        a = { env = "A" }
        b = { file = "b.txt" }
        c = { command = ["pass", "show", "c"] }
        d = { prompt = true }
        e = { environment = "base", version = 3 }
        f = { environment = "staging", version = 1, encrypted = true }
        [services.orders]
        command = "orders"
        args = ["--port", "{port}"]
        env = { LOG = "debug" }
        cwd = "orders"
        needs = ["stock"]
        ready = { http = "/health", timeout = "1m" }
        restart = "on-failure"
        stop-grace = "500ms"
        scope = "test"
        [services.stock]
        command = "stock"
        url = "http://localhost:{port}"
        ready = { log = "listening on \\d+" }
        [[probes]]
        http = "https://mail/health"
        status = 204
        body = "^ok$"
        timeout = "5s"
        [[probes]]
        command = ["true"]
        [data]
        users = "fixtures/users.json"
        old = { environment = "base", digest = "abc", size = 7 }
    "#;
    let file = parse(text).unwrap();
    insta::assert_debug_snapshot!((file.definition, file.secrets, file.data));
}

#[test]
fn a_mistake_in_what_is_inherited_names_the_value() {
    let file = parse("extends = \"base\"\n[config]\nhost = \"h\"\n").unwrap();
    let mut whole = file.whole();
    whole.config.insert("url".into(), "http://${config.hots}".into());
    let error = rendered(&file.check(&whole).unwrap_err());
    assert_eq!(
        error.replace("\n  │ ", " "),
        "  × in the environment `staging` a reference in `config.url` cannot be replaced: \
         ${config.hots}: there is no `config.hots` (at `config.url`)\n  help: did you mean `${config.host}`?"
    );
    let file = parse("extends = \"base\"\n[config]\nurl = \"${config.hots}\"\n").unwrap();
    let error = rendered(&file.check(&file.whole()).unwrap_err());
    assert!(error.contains("staging.toml:3:8"), "{error}");
}
