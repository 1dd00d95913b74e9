//! What the figures were measured on, and with.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::tool;

/// The machine and the programs.
#[derive(Debug)]
pub(super) struct Machine {
    /// How many tests run at once.
    pub(super) cores: usize,
    processor: String,
    kernel: String,
    /// Load averages over 1, 5 and 15 minutes when it began.
    load: String,
    programs: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks. `etcd` is the folder with etcd's programs.
    pub(super) fn look(etcd: &Path, nextest: Option<&str>) -> Self {
        let said = |command: &mut Command| {
            let output =
                command.current_dir(tool::root()).output().ok().filter(|output| output.status.success());
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.as_deref().and_then(|text| text.lines().next()).unwrap_or("unknown").trim().to_owned()
        };
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            processor: model.map_or("unknown", |(_, model)| model).to_owned(),
            kernel: said(Command::new("uname").args(["-sr"])),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            programs: vec![
                (
                    "etcdtest",
                    said(Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"])),
                ),
                ("rustc", said(Command::new("rustc").arg("--version"))),
                ("nextest", nextest.unwrap_or("not installed").to_owned()),
                ("etcd", said(Command::new(etcd.join("etcd")).arg("--version"))),
            ],
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let programs: Vec<_> =
            self.programs.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        format!(
            "{} cores of {}, {}, load {}\n{}\n",
            self.cores,
            self.processor,
            self.kernel,
            self.load,
            programs.join(" · ")
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let programs: serde_json::Map<_, _> =
            self.programs.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
        json!({
            "cores": self.cores, "processor": self.processor, "kernel": self.kernel, "load": self.load,
            "programs": programs,
        })
    }
}
