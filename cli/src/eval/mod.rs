//! Evaluation: how well questions are answered, measured from outside through the HTTP API.
//!
//! A [`dataset`] gives questions; [`collection`] takes its documents in; [`search`] and [`ask`] put the questions; [`measures`] turns what came back into
//! numbers, one a question; [`stats`] says how far to trust their means; [`report`] shows them. `raglan eval` (in `commands`) puts these together.

pub mod ask;
pub mod collection;
pub mod dataset;
pub mod input;
pub mod measures;
mod metrics;
pub mod report;
pub mod run_file;
pub mod search;
mod stats;
