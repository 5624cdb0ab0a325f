//! How values are stored in a database: enums by name, structures as JSON, vectors in half precision. Times and ids are
//! what the engine has for them, which is all that an engine adds to [`RowExt`].

use std::str::FromStr;

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use raglan_pipeline::{
    domain::Timestamp,
    ports::{ErrorKind, PortError, PortResult},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

/// A time in the future (or the present), as it is stored. Beyond the calendar's end it is the end.
pub(crate) fn after(now: Timestamp, delay: std::time::Duration) -> Timestamp {
    let end = chrono::Duration::from_std(delay).ok().and_then(|delay| now.checked_add_signed(delay));
    raglan_pipeline::domain::truncate(end.unwrap_or(Timestamp::MAX_UTC))
}

/// A time in the past; none before the calendar's beginning.
pub(crate) fn before(now: Timestamp, age: std::time::Duration) -> Option<Timestamp> {
    chrono::Duration::from_std(age).ok().and_then(|age| now.checked_sub_signed(age))
}

/// A value as JSON text.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> PortResult<String> {
    serde_json::to_string(value).map_err(|source| {
        PortError::new(ErrorKind::Invalid, "a value cannot be written as JSON").with_source(source)
    })
}

/// An enum's name on the wire.
pub(crate) fn name<T: Serialize>(value: &T) -> PortResult<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => Ok(name),
        _ => Err(PortError::new(ErrorKind::Internal, "a value that should have a name has none")),
    }
}

/// An unsigned number in a column of signed ones.
pub(crate) fn int(value: u64) -> PortResult<i64> {
    i64::try_from(value)
        .map_err(|_| PortError::new(ErrorKind::Invalid, format!("{value} is too big to be stored")))
}

/// A page size as a database's `LIMIT`.
pub(crate) fn limit(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A vector as half-precision floats, little-endian: half the space, and a cosine within 0.001 of the original.
pub(crate) fn vector(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves.into_iter().flat_map(f16::to_le_bytes).collect()
}

/// Reads [`vector`] back.
pub(crate) fn vector_of(bytes: &[u8]) -> PortResult<Vec<f32>> {
    let (pairs, []) = bytes.as_chunks::<2>() else {
        return Err(corrupt("vector", "odd number of bytes"));
    };
    let halves: Vec<f16> = pairs.iter().copied().map(f16::from_le_bytes).collect();
    let mut values = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    Ok(values)
}

/// The stored value of a column cannot be read.
pub(crate) fn corrupt(column: &str, why: impl std::fmt::Display) -> PortError {
    PortError::new(ErrorKind::Corrupt, format!("the stored {column} cannot be read: {why}"))
}

/// Typed reading of a row's columns. What is not said to be optional is `Corrupt` where there is nothing.
pub(crate) trait RowExt {
    /// A text that may be absent.
    fn optional_text(&self, column: &'static str) -> PortResult<Option<&str>>;

    /// A signed number that may be absent.
    fn optional_integer(&self, column: &'static str) -> PortResult<Option<i64>>;

    /// Bytes that may be absent.
    fn optional_bytes(&self, column: &'static str) -> PortResult<Option<&[u8]>>;

    /// An id that may be absent.
    fn optional_uuid(&self, column: &'static str) -> PortResult<Option<Uuid>>;

    /// A time that may be absent.
    fn optional_time(&self, column: &'static str) -> PortResult<Option<Timestamp>>;

    /// A JSON value that may be absent.
    fn optional_json<T: DeserializeOwned>(&self, column: &'static str) -> PortResult<Option<T>>;

    /// A yes or no.
    fn flag(&self, column: &'static str) -> PortResult<bool>;

    /// A text.
    fn text(&self, column: &'static str) -> PortResult<&str> {
        there(column, self.optional_text(column)?)
    }

    /// A text of its own.
    fn string(&self, column: &'static str) -> PortResult<String> {
        self.text(column).map(str::to_owned)
    }

    /// A text of its own that may be absent.
    fn optional_string(&self, column: &'static str) -> PortResult<Option<String>> {
        Ok(self.optional_text(column)?.map(str::to_owned))
    }

    /// Bytes.
    fn bytes(&self, column: &'static str) -> PortResult<&[u8]> {
        there(column, self.optional_bytes(column)?)
    }

    /// An id.
    fn uuid(&self, column: &'static str) -> PortResult<Uuid> {
        there(column, self.optional_uuid(column)?)
    }

    /// A number of any kind that may be absent.
    fn optional_number<T: TryFrom<i64>>(&self, column: &'static str) -> PortResult<Option<T>> {
        self.optional_integer(column)?
            .map(|value| T::try_from(value).map_err(|_| corrupt(column, value)))
            .transpose()
    }

    /// A number of any kind.
    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> PortResult<T> {
        there(column, self.optional_number(column)?)
    }

    /// A time.
    fn time(&self, column: &'static str) -> PortResult<Timestamp> {
        there(column, self.optional_time(column)?)
    }

    /// A JSON value.
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> PortResult<T> {
        there(column, self.optional_json(column)?)
    }

    /// An enum by its name on the wire.
    fn name<T: DeserializeOwned>(&self, column: &'static str) -> PortResult<T> {
        let name = Value::String(self.string(column)?);
        serde_json::from_value(name).map_err(|error| corrupt(column, error))
    }

    /// A value that is parsed from text: a name or a URL.
    fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, column: &'static str) -> PortResult<T> {
        self.text(column)?.parse().map_err(|error| corrupt(column, error))
    }
}

fn there<T>(column: &str, value: Option<T>) -> PortResult<T> {
    value.ok_or_else(|| corrupt(column, "there is none"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_vector_survives_in_half_precision() {
        let values: Vec<f32> = (0..384_u16).map(|i| (f32::from(i) - 192.0) / 2_000.0).collect();
        let bytes = vector(&values);
        assert_eq!(bytes.len(), 768);
        let back = vector_of(&bytes).unwrap();
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() <= a.abs() / 1_024.0));
        assert_eq!(vector_of(&bytes[1..]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_time_beyond_the_calendar_is_its_end() {
        let now = raglan_pipeline::domain::now();
        assert_eq!(after(now, Duration::from_millis(1_500)) - now, chrono::Duration::milliseconds(1_500));
        let end = after(now, Duration::MAX);
        assert_eq!(Timestamp::from_timestamp_millis(end.timestamp_millis()), Some(end));
        assert!(end > now);
        assert_eq!(before(now, Duration::ZERO), Some(now));
        assert_eq!(before(now, Duration::MAX), None);
    }
}
