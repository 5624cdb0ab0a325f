//! How an event lies in a stream and how it travels in a message.

use raglan_pipeline::{
    domain::{Event, EventType, JobId, NewEvent, Timestamp},
    ports::{ErrorKind, PortError, PortResult},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What stands for the number of the event before one where it is not known.
const UNKNOWN: &[u8] = b"-";

/// An entry as Redis lists it: its id, then names and values in turns.
pub(super) type Listed = (String, Vec<Vec<u8>>);

/// An entry of a stream.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// Its number.
    pub(super) seq: u64,
    /// The event; none where this version of the program cannot read it.
    pub(super) linked: Option<Linked>,
}

/// An event and what it follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Linked {
    /// The number of the event before it; none where the log had been lost.
    pub(super) before: Option<u64>,
    /// The event.
    pub(super) event: Event,
}

/// An event without what stands beside it.
#[derive(Serialize, Deserialize)]
struct Body<D> {
    #[serde(rename = "type")]
    kind: EventType,
    at: Timestamp,
    data: D,
}

/// The stream of a job, and its channel. The braces keep what belongs to one job in one slot of a cluster.
pub(super) fn key(prefix: &str, job: JobId) -> String {
    format!("{prefix}:events:{{{job}}}")
}

/// The job of a channel.
pub(super) fn job_of(prefix: &str, channel: &[u8]) -> Option<JobId> {
    let name = std::str::from_utf8(channel).ok()?;
    name.strip_prefix(prefix)?.strip_prefix(":events:{")?.strip_suffix('}')?.parse().ok()
}

/// An event as it is stored.
pub(super) fn body(event: &NewEvent) -> PortResult<Vec<u8>> {
    let body = Body { kind: event.kind, at: event.at, data: &event.data };
    serde_json::to_vec(&body).map_err(|error| {
        PortError::new(ErrorKind::Invalid, "an event cannot be written as JSON").with_source(error)
    })
}

/// Reads an entry of a stream. An entry without a number is none of ours.
pub(super) fn entry(job: JobId, (id, fields): Listed) -> PortResult<Entry> {
    let seq = id.split('-').next().and_then(|seq| seq.parse().ok()).ok_or_else(|| {
        PortError::new(ErrorKind::Corrupt, format!("redis holds an event with the number {id:?}"))
    })?;
    let linked = match &fields[..] {
        [_, before, _, _, _, body] => linked(job, seq, before, body),
        _ => None,
    };
    Ok(Entry { seq, linked })
}

/// Reads a message, which may bring several events; none where this version of the program cannot.
pub(super) fn message(job: JobId, message: &[u8]) -> Option<Vec<Linked>> {
    let mut parts = message.splitn(3, |byte| *byte == b' ');
    let (first, before, bodies) = (number(parts.next()?)?, parts.next()?, parts.next()?);
    let mut events: Vec<Linked> = Vec::new();
    for (seq, body) in (first..).zip(bodies.split(|byte| *byte == b'\n')) {
        events.push(if events.is_empty() {
            linked(job, seq, before, body)?
        } else {
            Linked { before: Some(seq - 1), event: event(job, seq, body)? }
        });
    }
    Some(events)
}

fn linked(job: JobId, seq: u64, before: &[u8], body: &[u8]) -> Option<Linked> {
    let before = if before == UNKNOWN { None } else { Some(number(before)?) };
    Some(Linked { before, event: event(job, seq, body)? })
}

fn event(job: JobId, seq: u64, body: &[u8]) -> Option<Event> {
    let Body { kind, at, data } = serde_json::from_slice::<Body<Value>>(body).ok()?;
    Some(Event { seq, job_id: job, kind, at, data })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let (job, new) =
            (JobId::generate(), NewEvent::now(EventType::AnswerDelta, json!({"text": "a b\n“ü”"})));
        let body = body(&new).unwrap();
        let event = Event { seq: 7, job_id: job, kind: new.kind, at: new.at, data: new.data };
        let mut text = b"7 5 ".to_vec();
        text.extend_from_slice(&body);
        let first = Linked { before: Some(5), event: event.clone() };
        assert_eq!(message(job, &text), Some(vec![first.clone()]));
        text.push(b'\n');
        text.extend_from_slice(&body);
        let second = Linked { before: Some(7), event: Event { seq: 8, ..event.clone() } };
        assert_eq!(message(job, &text), Some(vec![first, second]));
        let fields =
            [&b"before"[..], b"-", b"mark", b"\x00\xff", b"event", &body].map(<[u8]>::to_vec).to_vec();
        let read = entry(job, ("7-0".to_owned(), fields)).unwrap();
        assert_eq!(read, Entry { seq: 7, linked: Some(Linked { before: None, event }) });
    }

    #[test]
    fn what_a_newer_program_wrote_keeps_its_number() {
        let job = JobId::generate();
        let unknown = br#"{"type":"job.dreaming","at":"2026-01-01T00:00:00Z","data":{}}"#;
        let fields = [&b"before"[..], b"6", b"mark", b"", b"event", unknown].map(<[u8]>::to_vec).to_vec();
        assert_eq!(entry(job, ("7-0".to_owned(), fields)).unwrap(), Entry { seq: 7, linked: None });
        assert_eq!(entry(job, ("7-0".to_owned(), Vec::new())).unwrap(), Entry { seq: 7, linked: None });
        assert!(entry(job, ("x".to_owned(), Vec::new())).is_err());
        for broken in [&b""[..], b"7", b"7 6", b"x 6 {}", b"7 x {}", b"7 6 {", unknown, b"7 6 {}\n{}"] {
            assert_eq!(message(job, broken), None);
        }
    }

    #[test]
    fn channels_name_their_job() {
        let job = JobId::generate();
        assert_eq!(job_of("a", key("a", job).as_bytes()), Some(job));
        assert_eq!(job_of("b", key("a", job).as_bytes()), None);
        assert_eq!(job_of("a", b"a:events:{nothing}"), None);
    }
}
