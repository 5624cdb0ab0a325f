//! Kills during two hundred questions.

use std::{sync::Arc, time::Instant};

use raglan_tests::{Receiver, ServerOptions, eventually};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    KILLS, boxes,
    client::Client,
    crasher::Crasher,
    ledger::{Ledger, print},
    seed, webhooks,
};

const QUERIES: usize = 200;
const DOCUMENTS: usize = 50;
/// How long the process lives between two kills, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 30..600;

/// The generator that writes for about half a second, so that many kills find it writing.
fn options() -> ServerOptions {
    ServerOptions::default().with(json!({
        "generators": [
            {"name": "extractive", "type": "extractive"},
            {"name": "steady", "type": "simulated", "tokens": 20, "tokens_per_s": 40},
        ],
        "query_pipelines": [
            {"name": "default"},
            {"name": "steady", "generate": {"generator": "steady"}},
        ],
        // No question is to fail because processes were killed under it; that is what the limit is for otherwise.
        "jobs": {"max_attempts": 100},
    }))
}

fn question(n: usize, receiver: &str) -> Value {
    json!({
        "query": format!("What does the {} of {} name on shelf{}?", boxes::COMMON_WORD, boxes::word(n % DOCUMENTS), n / DOCUMENTS),
        "pipeline": if n.is_multiple_of(2) { "steady" } else { "default" },
        "webhook": {"url": receiver},
        "metadata": {"number": n},
    })
}

/// Asks one question as a careful client does, and asks it again under the same key.
async fn ask(client: Client, ledger: Arc<Ledger>, n: usize, url: String) {
    let (key, body) = (format!("question-{n}"), question(n, &url));
    let build = |http: &reqwest::Client, server: &str| http.post(format!("{server}/v1/queries")).json(&body);
    let id = ledger.submit(&client, &key, build).await;
    let job = ledger.follow(&client, &key, &id).await;
    assert_eq!(job["metadata"]["number"], n, "{job:#}");
    ledger.submit(&client, &key, build).await;
}

#[tokio::test]
async fn questions_survive_kills() {
    let (seed, begun) = (seed(), Instant::now());
    let receiver = Receiver::start([]).await;
    let mut crasher = Crasher::start(options(), seed).await;
    let documents: Vec<Value> = (0..DOCUMENTS).map(|n| boxes::as_json(n, 1)).collect();
    crasher.server().api().ingest(&json!({"documents": documents})).await;

    let (client, ledger) = (crasher.client(), Arc::new(Ledger::default()));
    // A few questions are let in before each kill, so that every kill finds some under way.
    let door = Arc::new(Semaphore::new(0));
    let mut clients = JoinSet::new();
    for n in 0..QUERIES {
        let (client, ledger, door, url) =
            (client.clone(), ledger.clone(), door.clone(), receiver.url("/hook"));
        clients.spawn(async move {
            door.acquire().await.unwrap().forget();
            ask(client, ledger, n, url).await;
        });
    }
    let mut under_way = 0;
    for _ in 0..KILLS {
        door.add_permits(QUERIES / KILLS);
        crasher.crash(LIFE_MS).await;
        let api = crasher.server().api();
        let unfinished: usize = api.get("/v1/jobs?limit=100").await.expect(200)["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|job| !raglan_tests::is_final(job))
            .count();
        under_way += usize::from(unfinished > 0);
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }

    let api = crasher.server().api();
    let account = ledger.settle(&api, "query").await;
    let delivered = webhooks::collect(&receiver, &account.jobs).await;
    let (ready_p50, ready_max) = crasher.ready_ms();
    let mut rows = vec![
        ("kills under load", crasher.kills.to_string()),
        ("kills during a start", crasher.kills_during_start.to_string()),
        ("kills that left questions unfinished", under_way.to_string()),
    ];
    rows.extend(account.rows());
    rows.extend(delivered.rows());
    rows.push(("restart to ready, p50 / longest (ms)", format!("{ready_p50} / {ready_max}")));
    rows.push(("seconds", format!("{:.1}", begun.elapsed().as_secs_f64())));
    print(&format!("kill -9 during {QUERIES} questions (RAGLAN_CRASH_SEED={seed})"), &rows);

    account.check();
    delivered.check();
    assert_eq!(account.accepted, QUERIES);
    assert!(under_way > KILLS / 2, "the kills hardly met any work");
    for job in account.jobs.values() {
        let result = &job["result"];
        if result["model"] == "simulated" {
            let words: Vec<String> = (1..=20).map(|n| format!("token{n}")).collect();
            assert_eq!(result["answer"], format!("{} [1]", words.join(" ")), "{job:#}");
        } else {
            assert_eq!(result["found"], true, "{job:#}");
            assert_ne!(result["citations"], json!([]), "{job:#}");
        }
    }
    // The last tries are written down too.
    for id in account.jobs.keys() {
        eventually("the delivery on record", async || {
            let list = api.get(&format!("/v1/jobs/{id}/deliveries")).await.expect(200);
            let list = list["deliveries"].as_array().unwrap();
            assert_eq!(list.len(), 1, "{list:#?}");
            (list[0]["status"] == "delivered").then_some(())
        })
        .await;
    }
}
