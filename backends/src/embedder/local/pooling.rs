//! From the states of a text's tokens to its vector.

use super::super::unit::normalise;

/// How a text's token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one's (`[CLS]`).
    First,
    /// The greatest value of each dimension.
    Max,
}

impl Pooling {
    /// Pooling modes under the names that sentence-transformers gives them.
    pub(super) fn named(mode: &str) -> Option<Self> {
        match mode {
            // Divided by the root of the length instead of the length: the same vector, once it has unit length.
            "mean" | "mean_tokens" | "mean_sqrt_len_tokens" => Some(Self::Mean),
            "cls" | "cls_token" => Some(Self::First),
            "max" | "max_tokens" => Some(Self::Max),
            _ => None,
        }
    }

    /// For a model's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::First => "cls",
            Self::Max => "max",
        }
    }

    /// The vector, of unit length, of a text with these token states of `width` values each.
    pub(super) fn vector(self, states: &[f32], width: usize) -> Vec<f32> {
        let mut rows = states.chunks_exact(width);
        let mut vector = rows.next().map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
        for row in rows {
            for (total, value) in vector.iter_mut().zip(row) {
                match self {
                    // The scale below makes dividing by the number of tokens unnecessary.
                    Self::Mean => *total += value,
                    Self::Max => *total = total.max(*value),
                    Self::First => {}
                }
            }
        }
        normalise(&mut vector);
        vector
    }
}
