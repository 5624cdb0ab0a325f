//! Passages that say the same.

use unicode_segmentation::UnicodeSegmentation;

/// Share of the smaller passage's word triples that both have, from which on they count as the same.
const SAME: f32 = 0.9;

/// The word triples of a text, by which near-duplicates are told (shingles; Broder 1997): their hashes, in order, each once.
#[derive(Default)]
pub(super) struct Shingles(Vec<u64>);

impl Shingles {
    pub(super) fn of(text: &str) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let words: Vec<String> = text.unicode_words().map(str::to_lowercase).collect();
        let width = words.len().clamp(1, 3);
        let hash = |window: &[String]| {
            let mut hasher = DefaultHasher::new();
            window.hash(&mut hasher);
            hasher.finish()
        };
        let mut hashes: Vec<u64> = words.windows(width).map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    /// Whether the two texts say the same but for a few words.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let (small, large) = if self.0.len() <= other.0.len() { (self, other) } else { (other, self) };
        if small.0.is_empty() {
            return large.0.is_empty();
        }
        // A short text inside a long one is a quotation, not a duplicate.
        if small.0.len() * 2 < large.0.len() {
            return false;
        }
        let (mut of_large, mut shared) = (large.0.iter().peekable(), 0_usize);
        for hash in &small.0 {
            while of_large.next_if(|other| *other < hash).is_some() {}
            shared += usize::from(of_large.next_if_eq(&hash).is_some());
        }
        #[allow(clippy::cast_precision_loss)] // passages are short
        let share = shared as f32 / small.0.len() as f32;
        share >= SAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_and_nearly_equal_texts_are_the_same_and_others_are_not() {
        let text = "The quick brown fox jumps over the lazy dog while the farmer sleeps in the warm barn near the old river bank today";
        let same = |a: &str, b: &str| Shingles::of(a).same_as(&Shingles::of(b));
        assert!(same(text, text));
        assert!(same(text, &format!("{text}.")));
        assert!(same(text, &text.to_uppercase()));
        assert!(!same(
            text,
            "An entirely different sentence about databases, queues and caches, and about their failures."
        ));
        assert!(!same(text, "The quick brown fox"));
        assert!(same("", ""));
        assert!(!same("", text));
    }
}
