//! The contracts of [`Replica`](crate::ports::Replica), [`VectorIndex`](crate::ports::VectorIndex) and
//! [`KeywordIndex`](crate::ports::KeywordIndex).
//!
//! A backend calls [`vector::run_all`] or [`keyword::run_all`] with a factory. Both run the promises of every replica, from
//! [`replica`], and those of their own. Nothing here knows an engine.

pub mod corpus;
pub mod keyword;
pub mod replica;
pub mod vector;
