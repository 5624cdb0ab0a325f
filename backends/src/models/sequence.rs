/// A text as a model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Token ids, special ones included; at least one.
    pub(crate) ids: Vec<u32>,
    /// For each token 0, or 1 where it belongs to the second text of a pair.
    pub(crate) types: Vec<u32>,
}

impl Sequence {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}
