//! What is asked of an engine, and what it answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use raglan_kernels::SampleRow;

use crate::RequestError;

/// Temperatures below are taken for 0: divided by less, logits of different tokens run into one bound.
const LEAST_TEMPERATURE: f32 = 1e-5;

/// What a sequence begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Instructions (or none, if empty) and a question, put into the model's chat template.
    Chat {
        /// The instructions.
        system: String,
        /// The question.
        user: String,
    },
    /// A text as it is.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0, or so little that it comes to the same, is always the most likely token; above it, higher is more random.
    pub temperature: f32,
    /// Only so many of the most likely tokens can be chosen; 0 for all.
    pub top_k: u32,
    /// Of these, only the fewest that are this likely together; 1 for all.
    pub top_p: f32,
    /// Above 1, tokens that are there already become less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Decides, with the token's place, what is drawn: the same seed gives the same text, whatever else runs at the same time.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        self.row(&[]).check().map_err(RequestError::Invalid)
    }

    /// How the token behind these is chosen.
    pub(super) fn row<'a>(&self, seen: &'a [u32]) -> SampleRow<'a> {
        let Self { temperature, top_k, top_p, repetition_penalty, seed } = *self;
        let temperature = if (0.0..LEAST_TEMPERATURE).contains(&temperature) { 0.0 } else { temperature };
        SampleRow { temperature, top_k, top_p, repetition_penalty, seen, seed, position: seen.len() as u64 }
    }
}

/// A text to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What it begins with.
    pub prompt: Prompt,
    /// The most tokens of the answer.
    pub max_tokens: usize,
    /// How its tokens are chosen.
    pub sampling: Sampling,
    /// Strings before which the answer ends.
    pub stop: Vec<String>,
    /// When it is given up.
    pub deadline: Option<Instant>,
    /// Goes on where the model would end, up to `max_tokens`: for measurements.
    pub ignore_end: bool,
}

impl Request {
    /// A request without randomness, stop strings or deadline.
    #[must_use]
    pub fn new(prompt: Prompt, max_tokens: usize) -> Self {
        Self {
            prompt,
            max_tokens,
            sampling: Sampling::default(),
            stop: Vec::new(),
            deadline: None,
            ignore_end: false,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it, or a stop string did.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
}

/// What comes of a request: any number of texts, and then exactly one of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The next piece, never empty, of whole characters.
    Text(String),
    /// The end.
    End {
        /// Why.
        reason: Reason,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the answer.
        answer_tokens: usize,
    },
    /// It was not begun.
    Refused(RequestError),
    /// Its [`Ticket`] was dropped or cancelled.
    Cancelled,
    /// Its deadline passed.
    Late,
    /// The engine failed at it. Sending it again may help.
    Failed(String),
}

/// Takes what comes of a request, on the engine's thread: it must not block.
pub type Sink = Box<dyn FnMut(Output) + Send>;

/// A request under way. Dropping it cancels.
#[derive(Debug)]
#[must_use = "dropping it cancels the request"]
pub struct Ticket {
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    pub(super) fn new() -> (Self, Arc<AtomicBool>) {
        let cancelled = Arc::new(AtomicBool::new(false));
        (Self { cancelled: cancelled.clone() }, cancelled)
    }

    /// Stops the work before the next step. Nothing happens where it is over.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}
