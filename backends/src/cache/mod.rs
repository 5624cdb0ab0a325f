//! cache: see `raglan_pipeline::ports`.
