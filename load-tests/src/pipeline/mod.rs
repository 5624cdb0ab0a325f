//! The pipeline without models: the whole of Raglan, and the least that any pipeline over the same servers must do.

pub mod floor;
pub mod jobs;
