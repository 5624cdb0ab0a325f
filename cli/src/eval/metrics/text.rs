//! How near an answer is to the right one, defined as in SQuAD (Rajpurkar et al. 2016): texts are compared in lower case, without
//! punctuation, the articles of English, and extra white space; where several answers are right, the nearest counts.

use std::collections::HashMap;

/// A text as it is compared.
pub fn normalise(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !is_punctuation(*c)).flat_map(char::to_lowercase).collect();
    let words = kept.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

/// SQuAD's own script removes ASCII punctuation only; texts as people write them have typographic quotes and dashes as well.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(
            c,
            '¡' | '§' | '«' | '¶' | '·' | '»' | '¿' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}'
            | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{ff01}'..='\u{ff0f}'
            | '\u{ff1a}'..='\u{ff20}' | '\u{ff3b}'..='\u{ff40}' | '\u{ff5b}'..='\u{ff65}'
        )
}

/// Whether one of the right answers stands in this one, beginning and ending where words do: `5` does not stand in `1995`.
pub fn contains(answer: &str, golds: &[String]) -> bool {
    let answer = normalise(answer);
    golds.iter().map(|gold| normalise(gold)).any(|gold| stands_in(&gold, &answer))
}

fn stands_in(gold: &str, answer: &str) -> bool {
    let (Some(first), Some(last)) = (gold.chars().next(), gold.chars().next_back()) else { return false };
    answer.match_indices(gold).any(|(at, _)| {
        let before = answer[..at].chars().next_back();
        let after = answer[at + gold.len()..].chars().next();
        let free = |inner: char, outer: Option<char>| outer.is_none_or(|outer| !in_one_word(inner, outer));
        free(first, before) && free(last, after)
    })
}

fn in_one_word(a: char, b: char) -> bool {
    a.is_alphanumeric() && b.is_alphanumeric() && !unspaced(a) && !unspaced(b)
}

/// Letters of scripts that put no space between words, or join particles to them: Thai, Lao, Khmer, kana, Han, Hangul.
fn unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}')
}

/// Whether the answer is one of the right ones and nothing else.
pub fn exact_match(answer: &str, golds: &[String]) -> bool {
    let answer = normalise(answer);
    golds.iter().any(|gold| normalise(gold) == answer)
}

/// F1 of the words of an answer and of the right one: the harmonic mean of which share of the answer's words are right and which share of
/// the right words are in the answer. The best over all right answers; 0 where there are none.
pub fn f1(answer: &str, golds: &[String]) -> f64 {
    let answer = normalise(answer);
    golds.iter().map(|gold| word_f1(&answer, &normalise(gold))).fold(0.0, f64::max)
}

#[allow(clippy::cast_precision_loss)] // counts of words
fn word_f1(answer: &str, gold: &str) -> f64 {
    let (answer, gold): (Vec<&str>, Vec<&str>) = (answer.split(' ').collect(), gold.split(' ').collect());
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &gold {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &answer {
        if let Some(times) = left.get_mut(word).filter(|times| **times > 0) {
            *times -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    2.0 * f64::from(common) / (answer.len() + gold.len()) as f64
}

/// An answer without the markers of its citations (`[1]`, for those that it has).
pub fn without_markers(answer: &str, markers: impl IntoIterator<Item = u64>) -> String {
    let without = |text: String, marker: u64| {
        // The space before a marker belongs to it.
        text.replace(&format!(" [{marker}]"), "").replace(&format!("[{marker}]"), "")
    };
    markers.into_iter().fold(answer.to_owned(), without)
}

/// Words of a text: what stands between white space.
pub fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golds(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn texts_are_compared_as_squad_does() {
        assert_eq!(normalise("The  Cat's\n hat, an egg; A-B"), "cats hat egg ab");
        assert_eq!(normalise("“Ich bin” – 23–16!"), "ich bin 2316");
        assert_eq!(normalise("the"), "");
        // An article is a word of its own.
        assert_eq!(normalise("Anthem of a theatre"), "anthem of theatre");
    }

    #[test]
    fn an_answer_contains_a_right_one_as_whole_words() {
        let holds = |answer: &str, gold: &str| contains(answer, &golds(&[gold]));
        assert!(holds("They gave up just 308 points.", "308"));
        assert!(holds("It was the Denver Broncos.", "Denver Broncos"));
        assert!(holds("It is about \"whsec_\" here", "whsec_"));
        assert!(!holds("In 1995", "5"));
        assert!(!holds("1308 points", "308"));
        assert!(!holds("A theatre", "the"), "nothing is left of it");
        assert!(holds("The 5th of 15 in 5", "5"), "a later place counts");
        assert!(holds("它在北京市", "北京"));
        assert!(contains("blue", &golds(&["red", "blue"])));
        assert!(!contains("blue", &[]));
    }

    #[test]
    fn exact_match_and_f1_by_hand() {
        assert!(exact_match("The cat.", &golds(&["dog", "cat"])));
        assert!(!exact_match("The cat sat", &golds(&["cat"])));
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}");
        near(f1("the cat", &golds(&["cat"])), 1.0);
        // 1 of 3 words right, all of 1 word there: 2 · (1/3 · 1) / (1/3 + 1)
        near(f1("black cat sat", &golds(&["cat"])), 0.5);
        // A word counts as often as it is there: 2 common, 3 and 2 words.
        near(f1("no no no", &golds(&["no no"])), 0.8);
        near(f1("dog", &golds(&["cat"])), 0.0);
        near(f1("black cat", &golds(&["white dog", "black dog", "black cat"])), 1.0);
        near(f1("cat", &[]), 0.0);
        near(f1("", &golds(&["cat"])), 0.0);
    }

    #[test]
    fn only_the_answers_own_markers_are_taken_out() {
        assert_eq!(without_markers("One [1]. Two [2][1]. See [7].", [1, 2]), "One. Two. See [7].");
        assert_eq!(words("One  two\nthree"), 3);
    }
}
