//! Statements about versions of documents.

use raglan_pipeline::{domain::DocumentId, ports::PortResult};
use sqlx::{
    PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::database::{
    SqlxResultExt as _,
    codec::{RowExt as _, int},
    postgres::{column, try_column},
};

/// A version of a document by its number.
pub(super) type Key = (DocumentId, u64);

/// A statement that gets the documents as `$1` and the numbers of their versions as `$2`, both as arrays.
pub(super) fn about(sql: &'static str, keys: &[Key]) -> PortResult<Query<'static, Postgres, PgArguments>> {
    let numbers = try_column(keys, |(_, version)| int(*version))?;
    Ok(sqlx::query(sql).bind(column(keys, |(id, _)| id.0)).bind(numbers))
}

/// Runs such a statement for what it changes.
pub(super) async fn execute(
    connection: &mut PgConnection,
    sql: &'static str,
    keys: &[Key],
) -> PortResult<()> {
    about(sql, keys)?.execute(connection).await.map(drop).port()
}

/// The key in the columns `document` and `version`.
pub(super) fn key(row: &PgRow) -> PortResult<Key> {
    Ok((DocumentId(row.uuid("document")?), row.number("version")?))
}
