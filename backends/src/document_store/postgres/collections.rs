//! The SQL of the table `collections`.

use std::collections::BTreeSet;

use raglan_pipeline::{
    domain::{Collection, CollectionInfo, Tenant},
    ports::{ErrorKind, PortError, PortResult},
};
use sqlx::PgConnection;

use crate::{
    database::{SqlxResultExt as _, codec::RowExt as _, postgres::column},
    document_store::rows::collection,
};

/// How often a collection that is removed in the same moment is made again.
const TRIES: usize = 5;

/// Makes collections where they are missing, and keeps them from being removed until the transaction ends.
pub(super) async fn hold(
    connection: &mut PgConnection,
    names: &BTreeSet<(&Tenant, &Collection)>,
) -> PortResult<()> {
    let tenants = column(names, |(tenant, _)| tenant.as_str());
    let collections = column(names, |(_, name)| name.as_str());
    for _ in 0..TRIES {
        let held = sqlx::query(
            "SELECT name FROM collections WHERE (tenant, name) IN (SELECT * FROM UNNEST($1::text[], $2::text[])) \
             ORDER BY tenant, name FOR KEY SHARE",
        )
        .bind(&tenants)
        .bind(&collections)
        .fetch_all(&mut *connection)
        .await
        .port()?;
        if held.len() == names.len() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO collections (tenant, name, created_at, description) \
             SELECT tenant, name, date_trunc('milliseconds', now()), '' \
             FROM UNNEST($1::text[], $2::text[]) AS new (tenant, name) ORDER BY tenant, name ON CONFLICT DO NOTHING",
        )
        .bind(&tenants)
        .bind(&collections)
        .execute(&mut *connection)
        .await
        .port()?;
    }
    Err(PortError::new(ErrorKind::Unavailable, "a collection is being removed; try again"))
}

/// Makes a collection or changes its description. Whether it was made.
pub(super) async fn put(
    connection: &mut PgConnection,
    tenant: &Tenant,
    name: &Collection,
    description: &str,
) -> PortResult<bool> {
    sqlx::query(
        "INSERT INTO collections (tenant, name, created_at, description) \
         VALUES ($1, $2, date_trunc('milliseconds', now()), $3) \
         ON CONFLICT (tenant, name) DO UPDATE SET description = excluded.description RETURNING xmax = 0 AS is_new",
    )
    .bind(tenant.as_str())
    .bind(name.as_str())
    .bind(description)
    .fetch_one(connection)
    .await
    .port()?
    .flag("is_new")
}

/// Whether there is such a collection. If so nobody adds documents to it until the transaction ends.
pub(super) async fn lock(
    connection: &mut PgConnection,
    tenant: &Tenant,
    name: &Collection,
) -> PortResult<bool> {
    sqlx::query("SELECT name FROM collections WHERE tenant = $1 AND name = $2 FOR UPDATE")
        .bind(tenant.as_str())
        .bind(name.as_str())
        .fetch_optional(connection)
        .await
        .port()
        .map(|found| found.is_some())
}

/// Removes a collection, not its documents.
pub(super) async fn delete(
    connection: &mut PgConnection,
    tenant: &Tenant,
    name: &Collection,
) -> PortResult<()> {
    sqlx::query("DELETE FROM collections WHERE tenant = $1 AND name = $2")
        .bind(tenant.as_str())
        .bind(name.as_str())
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// A tenant's collections by name, or the one named.
pub(super) async fn select(
    connection: &mut PgConnection,
    tenant: &Tenant,
    only: Option<&Collection>,
) -> PortResult<Vec<CollectionInfo>> {
    let rows = sqlx::query(
        "SELECT c.name, c.description, c.created_at, count(v.version) AS documents, \
         coalesce(sum(v.chunks), 0)::bigint AS chunks \
         FROM collections c LEFT JOIN documents d ON d.tenant = c.tenant AND d.collection = c.name \
         AND d.live_version IS NOT NULL LEFT JOIN versions v ON v.document = d.id AND v.version = d.live_version \
         WHERE c.tenant = $1 AND ($2 IS NULL OR c.name = $2) GROUP BY c.tenant, c.name ORDER BY c.name",
    )
    .bind(tenant.as_str())
    .bind(only.map(Collection::as_str))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(collection).collect()
}
