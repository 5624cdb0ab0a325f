//! Files by key: see [`raglan_pipeline::ports::BlobStore`].

mod key;
mod local;
#[cfg(feature = "s3")]
mod s3;

pub use local::LocalBlobStore;
#[cfg(feature = "s3")]
pub use s3::{S3BlobStore, S3Settings};
