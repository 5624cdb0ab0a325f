//! Schemas for tests: each database is one of its own on the real server, and all go at the end, also after a failure.

use std::sync::{Mutex, PoisonError};

use raglan_pipeline::ports::ErrorKind;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use uuid::Uuid;

use super::*;
use crate::test_servers::{postgres_url, skipped};

/// Makes databases for one test.
pub(crate) struct Scratch {
    schemas: Mutex<Vec<String>>,
}

impl Scratch {
    /// None, said so under the test's name, where no server answers.
    pub(crate) async fn new(test: &str) -> Option<Self> {
        match PostgresDatabase::connect(PostgresSettings::new(postgres_url())).await {
            Ok(_) => Some(Self { schemas: Mutex::default() }),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                skipped(test, &format!("no PostgreSQL answers at RAGLAN_TEST_POSTGRES_URL: {error}"));
                None
            }
            Err(error) => panic!("the test server is not fit: {error}"),
        }
    }

    /// Settings for a schema that is not there yet.
    pub(crate) fn settings(&self) -> PostgresSettings {
        let schema = format!("raglan_test_{}", Uuid::new_v4().simple());
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner).push(schema.clone());
        PostgresSettings { schema: Some(schema), pool_size: 4, ..PostgresSettings::new(postgres_url()) }
    }

    /// The same for connections that the server knows by a name.
    pub(crate) fn named_settings(&self, name: &str) -> PostgresSettings {
        let settings = self.settings();
        let mut url = url::Url::parse(settings.url.expose()).unwrap();
        url.query_pairs_mut().append_pair("application_name", name);
        PostgresSettings { url: url.as_str().to_owned().into(), ..settings }
    }

    /// An empty database.
    pub(crate) async fn database(&self) -> PostgresDatabase {
        PostgresDatabase::open(self.settings()).await.unwrap()
    }
}

/// A wire to the server that can be cut without a word: what is sent over it then arrives nowhere, and nobody hears of it.
pub(crate) struct Wire {
    port: u16,
    cuts: watch::Sender<u32>,
}

impl Wire {
    /// One that is whole. Each connection over it goes to the server of these settings.
    pub(crate) async fn to(settings: &PostgresSettings) -> Self {
        let url = url::Url::parse(settings.url.expose()).unwrap();
        let server = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cuts, _) = watch::channel(0);
        let seen = cuts.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, server) = (seen.subscribe(), server.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        // Both ends stay open, and hear nothing any more.
                        _ = cut.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { port, cuts }
    }

    /// The settings for one who goes over the wire.
    pub(crate) fn over(&self, settings: PostgresSettings) -> PostgresSettings {
        let mut url = url::Url::parse(settings.url.expose()).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.port)).unwrap();
        PostgresSettings { url: url.as_str().to_owned().into(), ..settings }
    }

    /// Cuts all connections that there are. Later ones are whole.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let schemas = std::mem::take(&mut *self.schemas.lock().unwrap_or_else(PoisonError::into_inner));
        // A thread of its own: this runs within a runtime, which must not be blocked by another.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let settings = PostgresSettings::new(postgres_url());
                let mut connection = settings.options(&settings.url).unwrap().connect().await.unwrap();
                for schema in schemas {
                    let sql = format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE");
                    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                }
                connection.close().await.unwrap();
            });
        });
        assert!(dropping.join().is_ok() || std::thread::panicking(), "the test's schemas are still there");
    }
}
