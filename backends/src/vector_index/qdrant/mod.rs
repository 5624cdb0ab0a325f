//! [`VectorIndex`] in Qdrant, over gRPC: one index for all processes.
//!
//! One process feeds it, chosen elsewhere; the others search, and ask now and then how far it is ([`QdrantIndex::refresh`]). What it holds is written
//! in Qdrant beside the chunks, after them, so whoever feeds next goes on from there.
//!
//! Should two processes feed at once all the same, nothing is lost: before a batch is written, the position that stands in Qdrant is compared with the one that
//! the batch was read from, and a reset only throws away what its caller has seen.

mod client;
mod error;
mod generation;
mod plan;
mod points;
mod settings;
mod state;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use qdrant_client::qdrant::{
    Condition, CountPoints, Filter, QuantizationSearchParams, Query, QueryPoints, SearchParams, VectorInput,
    query,
};
use raglan_pipeline::{
    domain::{Change, LogPosition},
    ports::{ErrorKind, Hit, PortError, PortResult, Replica, SearchScope, VectorIndex},
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};
use uuid::Uuid;

pub use self::settings::{QdrantSettings, Quantization};
use self::{
    client::Client,
    plan::{Origin, Plan},
    state::State,
};

/// Qdrant makes room for as many hits as are asked for: of more than this many, no more are asked for than there are points.
const MANY: usize = 10_000;

/// A vector index in Qdrant, shared by all processes.
pub struct QdrantIndex {
    settings: QdrantSettings,
    /// What is searched: it stands for the current collection.
    alias: String,
    origin: Origin,
    client: Client,
    /// For whoever writes: one at a time does.
    writing: Semaphore,
    /// What Qdrant holds, as far as this process knows; none where there is no collection.
    known: Mutex<Option<State>>,
}

impl fmt::Debug for QdrantIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QdrantIndex").field("alias", &self.alias).field("settings", &self.settings).finish()
    }
}

impl QdrantIndex {
    /// Connects, makes the collection where there is none, and reads how far it is fed. Several processes may do so at once.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot work, and for a collection of another dimension or distance, naming both; `Unavailable` or `Timeout` when
    /// Qdrant does not answer.
    pub async fn open(settings: QdrantSettings) -> PortResult<Self> {
        settings.check()?;
        let index = Self {
            alias: settings.alias(),
            origin: Origin { model: settings.model.clone(), dimension: settings.dimension },
            client: Client::new(&settings)?,
            writing: Semaphore::new(1),
            known: Mutex::default(),
            settings,
        };
        match index.client.target(&index.alias).await? {
            None => generation::make_first(&index.client, &index.settings).await?,
            Some(collection) => {
                let info = index.client.info(&collection).await?.ok_or_else(|| index.missing())?;
                generation::check(&info, &index.settings)?;
                let has = |field: &str| info.payload_schema.contains_key(field);
                generation::make_indexes(&index.client, &index.settings, &collection, has).await?;
            }
        }
        index.refresh().await?;
        Ok(index)
    }

    /// Asks how far the index is fed, for [`position`](Replica::position) and [`history`](Replica::history). A process that feeds it knows already.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` when Qdrant does not answer: what was known stays.
    pub async fn refresh(&self) -> PortResult<()> {
        // Whoever writes at this moment knows better than what would be read.
        let Ok(_alone) = self.writing.try_acquire() else { return Ok(()) };
        let found = self.find().await?;
        *self.known() = found;
        Ok(())
    }

    /// Asks whether the index can be searched.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` when Qdrant does not answer or has no collection; `Invalid` when that is of another dimension or distance.
    pub async fn check(&self) -> PortResult<()> {
        match self.client.info(&self.alias).await? {
            Some(info) => generation::check(&info, &self.settings),
            None => Err(self.missing()),
        }
    }

    /// What Qdrant holds now; none where there is no collection.
    async fn find(&self) -> PortResult<Option<State>> {
        match self.client.target(&self.alias).await? {
            Some(collection) => self.client.state(collection).await,
            None => Ok(None),
        }
    }

    /// What Qdrant holds, where a batch that was read from the known position may follow on it.
    async fn find_to_follow(&self) -> PortResult<State> {
        let found = self.find().await?;
        let known = std::mem::replace(&mut *self.known(), found.clone());
        let found = found.ok_or_else(|| self.missing())?;
        match known {
            // Others may have fed it further: what they have applied is left out of the batch.
            Some(known)
                if known.collection == found.collection
                    && known.history == found.history
                    && known.position <= found.position =>
            {
                Ok(found)
            }
            _ => Err(self.changed()),
        }
    }

    async fn alone(&self) -> PortResult<SemaphorePermit<'_>> {
        self.writing.acquire().await.map_err(|error| {
            PortError::new(ErrorKind::Internal, "the vector index is closed").with_source(error)
        })
    }

    fn known(&self) -> MutexGuard<'_, Option<State>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> PortError {
        PortError::new(
            ErrorKind::Unavailable,
            format!("Qdrant has no collection {} (whoever feeds the index makes it)", self.alias),
        )
    }

    fn changed(&self) -> PortError {
        PortError::new(
            ErrorKind::Conflict,
            format!(
                "the collection {} is not as this process knew it: look again where it stands",
                self.alias
            ),
        )
    }
}

#[async_trait]
impl Replica for QdrantIndex {
    fn name(&self) -> &'static str {
        "vector"
    }

    fn position(&self) -> LogPosition {
        self.known().as_ref().map_or(0, |state| state.position)
    }

    fn history(&self) -> Option<Uuid> {
        self.known().as_ref().and_then(|state| state.history)
    }

    async fn apply(&self, changes: Vec<Change>) -> PortResult<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let _alone = self.alone().await?;
        let mut state = self.find_to_follow().await?;
        let changes: Vec<Change> =
            changes.into_iter().filter(|change| change.position > state.position).collect();
        let Some(last) = changes.last() else { return Ok(()) };
        state.position = last.position;
        let plan = Plan::of(changes, &self.origin);
        if plan.unusable > 0 {
            let Origin { model, dimension } = &self.origin;
            warn!(
                chunks = plan.unusable,
                model, dimension, "vectors of another dimension, zero or not finite are left out"
            );
        }
        for operations in plan.requests(self.settings.batch, state.point()) {
            self.client.update(&state.collection, operations).await?;
        }
        *self.known() = Some(state);
        Ok(())
    }

    /// Nothing is left to save: what was applied is in Qdrant.
    async fn save(&self) -> PortResult<()> {
        Ok(())
    }

    async fn reset(&self, history: Uuid) -> PortResult<()> {
        let _alone = self.alone().await?;
        let found = self.find().await?;
        let known = std::mem::replace(&mut *self.known(), found.clone());
        if known != found {
            return Err(self.changed());
        }
        let collection = generation::make_next(&self.client, &self.settings).await?;
        let state = State { history: Some(history), ..State::empty(collection) };
        let operations = vec![plan::upsert(vec![state.point()]).into()];
        self.client.update(&state.collection, operations).await?;
        let before = found.as_ref().map(|state| state.collection.as_str());
        generation::stand_for(&self.client, &self.alias, before, &state.collection).await?;
        info!(alias = self.alias, collection = state.collection, "vector collection begun anew");
        generation::remove_others(&self.client, &self.alias, &state.collection).await;
        *self.known() = Some(state);
        Ok(())
    }

    async fn count(&self) -> PortResult<u64> {
        let request = CountPoints {
            collection_name: self.alias.clone(),
            filter: Some(Filter::must_not([Condition::has_id([state::ID])])),
            exact: Some(true),
            timeout: Some(client::seconds(self.settings.write_timeout)),
            ..CountPoints::default()
        };
        self.client.count(request).await
    }
}

#[async_trait]
impl VectorIndex for QdrantIndex {
    async fn search(&self, vector: &[f32], scope: &SearchScope) -> PortResult<Vec<Hit>> {
        let Origin { model, dimension } = &self.origin;
        let invalid = |message: String| Err(PortError::new(ErrorKind::Invalid, message));
        if vector.len() != *dimension {
            return invalid(format!(
                "the question's vector has {} dimensions, the index's have {dimension} (model {model})",
                vector.len()
            ));
        }
        if !Origin::has_direction(vector) {
            return invalid("the question's vector is zero or has values that are not finite".to_owned());
        }
        let mut limit = scope.limit as u64;
        if scope.limit > MANY {
            limit = limit.min(self.count().await?);
        }
        let (1.., Some(filter)) = (limit, points::filter(scope)) else { return Ok(Vec::new()) };
        let quantization =
            (self.settings.quantization != Quantization::None).then(|| QuantizationSearchParams {
                rescore: Some(true),
                oversampling: Some(self.settings.oversampling),
                ..QuantizationSearchParams::default()
            });
        let nearest = query::Variant::Nearest(VectorInput::from(vector.to_vec()));
        let request = QueryPoints {
            collection_name: self.alias.clone(),
            query: Some(Query { variant: Some(nearest) }),
            filter: Some(filter),
            params: Some(SearchParams {
                hnsw_ef: Some(self.settings.expansion_search),
                quantization,
                ..SearchParams::default()
            }),
            limit: Some(limit),
            with_payload: Some(false.into()),
            with_vectors: Some(false.into()),
            ..QueryPoints::default()
        };
        let found = self.client.query(request).await?;
        Ok(found.into_iter().filter_map(points::hit).collect())
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
