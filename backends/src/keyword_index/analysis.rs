//! How text becomes the words that are indexed and asked for.

use std::{borrow::Cow, collections::HashMap};

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, Stemmer, StopWordFilter, TextAnalyzer,
};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

use super::{
    language::{TONGUES, Tongue},
    segmenter::Segmenter,
};

/// Words of more bytes are left out: they are encoded data, not language.
const LONGEST_WORD: usize = 100;
/// So many different words of a question count; the rest of a longer one is left out.
const MOST_WORDS: usize = 256;

/// Cuts text into words: in Unicode's compatible composed form, at what is neither letter nor digit, in lower case, without stop words, stemmed (Snowball),
/// and without accents.
pub(super) struct Analyser {
    by_tongue: Vec<(Tongue, TextAnalyzer)>,
}

/// A word of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// What it is in each language of what is searched, each once.
    pub forms: Vec<String>,
    /// How often it occurs.
    pub times: u32,
}

impl Analyser {
    pub(super) fn new() -> Self {
        Self { by_tongue: TONGUES.iter().map(|(tongue, ..)| (*tongue, chain(*tongue))).collect() }
    }

    fn of(&self, tongue: Tongue) -> Option<TextAnalyzer> {
        self.by_tongue.iter().find(|(known, _)| *known == tongue).map(|(_, analyser)| analyser.clone())
    }

    /// The words of a text of this language, separated by spaces, which are in no word.
    pub(super) fn words(&self, tongue: Tongue, text: &str) -> String {
        let mut words = String::with_capacity(text.len());
        let Some(mut analyser) = self.of(tongue) else { return words };
        let text = composed(text);
        let mut tokens = analyser.token_stream(&text);
        while let Some(token) = tokens.next() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(&token.text);
        }
        words
    }

    /// A question's words, as they are in texts of these languages, in the order of their first occurrence.
    pub(super) fn question(&self, tongues: &[Tongue], text: &str) -> Vec<Word> {
        let text = composed(text);
        // All languages cut at the same places; which words they leave out differs.
        let mut by_place: HashMap<usize, Vec<String>> = HashMap::new();
        let mut places: Vec<usize> = Vec::new();
        for mut analyser in tongues.iter().filter_map(|tongue| self.of(*tongue)) {
            let mut tokens = analyser.token_stream(&text);
            while let Some(token) = tokens.next() {
                let forms = by_place.entry(token.position).or_insert_with(|| {
                    places.push(token.position);
                    Vec::new()
                });
                if !forms.contains(&token.text) {
                    forms.push(token.text.clone());
                }
            }
        }
        places.sort_unstable();
        let mut words: Vec<Word> = Vec::new();
        let mut known: HashMap<Vec<String>, usize> = HashMap::new();
        for forms in places.iter().filter_map(|place| by_place.remove(place)) {
            match known.get(&forms) {
                Some(at) => words[*at].times += 1,
                None if words.len() < MOST_WORDS => {
                    known.insert(forms.clone(), words.len());
                    words.push(Word { forms, times: 1 });
                }
                None => {}
            }
        }
        words
    }
}

fn chain(tongue: Tongue) -> TextAnalyzer {
    let words = TextAnalyzer::builder(Segmenter::default())
        .filter(RemoveLongFilter::limit(LONGEST_WORD))
        .filter(LowerCaser);
    match tongue {
        // English has no accents of its own: a word is the same with and without, before it is stemmed.
        Tongue::Stemmed(Language::English) => words
            .filter(AsciiFoldingFilter)
            .filter(stop_words(Language::English))
            .filter(Stemmer::new(Language::English))
            .build(),
        // In other languages accents decide what is a stop word and where the stem ends.
        Tongue::Stemmed(language) => words
            .filter(stop_words(language))
            .filter(Stemmer::new(language))
            .filter(AsciiFoldingFilter)
            .build(),
        Tongue::Plain => words.filter(AsciiFoldingFilter).build(),
    }
}

/// None where there is no list: Arabic, Greek, Romanian, Tamil, Turkish. BM25 gives words that are everywhere next to no weight all the same.
fn stop_words(language: Language) -> StopWordFilter {
    StopWordFilter::new(language).unwrap_or_else(|| StopWordFilter::remove([]))
}

/// Characters that mean the same become the same: ｆｕｌｌ ｗｉｄｔｈ, ligatures, letters with separate accents.
fn composed(text: &str) -> Cow<'_, str> {
    match is_nfkc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        _ => Cow::Owned(text.nfkc().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(code: &str, text: &str) -> String {
        Analyser::new().words(Tongue::of_code(code).unwrap(), text)
    }

    #[test]
    fn forms_of_a_word_are_one_word_in_every_language_with_stems() {
        // The plural or another form of a word, the word, and stop words where there is a list.
        for (code, forms, word, stop) in [
            ("ar", "الكتاب", "كتاب", ""),
            ("da", "husene", "hus", "og er"),
            ("de", "Häusern", "Häuser", "und die nicht"),
            ("el", "ανθρώπους", "άνθρωποι", ""),
            ("en", "connections", "connected", "the and of"),
            ("es", "canciones", "canción", "los para"),
            ("fi", "taloissa", "talossa", "ja mutta"),
            ("fr", "continuellement", "continuelle", "les dans"),
            ("hu", "házak", "ház", "és nem"),
            ("it", "nazionali", "nazionale", "gli della"),
            ("nl", "lichamelijke", "lichamelijk", "het niet"),
            ("no", "husene", "hus", "og ikke"),
            ("pt", "trabalhadores", "trabalhador", "não para"),
            ("ro", "cărților", "cărțile", ""),
            ("ru", "книгами", "книга", "и не"),
            ("sv", "flickorna", "flickor", "och inte"),
            ("ta", "புத்தகங்கள்", "புத்தகம்", ""),
            ("tr", "kitaplar", "kitap", ""),
        ] {
            assert_eq!(words(code, forms), words(code, word), "{code}");
            assert_eq!(words(code, stop), "", "{code}");
            assert!(!words(code, word).is_empty(), "{code}");
        }
    }

    #[test]
    fn what_is_written_in_other_ways_is_the_same() {
        for code in ["en", "fr", "de", "und"] {
            for (one, other) in [
                ("CAFÉ", "café"),
                ("re\u{301}sume\u{301}", "résumé"),
                ("ｆｕｌｌ", "full"),
                ("ﬁle", "file"),
                ("ﾃｽﾄ", "テスト"),
            ] {
                assert_eq!(words(code, one), words(code, other), "{code}");
            }
        }
        // Where accents do not decide about stems, questions may leave them out.
        for code in ["en", "und"] {
            assert_eq!(words(code, "Zürich"), words(code, "zurich"), "{code}");
        }
    }

    #[test]
    fn scripts_without_spaces_are_found_by_parts() {
        assert_eq!(words("und", "検索エンジン"), "検索 索エ エン ンジ ジン");
        assert_eq!(words("en", "検索エンジン"), words("und", "検索エンジン"));
    }

    #[test]
    fn a_question_has_the_forms_of_every_language_that_is_searched() {
        let tongues = |codes: &[&str]| codes.iter().map(|c| Tongue::of_code(c).unwrap()).collect::<Vec<_>>();
        let analyser = Analyser::new();
        let forms = |codes: &[&str], text: &str| -> Vec<(String, u32)> {
            let words = analyser.question(&tongues(codes), text);
            words.into_iter().map(|word| (word.forms.join("|"), word.times)).collect()
        };
        let word = |forms: &str, times| (forms.to_owned(), times);
        assert_eq!(forms(&["en"], "the running runs quickly"), [word("run", 2), word("quick", 1)]);
        assert_eq!(forms(&["en", "de"], "the Häuser"), [word("the", 1), word("hauser|haus", 1)]);
        assert_eq!(forms(&["de", "en"], "die Häuser"), [word("die", 1), word("haus|hauser", 1)]);
        assert_eq!(
            forms(&["en", "de"], "die in der Datenbank"),
            [word("die", 1), word("der", 1), word("datenbank", 1)]
        );
        assert_eq!(forms(&["en"], "of the?"), []);
        assert_eq!(forms(&[], "words"), []);
    }

    #[test]
    fn a_question_has_so_many_words_at_most() {
        let text: String = (0..MOST_WORDS + 50).map(|n| format!("w{n} ")).collect();
        assert_eq!(Analyser::new().question(&[Tongue::DEFAULT], &text).len(), MOST_WORDS);
    }
}
