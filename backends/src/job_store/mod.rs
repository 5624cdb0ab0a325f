//! job_store: see `raglan_pipeline::ports`.
