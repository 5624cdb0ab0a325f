//! event_log: see `raglan_pipeline::ports`.
