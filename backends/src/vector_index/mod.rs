//! vector_index: see `raglan_pipeline::ports`.
