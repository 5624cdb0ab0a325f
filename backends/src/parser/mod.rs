//! Reads files of the usual formats into text with structure: one file a format, and one that tells them apart.
//!
//! Files come from anywhere, and the libraries that read them may panic, recurse or take long. So each file is read
//! on a thread of its own with a large stack, a panic is an error of that file, and what unpacks is bounded.

mod csv;
mod detect;
mod docx;
mod encoding;
mod html;
mod html_blocks;
mod json;
mod markdown;
mod pdf;
mod pdf_fonts;
mod pdf_layout;
mod pdf_prepare;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use raglan_pipeline::{
    ingestion::clean::DocumentBuilder,
    ports::{ParseError, ParsedDocument, Parser, SourceFile},
};

use self::detect::Content;

/// The stack of a parsing thread, in bytes. Only what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;
/// How long a library may go on past the time limit before its file is given up.
const GRACE: Duration = Duration::from_secs(5);

/// What one file may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParserLimits {
    /// The largest file that is read, in bytes.
    pub max_bytes: usize,
    /// The most text that a file may have, in bytes.
    pub max_text_bytes: usize,
    /// The most that a packed file may unpack to, in bytes.
    pub max_unpacked_bytes: usize,
    /// The longest that reading a file may take.
    pub max_time: Duration,
}

impl Default for ParserLimits {
    fn default() -> Self {
        Self {
            max_bytes: 32 << 20,
            max_text_bytes: 16 << 20,
            max_unpacked_bytes: 256 << 20,
            max_time: Duration::from_secs(60),
        }
    }
}

/// Reads plain text, Markdown, HTML, PDF, DOCX, CSV, JSON and NDJSON. What the bytes are counts most,
/// then the media type, then the ending of the name.
#[derive(Debug, Clone, Default)]
pub struct DefaultParser {
    limits: ParserLimits,
}

impl DefaultParser {
    /// A parser with these limits.
    #[must_use]
    pub fn new(limits: ParserLimits) -> Self {
        Self { limits }
    }
}

impl Parser for DefaultParser {
    fn parse(&self, file: &SourceFile) -> Result<ParsedDocument, ParseError> {
        if file.bytes.is_empty() {
            return Err(ParseError::Empty("it has no bytes".to_owned()));
        }
        if file.bytes.len() > self.limits.max_bytes {
            return Err(ParseError::TooLarge(format!(
                "it has {} bytes, and {} are allowed",
                file.bytes.len(),
                self.limits.max_bytes
            )));
        }
        let task = Task::new(self.limits.clone());
        let (send, receive) = mpsc::sync_channel(1);
        let on_thread = {
            let (task, file) = (task.clone(), file.clone());
            move || {
                // Nobody listens any more once the time is up.
                let _ = send.send(task.read(&file));
            }
        };
        let builder = thread::Builder::new().name("parser".to_owned()).stack_size(STACK_BYTES);
        if let Err(error) = builder.spawn(on_thread) {
            // Too many threads on this machine is no fault of the file: its own stack has to do.
            tracing::warn!(%error, "no thread to parse on");
            return task.read(file);
        }
        match receive.recv_timeout(self.limits.max_time + GRACE) {
            Ok(result) => result,
            // The thread cannot be stopped; it ends by itself, and its result is dropped.
            Err(RecvTimeoutError::Timeout) => Err(task.timeout()),
            Err(RecvTimeoutError::Disconnected) => Err(gave_up()),
        }
    }
}

/// One file being read: its limits and its deadline.
#[derive(Debug, Clone)]
struct Task {
    limits: ParserLimits,
    deadline: Instant,
}

impl Task {
    fn new(limits: ParserLimits) -> Self {
        let deadline = Instant::now() + limits.max_time;
        Self { limits, deadline }
    }

    fn read(&self, file: &SourceFile) -> Result<ParsedDocument, ParseError> {
        guarded(|| self.dispatch(file)).unwrap_or_else(|| Err(gave_up()))
    }

    fn dispatch(&self, file: &SourceFile) -> Result<ParsedDocument, ParseError> {
        match detect::detect(file)? {
            Content::Pdf => pdf::parse(&file.bytes, self),
            Content::Docx => docx::parse(&file.bytes, self),
            Content::Html(text) => html::parse(&text, self),
            Content::Markdown(text) => markdown::parse(&text, self),
            Content::Csv(text) => csv::parse(&text, self),
            Content::Json(text) => json::parse(&text, self),
            Content::JsonLines(text) => json::parse_lines(&text, self),
            Content::Code(text) => text::parse_code(&text, self),
            Content::Text(text) => text::parse(&text, self),
        }
    }

    /// An empty document that keeps this file's limits.
    fn builder(&self) -> DocumentBuilder {
        DocumentBuilder::new(self.limits.max_text_bytes)
            .with_deadline(self.deadline, self.limits.max_time.as_secs())
    }

    fn check_time(&self) -> Result<(), ParseError> {
        if Instant::now() > self.deadline { Err(self.timeout()) } else { Ok(()) }
    }

    fn timeout(&self) -> ParseError {
        ParseError::Timeout(self.limits.max_time.as_secs())
    }

    fn unpacks_to_too_much(&self) -> ParseError {
        ParseError::TooLarge(format!("it unpacks to more than {} bytes", self.limits.max_unpacked_bytes))
    }
}

/// Runs what may panic. A parser keeps nothing from file to file, so there is nothing to be left broken.
fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

fn gave_up() -> ParseError {
    ParseError::Corrupt("it is damaged so that its reader gave up".to_owned())
}
