//! The recipes of `docs/ci.md` are what their CI systems expect, and the program understands
//! every command and every setting in them.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;

use cargo_etcdtest::cli;
use cargo_etcdtest::config::Declaration;
use serde_json::{Map, Value};
use whole_program::root;

/// What stands at the top of a GitLab file and is no job.
const GITLAB_KEYWORDS: [&str; 3] = ["stages", "default", "variables"];

fn guide() -> String {
    fs::read_to_string(root().join("docs/ci.md")).unwrap()
}

/// The recipes for one system: the first is for many machines, the second for a single one.
fn recipes(system: &str) -> [Map<String, Value>; 2] {
    let guide = guide();
    let opening = format!("```yaml {system}\n");
    let blocks = guide.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap());
    let parsed =
        blocks.map(|block| serde_saphyr::from_str(block).unwrap_or_else(|error| panic!("{error}\n{block}")));
    let parsed: Vec<_> = parsed.collect();
    parsed.try_into().unwrap()
}

/// Every text below one of these keys, or below any where none is named.
fn texts_below(value: &Value, names: &[&str], inside: bool, found: &mut Vec<String>) {
    match value {
        Value::String(text) if inside => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts_below(item, names, inside, found)),
        Value::Object(map) => {
            for (name, value) in map {
                texts_below(value, names, names.is_empty() || names.contains(&name.as_str()), found);
            }
        }
        _ => {}
    }
}

/// The commands of a recipe that call the program, each in its words.
fn commands(recipe: &Map<String, Value>) -> Vec<Vec<String>> {
    let mut scripts = Vec::new();
    texts_below(&recipe.clone().into(), &["run", "script", "before_script"], false, &mut scripts);
    let lines = scripts.iter().flat_map(|script| script.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("cargo etcdtest "))
        .map(|line| line.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect())
        .collect()
}

/// The variables that a recipe sets, wherever, with their values.
fn variables(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| variables(item, found)),
        Value::Object(map) => {
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("env" | "variables", Value::Object(set)) => found.extend(
                        set.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())),
                    ),
                    _ => variables(value, found),
                }
            }
        }
        _ => {}
    }
}

/// What holds for the recipes of both systems.
fn check_both([many, single]: &[Map<String, Value>; 2]) {
    let known: BTreeSet<String> = Declaration::ALL.iter().map(Declaration::variable).collect();
    for recipe in [many, single] {
        let commands = commands(recipe);
        assert!(commands.iter().any(|words| words[0] == "run"), "{commands:?}");
        for words in commands {
            // The shell puts the id in its place.
            let words = words.into_iter().map(|word| word.replace("$RUN_ID", "ci-17"));
            let typed = ["cargo-etcdtest", "etcdtest"].into_iter().map(str::to_owned).chain(words);
            cli::check(typed.map(Into::into)).unwrap_or_else(|error| panic!("{error}"));
        }
        let mut set = Vec::new();
        variables(&recipe.clone().into(), &mut set);
        assert!(set.iter().any(|(name, _)| name == "ETCDTEST_ENDPOINTS"), "{set:?}");
        for (name, _) in set.iter().filter(|(name, _)| name.starts_with("ETCDTEST_")) {
            assert!(known.contains(name), "{name} is no setting");
        }
    }
    // What is not published is not installed as if it were.
    let installs =
        "git clone --depth 1 \"$SOURCE_OF_ETCDTEST\" ~/etcdtest && cd ~/etcdtest && cargo xtask install";
    for recipe in [many, single] {
        let mut scripts = Vec::new();
        texts_below(&recipe.clone().into(), &["run", "script", "before_script"], false, &mut scripts);
        assert!(scripts.iter().any(|script| script.contains(installs)), "{scripts:?}");
    }
    let run_ids = |recipe: &Map<String, Value>| {
        let joined: Vec<_> = commands(recipe).into_iter().filter(|words| words[0] == "run").collect();
        joined.iter().filter(|words| words.windows(2).any(|pair| pair == ["--run-id", "$RUN_ID"])).count()
    };
    assert_eq!((run_ids(many), run_ids(single)), (1, 0));
    // The report is that of the same run.
    assert!(
        commands(many)
            .iter()
            .any(|words| words.starts_with(&["report", "export", "$RUN_ID"].map(str::to_owned)))
    );
}

#[test]
fn the_recipes_for_github_are_workflows_that_the_program_understands() {
    let recipes = recipes("github");
    check_both(&recipes);
    for recipe in &recipes {
        assert!(recipe["name"].is_string() && recipe["on"].is_array(), "{recipe:?}");
        let jobs = recipe["jobs"].as_object().unwrap();
        for (name, job) in jobs {
            assert!(job["runs-on"].is_string(), "{name}");
            if let Some(needed) = job.get("needs") {
                assert!(jobs.contains_key(needed.as_str().unwrap()), "{name} needs {needed}");
            }
            let steps = job["steps"].as_array().unwrap();
            assert_eq!(steps[0]["uses"], "actions/checkout@v4", "{name}");
            for step in steps {
                assert!(step["uses"].is_string() != step["run"].is_string(), "{step}");
                assert!(step["uses"].as_str().is_none_or(|used| used.contains("@v")), "{step}");
            }
        }
        let text = Value::from(recipe.clone()).to_string();
        let mut values = Vec::new();
        texts_below(&recipe.clone().into(), &[], true, &mut values);
        assert!(values.iter().all(|value| value.matches("${{").count() == value.matches("}}").count()));
        assert!(text.contains("actions/upload-artifact@v4") && text.contains("junit.xml"));
    }
    let [many, single] = recipes;
    let worker = &many["jobs"]["worker"]["strategy"];
    assert!(worker["matrix"]["worker"].as_array().unwrap().len() > 1);
    assert_eq!(worker["fail-fast"], false, "else one failed test ends the other machines");
    let id = many["env"]["RUN_ID"].as_str().unwrap();
    assert!(id.contains("github.run_id") && id.contains("github.run_attempt"), "{id}");
    let etcd = &single["jobs"]["tests"]["services"]["etcd"];
    assert!(etcd["image"].as_str().unwrap().contains("etcd:v3.") && etcd["ports"].is_array());
}

#[test]
fn the_recipes_for_gitlab_are_pipelines_that_the_program_understands() {
    let recipes = recipes("gitlab");
    check_both(&recipes);
    for recipe in &recipes {
        let stages = recipe.get("stages").map_or_else(Vec::new, |stages| stages.as_array().unwrap().clone());
        for (name, job) in recipe.iter().filter(|(name, _)| !GITLAB_KEYWORDS.contains(&name.as_str())) {
            assert!(job["script"].as_array().unwrap().iter().all(Value::is_string), "{name}");
            assert!(job.get("stage").is_none_or(|stage| stages.contains(stage)), "{name}");
        }
        let text = Value::from(recipe.clone()).to_string();
        assert!(text.contains(r#""reports":{"junit":"junit.xml"}"#), "{text}");
    }
    let [many, single] = recipes;
    assert!(many["workers"]["parallel"].as_u64().unwrap() > 1);
    assert!(many["variables"]["RUN_ID"].as_str().unwrap().contains("$CI_PIPELINE_ID"));
    let etcd = &single["tests"]["services"][0];
    assert!(etcd["name"].as_str().unwrap().contains("etcd:v3."));
    let endpoint = format!("{}:2379", etcd["alias"].as_str().unwrap());
    assert_eq!(single["tests"]["variables"]["ETCDTEST_ENDPOINTS"], endpoint.as_str());
}

#[test]
fn the_exit_codes_of_the_guide_are_those_that_there_are() {
    let codes = |text: &str| -> BTreeSet<u8> {
        text.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect()
    };
    let all = codes(&fs::read_to_string(root().join("docs/exit-codes.md")).unwrap());
    let told = codes(&guide());
    assert!(told.len() > 3 && told.is_subset(&all), "{told:?} of {all:?}");
}
