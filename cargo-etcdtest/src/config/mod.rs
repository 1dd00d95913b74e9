//! Settings: the one place where flags, variables and files become what the program uses.
//!
//! Each setting is declared once, in [`settings`](Settings); its key in the file, its
//! variable, its line in `store status` and its check follow from that.

mod error;
mod file;
mod levels;
mod load;
mod overrides;
mod rules;
mod settings;
mod types;
mod value;
mod workspace;

pub use error::SettingsError;
pub use levels::{FinalStatusLevel, StatusLevel};
pub use overrides::Override;
pub use rules::{
    Backoff, MaxFail, OutputWhen, PassOrFail, Retries, RuleError, Rules, SlowTimeout, ThreadsRequired,
};
pub use settings::{CREDENTIALS, Declaration, Flags, Origin, Setting, Settings};
pub use types::{
    Format, KeepRuns, KeepRunsError, StoreOutput, TestThreads, TestThreadsError, User, UserError,
};
pub use value::Value;
pub use workspace::{WorkspaceError, find_workspace_root};
