//! Kills while documents are taken in and searched.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use raglan_tests::{Api, Receiver, ServerOptions, eventually};
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{RequestBuilder, multipart};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    KILLS,
    boxes::{self, Seen},
    client::Client,
    crasher::Crasher,
    ledger::{Ledger, print},
    seed, webhooks,
};

const DOCUMENTS: usize = 150;
/// Documents of one request.
const GROUP: usize = 5;
/// Clients that send documents; each has documents of its own.
const SENDERS: usize = 5;
const SEARCHERS: usize = 2;
/// Between two searches of one client, so that searching does not take all of the machine.
const BETWEEN_SEARCHES: Duration = Duration::from_millis(15);
/// How long the process lives between two kills, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 30..1_000;

/// Small chunks, so that each document has several, and searches that show all of them.
fn options() -> ServerOptions {
    ServerOptions::default().with(json!({
        "limits": {"top_k": 5_000},
        "query_pipelines": [
            {"name": "default"},
            {"name": "all", "search": {"candidates": 5_000}, "select": {"top_k": 5_000, "collapse_duplicates": false, "merge_neighbours": false}},
        ],
        "indexing_pipelines": [
            {"name": "default", "chunk": {"max_tokens": 96, "target_tokens": 80, "overlap_tokens": 0, "min_tokens": 8}},
        ],
        "workers": {"ingestion": 2},
        // No job is to fail because processes were killed under it; that is what the limit is for otherwise.
        "jobs": {"max_attempts": 100},
    }))
}

/// What the clients know of each document.
#[derive(Default)]
struct Known {
    /// The last edition whose job has ended: searches must show it or a later one. 0 where there is none.
    confirmed: AtomicUsize,
    /// The last edition that was sent: searches must not show a later one.
    sent: AtomicUsize,
}

struct World {
    client: Client,
    ledger: Ledger,
    documents: Vec<Known>,
    webhook: String,
    /// The kills are over: clients finish what they have begun.
    calm: AtomicBool,
}

/// Sends the groups of one client, edition after edition, until the kills are over.
async fn send_documents(world: Arc<World>, sender: usize) {
    let groups: Vec<usize> = (0..DOCUMENTS / GROUP).filter(|group| group % SENDERS == sender).collect();
    for edition in 1.. {
        for group in &groups {
            if edition > 1 && world.calm.load(Ordering::SeqCst) {
                return;
            }
            send_group(&world, *group, edition).await;
        }
    }
}

async fn send_group(world: &World, group: usize, edition: usize) {
    let documents = group * GROUP..(group + 1) * GROUP;
    for document in documents.clone() {
        world.documents[document].sent.store(edition, Ordering::SeqCst);
    }
    let key = format!("group-{group}-edition-{edition}");
    let build = |http: &reqwest::Client, server: &str| {
        let request = http.post(format!("{server}/v1/documents")).query(&[("webhook_url", &world.webhook)]);
        with_documents(request, documents.clone(), edition)
    };
    let id = world.ledger.submit(&world.client, &key, build).await;
    let job = world.ledger.follow(&world.client, &key, &id).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    let counts = &job["result"]["documents"];
    let taken_in = ["created", "updated", "unchanged"].map(|name| counts[name].as_u64().unwrap());
    assert_eq!(taken_in.iter().sum::<u64>(), GROUP as u64, "{job:#}");
    for document in documents.clone() {
        world.documents[document].confirmed.store(edition, Ordering::SeqCst);
    }
    // The same request again is the same job, whichever process accepted it.
    world.ledger.submit(&world.client, &key, build).await;
}

/// In each of the three forms in turn.
fn with_documents(
    request: RequestBuilder,
    documents: std::ops::Range<usize>,
    edition: usize,
) -> RequestBuilder {
    match edition % 3 {
        1 => {
            let lines: String = documents.map(|n| format!("{}\n", boxes::as_json(n, edition))).collect();
            request.header("content-type", "application/x-ndjson").body(lines)
        }
        2 => {
            let documents: Vec<Value> = documents.map(|n| boxes::as_json(n, edition)).collect();
            request.json(&json!({"documents": documents}))
        }
        _ => {
            let form = documents.fold(multipart::Form::new(), |form, n| {
                let file = multipart::Part::text(boxes::text(n, edition)).file_name(boxes::external_id(n));
                form.part("file", file)
            });
            request.multipart(form)
        }
    }
}

/// What searches saw that they must not.
#[derive(Debug, Default)]
struct Sightings {
    searches: usize,
    /// Searches that showed a document.
    shown: usize,
    /// Chunks of two editions at once.
    mixed: Vec<String>,
    /// Some chunks of a document, and not the others.
    partial: Vec<String>,
    /// An older edition than the last one whose job had ended, none at all, or one that was never sent.
    wrong: Vec<String>,
}

/// Looks for random documents all the time.
async fn search_documents(world: Arc<World>, seed: u64) -> Sightings {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sightings = Sightings::default();
    while !world.calm.load(Ordering::SeqCst) {
        tokio::time::sleep(BETWEEN_SEARCHES).await;
        let document = rng.random_range(0..DOCUMENTS);
        let known = &world.documents[document];
        let confirmed = known.confirmed.load(Ordering::SeqCst);
        let body = json!({"query": boxes::word(document), "pipeline": "all"});
        let search = |http: &reqwest::Client, url: &str| http.post(format!("{url}/v1/search")).json(&body);
        let Some((status, answer)) = world.client.try_send(search).await else {
            continue;
        };
        if status == 404 && confirmed == 0 {
            // Not even the collection is there.
            continue;
        }
        assert_eq!(status, 200, "{answer:#}");
        sightings.note(document, confirmed..=known.sent.load(Ordering::SeqCst), &Seen::of(&answer, document));
    }
    sightings
}

impl Sightings {
    fn note(&mut self, document: usize, allowed: std::ops::RangeInclusive<usize>, seen: &Seen) {
        self.searches += 1;
        let told = format!("{}: {seen:?}, allowed {allowed:?}", boxes::word(document));
        if seen.chunks == 0 {
            if *allowed.start() > 0 {
                self.wrong.push(told);
            }
            return;
        }
        self.shown += 1;
        if seen.editions.len() > 1 {
            self.mixed.push(told);
        } else if !seen.editions.iter().all(|edition| allowed.contains(edition)) {
            self.wrong.push(told);
        } else if !seen.is_whole() {
            self.partial.push(told);
        }
    }

    fn add(&mut self, other: Self) {
        self.searches += other.searches;
        self.shown += other.shown;
        self.mixed.extend(other.mixed);
        self.partial.extend(other.partial);
        self.wrong.extend(other.wrong);
    }
}

#[tokio::test]
async fn documents_survive_kills() {
    let (seed, begun) = (seed(), Instant::now());
    let receiver = Receiver::start([]).await;
    let mut crasher = Crasher::start(options(), seed).await;
    let world = Arc::new(World {
        client: crasher.client(),
        ledger: Ledger::default(),
        documents: (0..DOCUMENTS).map(|_| Known::default()).collect(),
        webhook: receiver.url("/hook"),
        calm: AtomicBool::new(false),
    });
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        senders.spawn(send_documents(world.clone(), sender));
    }
    let mut searchers = JoinSet::new();
    for searcher in 0..SEARCHERS {
        searchers.spawn(search_documents(world.clone(), seed + searcher as u64));
    }
    for _ in 0..KILLS {
        crasher.crash(LIFE_MS).await;
    }
    world.calm.store(true, Ordering::SeqCst);
    while let Some(done) = senders.join_next().await {
        done.unwrap();
    }
    let mut sightings = Sightings::default();
    while let Some(seen) = searchers.join_next().await {
        sightings.add(seen.unwrap());
    }

    let api = crasher.server().api();
    let account = world.ledger.settle(&api, "ingestion").await;
    let delivered = webhooks::collect(&receiver, &account.jobs).await;
    let (ready_p50, ready_max) = crasher.ready_ms();
    let mut rows = vec![
        ("kills under load", crasher.kills.to_string()),
        ("kills during a start", crasher.kills_during_start.to_string()),
    ];
    rows.extend(account.rows());
    rows.extend(delivered.rows());
    rows.extend([
        ("documents", DOCUMENTS.to_string()),
        ("searches meanwhile", format!("{} ({} found their document)", sightings.searches, sightings.shown)),
        ("… with two editions of a document", sightings.mixed.len().to_string()),
        ("… with a part of a document", sightings.partial.len().to_string()),
        ("… with none, an old or an unsent edition", sightings.wrong.len().to_string()),
        ("restart to ready, p50 / longest (ms)", format!("{ready_p50} / {ready_max}")),
        ("seconds", format!("{:.1}", begun.elapsed().as_secs_f64())),
    ]);
    print(&format!("kill -9 while documents are taken in (RAGLAN_CRASH_SEED={seed})"), &rows);
    account.check();
    delivered.check();
    assert!(sightings.mixed.is_empty(), "two editions at once: {:#?}", sightings.mixed);
    assert!(sightings.wrong.is_empty(), "not what was taken in: {:#?}", sightings.wrong);
    assert!(sightings.partial.is_empty(), "half of a document: {:#?}", sightings.partial);
    assert!(sightings.shown > 0, "the searches found nothing to look at");

    check_index(&api, &world).await;
    // The index is a copy of the store: made anew from it, it holds the same.
    let before = everything(&api).await;
    assert!(crasher.server().terminate().await.success());
    std::fs::remove_dir_all(crasher.server().data_dir().join("index")).unwrap();
    crasher.restart().await;
    let api = crasher.server().api();
    eventually("the index made anew", async || (api.get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(everything(&api).await, before, "the index was not equal to the store");
    check_index(&api, &world).await;
}

/// Every document is found, whole and in its last edition, with as many chunks as the store has of it.
async fn check_index(api: &Api, world: &World) {
    let collection = api.get("/v1/collections/default").await.expect(200);
    assert_eq!(collection["documents"], DOCUMENTS, "{collection:#}");
    for (number, known) in world.documents.iter().enumerate() {
        let edition = known.confirmed.load(Ordering::SeqCst);
        assert!(edition > 0, "{} was never taken in", boxes::word(number));
        let seen =
            Seen::of(&api.search(&json!({"query": boxes::word(number), "pipeline": "all"})).await, number);
        assert!(
            seen.is_whole() && seen.editions == BTreeSet::from([edition]),
            "{number}: {seen:?}, not {edition}"
        );
        let stored = api.document("default", &boxes::external_id(number)).await.unwrap();
        assert_eq!(stored["chunks"], seen.chunks, "{stored:#}");
    }
    // A hit that the store does not have any more would leave a gap between the ranks.
    let all = api.search(&json!({"query": boxes::COMMON_WORD, "pipeline": "all"})).await;
    let mut ranks: Vec<u64> = all["passages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|passage| passage["ranks"]["keyword"].as_u64().unwrap())
        .collect();
    ranks.sort_unstable();
    let chunks = collection["chunks"].as_u64().unwrap();
    assert_eq!(ranks, (1..=chunks).collect::<Vec<_>>(), "the index holds something else than the store");
}

/// The ids of all chunks that searches find.
async fn everything(api: &Api) -> BTreeSet<String> {
    let all = api.search(&json!({"query": boxes::COMMON_WORD, "pipeline": "all"})).await;
    let passages = all["passages"].as_array().unwrap();
    passages.iter().map(|passage| passage["chunk_id"].as_str().unwrap().to_owned()).collect()
}
