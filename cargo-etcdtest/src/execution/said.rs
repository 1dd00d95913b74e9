//! What a test said on its socket, within what one attempt may say.

use std::time::Duration;

use etcdtest::protocol::{Event, Outcome};

use crate::model::Step;
use crate::redact::Redactor;

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
    /// What nothing here may hold.
    redactor: Redactor,
}

impl Said {
    /// Nothing yet; what comes is kept without secrets.
    pub(super) fn new(redactor: Redactor) -> Self {
        Self { redactor, ..Self::default() }
    }

    /// Takes in an event, and says whether it was the last.
    pub(super) fn take(&mut self, event: Event) -> bool {
        match event {
            Event::StepStarted { name, .. } => {
                if self.steps.len() < MAX_STEPS {
                    let mut name = self.redactor.text(name);
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
            Event::Attachment { name, bytes } => {
                self.attached = self.attached.saturating_add(bytes.len());
                if self.attached <= MAX_ATTACHED && self.attachments.len() < MAX_ATTACHMENTS {
                    let mut name = self.redactor.text(name);
                    name.truncate(name.floor_char_boundary(MAX_NAME));
                    self.attachments.push((name, self.redactor.document(bytes)));
                }
            }
            Event::Finished(outcome) => {
                self.outcome = Some(self.without_secrets(outcome));
                return true;
            }
        }
        false
    }

    fn without_secrets(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Passed => Outcome::Passed,
            Outcome::Skipped(reason) => Outcome::Skipped(self.redactor.text(reason)),
            Outcome::Failed { message, location } => Outcome::Failed {
                message: self.redactor.text(message),
                location: location.map(|location| self.redactor.text(location)),
            },
        }
    }
}
