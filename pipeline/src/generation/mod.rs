//! From passages to an answer: the prompt, the sentences, the citations.

pub mod citations;
pub mod prompt;
pub mod sentences;
mod stage;
#[cfg(test)]
mod test_passages;

pub use stage::GenerationStage;
