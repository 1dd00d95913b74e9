//! What environments lack for tests, as people and programs read it.

use std::fmt::Write as _;

use serde_json::json;

use super::print::{json_line, print};
use super::style::{WARNING, painted};
use super::{Exit, Failure};
use crate::config::Format;
use crate::execution::{Requirements, Unmet};

/// How many are told to people.
const SHOWN: usize = 50;

/// Ends the command where an environment lacks something.
///
/// # Errors
/// Then: all that is lacking is in the message, and in JSON each is an event of its own.
pub(super) fn require(found: &Requirements, format: Format) -> Result<(), Failure> {
    for warning in &found.warnings {
        anstream::eprintln!("{} {warning}", painted(WARNING, "warning:"));
    }
    if found.unmet.is_empty() {
        return Ok(());
    }
    if format == Format::Json {
        print(&found.unmet.iter().map(json).collect::<String>())?;
    }
    let help = "`cargo etcdtest env list` shows which environments there are for `--env`, `cargo etcdtest env \
        show NAME` what one has. A test that is for some of them only says so by `environments = […]`; an \
        `Option` may be missing";
    Err(Failure::new(Exit::Environment, miette::miette!(help = help, "{}", text(&found.unmet))))
}

fn json(unmet: &Unmet) -> String {
    let Unmet { environment, test, parameter, key, reason } = unmet;
    json_line(&json!({
        "event": "requirement-unmet", "environment": environment, "id": test.to_string(),
        "parameter": parameter, "key": key, "reason": reason,
    }))
}

/// All that is lacking, by environment and test.
fn text(all: &[Unmet]) -> String {
    let mut text = "nothing was run: environments lack what tests read of them".to_owned();
    let mut above: Option<&Unmet> = None;
    for unmet in &all[..all.len().min(SHOWN)] {
        let Unmet { environment, test, parameter, key, reason } = unmet;
        if above.is_none_or(|above| above.environment != *environment) {
            let _ = write!(text, "\nin `{environment}`:");
        }
        if above.is_none_or(|above| (&above.environment, &above.test) != (environment, test)) {
            let _ = write!(text, "\n  {test}");
        }
        let reason = reason.as_deref().unwrap_or("missing");
        let _ = write!(text, "\n    {key}: {reason} ({parameter})");
        above = Some(unmet);
    }
    if all.len() > SHOWN {
        let _ = write!(text, "\nand {} more", all.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TestCaseId;

    fn unmet(environment: &str, test: &str, key: &str, reason: Option<&str>) -> Unmet {
        Unmet {
            environment: environment.into(),
            test: TestCaseId::new("shop", "acceptance", test),
            parameter: "shop: Shop".into(),
            key: key.into(),
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn all_that_lacks_is_told_by_environment_and_test() {
        let all = [
            unmet("local", "orders::paid", "limits.pieces", None),
            unmet("local", "orders::paid", "url", Some("expected a string, found an integer")),
            unmet("local", "stock", "url", None),
            unmet("staging", "stock", "url", None),
        ];
        insta::assert_snapshot!(text(&all));
        let many = vec![all[0].clone(); SHOWN + 7];
        assert!(text(&many).ends_with("\nand 7 more"));
    }
}
