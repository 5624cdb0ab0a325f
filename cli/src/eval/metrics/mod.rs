//! Measures: of rankings, and of answers.

pub mod ranking;
pub mod text;
