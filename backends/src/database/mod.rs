//! database: see `raglan_pipeline::ports`.
