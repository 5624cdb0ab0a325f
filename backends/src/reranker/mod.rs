//! reranker: see `raglan_pipeline::ports`.
