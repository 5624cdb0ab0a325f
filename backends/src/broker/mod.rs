//! What carries messages between the stages: implementations of [`raglan_pipeline::ports::Broker`].

mod in_process;

pub use in_process::{BrokerSettings, InProcessBroker};
