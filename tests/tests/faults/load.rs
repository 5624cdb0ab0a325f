//! What goes on while something fails: questions with webhooks, and documents.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    boxes::{self, Seen},
    client::Client,
    ledger::{Account, Ledger},
    webhooks::{self, Delivered},
    world::World,
};

/// Of the load of the test command.
const QUERIES: usize = 200;
const DOCUMENTS: usize = 20;
/// Documents that are there before anything fails.
const THERE: usize = 10;
/// Questions that one run has under way at once.
const CLIENTS: usize = 64;
/// Documents of one ingestion job.
const GROUP: usize = 5;

pub struct Load {
    client: Client,
    ledger: Arc<Ledger>,
    clients: JoinSet<()>,
    documents: usize,
}

pub struct Outcome {
    pub account: Account,
    pub delivered: Delivered,
    pub half_documents: Vec<String>,
}

impl Load {
    /// Begins to send; it goes on while the fault strikes.
    pub async fn begin(world: &World, scale: usize) -> Self {
        let documents: Vec<Value> = (0..THERE).map(|n| boxes::as_json(n, 1)).collect();
        world.server.api().ingest(&json!({"documents": documents})).await;
        let (client, ledger) = (world.client(), Arc::new(Ledger::default()));
        let mut clients = JoinSet::new();
        let door = Arc::new(Semaphore::new(CLIENTS));
        let hook = world.receiver.url("/hook");
        for n in 0..QUERIES * scale {
            let (client, ledger, door, hook) = (client.clone(), ledger.clone(), door.clone(), hook.clone());
            clients.spawn(async move {
                let _place = door.acquire().await.unwrap();
                ask(&client, &ledger, n, &hook).await;
            });
        }
        let documents = DOCUMENTS * scale;
        let (sender, sent, hook) = (client.clone(), ledger.clone(), world.receiver.url("/hook"));
        clients.spawn(async move {
            for first in (THERE..THERE + documents).step_by(GROUP) {
                bring(&sender, &sent, first, &hook).await;
            }
        });
        Self { client, ledger, clients, documents }
    }

    /// From now until a question that is asked now has its answer.
    pub async fn first_answer(&self) -> Duration {
        let begun = Instant::now();
        let body = json!({"query": "What does the inventory of box000 name?", "cache": "bypass", "metadata": {"webhook": false}});
        let build = |http: &reqwest::Client, url: &str| http.post(format!("{url}/v1/queries")).json(&body);
        let id = self.ledger.submit(&self.client, "first-after", build).await;
        self.ledger.follow(&self.client, "first-after", &id).await;
        begun.elapsed()
    }

    /// Waits for the end of everything, and counts.
    pub async fn settle(mut self, world: &World) -> Outcome {
        while let Some(done) = self.clients.join_next().await {
            done.unwrap();
        }
        let api = world.server.api();
        let account = self.ledger.settle(&api, "query").await;
        let mut told = account.jobs.clone();
        // Asked without a webhook.
        told.retain(|_, job| job["metadata"]["webhook"] != false);
        let delivered = webhooks::collect(&world.receiver, &told).await;
        let mut half_documents = Vec::new();
        for n in 0..THERE + self.documents {
            let query = json!({"query": format!("inventory of {}", boxes::word(n)), "pipeline": "all", "mode": "keyword", "top_k": 5_000});
            let seen = Seen::of(&api.search(&query).await, n);
            if !seen.is_whole() {
                half_documents.push(format!("{}: {seen:?}", boxes::word(n)));
            }
        }
        Outcome { account, delivered, half_documents }
    }
}

async fn ask(client: &Client, ledger: &Ledger, n: usize, hook: &str) {
    let key = format!("question-{n}");
    let body = json!({
        "query": format!("What does the {} of {} name on shelf{}?", boxes::COMMON_WORD, boxes::word(n % THERE), n % boxes::SHELVES),
        "pipeline": if n.is_multiple_of(4) { "steady" } else { "default" },
        "cache": "bypass",
        "webhook": {"url": hook},
        "metadata": {"number": n},
    });
    let build = |http: &reqwest::Client, url: &str| http.post(format!("{url}/v1/queries")).json(&body);
    let id = ledger.submit(client, &key, build).await;
    ledger.follow(client, &key, &id).await;
}

async fn bring(client: &Client, ledger: &Ledger, first: usize, hook: &str) {
    let key = format!("documents-{first}");
    let documents: Vec<Value> = (first..first + GROUP).map(|n| boxes::as_json(n, 1)).collect();
    let body = json!({"documents": documents, "webhook": {"url": hook}});
    let build = |http: &reqwest::Client, url: &str| http.post(format!("{url}/v1/documents")).json(&body);
    let id = ledger.submit(client, &key, build).await;
    ledger.follow(client, &key, &id).await;
}
