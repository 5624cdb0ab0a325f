//! embedder: see `raglan_pipeline::ports`.
