//! What `compose/` starts: a container whose root cannot be written to has a place for everything that Raglan writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::load;

const COMPOSE: &str = include_str!("../../../compose/compose.yaml");

/// `${NAME:-value}` without a variable of this name.
fn with_defaults(text: &str) -> String {
    let (mut result, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').unwrap();
        result.push_str(before);
        result.push_str(variable.split_once(":-").unwrap().1);
        rest = after;
    }
    result + rest
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap()).collect()
}

/// The services of Raglan itself.
fn services(compose: &Value) -> Vec<(&String, &Value)> {
    let services = compose["services"].as_object().unwrap().iter();
    services.filter(|(_, service)| service["image"] == "raglan:local").collect()
}

#[test]
fn containers_are_configured_rightly_and_may_write_where_they_must() {
    let compose: Value = serde_saphyr::from_str(COMPOSE).unwrap();
    let services = services(&compose);
    assert_eq!(services.len(), 5);
    for (name, service) in services {
        let environment = service["environment"].as_object().unwrap().iter();
        let environment: BTreeMap<_, _> =
            environment.map(|(key, value)| (key.clone(), with_defaults(value.as_str().unwrap()))).collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose/raglan.yaml");
        let config = load(Some(&file), &environment).unwrap();

        assert_eq!(service["read_only"], true);
        let mut writable: BTreeSet<PathBuf> =
            texts(&service["tmpfs"]).into_iter().map(PathBuf::from).collect();
        let volumes = texts(&service["volumes"]).into_iter().filter(|volume| !volume.ends_with(":ro"));
        writable.extend(volumes.map(|volume| PathBuf::from(volume.split(':').nth(1).unwrap())));
        let written = [Some(config.data_dir), config.models.cache_dir, config.blobs.path];
        for folder in written.into_iter().flatten() {
            assert!(
                folder.ancestors().any(|ancestor| writable.contains(ancestor)),
                "{name} cannot write to {}, only to {writable:?}",
                folder.display()
            );
        }
    }
}

#[test]
fn every_volume_is_used_and_every_one_that_is_used_is_there() {
    let compose: Value = serde_saphyr::from_str(COMPOSE).unwrap();
    let services = compose["services"].as_object().unwrap().values();
    let used: BTreeSet<_> = services
        .flat_map(|service| texts(&service["volumes"]))
        .map(|volume| volume.split(':').next().unwrap())
        .filter(|source| !source.starts_with('.'))
        .collect();
    let there: BTreeSet<_> = compose["volumes"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(used, there);
}
