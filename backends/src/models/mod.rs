//! models: see `raglan_pipeline::ports`.
