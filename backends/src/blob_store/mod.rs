//! Files by key: see [`raglan_pipeline::ports::BlobStore`].

mod local;

pub use local::LocalBlobStore;
