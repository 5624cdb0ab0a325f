//! Ingestion over the real store, with the parts that it waits for in the test's hand: what overlaps, what is bounded, and what becomes of
//! documents when something fails, is cancelled or comes in between.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod failing;
mod flow;
mod parts;
mod rig;
mod together;
