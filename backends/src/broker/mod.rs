//! broker: see `raglan_pipeline::ports`.
