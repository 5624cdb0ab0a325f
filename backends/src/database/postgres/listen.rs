//! Hints that the change log has grown. Nothing depends on them: who misses one finds out when it looks by itself.

use std::time::Duration;

use async_stream::stream;
use futures::Stream;
use raglan_pipeline::ports::PortResult;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{PostgresDatabase, connection};
use crate::database::SqlxResultExt as _;

/// The channel; the payload is the schema whose log has grown, since a channel is the whole database's.
pub(crate) const CHANGES_CHANNEL: &str = "raglan_changes";
/// A connection that brought nothing for so long is tried: one that was cut without a word would be silent for ever.
const SILENCE: Duration = Duration::from_secs(30);
/// How long that may take.
const TRIAL: Duration = Duration::from_secs(5);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_secs(1);

impl PostgresDatabase {
    /// An item whenever the change log may have grown: after a change by any process, and after every time that the
    /// connection was made, since something may have been missed before it. It connects again by itself, until the database is closed.
    pub fn listen(&self) -> impl Stream<Item = ()> + Send + use<> {
        let database = self.clone();
        stream! {
            while !database.is_closed() {
                match database.listener().await {
                    Ok((mut listener, schema)) => {
                        yield ();
                        loop {
                            match next(&mut listener, &schema).await {
                                Ok(true) => yield (),
                                Ok(false) => {}
                                Err(error) => {
                                    debug!(%error, "connection that listens for changes lost");
                                    break;
                                }
                            }
                        }
                    }
                    Err(error) => warn!(%error, "no connection to listen for changes; they are looked for"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// A connection that listens, with the schema that it is for.
    async fn listener(&self) -> PortResult<(PgListener, String)> {
        let shared = &self.shared;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(shared.settings.acquire_timeout)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(shared.options.clone());
        let connecting = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // When it is lost, it is for us to say so.
            listener.eager_reconnect(false);
            listener.listen(CHANGES_CHANNEL).await?;
            let schema: Option<String> =
                sqlx::query_scalar("SELECT current_schema()::text").fetch_one(&mut listener).await?;
            Ok((listener, schema.unwrap_or_default()))
        };
        match timeout(self.call_timeout(), connecting).await {
            Ok(listener) => listener.port(),
            Err(_) => Err(connection::unreachable()),
        }
    }
}

/// Waits for what comes next. Whether it is about this schema.
async fn next(listener: &mut PgListener, schema: &str) -> PortResult<bool> {
    let Ok(received) = timeout(SILENCE, listener.try_recv()).await else {
        return match timeout(TRIAL, sqlx::query("SELECT 1").execute(listener)).await {
            Ok(done) => done.port().map(|_| false),
            Err(_) => Err(connection::unreachable()),
        };
    };
    let Some(first) = received.port()? else { return Err(connection::unreachable()) };
    let mut is_ours = first.payload() == schema;
    // Those that came together are one hint.
    while let Some(more) = listener.next_buffered() {
        is_ours |= more.payload() == schema;
    }
    Ok(is_ours)
}
