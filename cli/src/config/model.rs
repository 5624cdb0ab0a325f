//! The sections of the configuration as types. Their meaning is told in `default.yaml`.

use std::{net::SocketAddr, path::PathBuf};

use raglan_pipeline::{
    domain::Tenant,
    pipelines::{IndexingPipeline, QueryPipeline},
    secret::Secret,
};
use serde::Deserialize;
use url::Url;

use super::{Candle, models::Models};

/// All settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub server: Server,
    pub data_dir: PathBuf,
    pub log: Log,
    pub auth: Auth,
    pub limits: Limits,
    pub models: Models,
    pub generators: Vec<Generator>,
    pub query_pipelines: Vec<QueryPipeline>,
    pub indexing_pipelines: Vec<IndexingPipeline>,
    pub jobs: Jobs,
    pub workers: Workers,
    pub memory: Memory,
    pub postgres: Postgres,
    pub rabbitmq: RabbitMq,
    pub redis: Redis,
    pub qdrant: Qdrant,
    pub blobs: Blobs,
    pub startup: Startup,
    pub webhooks: Webhooks,
    pub shutdown: Shutdown,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    pub public_url: Option<Url>,
    pub cors_origins: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub keys: Vec<Key>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    pub name: String,
    #[serde(default)]
    pub tenant: Tenant,
    #[serde(default)]
    pub key: Option<Secret>,
    #[serde(default)]
    pub sha256: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub query_chars: usize,
    pub top_k: usize,
    pub answer_tokens: u32,
    pub body_bytes: usize,
    pub file_bytes: usize,
    pub files: usize,
    pub documents: usize,
    pub waiting_jobs: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Generator {
    Extractive(Extractive),
    Openai(OpenAi),
    Simulated(Simulated),
    Candle(Candle),
}

impl Generator {
    pub fn name(&self) -> &str {
        match self {
            Self::Extractive(settings) => &settings.name,
            Self::Openai(settings) => &settings.name,
            Self::Simulated(settings) => &settings.name,
            Self::Candle(settings) => &settings.name,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extractive {
    pub name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAi {
    pub name: String,
    pub base_url: Url,
    pub model: String,
    #[serde(default)]
    pub api_key: Option<Secret>,
    #[serde(default)]
    pub context_tokens: Option<usize>,
    #[serde(default)]
    pub connect_timeout_s: Option<u64>,
    #[serde(default)]
    pub first_token_timeout_s: Option<u64>,
    #[serde(default)]
    pub idle_timeout_s: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    pub name: String,
    pub tokens: u32,
    pub tokens_per_s: f64,
    #[serde(default)]
    pub first_token_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    pub retention_s: u64,
    pub query_deadline_s: u64,
    pub ingestion_deadline_s: u64,
    pub max_deadline_s: u64,
    pub max_attempts: u32,
    pub lease_s: u64,
    pub republish_after_s: u64,
    pub passages_ttl_s: u64,
    pub events_ttl_s: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    pub listen: Option<SocketAddr>,
    pub retrieval: usize,
    pub generation: usize,
    pub ingestion: usize,
    pub webhook: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub cache_bytes: u64,
    pub events_bytes: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    pub url: Option<Secret>,
    pub read_url: Option<Secret>,
    pub schema: String,
    pub connections: u32,
    pub migrate: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RabbitMq {
    pub url: Option<Secret>,
    pub prefix: String,
    pub lanes: u16,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    pub url: Option<Secret>,
    pub prefix: String,
    pub connections: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qdrant {
    pub url: Option<Url>,
    pub api_key: Option<Secret>,
    pub name: String,
    pub shards: u32,
    pub replicas: u32,
    pub quantization: Quantization,
    pub on_disk: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    None,
    Int8,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    pub path: Option<PathBuf>,
    pub s3: Option<S3>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub bucket: String,
    #[serde(default)]
    pub prefix: Option<String>,
    #[serde(default)]
    pub region: Option<String>,
    #[serde(default)]
    pub endpoint: Option<Url>,
    #[serde(default)]
    pub access_key: Option<Secret>,
    #[serde(default)]
    pub secret_key: Option<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Startup {
    pub wait_s: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    pub signing_secrets: Vec<Secret>,
    pub allowed_ranges: Vec<ipnet::IpNet>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    pub drain_s: u64,
}
