//! The gRPC calls, each with its time limit and its error.
//!
//! The channels are our own and not those of `qdrant_client::Qdrant`: that client sends no keep-alive pings, so that it holds on to a connection that went
//! silent for as long as the system retransmits (a quarter of an hour), and it makes every failed call a second time on a connection made for it.
//! Here a connection that does not answer a ping is closed, and the next call connects anew.

use std::{future::Future, time::Duration};

use qdrant_client::qdrant::{
    ChangeAliases, CollectionInfo, CountPoints, CreateCollection, CreateFieldIndexCollection,
    DeleteCollection, GetCollectionInfoRequest, GetPoints, ListAliasesRequest, ListCollectionsRequest,
    PointId, PointsUpdateOperation, QueryPoints, ScoredPoint, UpdateBatchPoints, UpdateStatus,
    alias_operations::Action, collections_client::CollectionsClient, points_client::PointsClient,
};
use raglan_pipeline::{
    ports::{ErrorKind, PortError, PortResult},
    secret::Secret,
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use super::{
    error,
    settings::QdrantSettings,
    state::{self, State},
};

/// A connection is asked for a sign of life this often …
const PING_EVERY: Duration = Duration::from_secs(2);
/// … and closed when none comes for so long.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

type Service = InterceptedService<Channel, Key>;

/// What calls Qdrant.
pub(super) struct Client {
    searches: PointsClient<Service>,
    /// On a connection of its own, so that no search waits behind a large write.
    writes: PointsClient<Service>,
    collections: CollectionsClient<Service>,
    search_timeout: Duration,
    write_timeout: Duration,
}

/// Puts the API key on every call.
#[derive(Clone)]
struct Key(Option<MetadataValue<Ascii>>);

impl Key {
    fn new(key: Option<&Secret>) -> PortResult<Self> {
        let Some(key) = key.filter(|key| !key.is_empty()) else { return Ok(Self(None)) };
        let mut value: MetadataValue<Ascii> = key.expose().parse().map_err(|_| {
            PortError::new(ErrorKind::Invalid, "Qdrant's API key has characters that no header may have")
        })?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("api-key", key.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// A client that connects with its first call. Needs the async runtime.
    pub(super) fn new(settings: &QdrantSettings) -> PortResult<Self> {
        let endpoint = endpoint(settings).map_err(|error| {
            PortError::new(ErrorKind::Invalid, format!("Qdrant's address {} is not usable", settings.url))
                .with_source(error)
        })?;
        let key = Key::new(settings.api_key.as_ref())?;
        let service = || InterceptedService::new(endpoint.connect_lazy(), key.clone());
        let writes = service();
        Ok(Self {
            // As many hits as somebody asks for are more than gRPC's usual 4 MB.
            searches: PointsClient::new(service()).max_decoding_message_size(usize::MAX),
            writes: PointsClient::new(writes.clone()),
            collections: CollectionsClient::new(writes),
            search_timeout: settings.search_timeout,
            write_timeout: settings.write_timeout,
        })
    }

    /// What a collection (or an alias) is; none where there is no such thing.
    pub(super) async fn info(&self, collection: &str) -> PortResult<Option<CollectionInfo>> {
        let request = GetCollectionInfoRequest { collection_name: collection.to_owned() };
        let mut client = self.collections.clone();
        match within(self.search_timeout, client.get(request)).await {
            Ok(response) => Ok(response.result),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(error::of_status("tell what the collection is", &status)),
        }
    }

    /// The collection that an alias stands for.
    pub(super) async fn target(&self, alias: &str) -> PortResult<Option<String>> {
        let mut client = self.collections.clone();
        let response = within(self.search_timeout, client.list_aliases(ListAliasesRequest {})).await;
        let aliases = response.map_err(|status| error::of_status("list aliases", &status))?.aliases;
        let found = aliases.into_iter().find(|held| held.alias_name == alias);
        Ok(found.map(|held| held.collection_name))
    }

    /// The names of all collections.
    pub(super) async fn names(&self) -> PortResult<Vec<String>> {
        let mut client = self.collections.clone();
        let response = within(self.search_timeout, client.list(ListCollectionsRequest {})).await;
        let collections =
            response.map_err(|status| error::of_status("list collections", &status))?.collections;
        Ok(collections.into_iter().map(|collection| collection.name).collect())
    }

    /// Makes a collection. False where it is there already.
    pub(super) async fn create(&self, collection: CreateCollection) -> PortResult<bool> {
        let mut client = self.collections.clone();
        match within(self.write_timeout, client.create(collection)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(error::of_status("make a collection", &status)),
        }
    }

    /// Makes a payload index, where it is missing.
    pub(super) async fn create_index(&self, index: CreateFieldIndexCollection) -> PortResult<()> {
        let mut client = self.writes.clone();
        let created = within(self.write_timeout, client.create_field_index(index)).await;
        created.map(drop).map_err(|status| error::of_status("make a payload index", &status))
    }

    /// Changes aliases, all at once.
    pub(super) async fn change_aliases(&self, actions: Vec<Action>) -> PortResult<()> {
        let actions = actions.into_iter().map(Into::into).collect();
        let request = ChangeAliases { actions, timeout: Some(seconds(self.write_timeout)) };
        let mut client = self.collections.clone();
        let changed = within(self.write_timeout, client.update_aliases(request)).await;
        changed.map(drop).map_err(|status| error::of_status("change an alias", &status))
    }

    /// Removes a collection with all that is in it.
    pub(super) async fn remove(&self, collection: String) -> PortResult<()> {
        let request =
            DeleteCollection { collection_name: collection, timeout: Some(seconds(self.write_timeout)) };
        let mut client = self.collections.clone();
        let removed = within(self.write_timeout, client.delete(request)).await;
        removed.map(drop).map_err(|status| error::of_status("remove a collection", &status))
    }

    /// How far a collection is fed; none where there is no such collection.
    pub(super) async fn state(&self, collection: String) -> PortResult<Option<State>> {
        let request = GetPoints {
            collection_name: collection.clone(),
            ids: vec![PointId::from(state::ID)],
            with_payload: Some(true.into()),
            with_vectors: Some(false.into()),
            timeout: Some(seconds(self.search_timeout)),
            ..GetPoints::default()
        };
        let mut client = self.writes.clone();
        let found = match within(self.search_timeout, client.get(request)).await {
            Ok(response) => response.result,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(error::of_status("tell the index's position", &status)),
        };
        let payload = found.into_iter().next().map(|point| point.payload).unwrap_or_default();
        Ok(Some(State::of_payload(collection, &payload)))
    }

    /// Carries out operations, one after the other. When it returns, every search that begins sees them.
    pub(super) async fn update(
        &self,
        collection: &str,
        operations: Vec<PointsUpdateOperation>,
    ) -> PortResult<()> {
        let request = UpdateBatchPoints {
            collection_name: collection.to_owned(),
            wait: Some(true),
            operations,
            timeout: Some(seconds(self.write_timeout)),
            ..UpdateBatchPoints::default()
        };
        let mut client = self.writes.clone();
        let written = within(self.write_timeout, client.update_batch(request)).await;
        let results = written.map_err(|status| error::of_status("write", &status))?.result;
        // Taken is not enough: a search must see it, and the position is written after it.
        match results.iter().find(|result| result.status() != UpdateStatus::Completed) {
            None => Ok(()),
            Some(result) => Err(PortError::new(
                ErrorKind::Timeout,
                format!("Qdrant took a write and did not carry it out in time ({:?})", result.status()),
            )),
        }
    }

    /// How many points a request counts.
    pub(super) async fn count(&self, request: CountPoints) -> PortResult<u64> {
        // Qdrant walks past all points.
        let mut client = self.writes.clone();
        let counted = within(self.write_timeout, client.count(request)).await;
        let counted = counted.map_err(|status| error::of_status("count", &status))?;
        Ok(counted.result.map_or(0, |result| result.count))
    }

    /// The points that a query finds, best first.
    pub(super) async fn query(&self, request: QueryPoints) -> PortResult<Vec<ScoredPoint>> {
        let request = QueryPoints { timeout: Some(seconds(self.search_timeout)), ..request };
        let mut client = self.searches.clone();
        let found = within(self.search_timeout, client.query(request)).await;
        Ok(found.map_err(|status| error::of_status("search", &status))?.result)
    }
}

fn endpoint(settings: &QdrantSettings) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(settings.url.as_str().to_owned())?
        .user_agent(concat!("raglan/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(settings.connect_timeout)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match settings.url.scheme() {
        "https" => endpoint.tls_config(ClientTlsConfig::new().with_native_roots()),
        _ => Ok(endpoint),
    }
}

/// What a call brings, or that it took too long.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// A time limit as Qdrant takes it.
pub(super) fn seconds(limit: Duration) -> u64 {
    limit.as_secs_f64().ceil().max(1.0) as u64
}
