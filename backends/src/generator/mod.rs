//! generator: see `raglan_pipeline::ports`.
