//! The embedded indexes by themselves: how fast they are built and searched, how much they find, and what they take.

mod clock;
mod corpus;
pub mod embed;
mod exact;
pub mod keyword;
pub mod vectors;
