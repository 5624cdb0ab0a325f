//! The collections behind the alias.
//!
//! Searches go to the alias; it stands for one collection, the current generation. A reset makes the next one beside it and then lets the alias stand for
//! that, so that no search ever meets an index half made.

use qdrant_client::qdrant::{
    BinaryQuantization, CollectionInfo, CreateAlias, CreateCollection, CreateFieldIndexCollection,
    DeleteAlias, Distance, HnswConfigDiff, QuantizationConfig, QuantizationType, ScalarQuantization,
    VectorParams, alias_operations::Action, quantization_config, vectors_config,
};
use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    client::{Client, seconds},
    points,
    settings::{QdrantSettings, Quantization},
};

/// What the first generation's name ends with: all processes that start at once make the same one.
const FIRST: &str = "0";

/// Makes the first generation, unless another process does at the same time.
pub(super) async fn make_first(client: &Client, settings: &QdrantSettings) -> PortResult<()> {
    let alias = settings.alias();
    let collection = format!("{alias}-{FIRST}");
    make(client, settings, &collection).await?;
    // Another process may have been faster, and be further already.
    if client.target(&alias).await?.is_none() {
        stand_for(client, &alias, None, &collection).await?;
        info!(alias, collection, "vector collection made");
    }
    Ok(())
}

/// Makes a generation of a new name, which nobody searches yet.
pub(super) async fn make_next(client: &Client, settings: &QdrantSettings) -> PortResult<String> {
    let collection = format!("{}-{}", settings.alias(), Uuid::now_v7().simple());
    make(client, settings, &collection).await?;
    Ok(collection)
}

/// Lets the alias stand for a collection, in the place of another, where it stood for one.
pub(super) async fn stand_for(
    client: &Client,
    alias: &str,
    before: Option<&str>,
    collection: &str,
) -> PortResult<()> {
    let alias_name = alias.to_owned();
    let mut actions = Vec::new();
    if before.is_some() {
        actions.push(Action::DeleteAlias(DeleteAlias { alias_name: alias_name.clone() }));
    }
    actions.push(Action::CreateAlias(CreateAlias { collection_name: collection.to_owned(), alias_name }));
    client.change_aliases(actions).await
}

/// Removes all generations but the current one: the one before, and what crashes left. One that cannot be removed goes the next time.
pub(super) async fn remove_others(client: &Client, alias: &str, current: &str) {
    let names = match client.names().await {
        Ok(names) => names,
        Err(error) => {
            warn!(alias, %error, "old vector collections were not removed");
            return;
        }
    };
    for collection in names.into_iter().filter(|name| name != current && is_generation(alias, name)) {
        match client.remove(collection.clone()).await {
            Ok(()) => info!(collection, "old vector collection removed"),
            Err(error) => warn!(collection, %error, "an old vector collection was not removed"),
        }
    }
}

/// Whether a collection is one of this alias's, by its name.
fn is_generation(alias: &str, collection: &str) -> bool {
    let end = collection.strip_prefix(alias).and_then(|end| end.strip_prefix('-'));
    end.is_some_and(|end| end == FIRST || (end.len() == 32 && end.bytes().all(|b| b.is_ascii_hexdigit())))
}

/// Refuses a collection whose vectors are not those of the settings.
pub(super) fn check(info: &CollectionInfo, settings: &QdrantSettings) -> PortResult<()> {
    let alias = settings.alias();
    let params = info.config.as_ref().and_then(|config| config.params.as_ref());
    let vectors = params.and_then(|params| params.vectors_config.as_ref()?.config.as_ref());
    let wrong = match vectors {
        Some(vectors_config::Config::Params(vectors)) => {
            let (size, distance) = (vectors.size, vectors.distance());
            if size == settings.dimension as u64 && distance == Distance::Cosine {
                return Ok(());
            }
            format!("vectors of {size} dimensions compared by {}", distance.as_str_name())
        }
        _ => "vectors with names".to_owned(),
    };
    Err(PortError::new(
        ErrorKind::Invalid,
        format!(
            "the collection {alias} has {wrong}, and the model {} makes vectors of {} dimensions compared by {}: \
             use another name, or remove the collection",
            settings.model,
            settings.dimension,
            Distance::Cosine.as_str_name(),
        ),
    ))
}

/// Makes the payload indexes that a collection does not have.
pub(super) async fn make_indexes(
    client: &Client,
    settings: &QdrantSettings,
    collection: &str,
    has: impl Fn(&str) -> bool,
) -> PortResult<()> {
    for (field, kind, params) in points::indexes() {
        if has(field) {
            continue;
        }
        let index = CreateFieldIndexCollection {
            collection_name: collection.to_owned(),
            wait: Some(true),
            field_name: field.to_owned(),
            field_type: Some(kind.into()),
            field_index_params: Some(params),
            timeout: Some(seconds(settings.write_timeout)),
            ..CreateFieldIndexCollection::default()
        };
        client.create_index(index).await?;
    }
    Ok(())
}

async fn make(client: &Client, settings: &QdrantSettings, collection: &str) -> PortResult<()> {
    client.create(request(settings, collection)).await?;
    // A process that stopped in between may have left it without some.
    make_indexes(client, settings, collection, |_| false).await
}

#[allow(deprecated)] // `on_disk` and `always_ram`: older servers do not know what takes their place
fn request(settings: &QdrantSettings, collection: &str) -> CreateCollection {
    let vectors = VectorParams {
        size: settings.dimension as u64,
        distance: Distance::Cosine.into(),
        on_disk: Some(settings.on_disk),
        ..VectorParams::default()
    };
    let hnsw = HnswConfigDiff {
        m: Some(settings.connectivity),
        ef_construct: Some(settings.expansion_add),
        ..HnswConfigDiff::default()
    };
    // What is searched in is kept in memory, wherever the exact vectors are.
    let quantization = match settings.quantization {
        Quantization::None => None,
        Quantization::Int8 => Some(quantization_config::Quantization::Scalar(ScalarQuantization {
            r#type: QuantizationType::Int8.into(),
            quantile: Some(0.99),
            always_ram: Some(true),
            ..ScalarQuantization::default()
        })),
        Quantization::Binary => Some(quantization_config::Quantization::Binary(BinaryQuantization {
            always_ram: Some(true),
            ..BinaryQuantization::default()
        })),
    };
    CreateCollection {
        collection_name: collection.to_owned(),
        vectors_config: Some(vectors_config::Config::Params(vectors).into()),
        hnsw_config: Some(hnsw),
        quantization_config: quantization.map(|kind| QuantizationConfig { quantization: Some(kind) }),
        shard_number: Some(settings.shards),
        replication_factor: Some(settings.replicas),
        write_consistency_factor: Some(settings.write_consistency),
        timeout: Some(seconds(settings.write_timeout)),
        ..CreateCollection::default()
    }
}

#[cfg(test)]
mod tests {
    use qdrant_client::qdrant::{CollectionConfig, CollectionParams, VectorsConfig};
    use url::Url;

    use super::*;

    fn settings() -> QdrantSettings {
        let url = Url::parse("http://127.0.0.1:6334").unwrap();
        QdrantSettings { name: "r".to_owned(), ..QdrantSettings::new(url, "model", 4) }
    }

    fn info(vectors: Option<VectorsConfig>) -> CollectionInfo {
        let params = CollectionParams { vectors_config: vectors, ..CollectionParams::default() };
        let config = CollectionConfig { params: Some(params), ..CollectionConfig::default() };
        CollectionInfo { config: Some(config), ..CollectionInfo::default() }
    }

    #[test]
    fn only_its_own_generations_are_its_own() {
        let hex = "0190a1b2c3d4e5f60718293a4b5c6d7e";
        for own in ["r-model-0".to_owned(), format!("r-model-{hex}")] {
            assert!(is_generation("r-model", &own), "{own}");
        }
        let other = [
            "r-model".to_owned(),
            "r-model-".to_owned(),
            "r-model-1".to_owned(),
            "r-model2-0".to_owned(),
            format!("r-model-v2-{hex}"),
            format!("r-model{hex}"),
            format!("r-model-{}", "z".repeat(32)),
        ];
        for other in other {
            assert!(!is_generation("r-model", &other), "{other}");
        }
    }

    #[test]
    fn a_collection_of_other_vectors_is_refused_naming_both() {
        let good = request(&settings(), "c").vectors_config;
        assert!(check(&info(good), &settings()).is_ok());
        let params = |size, distance: Distance| {
            let params = VectorParams { size, distance: distance.into(), ..VectorParams::default() };
            Some(vectors_config::Config::Params(params).into())
        };
        for (vectors, why) in [
            (params(5, Distance::Cosine), "5 dimensions compared by Cosine"),
            (params(4, Distance::Dot), "4 dimensions compared by Dot"),
            (None, "vectors with names"),
        ] {
            let refused = check(&info(vectors), &settings()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid);
            let words = refused.to_string();
            assert!(words.contains(why) && words.contains("4 dimensions compared by Cosine"), "{words}");
        }
    }

    #[test]
    fn a_collection_is_made_as_the_settings_say() {
        let asked = |quantization| request(&QdrantSettings { quantization, replicas: 2, ..settings() }, "c");
        let int8 = asked(Quantization::Int8);
        assert_eq!((int8.shard_number, int8.replication_factor), (Some(1), Some(2)));
        assert!(matches!(
            int8.quantization_config.and_then(|config| config.quantization),
            Some(quantization_config::Quantization::Scalar(_))
        ));
        assert!(matches!(
            asked(Quantization::Binary).quantization_config.and_then(|config| config.quantization),
            Some(quantization_config::Quantization::Binary(_))
        ));
        assert_eq!(asked(Quantization::None).quantization_config, None);
    }
}
