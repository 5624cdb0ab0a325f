//! From passages to an answer: the prompt, the sentences, the citations.

pub mod citations;
pub mod prompt;
pub mod sentences;
#[cfg(test)]
mod test_passages;
