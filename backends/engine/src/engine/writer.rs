//! The text of one sequence on its way to whoever asked for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokenizers::Tokenizer;

use super::request::{Output, Reason, Request, Sampling, Sink};
use crate::{detokenizer::Detokenizer, stop::StopStrings};

/// A sequence's text.
pub(super) struct Writer {
    sink: Sink,
    cancelled: Arc<AtomicBool>,
    deadline: Option<Instant>,
    detokenizer: Detokenizer,
    stop: StopStrings,
    pub(super) sampling: Sampling,
    pub(super) ignore_end: bool,
    prompt_tokens: usize,
    max_tokens: usize,
    answer_tokens: usize,
    /// Tokens and an end that were chosen and are not passed on yet.
    pending: Vec<u32>,
    ending: Option<Reason>,
}

impl Writer {
    pub(super) fn new(
        request: &Request,
        prompt_tokens: usize,
        cancelled: Arc<AtomicBool>,
        sink: Sink,
    ) -> Self {
        Self {
            sink,
            cancelled,
            deadline: request.deadline,
            detokenizer: Detokenizer::default(),
            stop: StopStrings::new(request.stop.clone()),
            sampling: request.sampling,
            ignore_end: request.ignore_end,
            prompt_tokens,
            max_tokens: request.max_tokens,
            answer_tokens: 0,
            pending: Vec::new(),
            ending: None,
        }
    }

    /// What ends it from outside, if anything does.
    pub(super) fn interrupted(&self, now: Instant) -> Option<Output> {
        if self.cancelled.load(Ordering::Relaxed) {
            Some(Output::Cancelled)
        } else if self.deadline.is_some_and(|deadline| deadline <= now) {
            Some(Output::Late)
        } else {
            None
        }
    }

    /// Takes the next token, or the model's own end; answers whether the text has ended.
    pub(super) fn take(&mut self, token: u32, ends: bool) -> bool {
        self.answer_tokens += 1;
        if ends {
            self.ending = Some(Reason::Stop);
            return true;
        }
        self.pending.push(token);
        if self.answer_tokens >= self.max_tokens {
            self.ending = Some(Reason::Length);
        }
        self.ending.is_some()
    }

    /// Whether there is something to pass on.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty() || self.ending.is_some()
    }

    /// Passes on what was taken; answers whether the text is over.
    pub(super) fn deliver(&mut self, tokenizer: &Tokenizer) -> bool {
        match self.write(tokenizer) {
            Ok(Some(reason)) => {
                let (prompt_tokens, answer_tokens) = (self.prompt_tokens, self.answer_tokens);
                (self.sink)(Output::End { reason, prompt_tokens, answer_tokens });
                true
            }
            Ok(None) => false,
            Err(message) => {
                (self.sink)(Output::Failed(format!("the answer's tokens are no text: {message}")));
                true
            }
        }
    }

    fn write(&mut self, tokenizer: &Tokenizer) -> Result<Option<Reason>, String> {
        let mut text = String::new();
        for token in std::mem::take(&mut self.pending) {
            text.push_str(&self.detokenizer.push(tokenizer, token)?);
        }
        if self.ending.is_some() {
            text.push_str(&self.detokenizer.finish(tokenizer)?);
        }
        let (mut passed, stopped) = self.stop.push(&text);
        let ending = if stopped { Some(Reason::Stop) } else { self.ending };
        if ending.is_some() && !stopped {
            passed.push_str(&self.stop.finish());
        }
        if !passed.is_empty() {
            (self.sink)(Output::Text(passed));
        }
        Ok(ending)
    }

    /// Ends it with this.
    pub(super) fn end(mut self, output: Output) {
        (self.sink)(output);
    }
}
