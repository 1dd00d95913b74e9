//! What a test said on its socket, within what one attempt may say.

use std::time::Duration;

use etcdtest::protocol::{Event, Outcome};

use crate::model::Step;

/// How many bytes of attachments one attempt may send, and how many attachments.
const MAX_ATTACHED: usize = 16 << 20;
const MAX_ATTACHMENTS: usize = 100;
/// How many steps of one attempt are kept.
const MAX_STEPS: usize = 500;
/// The longest name of a step or attachment, in bytes.
const MAX_NAME: usize = 200;

/// The events of one attempt so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Its steps.
    pub(super) steps: Vec<Step>,
    /// Its attachments: file name and content.
    pub(super) attachments: Vec<(String, Vec<u8>)>,
    /// Its last word.
    pub(super) outcome: Option<Outcome>,
    /// The bytes of all attachments, kept or not.
    attached: usize,
}

impl Said {
    /// Takes in an event, and says whether it was the last.
    pub(super) fn take(&mut self, event: Event) -> bool {
        match event {
            Event::StepStarted { mut name, .. } => {
                if self.steps.len() < MAX_STEPS {
                    name.truncate(name.floor_char_boundary(MAX_NAME));
                    self.steps.push(Step { name, ok: None, duration: Duration::ZERO });
                }
            }
            Event::StepFinished { step, ok, duration } => {
                let index = (step as usize).wrapping_sub(1);
                if let Some(step) = self.steps.get_mut(index) {
                    step.ok = Some(ok);
                    step.duration = duration;
                }
            }
            Event::Attachment { mut name, bytes } => {
                self.attached = self.attached.saturating_add(bytes.len());
                if self.attached <= MAX_ATTACHED && self.attachments.len() < MAX_ATTACHMENTS {
                    name.truncate(name.floor_char_boundary(MAX_NAME));
                    self.attachments.push((name, bytes));
                }
            }
            Event::Finished(outcome) => {
                self.outcome = Some(outcome);
                return true;
            }
        }
        false
    }
}
