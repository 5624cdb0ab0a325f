//! Cuts text into sentences, as byte ranges into it.
//!
//! The bounds are those of Unicode Standard Annex #29, with what it leaves to tailoring: line breaks inside a paragraph do not
//! end a sentence, abbreviations and initials do not either, and list items, headings, table rows and code blocks
//! stand for themselves.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// What kind of text a sentence was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentenceKind {
    /// A paragraph.
    Prose,
    /// A list item; its bullet or number is not part of it.
    Item,
    /// A heading; its marks are not part of it.
    Heading,
    /// A row of a table, whole.
    Row,
    /// A fenced block of code, whole, with its fences.
    Code,
}

/// A sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// Where it stands, in bytes, without the white space around it. Never empty.
    pub range: Range<usize>,
    /// What it was found in.
    pub kind: SentenceKind,
}

/// A sentence longer than this (in bytes) is most likely a list or a table whose marks were lost: its lines are taken one by one.
const LONG_BYTES: usize = 800;

/// Cuts `text` into sentences, in order, without overlaps. Only white space and the marks of lists and headings lie between them.
#[must_use]
pub fn sentences(text: &str) -> Vec<Sentence> {
    let mut found = Vec::new();
    for block in blocks(text) {
        match block.kind {
            SentenceKind::Prose | SentenceKind::Item => split_block(text, &block, &mut found),
            kind => push(text, block.range, kind, &mut found),
        }
    }
    found
}

/// Adds a range without the white space around it, unless nothing is left.
fn push(text: &str, range: Range<usize>, kind: SentenceKind, found: &mut Vec<Sentence>) {
    let piece = &text[range.clone()];
    let start = range.start + (piece.len() - piece.trim_start().len());
    let end = range.start + piece.trim_end().len();
    if start < end {
        found.push(Sentence { range: start..end, kind });
    }
}

/// A paragraph, list item, heading, row or code block.
type Block = Sentence;

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    // The paragraph or item being read, and where a code block began.
    let mut open: Option<Block> = None;
    let mut fence: Option<(usize, &str)> = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (offset, offset + line.len());
        offset = end;
        let bare = line.trim();
        let indent = line.len() - line.trim_start().len();
        if let Some((from, mark)) = fence {
            if bare.starts_with(mark) && bare.chars().all(|c| mark.starts_with(c)) {
                blocks.push(Block { range: from..end, kind: SentenceKind::Code });
                fence = None;
            }
        } else if let Some(mark) = ["```", "~~~"].into_iter().find(|mark| bare.starts_with(mark)) {
            blocks.extend(open.take());
            if bare.len() >= 2 * mark.len()
                && bare.ends_with(mark)
                && !bare.trim_matches(|c| mark.starts_with(c)).is_empty()
            {
                blocks.push(Block { range: start..end, kind: SentenceKind::Code });
            } else {
                fence = Some((start, mark));
            }
        } else if bare.is_empty() {
            blocks.extend(open.take());
        } else if is_rule(bare) {
            // A line of `=` or `-` under a single line makes that line a heading.
            if let Some(mut block) = open.take() {
                if block.kind == SentenceKind::Prose && !text[block.range.clone()].trim().contains('\n') {
                    block.kind = SentenceKind::Heading;
                }
                blocks.push(block);
            }
        } else if let Some(marks) = heading_marks(bare) {
            blocks.extend(open.take());
            blocks.push(Block { range: start + indent + marks..end, kind: SentenceKind::Heading });
        } else if bare.starts_with('|') {
            blocks.extend(open.take());
            if bare.chars().any(char::is_alphanumeric) {
                blocks.push(Block { range: start..end, kind: SentenceKind::Row });
            }
        } else if let Some(marks) = item_marks(bare) {
            blocks.extend(open.take());
            open = Some(Block { range: start + indent + marks..end, kind: SentenceKind::Item });
        } else {
            match &mut open {
                Some(block) => block.range.end = end,
                None => open = Some(Block { range: start..end, kind: SentenceKind::Prose }),
            }
        }
    }
    blocks.extend(open);
    if let Some((from, _)) = fence {
        blocks.push(Block { range: from..text.len(), kind: SentenceKind::Code });
    }
    blocks
}

/// Whether a line is a rule or an underline and holds no words.
fn is_rule(bare: &str) -> bool {
    bare.len() >= 3 && ['=', '-', '*', '_'].iter().any(|mark| bare.chars().all(|c| c == *mark))
}

/// How many bytes `# ` to `###### ` take at the start of a line.
fn heading_marks(bare: &str) -> Option<usize> {
    let level = bare.len() - bare.trim_start_matches('#').len();
    ((1..=6).contains(&level) && bare[level..].starts_with([' ', '\t'])).then_some(level)
}

/// How many bytes a bullet or a number takes at the start of a list item.
fn item_marks(bare: &str) -> Option<usize> {
    for bullet in ["-", "*", "+", "•", "‣", "◦", "·", "–"] {
        if bare.strip_prefix(bullet).is_some_and(|rest| rest.starts_with([' ', '\t'])) {
            return Some(bullet.len());
        }
    }
    let digits = bare.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &bare[digits..];
    let numbered = (1..=3).contains(&digits) && (rest.starts_with(". ") || rest.starts_with(") "));
    numbered.then_some(digits + 1)
}

fn split_block(text: &str, block: &Block, found: &mut Vec<Sentence>) {
    let body = &text[block.range.clone()];
    if is_list_of_lines(body) {
        return push_lines(text, block.range.clone(), block.kind, found);
    }
    // The annex ends a sentence at every line break; with spaces in their place (of the same length) it does not.
    let flat = body.replace(['\n', '\r'], " ");
    for range in sentence_ranges(&flat) {
        let range = block.range.start + range.start..block.range.start + range.end;
        if range.len() > LONG_BYTES && text[range.clone()].trim().contains('\n') {
            push_lines(text, range, block.kind, found);
        } else {
            push(text, range, block.kind, found);
        }
    }
}

fn push_lines(text: &str, range: Range<usize>, kind: SentenceKind, found: &mut Vec<Sentence>) {
    let mut offset = range.start;
    for line in text[range].split_inclusive('\n') {
        push(text, offset..offset + line.len(), kind, found);
        offset += line.len();
    }
}

/// Whether the lines are short and end without punctuation, so that each says something by itself (a wrapped paragraph has
/// long ones).
fn is_list_of_lines(body: &str) -> bool {
    let lines: Vec<&str> = body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let short = lines.iter().map(|line| line.chars().count()).sum::<usize>() < lines.len() * 40;
    let open = lines.iter().filter(|line| !line.ends_with(['.', '!', '?', ',', ';', '-'])).count();
    lines.len() >= 3 && short && open * 3 >= lines.len() * 2
}

/// The sentences of one paragraph without line breaks, as ranges that cover it.
fn sentence_ranges(flat: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    // Whether code is open at `read`, counted on from bound to bound: a text without an end is read once.
    let (mut read, mut in_code) = (0, false);
    for (at, _) in flat.split_sentence_bound_indices().skip(1) {
        let at = past_reference(flat, at);
        if at <= read {
            continue;
        }
        in_code ^= flat[read..at].matches('`').count() % 2 == 1;
        read = at;
        if !in_code && ends_sentence(&flat[start..at], &flat[at..]) {
            ranges.push(start..at);
            start = at;
        }
    }
    if start < flat.len() {
        ranges.push(start..flat.len());
    }
    ranges
}

/// Moves a bound that fell inside a reference (`end.[1] Next`) behind it.
fn past_reference(flat: &str, at: usize) -> usize {
    let mut at = at;
    if flat[..at].ends_with('[') {
        at -= 1;
    }
    while let Some(rest) = flat[at..].strip_prefix('[') {
        let inside =
            rest.bytes().take_while(|b| b.is_ascii_digit() || matches!(b, b',' | b' ' | b'-')).count();
        if !flat[..at].ends_with(['.', '!', '?', ']']) || inside == 0 || !rest[inside..].starts_with(']') {
            break;
        }
        at += inside + 2;
    }
    at
}

/// Never the end of a sentence.
const ABBREVIATIONS: [&str; 36] = [
    "e.g.", "i.e.", "cf.", "vs.", "viz.", "dr.", "mr.", "mrs.", "ms.", "prof.", "rev.", "gen.", "col.",
    "lt.", "sgt.", "capt.", "gov.", "sen.", "rep.", "hon.", "st.", "mt.", "fig.", "figs.", "eq.", "eqs.",
    "ref.", "refs.", "sec.", "ch.", "vol.", "ed.", "eds.", "approx.", "dept.", "z.b.",
];

/// Not the end of a sentence before a number.
const BEFORE_NUMBERS: [&str; 20] = [
    "no.", "nos.", "nr.", "p.", "pp.", "art.", "par.", "jan.", "feb.", "mar.", "apr.", "jun.", "jul.",
    "aug.", "sep.", "sept.", "oct.", "nov.", "dec.", "ca.",
];

/// Words that begin sentences far more often than they continue a name after initials.
const STARTERS: [&str; 36] = [
    "The", "This", "That", "These", "Those", "It", "Its", "He", "She", "They", "We", "You", "His", "Her",
    "Their", "Our", "In", "On", "At", "By", "For", "From", "With", "When", "While", "If", "As", "After",
    "Before", "But", "And", "However", "There", "To", "An", "Many",
];

/// Whether a sentence ends between `before` and `after`, where the annex sees a bound.
fn ends_sentence(before: &str, after: &str) -> bool {
    let before = before.trim_end();
    if before.is_empty() {
        return false;
    }
    let next = after.trim_start();
    if next.starts_with(char::is_lowercase) {
        return false;
    }
    let last = before.rsplit(char::is_whitespace).next().unwrap_or(before);
    let last = last.trim_start_matches(['(', '[', '"', '\'', '“', '‘', '«']);
    if !last.ends_with('.') {
        return true;
    }
    let lower = last.to_lowercase();
    if ABBREVIATIONS.contains(&lower.as_str()) {
        return false;
    }
    if BEFORE_NUMBERS.contains(&lower.as_str()) && next.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    if is_initials(last) {
        let word: String = next.chars().take_while(|c| c.is_alphanumeric()).collect();
        return STARTERS.contains(&word.as_str());
    }
    true
}

/// Whether a word is initials: `J.`, `U.S.`.
fn is_initials(word: &str) -> bool {
    let mut letters = word.split_inclusive('.');
    !word.is_empty()
        && letters.all(|part| {
            let mut chars = part.chars();
            chars.next().is_some_and(char::is_uppercase)
                && chars.next() == Some('.')
                && chars.next().is_none()
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|s| &text[s.range]).collect()
    }

    #[test]
    fn abbreviations_decimals_and_initials_do_not_end_a_sentence() {
        assert_eq!(
            cut(
                "Version 3.5 is out. Dr. Smith (e.g. J. R. Smith) found 2.7 kg, see Fig. 3. It was No. 5 of approx. Nine."
            ),
            [
                "Version 3.5 is out.",
                "Dr. Smith (e.g. J. R. Smith) found 2.7 kg, see Fig. 3.",
                "It was No. 5 of approx. Nine."
            ]
        );
        assert_eq!(
            cut("He moved to the U.S. Army base. She stayed in the U.S. The base closed."),
            ["He moved to the U.S. Army base.", "She stayed in the U.S.", "The base closed."]
        );
        assert_eq!(cut("Yahoo! is a company. Is it? Yes!"), ["Yahoo! is a company.", "Is it?", "Yes!"]);
    }

    #[test]
    fn wrapped_lines_are_one_sentence_and_paragraphs_are_not() {
        assert_eq!(
            cut(
                "The first sentence of this text goes on over\nthe end of a line. A second one.\r\n\r\nA heading without a stop\n\nMore."
            ),
            [
                "The first sentence of this text goes on over\nthe end of a line.",
                "A second one.",
                "A heading without a stop",
                "More."
            ]
        );
    }

    #[test]
    fn structure_is_kept_apart() {
        let text = "# Install it\n\nDo this:\n- Get the file. Check it.\n- Run `raglan serve. Now` at once\n2) Wait\n\n\
                    | Key | Value |\n|---|---|\n| port | 8080 |\n\n```sh\nraglan serve. Yes.\nls\n```\nThe end";
        let kinds: Vec<_> = sentences(text).into_iter().map(|s| (s.kind, &text[s.range])).collect();
        use SentenceKind::{Code, Heading, Item, Prose, Row};
        assert_eq!(
            kinds,
            [
                (Heading, "Install it"),
                (Prose, "Do this:"),
                (Item, "Get the file."),
                (Item, "Check it."),
                (Item, "Run `raglan serve. Now` at once"),
                (Item, "Wait"),
                (Row, "| Key | Value |"),
                (Row, "| port | 8080 |"),
                (Code, "```sh\nraglan serve. Yes.\nls\n```"),
                (Prose, "The end"),
            ]
        );
    }

    #[test]
    fn underlined_headings_and_references() {
        let text = "Title\n=====\nOne fact.[1] Another one.[2][3] A third.";
        assert_eq!(cut(text), ["Title", "One fact.[1]", "Another one.[2][3]", "A third."]);
        assert_eq!(sentences(text)[0].kind, SentenceKind::Heading);
    }

    #[test]
    fn short_lines_without_stops_stand_for_themselves() {
        assert_eq!(
            cut("name: pump\ncolour: red\nweight: 3 kg"),
            ["name: pump", "colour: red", "weight: 3 kg"]
        );
    }

    #[test]
    fn other_scripts_are_cut_too() {
        assert_eq!(cut("これは文です。次の文です。"), ["これは文です。", "次の文です。"]);
        assert_eq!(cut("Привет, мир. Это второе."), ["Привет, мир.", "Это второе."]);
    }

    #[test]
    fn a_text_without_an_end_is_read_once() {
        // Were it read anew at each bound, this would take minutes.
        let text = "no. end `in. sight` e.g. ".repeat(40_000);
        assert_eq!(sentences(&text).len(), 1);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(cut("").is_empty() && cut(" \n\t\n").is_empty());
    }

    proptest! {
        #[test]
        fn ranges_are_ordered_disjoint_and_lose_no_letter(text in "([a-zA-ZÄß。.!?`|#\\-\\[\\]0-9 \\n]|e\\.g\\. |\\r\\n|```){0,80}") {
            let mut from = 0;
            let mut left_out = String::new();
            for sentence in sentences(&text) {
                prop_assert!(from <= sentence.range.start && sentence.range.start < sentence.range.end);
                left_out.push_str(&text[from..sentence.range.start]);
                from = sentence.range.end;
            }
            left_out.push_str(&text[from..]);
            prop_assert!(!left_out.chars().any(char::is_alphabetic), "left out {left_out:?}");
        }
    }
}
