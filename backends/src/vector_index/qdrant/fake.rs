//! A Qdrant for tests, as far as the index uses one: over gRPC, with collections in memory that are searched one point after the other.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ::qdrant_client::qdrant::{
    collections_server::{Collections, CollectionsServer},
    points_server::{Points, PointsServer},
    *,
};
use tokio::{net::TcpListener, runtime::Runtime, task::spawn_blocking};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use condition::ConditionOneOf;
use points_selector::PointsSelectorOneOf;
use points_update_operation::Operation;
use value::Kind;

/// What the server holds; it outlives the server, as Qdrant's disk does.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    collections: BTreeMap<String, Collection>,
    aliases: BTreeMap<String, String>,
    api_key: Option<String>,
    /// How writes end.
    write_status: Option<UpdateStatus>,
    /// The calls that came, by name.
    calls: Vec<&'static str>,
}

struct Collection {
    vectors: Option<VectorsConfig>,
    indexes: Vec<String>,
    points: HashMap<PointId, Point>,
}

struct Point {
    payload: HashMap<String, Value>,
    /// At unit length; none where it has none.
    vector: Option<Vec<f32>>,
}

/// A server that runs; dropped, it ends and closes its connections.
pub(super) struct Running {
    pub address: SocketAddr,
    /// Its own, so that no task of it is left when it ends.
    runtime: Option<Runtime>,
}

impl Running {
    /// Ends it, and waits until it has ended.
    pub(super) async fn stop(mut self) {
        let runtime = self.runtime.take();
        spawn_blocking(|| drop(runtime)).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fake {
    /// Serves at an address; port 0 is a free one.
    pub(super) fn serve(&self, address: SocketAddr) -> Running {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Server::builder()
            .add_service(CollectionsServer::new(self.clone()))
            .add_service(PointsServer::new(self.clone()).max_decoding_message_size(usize::MAX));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            router.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Running { address, runtime: Some(runtime) }
    }

    /// Wants this key from now on.
    pub(super) fn want_key(&self, key: &str) {
        self.0.lock().unwrap().api_key = Some(key.to_owned());
    }

    /// Ends writes with this status from now on.
    pub(super) fn end_writes_with(&self, status: UpdateStatus) {
        self.0.lock().unwrap().write_status = Some(status);
    }

    /// Loses everything, as a server does whose disk is new.
    pub(super) fn lose(&self) {
        *self.0.lock().unwrap() = Held::default();
    }

    /// The calls since this was last asked.
    pub(super) fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    fn answer<I, O>(
        &self,
        name: &'static str,
        request: Request<I>,
        call: impl FnOnce(&mut Held, I) -> Result<O, Status>,
    ) -> Result<Response<O>, Status> {
        let mut held = self.0.lock().unwrap();
        held.calls.push(name);
        let given = request.metadata().get("api-key").and_then(|key| key.to_str().ok());
        if held.api_key.as_deref().is_some_and(|wanted| given != Some(wanted)) {
            return Err(Status::unauthenticated("Must provide an API key"));
        }
        call(&mut held, request.into_inner()).map(Response::new)
    }
}

impl Held {
    fn name_of(&self, name: &str) -> String {
        self.aliases.get(name).map_or(name, String::as_str).to_owned()
    }

    fn collection(&mut self, name: &str) -> Result<&mut Collection, Status> {
        let name = self.name_of(name);
        let missing = Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"));
        self.collections.get_mut(&name).ok_or(missing)
    }

    fn create(&mut self, asked: CreateCollection) -> Result<CollectionOperationResponse, Status> {
        if self.collections.contains_key(&asked.collection_name) {
            return Err(Status::already_exists(format!("{} already exists!", asked.collection_name)));
        }
        let made = Collection { vectors: asked.vectors_config, indexes: Vec::new(), points: HashMap::new() };
        self.collections.insert(asked.collection_name, made);
        Ok(done())
    }

    fn change_aliases(&mut self, asked: ChangeAliases) -> Result<CollectionOperationResponse, Status> {
        for action in asked.actions.into_iter().filter_map(|operation| operation.action) {
            match action {
                alias_operations::Action::CreateAlias(CreateAlias { collection_name, alias_name }) => {
                    self.collection(&collection_name)?;
                    self.aliases.insert(alias_name, collection_name);
                }
                alias_operations::Action::DeleteAlias(DeleteAlias { alias_name }) => {
                    self.aliases.remove(&alias_name);
                }
                alias_operations::Action::RenameAlias(_) => return Err(unused("rename_alias")),
            }
        }
        Ok(done())
    }

    fn info(&mut self, asked: GetCollectionInfoRequest) -> Result<GetCollectionInfoResponse, Status> {
        let collection = self.collection(&asked.collection_name)?;
        let params =
            CollectionParams { vectors_config: collection.vectors.clone(), ..CollectionParams::default() };
        let info = CollectionInfo {
            config: Some(CollectionConfig { params: Some(params), ..CollectionConfig::default() }),
            payload_schema: collection
                .indexes
                .iter()
                .map(|field| (field.clone(), PayloadSchemaInfo::default()))
                .collect(),
            ..CollectionInfo::default()
        };
        Ok(GetCollectionInfoResponse { result: Some(info), time: 0.0 })
    }

    fn update(&mut self, asked: UpdateBatchPoints) -> Result<UpdateBatchResponse, Status> {
        assert_eq!(asked.wait, Some(true));
        let status = self.write_status.unwrap_or(UpdateStatus::Completed);
        let collection = self.collection(&asked.collection_name)?;
        let mut result = Vec::new();
        for operation in asked.operations.into_iter().filter_map(|operation| operation.operation) {
            collection.carry_out(operation)?;
            result.push(UpdateResult { operation_id: None, status: status.into() });
        }
        Ok(UpdateBatchResponse { result, ..UpdateBatchResponse::default() })
    }

    fn count(&mut self, asked: CountPoints) -> Result<CountResponse, Status> {
        let count = self.collection(&asked.collection_name)?.matching(asked.filter.as_ref()).count() as u64;
        Ok(CountResponse { result: Some(CountResult { count }), ..CountResponse::default() })
    }

    fn get(&mut self, asked: GetPoints) -> Result<GetResponse, Status> {
        let collection = self.collection(&asked.collection_name)?;
        let found = asked.ids.into_iter().filter_map(|id| {
            let payload = collection.points.get(&id)?.payload.clone();
            Some(RetrievedPoint { id: Some(id), payload, ..RetrievedPoint::default() })
        });
        Ok(GetResponse { result: found.collect(), ..GetResponse::default() })
    }

    fn query(&mut self, asked: QueryPoints) -> Result<QueryResponse, Status> {
        let Some(query::Variant::Nearest(VectorInput {
            variant: Some(vector_input::Variant::Dense(vector)),
        })) = asked.query.and_then(|query| query.variant)
        else {
            return Err(unused("other queries"));
        };
        let vector = unit(vector.data);
        let collection = self.collection(&asked.collection_name)?;
        let score =
            |point: &Point| Some(point.vector.as_ref()?.iter().zip(&vector).map(|(a, b)| a * b).sum::<f32>());
        let mut result: Vec<ScoredPoint> = collection
            .matching(asked.filter.as_ref())
            .filter_map(|(id, point)| {
                Some(ScoredPoint { id: Some(id.clone()), score: score(point)?, ..ScoredPoint::default() })
            })
            .collect();
        result.sort_by(|a, b| b.score.total_cmp(&a.score));
        result.truncate(usize::try_from(asked.limit.unwrap_or(10)).unwrap());
        Ok(QueryResponse { result, ..QueryResponse::default() })
    }
}

impl Collection {
    fn matching<'a>(&'a self, filter: Option<&'a Filter>) -> impl Iterator<Item = (&'a PointId, &'a Point)> {
        self.points.iter().filter(move |(id, point)| {
            filter.is_none_or(|filter| {
                filter.must.iter().all(|condition| holds(condition, id, point))
                    && !filter.must_not.iter().any(|condition| holds(condition, id, point))
            })
        })
    }

    fn selected(&self, selector: Option<PointsSelector>) -> Vec<PointId> {
        match selector.and_then(|selector| selector.points_selector_one_of) {
            Some(PointsSelectorOneOf::Points(points)) => points.ids,
            Some(PointsSelectorOneOf::Filter(filter)) => {
                self.matching(Some(&filter)).map(|(id, _)| id.clone()).collect()
            }
            None => Vec::new(),
        }
    }

    fn carry_out(&mut self, operation: Operation) -> Result<(), Status> {
        match operation {
            Operation::Upsert(list) => {
                for PointStruct { id, payload, vectors } in list.points {
                    let vector = match vectors.and_then(|vectors| vectors.vectors_options) {
                        Some(vectors::VectorsOptions::Vector(Vector {
                            vector: Some(vector::Vector::Dense(dense)),
                            ..
                        })) => Some(unit(dense.data)),
                        Some(vectors::VectorsOptions::Vectors(named)) if named.vectors.is_empty() => None,
                        other => return Err(Status::invalid_argument(format!("{other:?}"))),
                    };
                    let id = id.ok_or_else(|| Status::invalid_argument("no id"))?;
                    self.points.insert(id, Point { payload, vector });
                }
            }
            Operation::DeletePoints(delete) => {
                for id in self.selected(delete.points) {
                    self.points.remove(&id);
                }
            }
            Operation::SetPayload(set) => {
                for id in self.selected(set.points_selector) {
                    if let Some(point) = self.points.get_mut(&id) {
                        point.payload.extend(set.payload.clone());
                    }
                }
            }
            _ => return Err(unused("other operations")),
        }
        Ok(())
    }
}

fn holds(condition: &Condition, id: &PointId, point: &Point) -> bool {
    match condition.condition_one_of.as_ref().unwrap() {
        ConditionOneOf::HasId(ids) => ids.has_id.contains(id),
        ConditionOneOf::Field(field) => {
            let wanted = match field.r#match.as_ref().and_then(|wanted| wanted.match_value.as_ref()).unwrap()
            {
                r#match::MatchValue::Keyword(one) => std::slice::from_ref(one),
                r#match::MatchValue::Keywords(any) => any.strings.as_slice(),
                other => panic!("{other:?}"),
            };
            let held = match point.payload.get(&field.key).and_then(|value| value.kind.as_ref()) {
                Some(Kind::ListValue(list)) => list.values.as_slice(),
                Some(_) => std::slice::from_ref(&point.payload[&field.key]),
                None => &[],
            };
            held.iter().any(|value| match &value.kind {
                Some(Kind::StringValue(text)) => wanted.contains(text),
                _ => false,
            })
        }
        other => panic!("{other:?}"),
    }
}

fn unit(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

fn done() -> CollectionOperationResponse {
    CollectionOperationResponse { result: true, time: 0.0 }
}

fn unused(what: &str) -> Status {
    Status::unimplemented(format!("the index does not use {what}"))
}

/// The methods of a service: those that are used, with what answers them, and the rest, refused. Written as `async_trait` would, which does not look
/// into macros.
macro_rules! service {
    ($service:ty; $($name:ident($in:ty) -> $out:ty $(= $call:expr)?;)*) => {
        impl $service for Fake {
            $(
                fn $name<'a, 'b>(
                    &'a self,
                    request: Request<$in>,
                ) -> futures::future::BoxFuture<'b, Result<Response<$out>, Status>>
                where
                    'a: 'b,
                    Self: 'b,
                {
                    service!(@body self $name request $($call)?)
                }
            )*
        }
    };
    (@body $self:ident $name:ident $request:ident) => {{
        drop($request);
        Box::pin(async { Err(unused(stringify!($name))) })
    }};
    (@body $self:ident $name:ident $request:ident $call:expr) => {
        Box::pin(async move { $self.answer(stringify!($name), $request, $call) })
    };
}

service! { Collections;
    get(GetCollectionInfoRequest) -> GetCollectionInfoResponse = Held::info;
    list(ListCollectionsRequest) -> ListCollectionsResponse = |held, _| {
        let collections = held.collections.keys().map(|name| CollectionDescription { name: name.clone() });
        Ok(ListCollectionsResponse { collections: collections.collect(), time: 0.0 })
    };
    create(CreateCollection) -> CollectionOperationResponse = Held::create;
    delete(DeleteCollection) -> CollectionOperationResponse = |held, asked| {
        held.collections.remove(&asked.collection_name);
        held.aliases.retain(|_, collection| *collection != asked.collection_name);
        Ok(done())
    };
    update_aliases(ChangeAliases) -> CollectionOperationResponse = Held::change_aliases;
    list_aliases(ListAliasesRequest) -> ListAliasesResponse = |held, _| {
        let aliases = held.aliases.iter().map(|(alias, collection)| AliasDescription {
            alias_name: alias.clone(),
            collection_name: collection.clone(),
        });
        Ok(ListAliasesResponse { aliases: aliases.collect(), time: 0.0 })
    };
    update(UpdateCollection) -> CollectionOperationResponse;
    list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
    collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
    collection_exists(CollectionExistsRequest) -> CollectionExistsResponse;
    update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
    create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
    delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
    list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
}

service! { Points;
    get(GetPoints) -> GetResponse = Held::get;
    create_field_index(CreateFieldIndexCollection) -> PointsOperationResponse = |held, asked| {
        held.collection(&asked.collection_name)?.indexes.push(asked.field_name);
        Ok(PointsOperationResponse::default())
    };
    count(CountPoints) -> CountResponse = Held::count;
    update_batch(UpdateBatchPoints) -> UpdateBatchResponse = Held::update;
    query(QueryPoints) -> QueryResponse = Held::query;
    upsert(UpsertPoints) -> PointsOperationResponse;
    delete(DeletePoints) -> PointsOperationResponse;
    update_vectors(UpdatePointVectors) -> PointsOperationResponse;
    delete_vectors(DeletePointVectors) -> PointsOperationResponse;
    set_payload(SetPayloadPoints) -> PointsOperationResponse;
    overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
    delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
    clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
    delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
    create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
    delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
    search(SearchPoints) -> SearchResponse;
    search_batch(SearchBatchPoints) -> SearchBatchResponse;
    search_groups(SearchPointGroups) -> SearchGroupsResponse;
    scroll(ScrollPoints) -> ScrollResponse;
    recommend(RecommendPoints) -> RecommendResponse;
    recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
    recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
    discover(DiscoverPoints) -> DiscoverResponse;
    discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
    query_batch(QueryBatchPoints) -> QueryBatchResponse;
    query_groups(QueryPointGroups) -> QueryGroupsResponse;
    facet(FacetCounts) -> FacetResponse;
    search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
    search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
}
