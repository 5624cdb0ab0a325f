//! Reading and checking: everything that is wrong is found and told at once.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Config, DEFAULTS, Generator};

/// All that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError {
    /// Each problem in a line, with where it is.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} problem(s):", self.problems.len())?;
        for problem in &self.problems {
            writeln!(f, "  - {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads the configuration: the defaults, then the file where one is given, then `RAGLAN__…` variables.
pub fn load(file: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let value = merged(file, env, &mut problems);
    match build(value, &mut problems) {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError { problems }),
    }
}

/// The merged configuration with its secrets blotted out, for `raglan check`.
pub fn redacted(file: Option<&Path>, env: &BTreeMap<String, String>) -> Value {
    let mut value = merged(file, env, &mut Vec::new());
    blot(&mut value);
    value
}

/// The keys whose values are secrets.
const SECRET_KEYS: [&str; 5] = ["key", "api_key", "access_key", "secret_key", "signing_secrets"];

/// An address without the password in it; none where there is no password.
fn without_password(text: &str) -> Option<String> {
    let mut url = url::Url::parse(text).ok()?;
    url.password()?;
    url.set_password(Some("***")).ok()?;
    Some(url.into())
}

fn blot(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if SECRET_KEYS.contains(&key.as_str()) && !value.is_null() {
                    *value = Value::String("***".to_owned());
                } else if let Some(shown) = value.as_str().and_then(without_password) {
                    *value = Value::String(shown);
                } else {
                    blot(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blot),
        _ => {}
    }
}

fn merged(file: Option<&Path>, env: &BTreeMap<String, String>, problems: &mut Vec<String>) -> Value {
    let mut value: Value = match serde_saphyr::from_str(DEFAULTS) {
        Ok(value) => value,
        Err(error) => {
            problems.push(format!("the built-in defaults: {error}"));
            Value::Object(Map::new())
        }
    };
    if let Some(path) = file {
        match read(path) {
            Ok(given) => overlay(&mut value, given, "", problems),
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    for (name, text) in env {
        let Some(rest) = name.strip_prefix("RAGLAN__") else { continue };
        // A value is read as YAML, so that numbers, lists and null can be given; what is no YAML is text.
        let given: Value = serde_saphyr::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
        let nested = rest
            .split("__")
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .fold(given, |inner, key| Value::Object(Map::from_iter([(key.to_lowercase(), inner)])));
        let before = problems.len();
        overlay(&mut value, nested, "", problems);
        for problem in &mut problems[before..] {
            *problem = format!("{name}: {problem}");
        }
    }
    value
}

fn read(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_saphyr::from_str::<Option<Value>>(&text)
        .map(|value| value.unwrap_or_else(|| Value::Object(Map::new())))
        .map_err(|error| error.to_string())
}

/// Lays what is given over what is there; a key that is not there is a problem, named with the nearest that is.
fn overlay(base: &mut Value, given: Value, path: &str, problems: &mut Vec<String>) {
    match (base, given) {
        (Value::Object(base), Value::Object(given)) => {
            for (key, value) in given {
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match base.get_mut(&key) {
                    Some(slot) => overlay(slot, value, &at, problems),
                    None => problems.push(unknown(&at, &key, base.keys())),
                }
            }
        }
        (Value::Object(_), given) if !path.is_empty() => {
            problems.push(format!("{path}: is a section with keys, not {}", kind(&given)));
        }
        (base, given) => *base = given,
    }
}

fn unknown<'a>(at: &str, key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((_, nearest)) => format!("{at}: there is no such key; did you mean {nearest:?}?"),
        None => format!("{at}: there is no such key; there are: {}", known.join(", ")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section",
    }
}

/// Makes types of the sections, each by itself, so that the problems of all are found.
fn build(value: Value, problems: &mut Vec<String>) -> Option<Config> {
    let Value::Object(mut sections) = value else {
        problems.push("the file must be a mapping of sections".to_owned());
        return None;
    };
    // All are read before any is missed, so that one report names every problem.
    let server = section(&mut sections, "server", problems);
    let data_dir = section(&mut sections, "data_dir", problems);
    let log = section(&mut sections, "log", problems);
    let auth = section(&mut sections, "auth", problems);
    let limits = section(&mut sections, "limits", problems);
    let models = section(&mut sections, "models", problems);
    let generators = list(&mut sections, "generators", problems);
    let query_pipelines = list(&mut sections, "query_pipelines", problems);
    let indexing_pipelines = list(&mut sections, "indexing_pipelines", problems);
    let jobs = section(&mut sections, "jobs", problems);
    let workers = section(&mut sections, "workers", problems);
    let memory = section(&mut sections, "memory", problems);
    let postgres = section(&mut sections, "postgres", problems);
    let rabbitmq = section(&mut sections, "rabbitmq", problems);
    let redis = section(&mut sections, "redis", problems);
    let qdrant = section(&mut sections, "qdrant", problems);
    let blobs = section(&mut sections, "blobs", problems);
    let startup = section(&mut sections, "startup", problems);
    let webhooks = section(&mut sections, "webhooks", problems);
    let shutdown = section(&mut sections, "shutdown", problems);
    let config = Config {
        server: server?,
        data_dir: data_dir?,
        log: log?,
        auth: auth?,
        limits: limits?,
        models: models?,
        generators,
        query_pipelines,
        indexing_pipelines,
        jobs: jobs?,
        workers: workers?,
        memory: memory?,
        postgres: postgres?,
        rabbitmq: rabbitmq?,
        redis: redis?,
        qdrant: qdrant?,
        blobs: blobs?,
        startup: startup?,
        webhooks: webhooks?,
        shutdown: shutdown?,
    };
    check(&config, problems);
    Some(config)
}

fn section<T: DeserializeOwned>(
    sections: &mut Map<String, Value>,
    name: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    typed(sections.remove(name).unwrap_or(Value::Null), name, problems)
}

fn list<T: DeserializeOwned>(
    sections: &mut Map<String, Value>,
    name: &str,
    problems: &mut Vec<String>,
) -> Vec<T> {
    match sections.remove(name) {
        Some(Value::Array(items)) => (0..)
            .zip(items)
            .filter_map(|(index, item): (usize, Value)| typed(item, &format!("{name}[{index}]"), problems))
            .collect(),
        other => {
            problems.push(format!("{name}: must be a list, not {}", kind(&other.unwrap_or(Value::Null))));
            Vec::new()
        }
    }
}

fn typed<T: DeserializeOwned>(value: Value, path: &str, problems: &mut Vec<String>) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(typed) => Some(typed),
        Err(error) => {
            let inner = error.path().to_string();
            let at = if inner == "." { path.to_owned() } else { format!("{path}.{inner}") };
            problems.push(format!("{at}: {}", error.into_inner()));
            None
        }
    }
}

/// What types cannot tell.
fn check(config: &Config, problems: &mut Vec<String>) {
    if config.auth.keys.is_empty() && !config.server.listen.ip().is_loopback() {
        problems.push(format!(
            "server.listen: {} can be reached from other machines, and auth.keys is empty; add a key or listen on 127.0.0.1",
            config.server.listen
        ));
    }
    for (index, key) in config.auth.keys.iter().enumerate() {
        let hex = |text: &str| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
        match (&key.key, &key.sha256) {
            (Some(key), None) if key.expose().len() < 16 => {
                problems.push(format!("auth.keys[{index}].key: must have at least 16 characters"));
            }
            (None, Some(sha256)) if !hex(sha256) => {
                problems.push(format!("auth.keys[{index}].sha256: must be 64 hexadecimal digits"));
            }
            (Some(_), Some(_)) | (None, None) => {
                problems.push(format!("auth.keys[{index}]: give either key or sha256"));
            }
            _ => {}
        }
    }
    let generators: Vec<&str> = config.generators.iter().map(Generator::name).collect();
    names("generators", generators.iter().copied(), problems);
    for generator in &config.generators {
        if let Generator::Candle(candle) = generator {
            candle.check(problems);
        }
    }
    names("query_pipelines", config.query_pipelines.iter().map(|pipeline| pipeline.name.as_str()), problems);
    names(
        "indexing_pipelines",
        config.indexing_pipelines.iter().map(|pipeline| pipeline.name.as_str()),
        problems,
    );
    for pipeline in &config.query_pipelines {
        let at = format!("query_pipelines.{}", pipeline.name);
        let named = &pipeline.generate.generator;
        if !generators.contains(&named.as_str()) {
            problems.push(format!(
                "{at}.generate.generator: there is no generator {named:?}; there are: {}",
                generators.join(", ")
            ));
        }
        if let Some(rerank) = &pipeline.rerank {
            if !config.models.reranker.is_there() {
                problems.push(format!("{at}.rerank: needs models.reranker (its path, or a server)"));
            }
            if !(1..=1_000).contains(&rerank.candidates) {
                problems.push(format!("{at}.rerank.candidates: must be from 1 to 1000"));
            }
            if rerank.deadline_ms == 0 {
                problems.push(format!("{at}.rerank.deadline_ms: must be at least 1"));
            }
        }
        if !(1..=10_000).contains(&pipeline.search.candidates) {
            problems.push(format!("{at}.search.candidates: must be from 1 to 10000"));
        }
        if !(1..=config.limits.top_k).contains(&pipeline.select.top_k) {
            problems
                .push(format!("{at}.select.top_k: must be from 1 to limits.top_k ({})", config.limits.top_k));
        }
    }
    for pipeline in &config.indexing_pipelines {
        if let Some(problem) = pipeline.chunk.problem() {
            problems.push(format!("indexing_pipelines.{}.chunk: {problem}", pipeline.name));
        }
    }
    for (name, value) in [
        ("workers.retrieval", config.workers.retrieval),
        ("workers.generation", config.workers.generation),
        ("workers.ingestion", config.workers.ingestion),
        ("workers.webhook", config.workers.webhook),
    ] {
        if !(1..=1_024).contains(&value) {
            problems.push(format!("{name}: must be from 1 to 1024"));
        }
    }
    for (name, value) in [
        ("jobs.lease_s", config.jobs.lease_s),
        ("jobs.republish_after_s", config.jobs.republish_after_s),
        ("jobs.query_deadline_s", config.jobs.query_deadline_s),
        ("jobs.ingestion_deadline_s", config.jobs.ingestion_deadline_s),
        ("jobs.retention_s", config.jobs.retention_s),
    ] {
        if value == 0 {
            problems.push(format!("{name}: must be at least 1"));
        }
    }
    config.models.check(problems);
    if config.jobs.max_attempts == 0 {
        problems.push("jobs.max_attempts: must be at least 1".to_owned());
    }
    for (index, secret) in config.webhooks.signing_secrets.iter().enumerate() {
        if !secret.expose().starts_with("whsec_") {
            problems.push(format!("webhooks.signing_secrets[{index}]: must begin with whsec_"));
        }
    }
    if config.webhooks.signing_secrets.len() > 2 {
        problems.push(
            "webhooks.signing_secrets: two at most, the new one and the one that it replaces".to_owned(),
        );
    }
}

/// There is at least one, a `default` where requests need one, and none twice.
fn names<'a>(list: &str, names: impl Iterator<Item = &'a str>, problems: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        if seen.contains(&name) {
            problems.push(format!("{list}: {name:?} is there twice"));
        }
        seen.push(name);
    }
    if list != "generators" && !seen.contains(&"default") {
        problems.push(format!("{list}: one must be named default"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(yaml: &str, env: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raglan.yaml");
        std::fs::write(&path, yaml).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match load(Some(&path), &env) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems,
        }
    }

    #[test]
    fn the_defaults_are_valid_and_an_empty_file_changes_nothing() {
        assert_eq!(problems("", &[]), Vec::<String>::new());
        assert_eq!(problems("# only a comment\n", &[]), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_told_at_once_with_the_nearest_right_name() {
        let yaml = "
servr: {}
server: {listn: x, public_url: 5}
workers: {retrieval: many}
models: {embedding: 7}
query_pipelines: [{name: default, serch: {}}, {name: b, generate: {generator: llm}}]
webhooks: {allowed_ranges: [10.0.0.0/40]}
";
        let got = problems(yaml, &[("RAGLAN__JOBS__LEASE", "5")]);
        let expected = [
            "servr: there is no such key; did you mean \"server\"?",
            "server.listn: there is no such key; did you mean \"listen\"?",
            "models.embedding: is a section with keys, not a number",
            "RAGLAN__JOBS__LEASE: jobs.lease: there is no such key; did you mean \"lease_s\"?",
            "server.public_url: ",
            "workers.retrieval: ",
            "query_pipelines[0]",
            "webhooks.allowed_ranges[0]: ",
        ];
        for text in expected {
            assert!(got.iter().any(|problem| problem.starts_with(text)), "{text:?} is not among {got:#?}");
        }
    }

    #[test]
    fn variables_override_the_file_and_cross_checks_run() {
        let got = problems("server: {listen: 127.0.0.1:1}", &[("RAGLAN__SERVER__LISTEN", "0.0.0.0:80")]);
        assert_eq!(got.len(), 1);
        assert!(
            got[0].starts_with("server.listen: 0.0.0.0:80 can be reached from other machines"),
            "{got:?}"
        );
        let got = problems("query_pipelines: [{name: default, generate: {generator: llm}}]", &[]);
        assert_eq!(
            got,
            [
                "query_pipelines.default.generate.generator: there is no generator \"llm\"; there are: extractive"
            ]
        );
    }

    #[test]
    fn models_of_servers_and_of_this_process_are_told_apart() {
        let server = "base_url: 'http://h/v1', model: m";
        for (yaml, expected) in [
            (
                format!(
                    "models: {{embedding: {{type: tei, {server}}}, reranker: {{type: cohere, {server}}}}}"
                ),
                &[][..],
            ),
            (
                "models: {embedding: {type: openai}}".to_owned(),
                &["embedding.base_url: must be set", "embedding.model: must be set"],
            ),
            (
                format!("models: {{embedding: {{{server}, dimension: 3}}, reranker: {{api_key: k}}}}"),
                &[
                    "embedding.base_url: is for the types openai and tei alone",
                    "embedding.model: is for the types openai and tei alone",
                    "embedding.dimension: is for the types openai and tei alone",
                    "reranker.api_key: is for the types tei and cohere alone",
                ],
            ),
            (
                format!(
                    "models: {{reranker: {{type: tei, {server}, path: /m, device: cuda, timeout_ms: 0}}}}"
                ),
                &[
                    "reranker.path: is for the type local alone",
                    "reranker.device: is for the type local alone",
                    "reranker.timeout_ms: must be from 1",
                ],
            ),
            (
                "models: {embedding: {device: cuda, precision: int8}, reranker: {precision: f16}}".to_owned(),
                &["embedding.precision: int8 is for the CPU", "reranker.precision: f16 is for CUDA"],
            ),
            ("models: {embedding: {device: gpu}}".to_owned(), &["embedding.device: \"gpu\" is no device"]),
            ("models: {embedding: {type: bert}}".to_owned(), &["embedding.type: unknown variant `bert`"]),
            (
                "models: {reranker: {base_ulr: x}}".to_owned(),
                &["reranker.base_ulr: there is no such key; did you mean \"base_url\"?"],
            ),
        ] {
            let got = problems(&yaml, &[]);
            assert_eq!(got.len(), expected.len(), "{yaml}: {got:#?}");
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    got.starts_with(&format!("models.{expected}")),
                    "{yaml}: {got:?} is not {expected:?}"
                );
            }
        }
        let got =
            problems("query_pipelines: [{name: default, rerank: {candidates: 0, deadline_ms: 0}}]", &[]);
        let expected = ["needs models.reranker", "candidates: must be", "deadline_ms: must be"];
        assert_eq!(got.len(), 3, "{got:?}");
        assert!(got.iter().zip(expected).all(|(got, part)| got.contains(part)), "{got:?}");
        let reranked = "
models: {reranker: {type: tei, base_url: 'http://h', model: m}}
query_pipelines: [{name: default, rerank: {}}]";
        assert_eq!(
            problems(reranked, &[("RAGLAN__MODELS__RERANKER__API_KEY", "sk-1")]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn secrets_are_blotted_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raglan.yaml");
        std::fs::write(
            &path,
            "auth: {keys: [{name: a, key: topsecret-topsecret}]}\ngenerators: [{name: l, type: openai, base_url: 'http://x', model: m, api_key: sk-topsecret}]\nmodels: {embedding: {api_key: sk-topsecret}, reranker: {api_key: sk-topsecret}}\nwebhooks: {signing_secrets: [whsec_topsecret]}",
        )
        .unwrap();
        let shown = redacted(Some(&path), &BTreeMap::new()).to_string();
        assert!(!shown.contains("topsecret"), "{shown}");
    }
}
