//! Where settings come from, in this order: flag, variable, file, default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::ColorChoice;

use super::error::SettingsError;
use super::file;
use super::settings::{Declaration, Flags, Origin, Settings};
use super::value::Value;
use crate::document::Document;
use crate::nearest::{nearest, suggestion};
use crate::store::etcd::has_user;

/// What all our variables begin with.
const PREFIX: &str = "ETCDTEST_";

/// The variable that chooses a profile.
const PROFILE: &str = "ETCDTEST_PROFILE";

/// Variables of ours that are no settings: the harness and the project's set-up read them, or a test's
/// process has them.
const OTHERS: [&str; 5] = [
    PROFILE,
    etcdtest::protocol::ATTEMPT_VARIABLE,
    etcdtest::protocol::ENVIRONMENT_VARIABLE,
    etcdtest::protocol::LIST_VARIABLE,
    "ETCDTEST_ETCD_BIN",
];

/// Everything but the flags, read and checked.
pub(super) struct Sources<'a> {
    root: &'a Path,
    variables: BTreeMap<String, String>,
    document: Option<&'a Document>,
    /// The profiles in use, the first to be asked first.
    profiles: Vec<(String, file::Profile<'a>)>,
}

impl Settings {
    /// Resolves all settings.
    ///
    /// `root` is the workspace root: the settings file is below it, and relative paths in
    /// that file begin there. `variables` are those of the process; an empty one counts as
    /// not set.
    ///
    /// # Errors
    /// At the first thing that is wrong, also in what is not used: a misspelt name should
    /// not go unnoticed.
    pub fn load(
        flags: Flags,
        root: &Path,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let (ours, others): (Vec<_>, Vec<_>) =
            variables.into_iter().partition(|(name, _)| name.to_string_lossy().starts_with(PREFIX));
        let variables = checked(ours)?;
        let document = file::read(root)?;
        let content = document.as_ref().map(file::content).transpose()?.unwrap_or_default();
        let chosen = match (&flags.profile, variables.get(PROFILE)) {
            (Some(name), _) => Some((name.clone(), "--profile")),
            (None, Some(name)) => Some((name.clone(), PROFILE)),
            (None, None) => None,
        };
        let profiles = in_use(content.profiles, chosen)?;
        let sources = Sources { root, variables, document: document.as_ref(), profiles };
        let mut settings = Self::resolve(flags, &sources)?;
        settings.overrides =
            sources.profiles.iter().flat_map(|(_, profile)| profile.overrides.clone()).collect();
        settings.resources = content.resources;
        settings.take_color_from_cargo(&others);
        settings.complete()
    }

    /// Where nobody chose when to use colours, does as cargo was told.
    fn take_color_from_cargo(&mut self, variables: &[(OsString, OsString)]) {
        const CARGOS: &str = "CARGO_TERM_COLOR";
        let Some((_, value)) = variables.iter().find(|(name, _)| name == CARGOS) else { return };
        let chosen = value.to_str().and_then(ColorChoice::parse);
        let color = self.origins.iter_mut().find(|setting| setting.name == "color");
        if let (Some(chosen), Some(color)) = (chosen, color.filter(|color| color.origin == Origin::Default)) {
            self.color = chosen;
            (color.value, color.origin) = (chosen.show(), Origin::Variable { name: CARGOS.into() });
        }
    }

    /// Refuses half of what is needed together, and credentials where everybody sees them.
    fn complete(self) -> Result<Self, SettingsError> {
        if self.endpoints.iter().any(|endpoint| has_user(endpoint)) {
            return Err(SettingsError::UserInEndpoint);
        }
        let both = "a client certificate needs both, `cert` and `key`";
        let password = "set ETCDTEST_PASSWORD, or write it after a colon in --user";
        let (given, missing, help) = match (&self.cert, &self.key) {
            (Some(_), None) => ("cert", "key", both),
            (None, Some(_)) => ("key", "cert", both),
            _ if self.user.is_some() && self.password().is_none() => ("user", "password", password),
            _ => return Ok(self),
        };
        Err(SettingsError::Incomplete { given, missing, help })
    }
}

impl Sources<'_> {
    /// The value of one setting and where it came from.
    pub(super) fn resolve<T: Value>(
        &self,
        declaration: &Declaration,
        flag: Option<T::Flag>,
    ) -> Result<(T, Origin), SettingsError> {
        if let Some(flag) = flag {
            return Ok((T::from_flag(flag), Origin::Flag));
        }
        let name = declaration.variable();
        if let Some(text) = self.variables.get(&name) {
            return match T::parse(text) {
                Some(value) => Ok((value, Origin::Variable { name })),
                None => Err(SettingsError::WrongVariable {
                    help: Some(format!("it sets `{}`: {}", declaration.name(), declaration.meaning)),
                    name,
                    expected: T::EXPECTED,
                }),
            };
        }
        for (profile, content) in &self.profiles {
            let Some((place, value)) = content.settings.get(&declaration.name()) else { continue };
            let value = T::read(value).expect("the file was checked");
            let line = self.document.map_or(0, |document| document.line(*place));
            let origin = Origin::File { path: file::PATH.into(), line, profile: profile.clone() };
            return Ok((value.below(self.root), origin));
        }
        Ok((T::parse(declaration.default).expect("defaults are accepted"), Origin::Default))
    }
}

/// The values of those variables of ours that are not empty; a name that nobody reads is
/// refused.
fn checked(variables: Vec<(OsString, OsString)>) -> Result<BTreeMap<String, String>, SettingsError> {
    let settings: Vec<_> = Declaration::ALL.iter().map(Declaration::variable).collect();
    let known: Vec<_> = settings.iter().map(String::as_str).chain(OTHERS).collect();
    let mut values = BTreeMap::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if value.is_empty() {
            continue;
        }
        // Those are for plain tests, and come here where such a test runs this program.
        if name.starts_with(etcdtest::protocol::SECRET_VARIABLES) {
            continue;
        }
        if !known.contains(&name.as_str()) {
            let ends = known.iter().map(|known| &known[PREFIX.len()..]);
            let help = nearest(&name[PREFIX.len()..], ends).map_or_else(
                || format!("names that begin with {PREFIX} are kept for settings: `cargo etcdtest store status` lists them"),
                |known| format!("did you mean {PREFIX}{known}?"),
            );
            return Err(SettingsError::UnknownVariable { name, help: Some(help) });
        }
        // What the harness reads may be a path, which need not be Unicode.
        let Ok(value) = value.into_string() else {
            if OTHERS.contains(&name.as_str()) && name != PROFILE {
                continue;
            }
            return Err(SettingsError::WrongVariable { name, expected: "Unicode text", help: None });
        };
        values.insert(name, value);
    }
    Ok(values)
}

/// The chosen profile over that which is under all.
fn in_use<'a>(
    mut profiles: BTreeMap<String, file::Profile<'a>>,
    chosen: Option<(String, &'static str)>,
) -> Result<Vec<(String, file::Profile<'a>)>, SettingsError> {
    let mut used = Vec::new();
    if let Some((name, chosen_by)) = chosen.filter(|(name, _)| name != file::BASE) {
        let Some(profile) = profiles.remove(&name) else {
            let known = profiles.keys().map(String::as_str);
            let help = suggestion(&name, known)
                .unwrap_or_else(|| format!("write it as `[profile.{name}]` in {}", file::PATH));
            return Err(SettingsError::UnknownProfile { name, chosen_by, help: Some(help) });
        };
        used.push((name, profile));
    }
    used.extend(profiles.remove_entry(file::BASE));
    Ok(used)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::config::{Retries, StoreOutput, TestThreads};
    use crate::document::rendered;

    /// A workspace with this settings file.
    fn workspace(file: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(".config")).unwrap();
        std::fs::write(root.path().join(file::PATH), file).unwrap();
        root
    }

    fn load(flags: Flags, file: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let root = workspace(file);
        Settings::load(flags, root.path(), variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    fn of(settings: &Settings, name: &str) -> String {
        let setting = settings.origins.iter().find(|setting| setting.name == name).unwrap();
        format!("{} from {}", setting.value, setting.origin)
    }

    fn wrong_file(file: &str) -> String {
        rendered(&load(Flags::default(), file, &[]).unwrap_err())
    }

    fn wrong_variable(name: &str, value: &str) -> String {
        rendered(&load(Flags::default(), "", &[(name, value)]).unwrap_err())
    }

    const FILE: &str = "[profile.default]\nretries = 1\ntest-threads = -1\ntimeout = \"5m\"\n\n\
        [profile.ci]\nretries = 2\nendpoints = [\"a:1\", \"b:2\"]\njunit = \"out/junit.xml\"\n";

    #[test]
    fn a_flag_comes_before_a_variable_before_the_profile_before_the_default_profile() {
        let ci = || Flags { profile: Some("ci".into()), ..Flags::default() };
        let retries =
            |flags, variables: &[(&str, &str)]| of(&load(flags, FILE, variables).unwrap(), "retries");
        assert_eq!(of(&load(Flags::default(), "", &[]).unwrap(), "retries"), "0 from default");
        assert_eq!(retries(Flags::default(), &[]), "1 from .config/etcdtest.toml:2 (profile default)");
        assert_eq!(retries(ci(), &[]), "2 from .config/etcdtest.toml:7 (profile ci)");
        assert_eq!(retries(ci(), &[("ETCDTEST_RETRIES", "3")]), "3 from ETCDTEST_RETRIES");
        assert_eq!(retries(ci(), &[("ETCDTEST_RETRIES", "")]), "2 from .config/etcdtest.toml:7 (profile ci)");
        let flags = Flags { retries: Some(Retries::at_once(4)), ..ci() };
        assert_eq!(retries(flags, &[("ETCDTEST_RETRIES", "3")]), "4 from flag");
    }

    #[test]
    fn the_profile_is_chosen_by_flag_or_variable_and_keeps_what_it_does_not_set() {
        let settings = load(Flags::default(), FILE, &[("ETCDTEST_PROFILE", "ci")]).unwrap();
        assert_eq!(settings.retries, Retries::at_once(2));
        assert_eq!(settings.test_threads, "-1".parse::<TestThreads>().unwrap());
        assert_eq!(settings.timeout, Some(Duration::from_mins(5)));
        assert_eq!(settings.endpoints, ["a:1", "b:2"]);
        let flags = Flags { profile: Some("default".into()), ..Flags::default() };
        assert_eq!(load(flags, FILE, &[("ETCDTEST_PROFILE", "ci")]).unwrap().retries, Retries::at_once(1));
    }

    #[test]
    fn a_relative_path_in_the_file_begins_at_the_workspace_root() {
        let root = workspace("[profile.default]\ncacert = \"ca.pem\"\n");
        let variables = |name: &str, value: &str| [(OsString::from(name), OsString::from(value))];
        let settings = Settings::load(Flags::default(), root.path(), []).unwrap();
        assert_eq!(settings.cacert, Some(root.path().join("ca.pem")));
        let settings =
            Settings::load(Flags::default(), root.path(), variables("ETCDTEST_CACERT", "ca.pem")).unwrap();
        assert_eq!(settings.cacert, Some(PathBuf::from("ca.pem")));
    }

    #[test]
    fn every_default_is_accepted_and_there_need_be_no_file() {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings::load(Flags::default(), root.path(), []).unwrap();
        assert!(settings.max_fail.to_string() == "1" && settings.endpoints.is_empty());
        assert_eq!(settings.store_output, StoreOutput::Failed);
        assert_eq!(settings.default_environment, "local");
        assert_eq!(settings.origins.len(), Declaration::ALL.len());
        assert!(settings.origins.iter().all(|setting| setting.origin == Origin::Default));
    }

    #[test]
    fn a_password_comes_with_the_user_or_from_its_variable_and_is_not_shown() {
        let variables = [("ETCDTEST_PASSWORD", "hunter2")];
        let flags = |user: &str| Flags { user: Some(user.parse().unwrap()), ..Flags::default() };
        let settings = load(flags("root"), "", &variables).unwrap();
        assert_eq!(settings.password().unwrap().expose(), "hunter2");
        assert_eq!(of(&settings, "password"), "*** from ETCDTEST_PASSWORD");
        let settings = load(flags("root:other:one"), "", &variables).unwrap();
        assert_eq!(settings.password().unwrap().expose(), "other:one");
        let options = settings.store_options(Path::new("/w")).etcd;
        assert_eq!(
            (options.user.as_deref(), options.password.unwrap().expose()),
            (Some("root"), "other:one")
        );
        assert_eq!(of(&settings, "user"), "root from flag");
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("other"), "{shown}");
    }

    #[test]
    fn colours_are_used_as_cargo_was_told_unless_a_setting_says_otherwise() {
        let color = |file, variables: &[_]| of(&load(Flags::default(), file, variables).unwrap(), "color");
        let cargos = ("CARGO_TERM_COLOR", "never");
        assert_eq!(color("", &[cargos]), "never from CARGO_TERM_COLOR");
        assert_eq!(color("", &[cargos, ("ETCDTEST_COLOR", "always")]), "always from ETCDTEST_COLOR");
        assert_eq!(color("", &[("CARGO_TERM_COLOR", "strange")]), "auto from default");
    }

    #[test]
    fn variables_of_the_harness_are_not_taken_for_settings() {
        let settings = load(
            Flags::default(),
            "",
            &[("ETCDTEST_ENVIRONMENT", "x"), ("ETCDTEST_PROTOCOL", "1"), ("ETCDTEST_ETCD_BIN", "/bin")],
        );
        assert!(settings.is_ok());
    }

    #[test]
    fn a_wrong_file_is_refused_at_its_place() {
        insta::assert_snapshot!("unknown_setting", wrong_file("[profile.default]\nretrys = 3\n"));
        insta::assert_snapshot!("unknown_table", wrong_file("[default]\nretries = 3\n"));
        insta::assert_snapshot!("wrong_type", wrong_file("[profile.default]\nretries = \"3\"\n"));
        insta::assert_snapshot!("negative_count", wrong_file("[profile.default]\nretries = -1\n"));
        insta::assert_snapshot!("wrong_duration", wrong_file("[profile.default]\ntimeout = \"5 parsecs\"\n"));
        insta::assert_snapshot!("zero_duration", wrong_file("[profile.default]\nlist-timeout = \"0s\"\n"));
        insta::assert_snapshot!("wrong_choice", wrong_file("[profile.ci]\nstore-output = \"fail\"\n"));
        insta::assert_snapshot!("wrong_list", wrong_file("[profile.ci]\nendpoints = [\"a:1\", 2]\n"));
        insta::assert_snapshot!("no_threads", wrong_file("[profile.ci]\ntest-threads = 0\n"));
        insta::assert_snapshot!("profile_is_no_table", wrong_file("profile = 3\n"));
        insta::assert_snapshot!("setting_outside_a_profile", wrong_file("[profile]\nretries = 3\n"));
        insta::assert_snapshot!("broken_toml", wrong_file("[profile.default\nretries = 3\n"));
        insta::assert_snapshot!("set_twice", wrong_file("[profile.ci]\nretries = 3\nretries = 4\n"));
        insta::assert_snapshot!("user_without_password", wrong_file("[profile.default]\nuser = \"root\"\n"));
        insta::assert_snapshot!("cert_without_key", wrong_file("[profile.default]\ncert = \"c.pem\"\n"));
    }

    #[test]
    fn overrides_of_the_chosen_profile_come_first_and_resources_hold_for_all() {
        let file = "[resources]\ndatabase = 2\n[profile.default]\n\
            [[profile.default.overrides]]\nfilter = 'all()'\nretries = 1\n\
            [[profile.ci.overrides]]\nfilter = 'test(a)'\nretries = 2\nexclusive = \"database\"\n\
            [[profile.other.overrides]]\nfilter = 'test(b)'\n";
        let flags = Flags { profile: Some("ci".into()), ..Flags::default() };
        let settings = load(flags, file, &[]).unwrap();
        let retries: Vec<_> =
            settings.overrides.iter().map(|over| over.rules.retries.unwrap().count).collect();
        assert_eq!(retries, [2, 1]);
        assert_eq!(settings.overrides[0].rules.exclusive.as_deref(), Some("database"));
        assert_eq!(settings.resources["database"].get(), 2);
    }

    #[test]
    fn a_wrong_override_is_refused_at_its_place() {
        let wrong = |rules: &str| wrong_file(&format!("[[profile.ci.overrides]]\n{rules}\n"));
        insta::assert_snapshot!("wrong_filter", wrong("filter = \"test(a) & tset(b)\""));
        insta::assert_snapshot!("wrong_escaped_filter", wrong("filter = \"test(\\u0061) &\""));
        insta::assert_snapshot!("unknown_rule", wrong("filter = 'all()'\nretrys = 1"));
        insta::assert_snapshot!("wrong_rule", wrong("filter = 'all()'\nthreads-required = 0"));
        insta::assert_snapshot!(
            "wrong_retries",
            wrong("filter = 'all()'\nretries = { count = 2, delay = \"1s\" }")
        );
        insta::assert_snapshot!("no_filter", wrong("retries = 1"));
        insta::assert_snapshot!("overrides_are_no_list", wrong_file("[profile.ci.overrides]\nretries = 1\n"));
        insta::assert_snapshot!("wrong_capacity", wrong_file("[resources]\ndatabase = 0\n"));
    }

    #[test]
    fn a_password_in_the_file_is_refused_and_never_shown() {
        let files = [
            "[profile.default]\nuser = \"root\"\npassword = \"hunter2\"\n",
            "[profile.default]\nuser = \"root:hunter2\"\n",
            "[profile.default]\npassword = hunter2\n",
            "profile.default = { retrys = 1, password = \"hunter2\" }\n",
            "[profile.default]\nretrys = 1\n'password' = 'hunter2'\n",
            "[profile.default]\npassword = \"\"\"\nhunter2\n\"\"\"\nretrys = 1\n",
        ];
        for file in files {
            let error = wrong_file(file);
            assert!(!error.contains("hunter2"), "{error}");
        }
        insta::assert_snapshot!("password_in_the_file", wrong_file(files[0]));
        insta::assert_snapshot!("password_with_the_user_in_the_file", wrong_file(files[1]));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(file::PATH)).unwrap();
        let error = Settings::load(Flags::default(), root.path(), []).unwrap_err().to_string();
        assert!(error.ends_with("etcdtest.toml"), "{error}");
        let root = workspace("");
        std::fs::write(root.path().join(file::PATH), b"[profile.default]\nuser = \"\xff\"\n").unwrap();
        let error = Settings::load(Flags::default(), root.path(), []).unwrap_err();
        insta::assert_snapshot!("not_utf8", rendered(&error));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        insta::assert_snapshot!("wrong_variable", wrong_variable("ETCDTEST_RETRIES", "many"));
        insta::assert_snapshot!("misspelt_variable", wrong_variable("ETCDTEST_ENDPOINT", "a:1"));
        insta::assert_snapshot!("foreign_variable", wrong_variable("ETCDTEST_XYZ", "1"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt;
            let value = OsString::from_vec(vec![0xff]);
            let root = workspace("");
            let variables = [("ETCDTEST_USER".into(), value.clone())];
            let error = Settings::load(Flags::default(), root.path(), variables).unwrap_err().to_string();
            assert!(error.contains("ETCDTEST_USER"), "{error}");
            let variables = [("ETCDTEST_ENVIRONMENT".into(), value)];
            assert!(Settings::load(Flags::default(), root.path(), variables).is_ok());
        }
    }

    #[test]
    fn an_unknown_profile_is_an_error_with_the_nearest() {
        let flags = Flags { profile: Some("cl".into()), ..Flags::default() };
        insta::assert_snapshot!("unknown_profile", rendered(&load(flags, FILE, &[]).unwrap_err()));
        let variables = [("ETCDTEST_PROFILE", "ci")];
        let error = load(Flags::default(), "", &variables).unwrap_err();
        insta::assert_snapshot!("profile_without_a_file", rendered(&error));
    }
}
