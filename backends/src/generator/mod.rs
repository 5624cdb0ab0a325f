//! Generators: what writes the answers.

#[cfg(feature = "candle")]
pub mod candle;
mod extractive;
#[cfg(feature = "http")]
mod openai;
mod simulated;

pub use extractive::{ExtractiveGenerator, ExtractiveSettings};
#[cfg(feature = "http")]
pub use openai::{MaxTokensField, OpenAiGenerator, OpenAiSettings};
pub use simulated::{SimulatedGenerator, SimulatedSettings};
