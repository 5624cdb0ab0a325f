//! Documents that the tests ask about.

use raglan_tests::{Api, Server, ServerOptions};
use serde_json::{Value, json};

/// A question that the handbook answers, and what its answer holds.
pub const QUESTION: &str = "Within how many days may goods be sent back?";
/// In the answer to [`QUESTION`].
pub const ANSWER: &str = "thirty days";

/// Three documents about a shop.
pub fn handbook() -> Value {
    json!({"documents": [
        {
            "external_id": "handbook/returns.md",
            "title": "Returns",
            "uri": "https://shop.example/handbook/returns",
            "media_type": "text/markdown",
            "metadata": {"lang": "en", "year": 2025, "topics": ["returns", "parcels"], "public": true},
            "text": "# Returns\n\n## Period\n\nGoods may be sent back within thirty days of their delivery. \
                     Nothing has to be explained. The period begins when the parcel is handed over.\n\n\
                     ## Postage\n\nThe shop pays the postage of parcels up to five kilograms. \
                     Heavier parcels are collected by a carrier.\n\n\
                     ## Grüße\n\nÜber die Rückgabe freut sich niemand 😀, but everybody is polite about it.\n",
        },
        {
            "external_id": "handbook/warranty.md",
            "title": "Warranty",
            "media_type": "text/markdown",
            "metadata": {"lang": "en", "year": 2024, "public": false},
            "text": "# Warranty\n\nThe warranty of kettles lasts for two years. Toasters have a warranty of three years. \
                     A broken handle is repaired free of charge while the warranty lasts.\n",
        },
        {
            "external_id": "handbuch/versand.txt",
            "title": "Versand",
            "metadata": {"lang": "de", "year": 2025},
            "text": "Bestellungen werden am selben Tag verschickt, wenn sie vor zwölf Uhr eingehen. Pakete nach Norwegen brauchen eine Woche.",
        },
    ]})
}

/// A server with the handbook in its collection `default`.
pub async fn server_with(options: ServerOptions) -> (Server, Api) {
    let server = Server::start(options).await;
    let api = server.api();
    let result = api.ingest(&handbook()).await;
    assert_eq!(result["documents"], json!({"created": 3, "updated": 0, "unchanged": 0, "failed": 0}));
    (server, api)
}

/// [`server_with`] the default test configuration.
pub async fn server() -> (Server, Api) {
    server_with(ServerOptions::default()).await
}

/// A question for the simulated generator that writes slowly and never stops by itself.
pub fn slow_question() -> Value {
    json!({"query": QUESTION, "pipeline": "slow", "generation": {"max_tokens": 8192}})
}

/// A question for the simulated generator that writes at once. Each number is another question.
pub fn fast_question(number: usize) -> Value {
    json!({"query": format!("{QUESTION} ({number})"), "pipeline": "fast", "cache": "bypass"})
}

/// The id of a job.
pub fn id(job: &Value) -> String {
    job["job_id"].as_str().unwrap_or_else(|| panic!("not a job: {job:#}")).to_owned()
}

/// The passages of a search or a job, by their document.
pub fn found(answer: &Value) -> Vec<String> {
    let passages = answer["passages"].as_array().unwrap_or_else(|| panic!("no passages: {answer:#}"));
    passages.iter().map(|passage| passage["external_id"].as_str().unwrap().to_owned()).collect()
}

/// The characters of a text from `start` to `end`, as citations count them.
pub fn slice(text: &str, start: &Value, end: &Value) -> String {
    let (start, end) = (start.as_u64().unwrap() as usize, end.as_u64().unwrap() as usize);
    text.chars().skip(start).take(end - start).collect()
}
