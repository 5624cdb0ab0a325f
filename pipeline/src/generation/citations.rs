//! The citations of an answer: finds the markers in its text, drops those that name no source, and finds the cited
//! words in the sources.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::sentences::sentences;
use crate::domain::{Citation, Passage};

/// An answer whose markers all name a source.
#[derive(Debug, Clone, PartialEq)]
pub struct CitedAnswer {
    /// The text. Each marker in it is a number in brackets of its own, `[1]`, and has a citation.
    pub answer: String,
    /// The sources, in the order of their first mention.
    pub citations: Vec<Citation>,
}

/// Reads the citations of a whole text. `passages` are the numbered sources: the first is `[1]`.
#[must_use]
pub fn cite(text: &str, passages: &[Passage]) -> CitedAnswer {
    let mut filter = CitationFilter::new(passages.len());
    filter.push(text);
    filter.finish(passages).1
}

/// `text` without any marker, code left alone. For quoting a source that has references of its own, which would read as ours.
#[must_use]
pub fn without_markers(text: &str) -> String {
    cite(text, &[]).answer
}

/// Whether `text` ends within code, so that a marker after it would not be read as one.
#[must_use]
pub fn leaves_code_open(text: &str) -> bool {
    let mut filter = CitationFilter::new(0);
    filter.push(text);
    // A run of backticks ends with what follows it.
    filter.push(" ");
    filter.code != Code::Out
}

/// A marker in the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mention {
    /// The source's number, from 1.
    marker: u32,
    /// Where the marker stands in the answer, in bytes.
    range: Range<usize>,
}

/// Reads an answer as it is written, character by character.
///
/// - `[1]`, `[1, 2]`, `[1;2]`, `[1-3]` and `[1][3]` are markers; each comes out as one bracket a number (`[1][2]`).
/// - Numbers that name no source are taken out, and a marker with no number left goes with the spaces before it.
/// - What stands in backticks (to the end of the line at most) or in a fenced block is code and left as it is.
/// - Text that may yet become a marker is held back, so that what was given out is never taken back: all pieces joined are the
///   final answer, however the text was cut into pieces.
#[derive(Debug, Clone)]
pub struct CitationFilter {
    sources: u32,
    answer: String,
    mentions: Vec<Mention>,
    /// Spaces that wait for what follows them.
    spaces: String,
    /// Open brackets before the one in `held`, which turn into the start of a marker if that one is taken out.
    outer: String,
    /// What may become a marker, from its bracket on; empty where there is none.
    held: String,
    code: Code,
    /// Spaces are dropped: a marker was taken out at the start of a line.
    skip_spaces: bool,
}

/// Where the reader is with respect to code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// In plain text.
    Out,
    /// In a run of backticks that opens code.
    Opening(usize),
    /// In code that a run of this many backticks closes.
    In(usize),
    /// In code, within a run of backticks: those of the opening run, and those read of this one.
    Closing(usize, usize),
}

/// A marker longer than this (in bytes) is none.
const LONGEST_MARKER: usize = 48;
/// A range of more numbers than this is none.
const LONGEST_RANGE: u32 = 50;

impl CitationFilter {
    /// A reader for an answer from so many sources.
    #[must_use]
    pub fn new(sources: usize) -> Self {
        Self {
            sources: u32::try_from(sources).unwrap_or(u32::MAX),
            answer: String::new(),
            mentions: Vec::new(),
            spaces: String::new(),
            outer: String::new(),
            held: String::new(),
            code: Code::Out,
            skip_spaces: false,
        }
    }

    /// Reads the next piece and gives out what is certain.
    pub fn push(&mut self, delta: &str) -> String {
        let from = self.answer.len();
        for c in delta.chars() {
            self.read(c);
        }
        self.answer[from..].to_owned()
    }

    /// The answer so far, without what is held back.
    #[must_use]
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Ends the text: gives out what was held back, and the whole answer with its citations. `passages` are the numbered
    /// sources that the filter was made for.
    #[must_use]
    pub fn finish(mut self, passages: &[Passage]) -> (String, CitedAnswer) {
        let from = self.answer.len();
        self.release();
        let rest = self.answer[from..].to_owned();
        let citations = citations(&self.answer, &self.mentions, passages);
        (rest, CitedAnswer { answer: self.answer, citations })
    }

    fn read(&mut self, c: char) {
        if self.held.is_empty() {
            self.read_text(c);
            return;
        }
        match c {
            ']' => {
                self.held.push(c);
                self.close();
            }
            '[' => {
                let held = std::mem::take(&mut self.held);
                self.outer.push_str(&held);
                if self.outer.len() > LONGEST_MARKER {
                    self.release();
                }
                self.held.push(c);
            }
            '0'..='9' | ',' | ';' | ' ' | '-' | '–' if self.held.len() < LONGEST_MARKER => {
                self.held.push(c)
            }
            _ => {
                self.release();
                self.read_text(c);
            }
        }
    }

    /// Reads a character outside of markers.
    fn read_text(&mut self, c: char) {
        self.code = match (self.code, c) {
            (Code::Out, '`') => Code::Opening(1),
            (Code::Opening(n), '`') => Code::Opening(n + 1),
            (Code::In(n), '`') => Code::Closing(n, 1),
            (Code::Closing(n, k), '`') => Code::Closing(n, k + 1),
            (Code::Closing(n, k), _) if n == k => Code::Out,
            // Inline code ends with its line at the latest: a lone backtick must not swallow all that follows.
            (Code::Opening(n) | Code::In(n) | Code::Closing(n, _), '\n') if n < 3 => Code::Out,
            (Code::Opening(n) | Code::In(n) | Code::Closing(n, _), _) => Code::In(n),
            (Code::Out, _) => Code::Out,
        };
        match c {
            '[' if self.code == Code::Out => self.held.push(c),
            ' ' if self.code == Code::Out => {
                if !self.skip_spaces {
                    self.spaces.push(c);
                }
                return;
            }
            _ => {
                self.flush_spaces();
                self.answer.push(c);
            }
        }
        self.skip_spaces = false;
    }

    fn flush_spaces(&mut self) {
        self.answer.push_str(&self.spaces);
        self.spaces.clear();
    }

    /// Gives out all that is held back: it is no marker.
    fn release(&mut self) {
        self.flush_spaces();
        self.answer.push_str(&self.outer);
        self.answer.push_str(&self.held);
        self.outer.clear();
        self.held.clear();
    }

    /// A bracket was closed: a marker, or text after all.
    fn close(&mut self) {
        let Some(numbers) = numbers(&self.held) else { return self.release() };
        let mut known: Vec<u32> = Vec::new();
        for number in numbers {
            if (1..=self.sources).contains(&number) && !known.contains(&number) {
                known.push(number);
            }
        }
        self.held.clear();
        if !known.is_empty() {
            self.release();
            for marker in known {
                let start = self.answer.len();
                self.answer.push_str(&format!("[{marker}]"));
                self.mentions.push(Mention { marker, range: start..self.answer.len() });
            }
        } else if self.outer.is_empty() {
            self.spaces.clear();
            self.skip_spaces = self.answer.is_empty() || self.answer.ends_with('\n');
        } else {
            // The bracket before it is the last again, and may still become a marker.
            let at = self.outer.rfind('[').unwrap_or(0);
            self.held = self.outer.split_off(at);
        }
    }
}

/// The numbers of a marker, or none where it is not one.
fn numbers(marker: &str) -> Option<Vec<u32>> {
    let inside = marker.strip_prefix('[')?.strip_suffix(']')?;
    let mut numbers = Vec::new();
    for part in inside.split([',', ';']) {
        let mut ends = part.split(['-', '–']).map(number);
        match (ends.next(), ends.next(), ends.next()) {
            (Some(Some(one)), None, None) => numbers.push(one),
            (Some(Some(first)), Some(Some(last)), None) if first <= last && last - first < LONGEST_RANGE => {
                numbers.extend(first..=last);
            }
            _ => return None,
        }
    }
    Some(numbers)
}

/// A source's number. Years and the like are none, so that `[2024]` in a text stays.
fn number(text: &str) -> Option<u32> {
    let digits = text.trim_matches(' ');
    let fits = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if fits { digits.parse().ok() } else { None }
}

fn citations(answer: &str, mentions: &[Mention], passages: &[Passage]) -> Vec<Citation> {
    // Per source in order of first mention: the cited characters of its passage, none for the whole of it.
    let mut cited: Vec<(u32, Option<Range<usize>>)> = Vec::new();
    let mut claim = 0..0;
    let mut from = 0;
    for mention in mentions {
        // Markers that follow each other directly cite the same words.
        let between = from..mention.range.start;
        if answer[between.clone()].chars().any(char::is_alphanumeric) {
            claim = between;
        }
        from = mention.range.end;
        let Some(passage) = source(passages, mention.marker) else { continue };
        let place = find_claim(&answer[claim.clone()], &passage.record.text);
        match cited.iter_mut().find(|(marker, _)| *marker == mention.marker) {
            None => cited.push((mention.marker, place)),
            Some((_, known)) => {
                *known = match (known.take(), place) {
                    (Some(a), Some(b)) => Some(a.start.min(b.start)..a.end.max(b.end)),
                    _ => None,
                };
            }
        }
    }
    cited
        .into_iter()
        .filter_map(|(marker, place)| {
            source(passages, marker).map(|passage| citation(marker, passage, place))
        })
        .collect()
}

fn source(passages: &[Passage], marker: u32) -> Option<&Passage> {
    passages.get(usize::try_from(marker).ok()?.checked_sub(1)?)
}

/// A citation of some characters of a passage, or of the whole.
fn citation(marker: u32, passage: &Passage, place: Option<Range<usize>>) -> Citation {
    let record = &passage.record;
    let (text, start, end) = match place {
        Some(place) => (
            record.text.chars().skip(place.start).take(place.len()).collect(),
            record.start + place.start,
            record.start + place.end,
        ),
        None => (record.text.clone(), record.start, record.end),
    };
    Citation {
        marker,
        document_id: record.document_id,
        external_id: record.external_id.clone(),
        chunk_id: record.chunk_id,
        title: record.title.clone(),
        uri: record.uri.clone(),
        text,
        start,
        end,
        score: passage.score,
    }
}

/// A claim of fewer words than this is found by chance.
const FEWEST_WORDS: usize = 3;

/// Where the words before a marker stand in a source, in characters: as many of the last sentences as do.
fn find_claim(claim: &str, source: &str) -> Option<Range<usize>> {
    let parts = sentences(claim);
    let end = parts.last()?.range.end;
    parts.iter().find_map(|part| {
        let words =
            claim[part.range.start..end].trim_start_matches(['.', ',', ';', ':', '!', '?', ' ', '\n']);
        if words.unicode_words().count() < FEWEST_WORDS { None } else { find_words(words, source) }
    })
}

/// Where `words` stand in `source` as whole words, in characters; white space of any kind and length is equal.
fn find_words(words: &str, source: &str) -> Option<Range<usize>> {
    let needle = words.split_whitespace().collect::<Vec<_>>().join(" ");
    // The source with single spaces, and for each of its bytes the character of the source that it comes from.
    let mut flat = String::with_capacity(source.len());
    let mut origin = Vec::with_capacity(source.len());
    for (at, c) in source.chars().enumerate() {
        let c = if c.is_whitespace() { ' ' } else { c };
        if c == ' ' && flat.ends_with(' ') {
            continue;
        }
        flat.push(c);
        origin.resize(flat.len(), at);
    }
    let (first, last) = (needle.chars().next()?, needle.chars().next_back()?);
    flat.match_indices(&needle).find_map(|(start, found)| {
        let end = start + found.len();
        let inside_word =
            |a: Option<char>, b: char| b.is_alphanumeric() && a.is_some_and(char::is_alphanumeric);
        if inside_word(flat[..start].chars().next_back(), first)
            || inside_word(flat[end..].chars().next(), last)
        {
            return None;
        }
        Some(*origin.get(start)?..*origin.get(end - 1)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::generation::test_passages::passage;

    fn answer(text: &str, sources: usize) -> (String, Vec<u32>) {
        let passages: Vec<Passage> =
            (0..sources).map(|i| passage(&format!("Source number {i}."), 0)).collect();
        let cited = cite(text, &passages);
        (cited.answer, cited.citations.iter().map(|c| c.marker).collect())
    }

    #[test]
    fn all_forms_of_markers_are_read_in_order_of_first_mention() {
        for (text, expected, markers) in [
            ("A [2]. B [1].", "A [2]. B [1].", vec![2, 1]),
            ("A [1, 2] B [1][3]", "A [1][2] B [1][3]", vec![1, 2, 3]),
            ("A [1-3].", "A [1][2][3].", vec![1, 2, 3]),
            ("A [2–3; 1].", "A [2][3][1].", vec![2, 3, 1]),
            ("A[3]", "A[3]", vec![3]),
            ("A [1, 1].", "A [1].", vec![1]),
        ] {
            assert_eq!(answer(text, 3), (expected.to_owned(), markers), "{text}");
        }
    }

    #[test]
    fn unknown_markers_go_and_other_brackets_stay() {
        for (text, expected, markers) in [
            ("A [9]. B", "A. B", vec![]),
            ("A [0] B [7-8], [2]", "A B, [2]", vec![2]),
            ("A [1, 9].", "A [1].", vec![1]),
            ("[9] A\n[9]  B", "A\nB", vec![]),
            ("A [[9]1] B", "A [1] B", vec![1]),
            ("A [[9]7] B", "A B", vec![]),
            ("[see 1] [2024] [] [a] [1", "[see 1] [2024] [] [a] [1", vec![]),
            ("[3-1] [1,] [-2] [1 2]", "[3-1] [1,] [-2] [1 2]", vec![]),
        ] {
            assert_eq!(answer(text, 3), (expected.to_owned(), markers), "{text}");
        }
    }

    #[test]
    fn code_is_left_alone() {
        for text in [
            "Use `a[1]` and ``b`[9]`` here",
            "```rust\nlet a = b[9];\n\nlet c = d[1];\n```\nEnd",
            "```\nunclosed [1]\n[2]",
        ] {
            assert_eq!(answer(text, 3), (text.to_owned(), vec![]), "{text}");
        }
        for (text, open) in [
            ("a `b` c", false),
            ("a `b", true),
            ("```\nb\n```", false),
            ("```\nb\n", true),
            ("``b`", true),
            ("`b\n", false),
        ] {
            assert_eq!(leaves_code_open(text), open, "{text}");
        }
        assert_eq!(answer("Use `a[1]` [2].", 3), ("Use `a[1]` [2].".to_owned(), vec![2]));
        assert_eq!(
            answer("A lone ` mark [9]\nand [2] [9]", 3),
            ("A lone ` mark [9]\nand [2]".to_owned(), vec![2])
        );
    }

    #[test]
    fn a_citation_narrows_to_the_words_that_stand_in_the_source() {
        let text = "Zürich is big.  The port\nis 8080 by default. It can be changed.";
        let passages = [passage(text, 100), passage("Nothing of that kind is here at all.", 0)];
        let cited = cite("The port is 8080 by default. [1] So it seems to us [2].", &passages);
        let first = &cited.citations[0];
        assert_eq!(first.text, "The port\nis 8080 by default.");
        assert_eq!((first.start, first.end), (116, 144));
        assert_eq!(first.end - first.start, first.text.chars().count());
        assert_eq!(
            (cited.citations[1].text.as_str(), cited.citations[1].start),
            (passages[1].record.text.as_str(), 0)
        );
    }

    #[test]
    fn the_marker_may_stand_before_the_full_stop_and_two_mentions_join() {
        let passages = [passage("One is the first fact. Two is between. Three is the last fact.", 10)];
        let narrowed = |text: &str| cite(text, &passages).citations[0].text.clone();
        assert_eq!(narrowed("I say: no. Two is between [1]."), "Two is between");
        assert_eq!(
            narrowed("One is the first fact. Two is between. [1]"),
            "One is the first fact. Two is between."
        );
        assert_eq!(
            narrowed("One is the first fact [1]. Three is the last fact [1]."),
            "One is the first fact. Two is between. Three is the last fact"
        );
        assert_eq!(narrowed("One is the first fact [1]. Four is made up [1]."), passages[0].record.text);
        assert_eq!(narrowed("wo is between. Three [1]"), passages[0].record.text);
    }

    #[test]
    fn markers_side_by_side_cite_the_same_words() {
        let passages =
            [passage("The sky is blue today.", 0), passage("They say: the sky is blue today. Yes.", 0)];
        let cited = cite("the sky is blue today [2][1].", &passages);
        assert_eq!(cited.citations[0].text, "the sky is blue today");
        assert_eq!(cited.citations[1].text, passages[0].record.text);
    }

    #[test]
    fn a_marker_is_held_back_until_it_is_whole() {
        let mut filter = CitationFilter::new(2);
        let pieces: Vec<String> =
            ["Yes ", "[", "1", "] and [7", "] no"].iter().map(|d| filter.push(d)).collect();
        assert_eq!(pieces, ["Yes", "", "", " [1] and", " no"]);
        assert_eq!(filter.push(" [1"), "");
        assert_eq!(filter.finish(&[]).0, " [1");
    }

    #[test]
    fn markers_are_taken_out_of_quotes() {
        assert_eq!(without_markers("Rome fell.[12] See `a[1]` [3, 4]."), "Rome fell. See `a[1]`.");
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_answer(
            text in "[\\[\\]1-4 ,\\-`aé\\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..8),
        ) {
            let chars: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(chars.len())).collect();
            cuts.extend([0, chars.len()]);
            cuts.sort_unstable();
            let passages = [passage("a a a", 0), passage("é a 2", 0)];
            let mut filter = CitationFilter::new(2);
            let mut streamed = String::new();
            for cut in cuts.windows(2) {
                streamed.push_str(&filter.push(&chars[cut[0]..cut[1]].iter().collect::<String>()));
            }
            let (rest, cited) = filter.finish(&passages);
            streamed.push_str(&rest);
            prop_assert_eq!(&streamed, &cited.answer);
            prop_assert_eq!(cite(&text, &passages), cited);
        }

        #[test]
        fn what_comes_out_needs_no_more_filtering(text in "[\\[\\]1-4 ,\\-a\\n]{0,40}") {
            let passages = [passage("a a a", 0), passage("é a 2", 0)];
            let once = cite(&text, &passages);
            let twice = cite(&once.answer, &passages);
            prop_assert_eq!(&once.answer, &twice.answer);
            prop_assert_eq!(once.citations, twice.citations);
        }
    }
}
