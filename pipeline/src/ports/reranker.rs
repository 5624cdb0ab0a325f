use async_trait::async_trait;

use super::ModelError;

/// Scores how well each text answers a question, reading both together.
///
/// **Contract**: one score a text, in order, higher is better; a batch scores as its singles do (within 0.001 of the score); over-long
/// texts are cut.
#[async_trait]
pub trait Reranker: Send + Sync {
    /// The model's name.
    fn model(&self) -> &str;

    /// Scores texts against a question.
    async fn score(&self, query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError>;
}
