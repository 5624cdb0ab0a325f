//! keyword_index: see `raglan_pipeline::ports`.
