//! From the state of a pair's first token to its score.

use std::path::Path;

use crate::{EncoderError, Weights};

/// The head of a cross-encoder: a dense layer with a hyperbolic tangent, then a classifier of one label. In `f32`, since there is one row a
/// pair.
pub struct ScoreHead {
    /// The first layer: for each output a row of as many weights as a state has values.
    pub dense: Vec<f32>,
    /// What is added to its outputs.
    pub dense_bias: Vec<f32>,
    /// The weights of the only output of the second.
    pub classifier: Vec<f32>,
    /// What is added to it.
    pub classifier_bias: f32,
}

/// Where the layers of a head are kept, by family: the first of the two and the classifier.
const NAMES: [(&str, &str); 2] =
    [("bert.pooler.dense", "classifier"), ("classifier.dense", "classifier.out_proj")];

impl ScoreHead {
    /// Reads the head of a cross-encoder (`BertForSequenceClassification`, `RobertaForSequenceClassification` and those that are built like
    /// it) whose states have `width` values.
    ///
    /// # Errors
    /// [`EncoderError::Unsupported`] where the model has no such head, or one of several labels.
    pub fn read(folder: &Path, weights: &mut Weights, width: usize) -> Result<Self, EncoderError> {
        let there = |(dense, classifier): &(&str, &str)| {
            weights.has(&format!("{dense}.weight")) && weights.has(&format!("{classifier}.weight"))
        };
        let Some((dense, classifier)) = NAMES.into_iter().find(there) else {
            let reason = "it is no cross-encoder: its weights have no classifier with a layer before it";
            return Err(EncoderError::unsupported(folder, reason));
        };
        let mut read =
            |name: &str, part: &str, shape: &[usize]| weights.tensor(&format!("{name}.{part}"), shape);
        let dense_weights = read(dense, "weight", &[width, width])?;
        let dense_bias = read(dense, "bias", &[width])?;
        let classifier_weights = read(classifier, "weight", &[1, width]).map_err(|error| {
            EncoderError::unsupported(folder, format!("it is no cross-encoder of one label: {error}"))
        })?;
        let classifier_bias = read(classifier, "bias", &[1])?.iter().sum();
        Ok(Self { dense: dense_weights, dense_bias, classifier: classifier_weights, classifier_bias })
    }

    /// The logit of a pair whose tokens end in these states. Only the first token's is read.
    #[must_use]
    pub fn score(&self, states: &[f32]) -> f32 {
        let state = &states[..self.dense_bias.len()];
        let rows = self.dense.chunks_exact(state.len()).zip(&self.dense_bias);
        let pooled = rows.map(|(row, bias)| (dot(row, state) + bias).tanh());
        self.classifier.iter().zip(pooled).map(|(weight, value)| weight * value).sum::<f32>()
            + self.classifier_bias
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
