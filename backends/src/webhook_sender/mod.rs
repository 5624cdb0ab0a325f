//! webhook_sender: see `raglan_pipeline::ports`.
