//! A message as RabbitMQ carries it: properties, headers and a JSON body.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use raglan_pipeline::{
    domain::{Priority, Tenant, Timestamp, now},
    message::Message,
    ports::{DeadLetter, Envelope, ErrorKind, PortError, PortResult},
};
use uuid::Uuid;

/// Whose work it is.
const TENANT: &str = "x-raglan-tenant";
/// Its class.
const PRIORITY: &str = "x-raglan-priority";
/// How often it had been delivered before it was put on this queue.
const ATTEMPT: &str = "x-raglan-attempt";
/// Why it was given up.
const CAUSE: &str = "x-raglan-cause";
/// Since when, in milliseconds since 1970.
const DIED_AT: &str = "x-raglan-died-at";
/// RabbitMQ's count of deliveries from this queue that came to nothing.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// RabbitMQ's account of where a message was given up.
const DEATHS: &str = "x-death";

/// Of a cause, so many bytes are kept.
const CAUSE_BYTES: usize = 2_000;
const PERSISTENT: u8 = 2;

/// A message to be published.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

impl Parcel {
    /// A new message, never delivered before.
    pub(super) fn new(envelope: &Envelope) -> PortResult<Self> {
        let unwritable = |error: serde_json::Error| {
            PortError::new(ErrorKind::Internal, "a message cannot be written as JSON").with_source(error)
        };
        let body = serde_json::to_value(&envelope.message).map_err(unwritable)?;
        let kind = body["type"].as_str().unwrap_or_default().to_owned();
        let mut headers = FieldTable::default();
        put_text(&mut headers, TENANT, envelope.tenant.as_str());
        put_text(&mut headers, PRIORITY, envelope.priority.as_str());
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(0));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_app_id("raglan".into())
            .with_message_id(Uuid::now_v7().to_string().into())
            .with_timestamp(u64::try_from(now().timestamp()).unwrap_or_default())
            .with_type(kind.into())
            .with_headers(headers);
        Ok(Self { properties, body: serde_json::to_vec(&body).map_err(unwritable)? })
    }

    /// A message that came, to be put on another queue after so many deliveries. What RabbitMQ wrote on it stays behind: its history would
    /// make a second fall down the ladder look like a loop, and RabbitMQ drops what goes round in loops.
    pub(super) fn copy(properties: &BasicProperties, body: &[u8], attempts: u32) -> Self {
        let mut headers = FieldTable::default();
        for name in [TENANT, PRIORITY] {
            if let Some(value) = header(properties, name) {
                headers.insert(name.into(), value.clone());
            }
        }
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(attempts.into()));
        let mut copied = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(
                properties.message_id().clone().unwrap_or_else(|| Uuid::now_v7().to_string().into()),
            )
            .with_headers(headers);
        if let Some(content_type) = properties.content_type() {
            copied = copied.with_content_type(content_type.clone());
        }
        if let Some(app_id) = properties.app_id() {
            copied = copied.with_app_id(app_id.clone());
        }
        if let Some(timestamp) = properties.timestamp() {
            copied = copied.with_timestamp(*timestamp);
        }
        if let Some(kind) = properties.kind() {
            copied = copied.with_type(kind.clone());
        }
        Self { properties: copied, body: body.to_vec() }
    }

    /// A message that came, to be put with the dead letters.
    pub(super) fn dead(properties: &BasicProperties, body: &[u8], attempts: u32, cause: &str) -> Self {
        let mut parcel = Self::copy(properties, body, attempts);
        let mut headers = parcel.properties.headers().clone().unwrap_or_default();
        put_text(&mut headers, CAUSE, &cause[..cause.floor_char_boundary(CAUSE_BYTES)]);
        headers.insert(DIED_AT.into(), AMQPValue::LongLongInt(now().timestamp_millis()));
        parcel.properties = parcel.properties.with_headers(headers);
        parcel
    }

    /// The id that the message keeps wherever it goes.
    pub(super) fn id(&self) -> Option<&ShortString> {
        self.properties.message_id().as_ref()
    }
}

/// How often a message was delivered before this time, as far as its queue and its copies know.
pub(super) fn deliveries(properties: &BasicProperties) -> u32 {
    let before = header(properties, ATTEMPT).and_then(number).unwrap_or_default();
    let here = header(properties, DELIVERY_COUNT).and_then(number).unwrap_or_default();
    u32::try_from(before.saturating_add(here).max(0)).unwrap_or(u32::MAX)
}

/// The class that a message says it has; normal where it says nothing that can be read.
pub(super) fn class(properties: &BasicProperties) -> Priority {
    read_class(properties).unwrap_or_default()
}

/// Reads a message back. The error says what is wrong with it.
pub(super) fn read(properties: &BasicProperties, body: &[u8]) -> Result<Envelope, String> {
    let message: Message =
        serde_json::from_slice(body).map_err(|error| format!("its body cannot be read: {error}"))?;
    let tenant = header(properties, TENANT).and_then(text).ok_or("it does not say whose it is")?;
    let tenant = Tenant::new(tenant).map_err(|error| error.to_string())?;
    let priority = read_class(properties).ok_or("it does not say which class it has")?;
    Ok(Envelope { message, priority, tenant })
}

fn read_class(properties: &BasicProperties) -> Option<Priority> {
    let class = header(properties, PRIORITY).and_then(text)?;
    Priority::ALL.into_iter().find(|priority| priority.as_str() == class)
}

/// Reads a dead letter: one of ours, or one that RabbitMQ gave up after `limit` deliveries. The error says what is wrong with it.
pub(super) fn read_dead(properties: &BasicProperties, body: &[u8], limit: u32) -> Result<DeadLetter, String> {
    let envelope = read(properties, body)?;
    let id = properties.message_id().as_ref().ok_or("it has no id")?.as_str().to_owned();
    let attempts =
        header(properties, ATTEMPT).and_then(number).and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    Ok(match header(properties, CAUSE).and_then(text) {
        Some(cause) => DeadLetter { id, envelope, cause, attempts, at: died_at(properties) },
        None => DeadLetter {
            id,
            envelope,
            cause: death(properties),
            attempts: attempts.saturating_add(limit).saturating_add(1),
            at: died_at(properties),
        },
    })
}

/// Since when a message is dead. The beginning of time where it does not say: what is oldest goes first.
pub(super) fn died_at(properties: &BasicProperties) -> Timestamp {
    let ours = header(properties, DIED_AT).and_then(number);
    let theirs = || match last_death(properties)?.inner().get("time")? {
        AMQPValue::Timestamp(seconds) => i64::try_from(*seconds).ok()?.checked_mul(1_000),
        _ => None,
    };
    ours.or_else(theirs).and_then(Timestamp::from_timestamp_millis).unwrap_or_default()
}

/// Why RabbitMQ gave a message up.
fn death(properties: &BasicProperties) -> String {
    let reason = last_death(properties).and_then(|death| text(death.inner().get("reason")?));
    match reason.as_deref() {
        Some("delivery_limit") => {
            "its consumers went without settling it until RabbitMQ gave it up".to_owned()
        }
        Some(reason) => format!("RabbitMQ gave it up: {reason}"),
        None => "it was put here by hand".to_owned(),
    }
}

fn last_death(properties: &BasicProperties) -> Option<&FieldTable> {
    match header(properties, DEATHS)? {
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().first()? {
            AMQPValue::FieldTable(death) => Some(death),
            _ => None,
        },
        _ => None,
    }
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn put_text(headers: &mut FieldTable, name: &'static str, value: &str) {
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn number(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(n) => Some(n.into()),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => Some(n.into()),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => Some(n.into()),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::domain::{JobId, Stage};

    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            message: Message::Job { job_id: JobId::generate(), stage: Stage::Generation },
            priority: Priority::Batch,
            tenant: Tenant::new("acme").unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_says_what_it_is() {
        let envelope = envelope();
        let parcel = Parcel::new(&envelope).unwrap();
        assert_eq!(read(&parcel.properties, &parcel.body).unwrap(), envelope);
        assert_eq!(parcel.properties.kind().as_ref().unwrap().as_str(), "job.v1");
        assert_eq!(*parcel.properties.delivery_mode(), Some(PERSISTENT));
        assert_eq!((deliveries(&parcel.properties), class(&parcel.properties)), (0, Priority::Batch));
    }

    #[test]
    fn a_copy_keeps_its_id_and_counts_what_was_before() {
        let parcel = Parcel::new(&envelope()).unwrap();
        let mut headers = parcel.properties.headers().clone().unwrap();
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(2));
        headers.insert(DEATHS.into(), AMQPValue::FieldArray(Vec::new().into()));
        let came = parcel.properties.clone().with_headers(headers);
        assert_eq!(deliveries(&came), 2);
        let copy = Parcel::copy(&came, &parcel.body, 3);
        assert_eq!((copy.id(), deliveries(&copy.properties)), (parcel.id(), 3));
        assert!(
            header(&copy.properties, DEATHS).is_none() && header(&copy.properties, DELIVERY_COUNT).is_none()
        );
    }

    #[test]
    fn a_dead_letter_says_why_since_when_and_after_how_many_deliveries() {
        let (envelope, before) = (envelope(), now());
        let parcel = Parcel::new(&envelope).unwrap();
        let long = "ä".repeat(CAUSE_BYTES);
        let dead = Parcel::dead(&parcel.properties, &parcel.body, 5, &long);
        let letter = read_dead(&dead.properties, &dead.body, 25).unwrap();
        assert_eq!((&letter.envelope, letter.attempts), (&envelope, 5));
        assert_eq!(letter.id, parcel.id().unwrap().as_str());
        assert!(letter.at >= before && letter.cause.len() <= CAUSE_BYTES && long.starts_with(&letter.cause));
    }

    #[test]
    fn what_rabbitmq_gave_up_is_told_from_its_own_account() {
        let parcel = Parcel::new(&envelope()).unwrap();
        let mut death = FieldTable::default();
        death.insert("reason".into(), AMQPValue::LongString("delivery_limit".into()));
        death.insert("time".into(), AMQPValue::Timestamp(1_700_000_000));
        let mut headers = parcel.properties.headers().clone().unwrap();
        headers.insert(DEATHS.into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
        let letter = read_dead(&parcel.properties.clone().with_headers(headers), &parcel.body, 25).unwrap();
        assert!(letter.cause.contains("went without settling"), "{}", letter.cause);
        assert_eq!((letter.attempts, letter.at.timestamp()), (26, 1_700_000_000));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let good = Parcel::new(&envelope()).unwrap();
        let newer = br#"{"type":"job.v9","job_id":"?"}"#;
        assert!(read(&good.properties, newer).unwrap_err().contains("job.v9"));
        assert!(read(&good.properties, b"\xff\x00").unwrap_err().contains("body"));
        assert!(read(&BasicProperties::default(), &good.body).unwrap_err().contains("whose"));
        assert_eq!(class(&BasicProperties::default()), Priority::Normal);
    }
}
