//! Plain text and source code.

use raglan_pipeline::{
    domain::Metadata,
    ingestion::clean::DocumentBuilder,
    ports::{BlockKind, ParseError, ParsedDocument},
};

use super::Task;

/// Reads plain text: paragraphs are parted by empty lines.
pub(super) fn parse(text: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let mut builder = task.builder();
    paragraphs(&mut builder, text)?;
    builder.finish(None, "text/plain", Metadata::new())
}

/// Reads source code: its parts stay as they are.
pub(super) fn parse_code(text: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let mut builder = task.builder();
    let text = text.replace("\r\n", "\n");
    // Two empty lines part what belongs together more loosely than one.
    for part in text.split("\n\n\n") {
        builder.push(BlockKind::Code, part)?;
    }
    builder.finish(None, "text/plain", Metadata::new())
}

/// Adds the paragraphs of plain text.
pub(super) fn paragraphs(builder: &mut DocumentBuilder, text: &str) -> Result<(), ParseError> {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().flat_map(|line| line.split(['\r', '\u{C}'])) {
        if line.trim().is_empty() {
            paragraph(builder, &lines)?;
            lines.clear();
        } else {
            lines.push(line);
        }
    }
    paragraph(builder, &lines)
}

fn paragraph(builder: &mut DocumentBuilder, mut lines: &[&str]) -> Result<(), ParseError> {
    if let [title, rule, rest @ ..] = lines
        && let Some(level) = underline(title, rule)
    {
        builder.heading(level, title)?;
        lines = rest;
    }
    builder.paragraph(&lines.join(if is_wrapped(lines) { " " } else { "\n" }))
}

/// The level of a heading that is underlined with one kind of sign.
fn underline(title: &str, rule: &str) -> Option<u8> {
    let (title, rule) = (title.trim(), rule.trim_end());
    let sign = rule.chars().next()?;
    let fits = rule.len() >= 3 && rule.len() + 3 >= title.chars().count() && rule.chars().all(|c| c == sign);
    let titled = title.chars().any(char::is_alphanumeric);
    match sign {
        '=' if fits && titled => Some(1),
        '-' | '~' | '^' if fits && titled => Some(2),
        _ => None,
    }
}

/// Whether these lines are prose that was wrapped at some width, and not a list, a table or a poem.
fn is_wrapped(lines: &[&str]) -> bool {
    let Some((_, full)) = lines.split_last() else { return false };
    let widths = full.iter().map(|line| line.trim().chars().count());
    let (Some(least), Some(most)) = (widths.clone().min(), widths.max()) else { return false };
    let begins_item = |line: &&str| {
        let line = line.trim_start();
        let after_number = line.trim_start_matches(|c: char| c.is_ascii_digit());
        line.starts_with(['-', '*', '+', '•', '|', '>'])
            || (after_number.len() < line.len() && after_number.starts_with(['.', ')', ':']))
            || line.contains('\t')
    };
    least >= 40 && most - least <= 30 && !lines.iter().skip(1).any(begins_item)
}
