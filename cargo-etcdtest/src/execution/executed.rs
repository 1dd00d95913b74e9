//! A unit that was executed to its end, as it is kept: its result, and what is stored of its output.

use std::collections::HashSet;
use std::sync::Arc;

use super::events::{AttemptOutput, EventSink, RunEvent};
use super::journal::Journal;
use crate::config::StoreOutput;
use crate::model::{Attempt, Fence, RunId, StoredOutput, UnitIndex, UnitResult};
use crate::store::{Key, encode_output};

/// A unit that was executed to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// Its result, which names the output.
    pub result: UnitResult,
    /// The keys and values under which its output is stored.
    pub output: Vec<(Key, Vec<u8>)>,
}

impl Executed {
    /// A unit with its result and what each attempt printed, of which as much is kept as is
    /// `wanted`.
    pub(super) fn new(
        run: &RunId,
        wanted: StoreOutput,
        mut result: UnitResult,
        outputs: &[Arc<AttemptOutput>],
    ) -> Self {
        let UnitResult { unit, token, .. } = result;
        let mut pairs = Vec::new();
        for (attempt, output) in result.attempts.iter_mut().zip(outputs) {
            keep(run, unit, token, wanted, attempt, output, &mut pairs);
        }
        result.shorten();
        Self { result, output: pairs }
    }

    /// Keeps it in the journal, if there is one, before anybody is told of it.
    pub fn keep(&self, journal: Option<&Journal>, events: &EventSink) {
        if let Some(Err(error)) = journal.map(|journal| journal.note(self)) {
            let _ = events.send(RunEvent::Notice { text: error.to_string() });
        }
    }
}

/// Notes what is kept of an attempt, in the attempt and in `pairs`.
fn keep(
    run: &RunId,
    unit: UnitIndex,
    token: Fence,
    wanted: StoreOutput,
    attempt: &mut Attempt,
    output: &AttemptOutput,
    pairs: &mut Vec<(Key, Vec<u8>)>,
) {
    let wanted = match wanted {
        StoreOutput::None => return,
        StoreOutput::Failed => attempt.outcome.is_failure(),
        StoreOutput::All => true,
    };
    let mut put = |name: String, content: &[u8], size, left_out| {
        let chunks = encode_output(run, unit, token, attempt.number, &name, content);
        attempt.output.push(StoredOutput { name, size, left_out, chunks: chunks.len() });
        pairs.extend(chunks);
    };
    let printed = &output.printed;
    if wanted && !printed.is_empty() {
        put("output".into(), &printed.bytes(), printed.size(), printed.left_out());
    }
    for log in &output.services {
        if wanted {
            put(format!("services/{}", log.service), &log.bytes(), log.size, log.left_out());
        }
    }
    // What a test attaches it wants kept.
    let mut used = HashSet::<String>::new();
    for (name, content) in &output.attachments {
        let numbered = (2..).map(|number| format!("{name}.{number}"));
        let mut names = std::iter::once(name.clone()).chain(numbered);
        let Some(name) = names.find(|name| used.insert(name.clone())) else { continue };
        put(format!("attachments/{name}"), content, content.len() as u64, 0);
    }
}
