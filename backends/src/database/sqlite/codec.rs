//! How SQLite stores what it has no type for: times as milliseconds, ids as 16 bytes, JSON as text.

use raglan_pipeline::{domain::Timestamp, ports::PortResult};
use serde::de::DeserializeOwned;
use sqlx::{Decode, Row as _, Sqlite, Type, sqlite::SqliteRow};
use uuid::Uuid;

use crate::database::{
    SqlxResultExt as _,
    codec::{RowExt, corrupt},
};

impl RowExt for SqliteRow {
    fn optional_text(&self, column: &'static str) -> PortResult<Option<&str>> {
        get(self, column)
    }

    fn optional_integer(&self, column: &'static str) -> PortResult<Option<i64>> {
        get(self, column)
    }

    fn optional_bytes(&self, column: &'static str) -> PortResult<Option<&[u8]>> {
        get(self, column)
    }

    fn optional_uuid(&self, column: &'static str) -> PortResult<Option<Uuid>> {
        let bytes = self.optional_bytes(column)?;
        bytes.map(|bytes| Uuid::from_slice(bytes).map_err(|error| corrupt(column, error))).transpose()
    }

    fn optional_time(&self, column: &'static str) -> PortResult<Option<Timestamp>> {
        let millis = self.optional_integer(column)?;
        millis
            .map(|millis| Timestamp::from_timestamp_millis(millis).ok_or_else(|| corrupt(column, millis)))
            .transpose()
    }

    fn optional_json<T: DeserializeOwned>(&self, column: &'static str) -> PortResult<Option<T>> {
        let text = self.optional_text(column)?;
        text.map(|text| serde_json::from_str(text).map_err(|error| corrupt(column, error))).transpose()
    }

    fn flag(&self, column: &'static str) -> PortResult<bool> {
        get(self, column)
    }
}

fn get<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(row: &'r SqliteRow, column: &'static str) -> PortResult<T> {
    row.try_get(column).port()
}
