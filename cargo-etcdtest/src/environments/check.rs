//! Whether an environment, with all that it inherits, holds together.

use super::bind::{Bindings, bind};
use super::fault::Fault;
use super::path::below;
use crate::model::{Definition, Scope};
use crate::nearest::suggestion;

/// Checks what one value says of another: references, and what services need.
///
/// # Errors
/// The first that is wrong.
pub fn check(environment: &str, definition: &Definition) -> Result<(), Fault> {
    for (name, service) in &definition.services {
        for (index, need) in service.needs.iter().enumerate() {
            let fault = |label: String, help| Fault {
                path: below(&below(&below("services", name), "needs"), &index.to_string()),
                part: String::new(),
                message: format!("the service `{name}` cannot have what it needs"),
                label,
                help,
            };
            let Some(needed) = definition.services.get(need) else {
                let others = definition.services.keys().filter(|other| *other != name);
                let help = suggestion(need, others.map(String::as_str));
                return Err(fault(format!("there is no service `{need}`"), help));
            };
            if service.scope == Scope::Run && needed.scope == Scope::Test {
                let label = format!("`{need}` is started for each test, `{name}` once for the run");
                return Err(fault(label, Some("give both the same `scope`".into())));
            }
            if let Some(circle) = circle(definition, name, need) {
                let help = format!("each needs the next: {}", circle.join(" → "));
                return Err(fault("in the end it needs itself".into(), Some(help)));
            }
        }
    }
    bind(definition, &Bindings::placeholders(environment, definition)).map(drop)
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
