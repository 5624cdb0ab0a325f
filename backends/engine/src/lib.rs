//! Texts written by language models of the Llama, Mistral and Qwen families, from a folder with a model's files to the pieces of an answer.
//!
//! An [`Engine`] has a thread of its own. Many requests share it: each step computes one token of every sequence that writes and pieces of the
//! prompts of those that have just come, so nobody waits for anybody else to finish. Keys and values of all sequences lie in one cache, in blocks;
//! sequences that begin alike share the blocks of their beginning. Which sequence computes what is decided by the [`scheduler`], which knows
//! nothing of models.
//!
//! It is a crate of its own, without anything asynchronous, so that it can be optimised even where the rest is built for debugging.

#[cfg(any(test, feature = "tiny"))]
mod by_hand;
mod cache;
mod chat;
mod config;
mod detokenizer;
mod engine;
mod error;
mod model;
pub mod scheduler;
mod stop;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "tiny"))]
pub mod tiny;
mod weights;

#[cfg(any(test, feature = "tiny"))]
pub use self::by_hand::{ByHand, distance};
pub use self::{
    chat::{ChatTemplate, TEMPLATE, TOKENIZER_CONFIG},
    config::{CONFIG, Family, ModelConfig, Rope, RopeScaling},
    engine::{
        BLOCK_SIZE, CacheSize, DeviceChoice, Engine, EngineInfo, EngineSettings, LoadProgress, NumberType,
        Observer, Output, Prompt, Quantization, Reason, Request, Sampling, Sink, Snapshot, TOKENIZER, Ticket,
    },
    error::{LoadError, RequestError},
};
