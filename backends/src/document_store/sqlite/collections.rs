//! The SQL of the table `collections`.

use raglan_pipeline::{
    domain::{Collection, CollectionInfo, Tenant, Timestamp},
    ports::PortResult,
};
use sqlx::{SqliteConnection, SqliteExecutor};

use crate::{database::SqlxResultExt as _, document_store::rows::collection};

/// Makes a collection where it is missing. Whether it was.
pub(super) async fn ensure(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    name: &Collection,
    now: Timestamp,
) -> PortResult<bool> {
    sqlx::query(
        "INSERT INTO collections (tenant, name, description, created_at) VALUES (?, ?, '', ?) ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(name.as_str())
    .bind(now.timestamp_millis())
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected() > 0)
}

/// Sets what a collection is for.
pub(super) async fn describe(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    name: &Collection,
    description: &str,
) -> PortResult<()> {
    sqlx::query("UPDATE collections SET description = ? WHERE tenant = ? AND name = ?")
        .bind(description)
        .bind(tenant.as_str())
        .bind(name.as_str())
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// Whether there is such a collection.
pub(super) async fn exists(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    name: &Collection,
) -> PortResult<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM collections WHERE tenant = ? AND name = ?)")
        .bind(tenant.as_str())
        .bind(name.as_str())
        .fetch_one(connection)
        .await
        .port()
}

/// Removes a collection, not its documents.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    name: &Collection,
) -> PortResult<()> {
    sqlx::query("DELETE FROM collections WHERE tenant = ? AND name = ?")
        .bind(tenant.as_str())
        .bind(name.as_str())
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// A tenant's collections by name, or the one named.
pub(super) async fn select(
    executor: impl SqliteExecutor<'_>,
    tenant: &Tenant,
    only: Option<&Collection>,
) -> PortResult<Vec<CollectionInfo>> {
    let rows = sqlx::query(
        "SELECT c.name, c.description, c.created_at, count(v.version) AS documents, coalesce(sum(v.chunks), 0) AS chunks \
         FROM collections c LEFT JOIN documents d ON d.tenant = c.tenant AND d.collection = c.name \
         AND d.live_version IS NOT NULL LEFT JOIN versions v ON v.document = d.key AND v.version = d.live_version \
         WHERE c.tenant = ?1 AND (?2 IS NULL OR c.name = ?2) GROUP BY c.name ORDER BY c.name",
    )
    .bind(tenant.as_str())
    .bind(only.map(Collection::as_str))
    .fetch_all(executor)
    .await
    .port()?;
    rows.iter().map(collection).collect()
}
