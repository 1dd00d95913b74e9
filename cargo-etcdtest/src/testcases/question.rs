//! Asking binaries what environments lack for their tests.

use std::sync::Arc;
use std::time::Duration;

use etcdtest::protocol::{CHECK_ARGUMENT, Check, Checked, Lack};
use futures::{StreamExt, stream};

use super::binary::Binary;
use super::discover::ask;
use super::listing::ListingFault;

/// What a binary is asked.
#[derive(Debug)]
pub struct Question {
    /// The binary.
    pub binary: Arc<Binary>,
    /// The environments, and which of its tests would run there.
    pub check: Check,
}

/// Asks each, as many at a time as there are cores, and says what each answered in time.
pub async fn ask_what_lacks(
    questions: Vec<Question>,
    timeout: Duration,
) -> Vec<(Arc<Binary>, Result<Vec<Lack>, ListingFault>)> {
    let lanes = std::thread::available_parallelism().map_or(1, Into::into);
    stream::iter(questions)
        .map(|Question { binary, check }| async move {
            let answer = tokio::time::timeout(timeout, lacks(&binary, &check)).await;
            (binary, answer.unwrap_or(Err(ListingFault::Timeout(timeout))))
        })
        .buffered(lanes)
        .collect()
        .await
}

async fn lacks(binary: &Binary, check: &Check) -> Result<Vec<Lack>, ListingFault> {
    let answer = ask(binary, &[CHECK_ARGUMENT], Some(check.to_json())).await?;
    let lines = answer.split(|&byte| byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    // The tests' own types may print while they are read.
    let checked = lines.filter_map(Checked::from_line).next_back();
    let no_answer = || ListingFault::Protocol("it gave no answer that this version understands".into());
    checked.map(|checked| checked.lacks).ok_or_else(no_answer)
}
