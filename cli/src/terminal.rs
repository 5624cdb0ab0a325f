//! Words for a person: plain lines when piped, colour and bars on a terminal.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

/// A string field of an answer; empty where it is not there.
pub fn string<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Text from outside without control characters, so that a document cannot steer the terminal.
pub fn plain(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.chars().any(bad) {
        Cow::Owned(text.chars().filter(|c| !bad(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Lines about what happens, on standard error.
pub struct Stderr {
    dim: bool,
}

impl Stderr {
    /// Dimmed on a terminal.
    pub fn new() -> Self {
        Self { dim: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Writes a line. Nobody is left to tell when this fails.
    pub fn line(&mut self, text: &str) {
        let mut out = std::io::stderr().lock();
        let _ = if self.dim { writeln!(out, "\x1b[2m{text}\x1b[0m") } else { writeln!(out, "{text}") };
    }
}

/// The time between two plain lines of progress.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Progress of something with a known size: a bar on a terminal, a line now and then otherwise.
pub struct Bar {
    bar: ProgressBar,
    what: String,
    last_line: Option<Instant>,
    begun: Instant,
}

impl Bar {
    /// Progress in bytes.
    pub fn bytes(what: &str, total: Option<u64>) -> Self {
        Self::new(what, total, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    /// Progress in things that are counted.
    pub fn count(what: &str, total: u64) -> Self {
        Self::new(what, Some(total), "{msg} {wide_bar} {pos}/{len} {eta}")
    }

    /// Progress in things that are counted, whose end is told in the note.
    pub fn work(what: &str, total: u64) -> Self {
        Self::new(what, Some(total), "{wide_bar} {pos}/{len} {msg}")
    }

    fn new(what: &str, total: Option<u64>, template: &str) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            total.map_or_else(ProgressBar::new_spinner, ProgressBar::new)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_length(total.unwrap_or_default());
        bar.set_message(what.to_owned());
        Self { bar, what: what.to_owned(), last_line: None, begun: Instant::now() }
    }

    /// How far it is, and what more there is to say.
    pub fn set(&mut self, done: u64, note: &str) {
        self.bar.set_position(done);
        self.bar.set_message(if note.is_empty() {
            self.what.clone()
        } else {
            format!("{}: {note}", self.what)
        });
        if self.bar.is_hidden() && self.last_line.is_none_or(|at| at.elapsed() > BETWEEN_LINES) {
            self.last_line = Some(Instant::now());
            let total = self.bar.length().unwrap_or_default();
            Stderr::new().line(&format!("{}: {done}/{total} {note}", self.what));
        }
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// It is over; `text` stays.
    pub fn finish(&self, text: &str) {
        self.bar.finish_and_clear();
        Stderr::new().line(text);
    }
}
