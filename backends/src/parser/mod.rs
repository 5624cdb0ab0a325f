//! parser: see `raglan_pipeline::ports`.
