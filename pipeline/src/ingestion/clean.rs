//! Builds a [`ParsedDocument`] from the pieces that a parser finds: clean text, exact ranges, bounded size.

use std::time::Instant;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::{
    domain::Metadata,
    ports::{Block, BlockKind, ParseError, ParsedDocument},
};

/// Takes a document's pieces in order and makes its text: NFC, no control characters but newline and tab,
/// pieces separated by a blank line, none of them empty.
#[derive(Debug)]
pub struct DocumentBuilder {
    text: String,
    blocks: Vec<Block>,
    max_bytes: usize,
    deadline: Option<(Instant, u64)>,
}

impl DocumentBuilder {
    /// A builder that refuses more than `max_bytes` of text.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), blocks: Vec::new(), max_bytes, deadline: None }
    }

    /// Makes the builder refuse pieces after `deadline`, with an error that names the limit in seconds.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant, limit_s: u64) -> Self {
        self.deadline = Some((deadline, limit_s));
        self
    }

    /// Adds a piece; one without text is left out.
    ///
    /// # Errors
    /// [`ParseError::TooLarge`] past the size limit, [`ParseError::Timeout`] past the deadline.
    pub fn push(&mut self, kind: BlockKind, raw: &str) -> Result<(), ParseError> {
        if let Some((deadline, limit_s)) = self.deadline
            && Instant::now() > deadline
        {
            return Err(ParseError::Timeout(limit_s));
        }
        if self.text.len().saturating_add(raw.len()) > self.max_bytes.saturating_mul(2) {
            return Err(self.too_large());
        }
        let clean = match kind {
            BlockKind::Heading(_) => one_line(raw),
            BlockKind::Paragraph | BlockKind::Row => lines(raw),
            BlockKind::Code => code(raw),
        };
        if clean.is_empty() {
            return Ok(());
        }
        if self.text.len() + clean.len() + 2 > self.max_bytes {
            return Err(self.too_large());
        }
        if !self.text.is_empty() {
            self.text.push_str("\n\n");
        }
        let start = self.text.len();
        self.text.push_str(&clean);
        let kind = match kind {
            BlockKind::Heading(level) => BlockKind::Heading(level.clamp(1, 6)),
            other => other,
        };
        self.blocks.push(Block { kind, range: start..self.text.len() });
        Ok(())
    }

    /// Adds a heading, from 1 (outermost) to 6.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn heading(&mut self, level: u8, raw: &str) -> Result<(), ParseError> {
        self.push(BlockKind::Heading(level), raw)
    }

    /// Adds a paragraph.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn paragraph(&mut self, raw: &str) -> Result<(), ParseError> {
        self.push(BlockKind::Paragraph, raw)
    }

    /// Bytes of text so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no text yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The first heading of this level, if it is the first thing in the document or the only one of its level.
    #[must_use]
    pub fn leading_heading(&self, level: u8) -> Option<&str> {
        let mut of_level = self.blocks.iter().filter(|block| block.kind == BlockKind::Heading(level));
        let first = of_level.next()?;
        (first.range.start == 0 || of_level.next().is_none()).then(|| &self.text[first.range.clone()])
    }

    /// The document.
    ///
    /// # Errors
    /// [`ParseError::Empty`] where no piece had text.
    pub fn finish(
        self,
        title: Option<&str>,
        media_type: &str,
        metadata: Metadata,
    ) -> Result<ParsedDocument, ParseError> {
        if self.text.is_empty() {
            return Err(ParseError::Empty("nothing in it is text".to_owned()));
        }
        Ok(ParsedDocument {
            title: title.map(one_line).filter(|title| !title.is_empty()),
            text: self.text,
            blocks: self.blocks,
            media_type: media_type.to_owned(),
            metadata,
        })
    }

    fn too_large(&self) -> ParseError {
        ParseError::TooLarge(format!("it has more than {} bytes of text", self.max_bytes))
    }
}

/// A text on one line: whitespace runs become a space, invisible characters go.
#[must_use]
pub fn one_line(raw: &str) -> String {
    let visible = nfc(raw);
    let mut clean = String::with_capacity(visible.len());
    append_collapsed(&mut clean, &visible);
    clean
}

/// A text that keeps its line breaks, each line as by [`one_line`], without empty lines.
fn lines(raw: &str) -> String {
    let visible = nfc(raw);
    let mut clean = String::with_capacity(visible.len());
    for line in visible.lines() {
        let before = clean.len();
        if before > 0 {
            clean.push('\n');
        }
        let with_break = clean.len();
        append_collapsed(&mut clean, line);
        if clean.len() == with_break {
            clean.truncate(before);
        }
    }
    clean
}

/// Preformatted text: indentation and empty lines stay, the empty lines around it and spaces at line ends go.
fn code(raw: &str) -> String {
    let visible = nfc(raw);
    let mut clean = String::with_capacity(visible.len());
    let mut pending = 0;
    for line in visible.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            pending += 1;
            continue;
        }
        if !clean.is_empty() {
            // More than one empty line in a row says no more than one.
            clean.push_str(if pending > 0 { "\n\n" } else { "\n" });
        }
        pending = 0;
        clean.push_str(line);
    }
    clean
}

fn append_collapsed(out: &mut String, line: &str) {
    for (i, word) in line.split_whitespace().enumerate() {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
}

/// NFC, with the characters that show nothing left out and all line ends as `\n`.
fn nfc(raw: &str) -> String {
    let mut visible = String::with_capacity(raw.len());
    let mut after_return = false;
    for c in raw.chars() {
        let was_return = std::mem::replace(&mut after_return, c == '\r');
        match c {
            '\n' if was_return => {}
            '\r' | '\u{0B}' | '\u{0C}' | '\u{85}' | '\u{2028}' | '\u{2029}' => visible.push('\n'),
            '\n' | '\t' => visible.push(c),
            // Spaces of every width: one kind is enough to read and to search.
            '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}' => {
                visible.push(' ');
            }
            // Soft hyphen, zero-width space, marks that turn the direction of writing, word joiner, byte order mark.
            '\u{AD}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' => {}
            '\u{2060}'..='\u{2069}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' => {}
            c if c.is_control() => {}
            c => visible.push(c),
        }
    }
    if is_nfc_quick(visible.chars()) == IsNormalized::Yes { visible } else { visible.nfc().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(pieces: &[(BlockKind, &str)]) -> ParsedDocument {
        let mut builder = DocumentBuilder::new(10_000);
        for (kind, raw) in pieces {
            builder.push(*kind, raw).unwrap();
        }
        builder.finish(None, "text/plain", Metadata::new()).unwrap()
    }

    #[test]
    fn pieces_are_cleaned_and_ranges_fit() {
        let document = built(&[
            (BlockKind::Heading(9), " A\n  title\u{0} "),
            (BlockKind::Paragraph, " \u{AD}\u{200B} \r\n "),
            (BlockKind::Paragraph, "one\u{A0} two\r\n\r\n three\u{7}"),
            (BlockKind::Code, "\n\n    if x:  \n\n\n\t y\n\n"),
        ]);
        assert_eq!(document.text, "A title\n\none two\nthree\n\n    if x:\n\n\t y");
        let texts: Vec<&str> = document.blocks.iter().map(|b| &document.text[b.range.clone()]).collect();
        assert_eq!(texts, ["A title", "one two\nthree", "    if x:\n\n\t y"]);
        assert_eq!(document.blocks[0].kind, BlockKind::Heading(6));
    }

    #[test]
    fn text_is_composed() {
        assert_eq!(one_line("Cafe\u{301}"), "Café");
    }

    #[test]
    fn size_and_emptiness_are_errors() {
        let mut builder = DocumentBuilder::new(10);
        assert_eq!(builder.paragraph("0123456789abc").unwrap_err().code(), "too_large");
        let empty = DocumentBuilder::new(10).finish(None, "text/plain", Metadata::new());
        assert_eq!(empty.unwrap_err().code(), "empty");
    }

    #[test]
    fn the_deadline_is_kept() {
        let mut builder = DocumentBuilder::new(10).with_deadline(Instant::now(), 3);
        // Instants have limited resolution: the deadline has passed as soon as the clock moves.
        while Instant::now() <= builder.deadline.unwrap().0 {}
        assert_eq!(builder.paragraph("x").unwrap_err(), ParseError::Timeout(3));
    }
}
