use std::ops::Range;

use bytes::Bytes;

use crate::domain::Metadata;

/// A file as it came.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its name, for its ending and for messages.
    pub name: String,
    /// The media type that the client named, if any. What the bytes say counts more.
    pub media_type: Option<String>,
    /// Its content.
    pub bytes: Bytes,
}

/// What a piece of a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// A heading, from 1 (outermost) to 6.
    Heading(u8),
    /// A paragraph or a list item.
    Paragraph,
    /// Preformatted text: split at lines, never inside one.
    Code,
    /// A table row or record.
    Row,
}

/// A piece of a document's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: BlockKind,
    /// Where it stands in [`ParsedDocument::text`], in bytes, on character boundaries. Blocks are in order and do not overlap.
    pub range: Range<usize>,
}

/// A document as plain text with its structure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParsedDocument {
    /// Its title, where it names one.
    pub title: Option<String>,
    /// All of its text, cleaned; blocks are separated by blank lines.
    pub text: String,
    /// Its structure.
    pub blocks: Vec<Block>,
    /// The media type it was read as.
    pub media_type: String,
    /// What the file says about itself (author, front matter, …).
    pub metadata: Metadata,
}

/// Why a file could not be read. Each is the fault of this one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It has no bytes, or no text.
    #[error("the file has no text: {0}")]
    Empty(String),
    /// It needs a password.
    #[error("the file is encrypted; remove its password and send it again")]
    Encrypted,
    /// It is larger than allowed, or unpacks to more than allowed.
    #[error("the file is too large: {0}")]
    TooLarge(String),
    /// No parser reads it.
    #[error("the file's format is not supported: {0}")]
    Unsupported(String),
    /// It is not what it says it is, or broken.
    #[error("the file cannot be read: {0}")]
    Corrupt(String),
    /// Reading it took too long.
    #[error("reading the file took longer than {0} s")]
    Timeout(u64),
}

impl ParseError {
    /// A stable name, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty(_) => "empty",
            Self::Encrypted => "encrypted",
            Self::TooLarge(_) => "too_large",
            Self::Unsupported(_) => "unsupported",
            Self::Corrupt(_) => "corrupt",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// Reads files. Runs on the calling thread and may take long: callers give it a thread of its own.
///
/// **Contract**: never panics, whatever the bytes; every error is about the file; the text has no control characters but newline and tab.
pub trait Parser: Send + Sync {
    /// Reads one file.
    ///
    /// # Errors
    /// [`ParseError`] with what is wrong with the file.
    fn parse(&self, file: &SourceFile) -> Result<ParsedDocument, ParseError>;
}
