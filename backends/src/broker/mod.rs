//! What carries messages between the stages: implementations of [`raglan_pipeline::ports::Broker`].

mod in_process;
mod metrics;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
mod shares;

pub use in_process::{BrokerSettings, InProcessBroker};
#[cfg(feature = "rabbitmq")]
pub use rabbitmq::{RabbitMqBroker, RabbitMqSettings};
