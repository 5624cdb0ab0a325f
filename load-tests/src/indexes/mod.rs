//! The embedded indexes by themselves: how fast they are built and searched, how much they find, and what they take.

mod clock;
mod corpus;
mod exact;
pub mod keyword;
pub mod vectors;
