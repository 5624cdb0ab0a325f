/// A text as a model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids, special ones included; at least one.
    pub ids: Vec<u32>,
    /// For each token 0, or 1 where it belongs to the second text of a pair.
    pub types: Vec<u32>,
}

impl Sequence {
    /// How many tokens it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has none, which no model reads.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
