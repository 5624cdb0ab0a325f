//! How the broker on RabbitMQ is set.

use std::time::Duration;

use lapin::uri::AMQPUri;
use raglan_pipeline::{
    ports::{ErrorKind, PortError, PortResult},
    secret::Secret,
};

use super::delay;

/// Where RabbitMQ is and how it is used. What shapes the queues (`prefix`, `lanes`, `capacity`, `max_attempts`, `dead_letters`,
/// `consumer_timeout`) must be the same in all processes.
///
/// RabbitMQ before 3.12 reserves three of its file handles for every quorum queue, of which there are up to `3 * lanes + 25` a stage: its limit of
/// open files must be well above the usual 1024, or it takes no connections.
///
/// A queue that exists keeps the `capacity`, `max_attempts`, `dead_letters` and `consumer_timeout` that it was made with: RabbitMQ changes
/// those only through a policy, or when the queue is deleted and made anew. The broker says so in its log and goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitMqSettings {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…`. The query may set `heartbeat` (seconds), `connection_timeout` (milliseconds),
    /// `channel_max`, `frame_max` and `auth_mechanism`.
    pub url: Secret,
    /// The names of all queues and exchanges begin with it: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub prefix: String,
    /// How many messages may be ready in one lane before a publisher is refused. RabbitMQ accepts again when the lane is down to about
    /// four fifths of it. Delayed messages and those that come back are always taken and are not counted.
    pub capacity: usize,
    /// How often a message is delivered before it is given up.
    pub max_attempts: u32,
    /// Queues a class and stage; a tenant's messages go to the one that its name hashes to, and lanes take turns. More lanes keep tenants
    /// better apart and cost queues. It may be raised at any time; before it is lowered, the queues must be empty.
    pub lanes: u16,
    /// The most messages of one lane that a consumer fetches ahead of its caller. It begins with one and fetches more only while its
    /// caller waits for the network.
    pub prefetch: u16,
    /// How many dead letters a stage keeps; the oldest go first.
    pub dead_letters: usize,
    /// How long a publisher waits for the connection to come back before it is refused as `Unavailable`.
    pub publish_wait: Duration,
    /// How long RabbitMQ may take to confirm a message. After that the caller is told `Timeout`; after twice that time without any
    /// confirm the connection is given up for a new one.
    pub confirm_timeout: Duration,
    /// How long a consumer may keep a message unsettled before RabbitMQ gives it to another; must be longer than the longest work. Known
    /// to RabbitMQ from 3.12 on; before, `consumer_timeout` of its own configuration counts (30 minutes if not set).
    pub consumer_timeout: Duration,
    /// How often both sides show that they live, where `url` does not say. After twice this time without a sign the connection is lost.
    pub heartbeat: Duration,
    /// How long [`RabbitMqBroker::connect`](super::RabbitMqBroker::connect) tries.
    pub connect_timeout: Duration,
}

impl Default for RabbitMqSettings {
    fn default() -> Self {
        Self {
            url: Secret::new("amqp://guest:guest@127.0.0.1:5672/%2f"),
            prefix: "raglan.".to_owned(),
            capacity: 10_000,
            max_attempts: 5,
            lanes: 4,
            prefetch: 32,
            dead_letters: 10_000,
            publish_wait: Duration::from_secs(1),
            confirm_timeout: Duration::from_secs(5),
            consumer_timeout: Duration::from_secs(6 * 3_600),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl RabbitMqSettings {
    /// The longest delay that a message can be published or come back with.
    pub const LONGEST_DELAY: Duration = delay::LONGEST;

    /// Checks every field, and reads the address.
    pub(super) fn check(&self) -> PortResult<AMQPUri> {
        let named = self.prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !named || !(1..=64).contains(&self.prefix.len()) {
            return Err(invalid("prefix", "is 1 to 64 of a-z A-Z 0-9 . _ -"));
        }
        if self.capacity == 0 {
            return Err(invalid("capacity", "must be at least 1"));
        }
        if !(1..=100_000).contains(&self.max_attempts) {
            return Err(invalid("max_attempts", "must be from 1 to 100000"));
        }
        if !(1..=64).contains(&self.lanes) {
            return Err(invalid("lanes", "must be from 1 to 64"));
        }
        if self.prefetch == 0 {
            return Err(invalid("prefetch", "must be at least 1"));
        }
        if self.dead_letters == 0 {
            return Err(invalid("dead_letters", "must be at least 1"));
        }
        if self.confirm_timeout.is_zero() || self.connect_timeout.is_zero() {
            return Err(invalid("confirm_timeout and connect_timeout", "must be longer than nothing"));
        }
        if self.consumer_timeout < Duration::from_secs(60) {
            // RabbitMQ looks once a minute.
            return Err(invalid("consumer_timeout", "must be at least a minute"));
        }
        self.address()
    }

    /// The address with our defaults filled in.
    fn address(&self) -> PortResult<AMQPUri> {
        // What the parser says may hold the address whole, and with it the password.
        let mut uri: AMQPUri = self.url.expose().parse().map_err(|_: String| {
            invalid("url", "must be amqp://user:password@host:port/vhost, or amqps://…")
        })?;
        let seconds = u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1);
        uri.query.heartbeat.get_or_insert(seconds);
        let wait = u64::try_from(self.connect_timeout.as_millis()).unwrap_or(u64::MAX);
        uri.query.connection_timeout.get_or_insert(wait);
        Ok(uri)
    }

    /// What RabbitMQ itself holds against messages that kill their consumers before these can count: more than `max_attempts`, so that it
    /// is we who give a message up, with its cause, wherever we live to do it.
    pub(super) fn delivery_limit(&self) -> u32 {
        self.max_attempts.saturating_add(20)
    }
}

fn invalid(field: &str, rule: &str) -> PortError {
    PortError::new(ErrorKind::Invalid, format!("RabbitMQ: {field} {rule}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_the_address_never_shows_its_password() {
        RabbitMqSettings::default().check().unwrap();
        let settings =
            RabbitMqSettings { url: Secret::new("http://user:hunter2@host"), ..RabbitMqSettings::default() };
        let refused = settings.check().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(!format!("{refused} {refused:?} {settings:?}").contains("hunter2"));
    }

    #[test]
    fn a_heartbeat_in_the_address_is_kept() {
        let settings = RabbitMqSettings {
            url: Secret::new("amqp://host/v?heartbeat=77"),
            ..RabbitMqSettings::default()
        };
        assert_eq!(settings.check().unwrap().query.heartbeat, Some(77));
        assert_eq!(RabbitMqSettings::default().check().unwrap().query.heartbeat, Some(10));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |change: fn(&mut RabbitMqSettings)| {
            let mut settings = RabbitMqSettings::default();
            change(&mut settings);
            settings.check().unwrap_err().to_string()
        };
        assert!(refused(|s| s.prefix = "a b".into()).contains("prefix"));
        assert!(refused(|s| s.lanes = 0).contains("lanes"));
        assert!(refused(|s| s.consumer_timeout = Duration::from_secs(1)).contains("consumer_timeout"));
    }
}
