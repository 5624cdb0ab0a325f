//! How PostgreSQL stores values: it has types for all of them.

use raglan_pipeline::{domain::Timestamp, ports::PortResult};
use serde::de::DeserializeOwned;
use sqlx::{Decode, Postgres, Row as _, Type, postgres::PgRow, types::Json};
use uuid::Uuid;

use crate::database::{SqlxResultExt as _, codec::RowExt};

impl RowExt for PgRow {
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
        get(self, column)
    }

    fn optional_time(&self, column: &'static str) -> PortResult<Option<Timestamp>> {
        get(self, column)
    }

    fn optional_json<T: DeserializeOwned>(&self, column: &'static str) -> PortResult<Option<T>> {
        Ok(get::<Option<Json<T>>>(self, column)?.map(|json| json.0))
    }

    fn flag(&self, column: &'static str) -> PortResult<bool> {
        get(self, column)
    }
}

fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, column: &'static str) -> PortResult<T> {
    row.try_get(column).port()
}

/// One column of many rows, to be sent as an array.
pub(crate) fn column<'a, R: 'a, T>(
    rows: impl IntoIterator<Item = &'a R>,
    of: impl FnMut(&'a R) -> T,
) -> Vec<T> {
    rows.into_iter().map(of).collect()
}

/// The same where a value may not be one that can be stored.
pub(crate) fn try_column<'a, R: 'a, T>(
    rows: impl IntoIterator<Item = &'a R>,
    of: impl FnMut(&'a R) -> PortResult<T>,
) -> PortResult<Vec<T>> {
    rows.into_iter().map(of).collect()
}
