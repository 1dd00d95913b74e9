//! Whether an environment, with all that it inherits, holds together.

use super::bind::{Bindings, faults_of};
use super::fault::Fault;
use super::path::below;
use crate::model::{Definition, Scope};
use crate::nearest::suggestion;

/// What is wrong with what one value says of another: references, and what services need.
pub fn check(environment: &str, definition: &Definition) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, service) in &definition.services {
        for (index, need) in service.needs.iter().enumerate() {
            faults.extend(wrong_need(definition, name, index, need));
        }
    }
    faults.extend(faults_of(definition, &Bindings::placeholders(environment, definition)));
    faults
}

/// What is wrong with one need of a service.
fn wrong_need(definition: &Definition, name: &str, index: usize, need: &str) -> Option<Fault> {
    let fault = |label: String, help| {
        Some(Fault {
            path: below(&below(&below("services", name), "needs"), &index.to_string()),
            part: String::new(),
            message: format!("the service `{name}` cannot have what it needs"),
            label,
            help,
        })
    };
    let Some(needed) = definition.services.get(need) else {
        let others = definition.services.keys().filter(|other| *other != name);
        let help = suggestion(need, others.map(String::as_str));
        let help = help.unwrap_or_else(|| "there is no other `[services.NAME]`".into());
        return fault(format!("there is no service `{need}`"), Some(help));
    };
    if definition.services[name].scope == Scope::Run && needed.scope == Scope::Test {
        let label = format!("`{need}` is started for each test, `{name}` once for the run");
        return fault(label, Some("give both the same `scope`".into()));
    }
    let circle = circle(definition, name, need)?;
    // One of those in the circle tells of it.
    if circle.iter().any(|other| *other < name) {
        return None;
    }
    fault("in the end it needs itself".into(), Some(format!("each needs the next: {}", circle.join(" → "))))
}

/// The way from a service by this need back to itself, if there is one.
fn circle<'d>(definition: &'d Definition, name: &'d str, need: &'d str) -> Option<Vec<&'d str>> {
    let mut ways = vec![vec![name, need]];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(way) = ways.pop() {
        let &last = way.last()?;
        if last == name {
            return Some(way);
        }
        if seen.insert(last) {
            let needs = definition.services.get(last).into_iter().flat_map(|service| &service.needs);
            ways.extend(needs.map(|next| way.iter().copied().chain([next.as_str()]).collect()));
        }
    }
    None
}
