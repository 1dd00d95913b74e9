//! The default verb.

use std::ffi::OsString;

use clap::{Command, CommandFactory};

use super::Cli;
use crate::nearest::nearest;

/// The verb that is meant where none is typed.
const DEFAULT: &str = "run";

/// Puts the default verb where none was typed, and drops the `etcdtest` that cargo passes
/// as the first argument.
///
/// The first argument that belongs to no flag is either a verb or a filter of the default
/// one. Which flags take a value, clap knows.
pub(super) fn insert_default(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|first| first == "etcdtest") {
        arguments.remove(1);
    }
    let command = Cli::command();
    let Some(default) = command.find_subcommand(DEFAULT) else { return arguments };
    let mut position = 1;
    while let Some(argument) = arguments.get(position) {
        let text = argument.to_string_lossy();
        if matches!(text.as_ref(), "-h" | "--help" | "-V" | "--version") {
            return arguments;
        }
        if !text.starts_with('-') || text == "--" {
            if text == "help" || command.find_subcommand(&*text).is_some() {
                return arguments;
            }
            break;
        }
        position += if takes_next(&command, default, &text) { 2 } else { 1 };
    }
    arguments.insert(1, DEFAULT.into());
    arguments
}

/// The verb that a filter was perhaps meant to be.
pub(super) fn nearest_verb(filter: &str) -> Option<String> {
    let command = Cli::command();
    nearest(filter, command.get_subcommands().map(Command::get_name)).map(str::to_owned)
}

/// Whether the argument after this flag is its value.
fn takes_next(command: &Command, default: &Command, flag: &str) -> bool {
    let mut known = command.get_arguments().chain(default.get_arguments());
    let found = known.find(|known| match flag.strip_prefix("--") {
        Some(long) => known.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)),
        // `-j4` carries its value with it.
        None => flag.chars().count() == 2 && known.get_short() == flag.chars().nth(1),
    });
    found.is_some_and(|known| known.get_action().takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inserted(arguments: &str) -> String {
        let arguments = arguments.split(' ').map(OsString::from).collect();
        let inserted = insert_default(arguments);
        inserted.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn run_is_the_verb_where_none_was_typed() {
        for (typed, meant) in [
            ("x", "x run"),
            ("x etcdtest", "x run"),
            ("x etcdtest list", "x list"),
            ("x etcdtest etcdtest", "x run etcdtest"),
            ("x paid", "x run paid"),
            ("x --endpoints list list", "x --endpoints list list"),
            ("x --endpoints a:1 paid", "x run --endpoints a:1 paid"),
            ("x --endpoints=a:1 list", "x --endpoints=a:1 list"),
            ("x -p list", "x run -p list"),
            ("x -j2 --release list", "x -j2 --release list"),
            ("x --env runs", "x run --env runs"),
            ("x -- list", "x run -- list"),
            ("x --help", "x --help"),
            ("x help run", "x help run"),
            ("x run", "x run"),
        ] {
            assert_eq!(inserted(typed), meant, "{typed}");
        }
    }
}
