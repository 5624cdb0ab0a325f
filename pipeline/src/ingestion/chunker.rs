//! Cuts a parsed document into chunks by the embedding model's own tokens, along its structure.
//!
//! A chunk is a verbatim slice of the document's text. Cuts fall between sections, then blocks, then sentences, and only
//! inside a sentence when it alone is too long. Where a section is cut depends on that section alone, so that a
//! change to one section leaves the chunks of the others as they were, and only what changed is embedded again.

mod pieces;
mod sections;
#[cfg(test)]
mod tests;
mod units;

use std::{borrow::Cow, collections::HashMap, ops::Range};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::{
    pieces::{Piece, Sizes, cuts, pieces},
    sections::{Section, blocks, common_path, groups, sections},
    units::Units,
};
use crate::ports::{ParsedDocument, Tokenize};

/// Characters of a title or heading that are embedded with a chunk; the rest of a longer one is left out.
const HEADER_PART_CHARS: usize = 160;
/// The share of [`ChunkerSettings::max_tokens`] that headings may take: one part of this many.
const HEADER_SHARE: usize = 4;

/// How large chunks are, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkerSettings {
    /// The most that is embedded of a chunk, title and headings included; a little less than the model reads, which
    /// adds tokens of its own.
    pub max_tokens: usize,
    /// What a chunk of a longer text aims at, without title and headings.
    pub target_tokens: usize,
    /// The most that a chunk repeats of the one before, in whole sentences.
    pub overlap_tokens: usize,
    /// Sections smaller than this are put together with their neighbours.
    pub min_tokens: usize,
}

impl Default for ChunkerSettings {
    /// For a model that reads 256 tokens.
    fn default() -> Self {
        Self { max_tokens: 240, target_tokens: 200, overlap_tokens: 32, min_tokens: 48 }
    }
}

impl ChunkerSettings {
    /// Settings for a model that reads `tokens` tokens, in the proportions of the default.
    #[must_use]
    pub fn for_model(tokens: usize) -> Self {
        let share = |part: usize| (tokens * part / 256).max(1);
        Self {
            max_tokens: share(240),
            target_tokens: share(200),
            overlap_tokens: share(32),
            min_tokens: share(48),
        }
    }

    /// What is wrong with these settings, in words, if anything is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if self.max_tokens < 32 {
            return Some(format!("max_tokens is {}, and must be at least 32", self.max_tokens));
        }
        if self.target_tokens == 0 || self.target_tokens > self.max_tokens {
            return Some(format!(
                "target_tokens is {}, and must be from 1 to max_tokens ({})",
                self.target_tokens, self.max_tokens
            ));
        }
        if self.overlap_tokens * 2 > self.target_tokens {
            return Some(format!(
                "overlap_tokens is {}, and must be at most half of target_tokens ({})",
                self.overlap_tokens, self.target_tokens
            ));
        }
        None
    }
}

/// A chunk as it is cut, not yet embedded or named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkDraft {
    /// Its headings from the outermost in. Where it holds several sections, those that they share.
    pub heading_path: Vec<String>,
    /// Its text, verbatim: the document's characters from `start_char` to `end_char`.
    pub text: String,
    /// First character in the document's text, in Unicode scalar values.
    pub start_char: usize,
    /// One past the last character.
    pub end_char: usize,
    /// Tokens of what is embedded of it, at most; title and headings included.
    pub tokens: usize,
    /// Its number in the document, from 0.
    pub ordinal: u32,
}

/// Cuts a document into chunks, in order.
///
/// Every visible character is in at least one chunk. A chunk's [`embedded_text`] has at most
/// `settings.max_tokens` tokens, as far as the tokens of a part can be told from those of the whole. A document
/// that fits into one chunk is one.
/// The time is linear in the text; the document is cut into tokens once.
#[must_use]
pub fn chunk(
    document: &ParsedDocument,
    title: &str,
    tokenizer: &dyn Tokenize,
    settings: &ChunkerSettings,
) -> Vec<ChunkDraft> {
    let text = document.text.as_str();
    let blocks = blocks(document);
    let units = Units::new(text, tokenizer);
    let sections = sections(text, &blocks, &units);
    let mut headers = Headers::new(title, tokenizer, settings);
    let mut places = CharIndex::new(text);
    let mut drafts: Vec<ChunkDraft> = Vec::new();
    for (group, header_tokens) in plan(&sections, &mut headers, settings) {
        let max = settings.max_tokens.saturating_sub(header_tokens).max(1);
        let sizes =
            Sizes { max, target: settings.target_tokens.min(max).max(1), overlap: settings.overlap_tokens };
        let pieces = pieces(text, &blocks, &sections, group, &units, max);
        for cut in cuts(text, &pieces, sizes) {
            let range = pieces[cut.from].range.start..pieces[cut.end - 1].range.end;
            let path = path_of(&sections, &pieces[cut.own..cut.end]);
            let (heading_path, header_tokens) = headers.fit(&path);
            let own: usize = pieces[cut.from..cut.end].iter().map(|piece| piece.tokens).sum();
            drafts.push(ChunkDraft {
                heading_path,
                start_char: places.char_at(range.start),
                end_char: places.char_at(range.end),
                text: text[range].to_owned(),
                tokens: header_tokens + own,
                ordinal: u32::try_from(drafts.len()).unwrap_or(u32::MAX),
            });
        }
    }
    drafts
}

/// Which sections are cut together, and the tokens to keep free for the headers of their chunks.
fn plan(
    sections: &[Section],
    headers: &mut Headers<'_>,
    settings: &ChunkerSettings,
) -> Vec<(Range<usize>, usize)> {
    let Some(last) = sections.last() else { return Vec::new() };
    let total: usize = sections.iter().map(|section| section.tokens).sum();
    if total <= settings.max_tokens {
        let mut with_body = sections.iter().filter(|section| section.has_body()).peekable();
        let path = match with_body.peek() {
            Some(_) => common_path(with_body.map(|section| section.path.as_slice())),
            None => last.path.clone(),
        };
        let header_tokens = headers.fit(&path).1;
        if total + header_tokens <= settings.max_tokens {
            return vec![(0..sections.len(), header_tokens)];
        }
    }
    groups(sections, settings.min_tokens, settings.target_tokens)
        .into_iter()
        .map(|group| {
            let header_tokens = headers.most(&sections[group.clone()]);
            (group, header_tokens)
        })
        .collect()
}

/// What is embedded and indexed of a chunk: title and headings on a line of their own, then the text.
///
/// A heading that equals the title is left out, and so is what the text begins with anyway.
#[must_use]
pub fn embedded_text(title: &str, heading_path: &[String], text: &str) -> String {
    let parts = header_parts(title, heading_path);
    let repeated = (0..parts.len()).find(|&from| begins_with(text, &parts[from..])).unwrap_or(parts.len());
    let mut embedded = header(title, &parts[..repeated]);
    if !embedded.is_empty() && !text.is_empty() {
        embedded.push('\n');
    }
    embedded.push_str(text);
    embedded
}

/// SHA-256 of an [`embedded_text`], in hexadecimal.
#[must_use]
pub fn content_hash(embedded_text: &str) -> String {
    hex(&Sha256::digest(embedded_text.as_bytes()))
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Title and headings in order, without empty ones and without the title twice.
fn header_parts<'a>(title: &'a str, heading_path: &'a [String]) -> Vec<&'a str> {
    let title = title.trim();
    let headings = heading_path.iter().map(|heading| heading.trim());
    let repeats = headings.clone().next().is_some_and(|first| first.to_lowercase() == title.to_lowercase());
    std::iter::once(title)
        .chain(headings.skip(usize::from(repeats)))
        .filter(|part| !part.is_empty())
        .collect()
}

/// "Title. Heading › Heading", each part cut to a bounded length.
fn header(title: &str, parts: &[&str]) -> String {
    let titled = !title.trim().is_empty();
    let mut header = String::new();
    for (i, part) in parts.iter().enumerate() {
        if i == 1 && titled {
            header.push(' ');
        } else if i > 0 {
            header.push_str(" › ");
        }
        let part = clipped(part);
        header.push_str(&part);
        if i == 0 && titled && !part.ends_with(['.', '?', '!', ':', '…', '。']) {
            header.push('.');
        }
    }
    header
}

/// The beginning of an over-long part, up to the end of a word where there is one.
fn clipped(part: &str) -> Cow<'_, str> {
    match part.char_indices().nth(HEADER_PART_CHARS) {
        None => Cow::Borrowed(part),
        Some((end, _)) => {
            let end = part[..end].rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(end);
            Cow::Owned(format!("{}…", part[..end].trim_end()))
        }
    }
}

/// Whether a text begins with these lines, in order, whatever whitespace lies between them.
fn begins_with(text: &str, lines: &[&str]) -> bool {
    let mut rest = text;
    lines.iter().all(|line| match rest.trim_start().strip_prefix(line) {
        Some(after) if after.is_empty() || after.starts_with('\n') => {
            rest = after;
            true
        }
        _ => false,
    })
}

/// The headings over a chunk: what the sections have in common of which it holds more than the heading.
fn path_of(sections: &[Section], own: &[Piece]) -> Vec<String> {
    let with_body =
        own.iter().filter(|piece| !piece.heading).map(|piece| sections[piece.section].path.as_slice());
    let path = common_path(with_body.clone());
    match own.last() {
        Some(last) if with_body.count() == 0 => sections[last.section].path.clone(),
        _ => path,
    }
}

/// Counts the tokens of headers, each once, and shortens those that would take too much.
struct Headers<'a> {
    title: &'a str,
    tokenizer: &'a dyn Tokenize,
    share: usize,
    known: HashMap<Vec<String>, (Vec<String>, usize)>,
}

impl<'a> Headers<'a> {
    fn new(title: &'a str, tokenizer: &'a dyn Tokenize, settings: &ChunkerSettings) -> Self {
        Self { title, tokenizer, share: settings.max_tokens / HEADER_SHARE, known: HashMap::new() }
    }

    /// The innermost headings of `path` that fit into the share, and the tokens of the whole header.
    fn fit(&mut self, path: &[String]) -> (Vec<String>, usize) {
        if let Some(known) = self.known.get(path) {
            return known.clone();
        }
        let mut fitting = path;
        let tokens = loop {
            let header = header(self.title, &header_parts(self.title, fitting));
            let tokens = self.tokenizer.tokens(&header).len();
            match fitting {
                [_, inner @ ..] if tokens > self.share => fitting = inner,
                _ => break tokens,
            }
        };
        let fit = (fitting.to_vec(), tokens);
        self.known.insert(path.to_vec(), fit.clone());
        fit
    }

    /// The most tokens that the header of any chunk of these sections can have.
    fn most(&mut self, sections: &[Section]) -> usize {
        let none = self.fit(&[]).1;
        sections
            .iter()
            .flat_map(|section| (1..=section.path.len()).map(|depth| &section.path[..depth]))
            .map(|path| self.fit(path).1)
            .fold(none, usize::max)
    }
}

/// Character numbers of byte positions, without counting from the beginning each time.
struct CharIndex<'a> {
    text: &'a str,
    /// Characters before each multiple of [`Self::STEP`] bytes, as far as was asked for.
    before: Vec<usize>,
}

impl<'a> CharIndex<'a> {
    const STEP: usize = 512;

    fn new(text: &'a str) -> Self {
        Self { text, before: vec![0] }
    }

    fn char_at(&mut self, byte: usize) -> usize {
        let step = byte / Self::STEP;
        let bytes = self.text.as_bytes();
        while self.before.len() <= step {
            let from = (self.before.len() - 1) * Self::STEP;
            let chars = chars_in(&bytes[from..from + Self::STEP]);
            self.before.push(self.before[self.before.len() - 1] + chars);
        }
        self.before[step] + chars_in(&bytes[step * Self::STEP..byte])
    }
}

/// Characters that begin in these bytes of UTF-8.
fn chars_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte as i8) >= -0x40).count()
}
