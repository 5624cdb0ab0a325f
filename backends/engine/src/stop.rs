//! Ending a text where one of some strings begins, wherever the borders of its pieces lie.

/// Looks for strings in a text that comes in pieces, and holds back what may be the beginning of one.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopStrings {
    strings: Vec<String>,
    /// What may be the beginning of one.
    held: String,
}

impl StopStrings {
    /// Empty strings are left out: they are everywhere.
    pub(crate) fn new(strings: Vec<String>) -> Self {
        Self { strings: strings.into_iter().filter(|one| !one.is_empty()).collect(), held: String::new() }
    }

    /// Takes the next piece. Answers with what can be passed on, and whether the text ends there.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        if self.strings.is_empty() {
            return (piece.to_owned(), false);
        }
        self.held.push_str(piece);
        if let Some((_, at)) = first(&self.strings, &self.held) {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.strings.iter().map(|one| overlap(&self.held, one)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back at the text's end.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where the string that is complete first ends and begins; of two that end together, the longer one.
fn first(strings: &[String], text: &str) -> Option<(usize, usize)> {
    strings.iter().filter_map(|one| text.find(one.as_str()).map(|at| (at + one.len(), at))).min()
}

/// The length in bytes of the longest ending of `text` that is a beginning of `string`, but not all of it.
fn overlap(text: &str, string: &str) -> usize {
    let most = text.len().min(string.len().saturating_sub(1));
    (1..=most)
        .rev()
        .find(|&length| {
            text.is_char_boundary(text.len() - length)
                && string.as_bytes().starts_with(&text.as_bytes()[text.len() - length..])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(strings: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stop = StopStrings::new(strings.iter().map(ToString::to_string).collect());
        let mut text = String::new();
        for piece in pieces {
            let (passed, ended) = stop.push(piece);
            text.push_str(&passed);
            if ended {
                return (text, true);
            }
        }
        text.push_str(&stop.finish());
        (text, false)
    }

    #[test]
    fn a_string_is_found_across_pieces_and_nothing_of_it_is_shown() {
        assert_eq!(run(&["</end>"], &["one <", "/e", "nd> two"]), ("one ".to_owned(), true));
        assert_eq!(run(&["</end>"], &["one <", "/e", "at>"]), ("one </eat>".to_owned(), false));
        assert_eq!(run(&["</end>"], &["one </en"]), ("one </en".to_owned(), false));
        assert_eq!(run(&["bb", "abc"], &["xa", "bb"]), ("xa".to_owned(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".to_owned(), false));
        assert_eq!(run(&[""], &["all"]), ("all".to_owned(), false));
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(
            text in "[abé]{0,30}",
            strings in prop::collection::vec("[abé]{1,4}", 0..3),
            cuts in prop::collection::vec(0_usize..30, 0..10),
        ) {
            let strings: Vec<&str> = strings.iter().map(String::as_str).collect();
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|cut| *cut <= text.len() && text.is_char_boundary(*cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let owned: Vec<String> = strings.iter().map(ToString::to_string).collect();
            let begins = first(&owned, &text).map(|(_, at)| at);
            let expected = (text[..begins.unwrap_or(text.len())].to_owned(), begins.is_some());
            prop_assert_eq!(run(&strings, &pieces), expected);
        }
    }
}
