//! From characters on pages to lines, and from lines to paragraphs and headings.

use std::collections::{BTreeMap, HashMap, HashSet};

use raglan_pipeline::{
    ingestion::clean::DocumentBuilder,
    ports::{BlockKind, ParseError},
};

/// A gap between two strings of a line that is a space, as a part of the character size.
const SPACE: f64 = 0.15;
/// How far down a character begins a new line, as a part of the character size; less is a raised or lowered sign.
const NEW_LINE: f64 = 0.55;
/// How much larger than the text a heading's characters are.
const HEADING: f64 = 1.12;
/// The longest heading, in characters.
const MAX_HEADING: usize = 160;
/// The longest running title beside a page number, in characters.
const MAX_RUNNING_TITLE: usize = 100;
/// Lines at the top and at the bottom of a page that may be repeated on each.
const EDGE_LINES: usize = 2;

/// A character as it is placed on a page.
pub(super) struct Glyph<'a> {
    /// Where its line runs to.
    pub(super) direction: (f64, f64),
    pub(super) position: (f64, f64),
    pub(super) size: f64,
    pub(super) advance: f64,
    pub(super) text: &'a str,
    /// Whether it is the first of a string: only there may a gap before it be a space.
    pub(super) begins_string: bool,
}

#[derive(Debug, Clone)]
struct Line {
    text: String,
    start: f64,
    end: f64,
    /// How far up the page it stands.
    height: f64,
    size: f64,
    /// The sum and count of its characters' sizes.
    sizes: (f64, usize),
    angle: i32,
}

/// A page's lines, in the order in which they are drawn.
#[derive(Debug, Default)]
pub(super) struct Page {
    lines: Vec<Line>,
    height: f64,
}

impl Page {
    pub(super) fn new(height: f64) -> Self {
        Self { lines: Vec::new(), height }
    }

    /// Adds a character to the last line, or to a new one.
    pub(super) fn add(&mut self, glyph: &Glyph<'_>) {
        let (dx, dy) = glyph.direction;
        let norm = dx.hypot(dy);
        let finite = [norm, glyph.position.0, glyph.position.1, glyph.size, glyph.advance]
            .iter()
            .all(|n| n.is_finite());
        if !finite || norm == 0.0 || glyph.size <= 0.0 || glyph.text.is_empty() {
            return;
        }
        let (ux, uy) = (dx / norm, dy / norm);
        let (x, y) = glyph.position;
        let (along, height) = (x * ux + y * uy, y * ux - x * uy);
        let angle = (dy.atan2(dx).to_degrees() / 5.0).round() as i32;
        let goes_on = self.lines.last().is_some_and(|line| {
            let size = line.size.max(glyph.size);
            line.angle == angle
                && (line.height - height).abs() < NEW_LINE * size
                && along > line.end - 2.0 * size
        });
        if !goes_on {
            if glyph.text.trim().is_empty() {
                return;
            }
            self.lines.push(Line {
                text: String::new(),
                start: along,
                end: along,
                height,
                size: glyph.size,
                sizes: (0.0, 0),
                angle,
            });
        }
        let Some(line) = self.lines.last_mut() else { return };
        let gap = along - line.end;
        if goes_on && glyph.begins_string && gap > SPACE * glyph.size && !line.text.ends_with(' ') {
            line.text.push(' ');
        }
        line.text.push_str(glyph.text);
        line.end = along + glyph.advance;
        if !glyph.text.trim().is_empty() {
            line.sizes = (line.sizes.0 + glyph.size, line.sizes.1 + 1);
            line.size = line.sizes.0 / line.sizes.1 as f64;
        }
    }
}

/// Adds the blocks of all pages.
pub(super) fn blocks(pages: &[Page], builder: &mut DocumentBuilder) -> Result<(), ParseError> {
    let repeated = &repeated_lines(pages) | &page_numbers(pages);
    let pages: Vec<Vec<&Line>> = pages
        .iter()
        .enumerate()
        .map(|(index, page)| {
            let kept = page.lines.iter().enumerate().filter(|(at, _)| !repeated.contains(&(index, *at)));
            kept.map(|(_, line)| line)
                .filter(|line| !line.text.trim().is_empty() && !is_leader(&line.text))
                .collect()
        })
        .collect();
    let measure = Measure::new(&pages);
    let words = words(&pages);
    let paragraphs: Vec<(Paragraph<'_>, String)> = paragraphs(&pages, &measure)
        .into_iter()
        .map(|paragraph| {
            let text = joined(&paragraph.lines, &words);
            (paragraph, text)
        })
        .collect();
    let numbers = measure.numbers(&paragraphs);
    paragraphs
        .iter()
        .try_for_each(|(paragraph, text)| builder.push(measure.kind(paragraph, text, &numbers), text))
}

/// Lines at the edges of pages that most pages have, numbers aside: running titles and page numbers.
fn repeated_lines(pages: &[Page]) -> HashSet<(usize, usize)> {
    if pages.len() < 4 {
        return HashSet::new();
    }
    let mut places: HashMap<(String, i64), Vec<(usize, usize)>> = HashMap::new();
    for (index, page) in pages.iter().enumerate() {
        for at in edges(page) {
            let line = &page.lines[at];
            let from_edge =
                if line.height * 2.0 > page.height { page.height - line.height } else { -line.height };
            let key = (without_numbers(&line.text), (from_edge / 4.0).round() as i64);
            places.entry(key).or_default().push((index, at));
        }
    }
    // Left and right pages often differ, so a third of the pages is enough.
    let enough = (pages.len() / 3).max(3);
    places.into_values().filter(|places| places.len() >= enough).flatten().collect()
}

/// The numbers of the pages, with the chapter's title where one stands beside them: lines at the edges that begin or
/// end with a number which grows with the pages.
fn page_numbers(pages: &[Page]) -> HashSet<(usize, usize)> {
    let mut places: HashMap<i64, Vec<(usize, usize)>> = HashMap::new();
    let mut roman: Vec<(usize, usize)> = Vec::new();
    for (index, page) in pages.iter().enumerate() {
        for at in edges(page) {
            let text = page.lines[at].text.trim();
            let ends = [text.split_whitespace().next(), text.split_whitespace().next_back()];
            let numbers: HashSet<i64> =
                ends.into_iter().flatten().filter_map(|word| word.parse().ok()).collect();
            for number in numbers.into_iter().filter(|_| text.chars().count() <= MAX_RUNNING_TITLE) {
                places.entry(number - index as i64).or_default().push((index, at));
            }
            if text.len() <= 6 && text.chars().all(|c| "ivxl".contains(c)) {
                roman.push((index, at));
            }
        }
    }
    let alone = |(index, at): &(usize, usize)| pages[*index].lines[*at].text.trim().parse::<i64>().is_ok();
    let Some(counted) = places.into_values().max_by_key(Vec::len) else { return HashSet::new() };
    let enough = (pages.len() / 3).max(2);
    // On two pages two numbers may be a coincidence, if there is more on the line than the number.
    let found = counted.len() >= enough && (counted.len() > 2 || counted.iter().all(alone));
    if !found {
        return HashSet::new();
    }
    counted.into_iter().chain(roman.into_iter().filter(|_| pages.len() >= 4)).collect()
}

/// The uppermost and the lowest lines of a page.
fn edges(page: &Page) -> HashSet<usize> {
    let mut order: Vec<usize> = (0..page.lines.len()).collect();
    order.sort_by(|a, b| page.lines[*b].height.total_cmp(&page.lines[*a].height));
    order.iter().take(EDGE_LINES).chain(order.iter().rev().take(EDGE_LINES)).copied().collect()
}

/// A line with its numbers, also roman ones that stand alone, replaced by one sign.
fn without_numbers(text: &str) -> String {
    let roman = |word: &str| word.len() < 8 && word.chars().all(|c| "ivxlcIVXLC".contains(c));
    let words = text
        .split_whitespace()
        .map(|word| if roman(word) || word.chars().any(|c| c.is_ascii_digit()) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// A line of a table of contents: a title, dots, a page number.
fn is_leader(text: &str) -> bool {
    let number = text.trim_end().trim_end_matches(|c: char| c.is_ascii_digit() || "ivxl".contains(c));
    let dots = number.chars().rev().take_while(|c| *c == '.' || *c == ' ').filter(|c| *c == '.').count();
    dots >= 4 && number.len() < text.trim_end().len()
}

/// What is usual in this document.
struct Measure {
    /// Character size of most of the text.
    body: f64,
    /// Distance of lines, as a part of the character size.
    leading: f64,
    /// Sizes of headings, the largest first.
    headings: Vec<i64>,
}

impl Measure {
    fn new(pages: &[Vec<&Line>]) -> Self {
        let mut sizes: BTreeMap<i64, usize> = BTreeMap::new();
        let mut gaps: Vec<f64> = Vec::new();
        for page in pages {
            for line in page {
                *sizes.entry(rounded(line.size)).or_default() += line.text.len();
            }
            for pair in page.windows(2) {
                let gap = (pair[0].height - pair[1].height) / pair[1].size.max(0.1);
                if (0.8..2.5).contains(&gap) {
                    gaps.push(gap);
                }
            }
        }
        let body =
            sizes.iter().max_by_key(|(_, length)| **length).map_or(10.0, |(size, _)| *size as f64 / 2.0);
        gaps.sort_by(f64::total_cmp);
        let leading = gaps.get(gaps.len() / 2).copied().unwrap_or(1.2);
        let mut headings: Vec<i64> =
            sizes.into_keys().filter(|size| *size as f64 / 2.0 >= body * HEADING).collect();
        headings.reverse();
        Self { body, leading, headings }
    }

    /// The levels that numbered headings have, by their sizes.
    fn numbers(&self, paragraphs: &[(Paragraph<'_>, String)]) -> BTreeMap<i64, u8> {
        let mut levels: BTreeMap<i64, u8> = BTreeMap::new();
        for (paragraph, text) in paragraphs {
            if let Some(size) = self.heading_size(paragraph, text)
                && let Some(level) = numbered(text)
            {
                levels.entry(size).and_modify(|least| *least = level.min(*least)).or_insert(level);
            }
        }
        levels
    }

    /// The size of what is set like a heading: short, large and no sentence.
    fn heading_size(&self, paragraph: &Paragraph<'_>, text: &str) -> Option<i64> {
        let first = paragraph.lines.first()?;
        (is_heading_like(paragraph, text) && first.size >= self.body * HEADING).then(|| rounded(first.size))
    }

    fn kind(&self, paragraph: &Paragraph<'_>, text: &str, numbers: &BTreeMap<i64, u8>) -> BlockKind {
        match (self.heading_size(paragraph, text), numbered(text)) {
            (Some(_), Some(level)) => BlockKind::Heading(level),
            (Some(size), None) => {
                let larger = self.headings.iter().filter(|other| **other > size).count();
                let rank = u8::try_from(larger + 1).unwrap_or(6).min(6);
                // Numbers tell levels better than sizes do: what is set larger than "1.1" is over it.
                let over = numbers.range(..size).map(|(_, level)| level.saturating_sub(1).max(1));
                let beside = numbers.get(&size).copied();
                BlockKind::Heading(over.chain(beside).fold(rank, u8::min))
            }
            // One number alone also begins the items of lists.
            (None, Some(level))
                if level > 1 && paragraph.lines.len() == 1 && is_heading_like(paragraph, text) =>
            {
                BlockKind::Heading(level)
            }
            (None, _) => BlockKind::Paragraph,
        }
    }
}

/// Whether this is short, has words and is no sentence.
fn is_heading_like(paragraph: &Paragraph<'_>, text: &str) -> bool {
    let worded = text.chars().filter(|c| c.is_alphabetic()).count() >= 3;
    let short = text.chars().count() <= MAX_HEADING && paragraph.lines.len() <= 3;
    short && worded && !text.trim_end().ends_with(['.', ',', ';'])
}

/// The level of a heading such as "3.2 Title".
fn numbered(text: &str) -> Option<u8> {
    let (number, title) = text.trim().split_once(' ')?;
    let parts: Vec<&str> = number.trim_end_matches('.').split('.').collect();
    let counted =
        parts.iter().all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()));
    let titled = title.trim_start().starts_with(char::is_uppercase) && title.chars().count() <= 80;
    (counted && titled).then(|| u8::try_from(parts.len()).unwrap_or(6).min(6))
}

struct Paragraph<'a> {
    lines: Vec<&'a Line>,
}

fn paragraphs<'a>(pages: &[Vec<&'a Line>], measure: &Measure) -> Vec<Paragraph<'a>> {
    let mut paragraphs: Vec<Paragraph<'a>> = Vec::new();
    for page in pages {
        let mut first_of_page = true;
        for line in page {
            let goes_on = paragraphs.last().is_some_and(|paragraph| {
                continues(paragraph, line, measure, std::mem::take(&mut first_of_page))
            });
            first_of_page = false;
            match paragraphs.last_mut() {
                Some(paragraph) if goes_on => paragraph.lines.push(line),
                _ => paragraphs.push(Paragraph { lines: vec![line] }),
            }
        }
    }
    paragraphs
}

fn continues(paragraph: &Paragraph<'_>, line: &Line, measure: &Measure, new_page: bool) -> bool {
    let Some(last) = paragraph.lines.last() else { return false };
    if (line.size - last.size).abs() > 0.08 * last.size || line.angle != last.angle || begins_item(&line.text)
    {
        return false;
    }
    let gap = (last.height - line.height) / line.size.max(0.1);
    // On the next page or in the next column only an unfinished sentence goes on.
    if new_page || gap < 0.3 {
        return !ends_sentence(&last.text) && line.text.trim_start().starts_with(char::is_lowercase);
    }
    if gap > measure.leading * 1.3 {
        return false;
    }
    let start = paragraph.lines.iter().map(|line| line.start).fold(f64::INFINITY, f64::min);
    let end = paragraph.lines.iter().map(|line| line.end).fold(line.end, f64::max);
    let is_indented = line.start > start + line.size && paragraph.lines.len() > 1;
    let is_short = last.end < end - 0.25 * (end - start);
    !((is_indented || is_short) && ends_sentence(&last.text))
}

fn ends_sentence(text: &str) -> bool {
    text.trim_end_matches([' ', '"', '\'', ')', '”', '’', ']']).ends_with(['.', '!', '?', ':', '…'])
}

/// Whether a line begins an item of a list.
fn begins_item(text: &str) -> bool {
    let text = text.trim_start();
    if text.starts_with(['•', '◦', '▪', '‣', '●', '∙', '·'])
        || text.starts_with("– ")
        || text.starts_with("- ")
    {
        return true;
    }
    let after = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.len() - after.len();
    (1..=3).contains(&digits) && (after.starts_with(". ") || after.starts_with(") "))
}

/// The words of the document, to know by which a hyphen at a line's end belongs.
fn words(pages: &[Vec<&Line>]) -> HashSet<String> {
    pages.iter().flatten().flat_map(|line| line.text.split_whitespace()).map(bare).collect()
}

fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// The text of a paragraph. A word that was parted at a line's end is put together again; its hyphen stays where
/// the word is written with it elsewhere in the document, and nowhere without.
fn joined(lines: &[&Line], words: &HashSet<String>) -> String {
    let mut text = String::new();
    for line in lines {
        let line = unligatured(line.text.trim());
        let first = line.split_whitespace().next().unwrap_or_default();
        let parted = text
            .strip_suffix(['-', '\u{AD}', '‐'])
            .filter(|before| before.ends_with(char::is_alphabetic) && first.starts_with(char::is_lowercase));
        match parted.map(str::len) {
            Some(length) => {
                let before = text[..length].split_whitespace().next_back().unwrap_or_default();
                let whole = bare(&format!("{before}{first}"));
                let with_hyphen = bare(&format!("{before}-{first}"));
                if words.contains(&whole) || !words.contains(&with_hyphen) {
                    text.truncate(length);
                }
            }
            None if !text.is_empty() => text.push(' '),
            None => {}
        }
        text.push_str(&line);
    }
    text
}

/// Letters that are drawn as one, as single letters again.
fn unligatured(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ﬀ' => plain.push_str("ff"),
            'ﬁ' => plain.push_str("fi"),
            'ﬂ' => plain.push_str("fl"),
            'ﬃ' => plain.push_str("ffi"),
            'ﬄ' => plain.push_str("ffl"),
            'ﬅ' | 'ﬆ' => plain.push_str("st"),
            c => plain.push(c),
        }
    }
    plain
}

/// A size in half points, so that nearly equal ones are equal.
fn rounded(size: f64) -> i64 {
    (size * 2.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, height: f64, size: f64) -> Line {
        let end = 72.0 + text.len() as f64 * size / 2.0;
        Line { text: text.to_owned(), start: 72.0, end, height, size, sizes: (size, 1), angle: 0 }
    }

    #[test]
    fn parted_words_are_put_together() {
        let lines = [
            line("The well-known para-", 700.0, 10.0),
            line("meter is well-", 688.0, 10.0),
            line("known.", 676.0, 10.0),
        ];
        let lines: Vec<&Line> = lines.iter().collect();
        let words = words(std::slice::from_ref(&lines));
        assert_eq!(joined(&lines, &words), "The well-known parameter is well-known.");
    }

    #[test]
    fn running_titles_and_page_numbers_are_found() {
        let pages: Vec<Page> = (0..6)
            .map(|i| Page {
                lines: vec![
                    line("A Manual", 780.0, 9.0),
                    line(&format!("Text {} of its own", "z".repeat(i)), 700.0, 10.0),
                    line("More of it", 688.0 - i as f64 * 30.0, 10.0),
                    line(&format!("Page {i}"), 30.0, 9.0),
                ],
                height: 800.0,
            })
            .collect();
        let repeated = repeated_lines(&pages);
        assert_eq!(repeated.len(), 12, "{repeated:?}");
        assert!(repeated.iter().all(|(_, at)| *at == 0 || *at == 3));
    }

    #[test]
    fn page_numbers_are_found_beside_titles_that_change() {
        let page = |i: usize| Page {
            lines: vec![
                line("Some text of the page.", 700.0, 10.0),
                line(&format!("In the year {} it was", 1900 + i * 7), 688.0, 10.0),
                line(&format!("{}. A chapter {}", i / 2, i + 11), 30.0, 9.0),
            ],
            height: 800.0,
        };
        let pages: Vec<Page> = (0..6).map(page).collect();
        let mut found: Vec<_> = page_numbers(&pages).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, (0..6).map(|i| (i, 2)).collect::<Vec<_>>());
        assert!(page_numbers(&pages[..2]).is_empty());
    }

    #[test]
    fn headings_are_told_by_number_and_leaders_by_dots() {
        assert_eq!(numbered("3.2 Title here"), Some(2));
        assert_eq!(numbered("3.2.1. Title"), Some(3));
        assert_eq!(numbered("3 Apples"), Some(1));
        assert_eq!(numbered("3 apples"), None);
        assert_eq!(numbered("3.5 seconds"), None);
        assert!(is_leader("1.2 Scope . . . . . . . . 12"));
        assert!(is_leader("Scope ........ iv"));
        assert!(!is_leader("And so on..."));
    }
}
