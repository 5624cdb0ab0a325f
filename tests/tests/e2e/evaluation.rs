//! `raglan eval` on a small set made here, by keywords, so that no model is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use raglan_tests::{Output, Server, python, python_script, raglan, skip};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Ten things of a house, each in a room and of a colour that no other has.
const THINGS: [(&str, &str, &str); 10] = [
    ("kettle", "kitchen", "crimson"),
    ("sofa", "parlour", "turquoise"),
    ("ladder", "garage", "ochre"),
    ("curtain", "bedroom", "lavender"),
    ("bathtub", "bathroom", "ivory"),
    ("bicycle", "cellar", "emerald"),
    ("piano", "hallway", "ebony"),
    ("hammock", "garden", "scarlet"),
    ("telescope", "attic", "copper"),
    ("doormat", "porch", "magenta"),
];

/// A set in BEIR's layout: a document a thing, a question each, and two that nothing answers.
fn house(parent: &Path) -> PathBuf {
    let folder = parent.join("house");
    fs::create_dir_all(folder.join("qrels")).unwrap();
    let (mut corpus, mut queries, mut qrels) =
        (String::new(), String::new(), "query-id\tcorpus-id\tscore\n".to_owned());
    for (thing, room, colour) in THINGS {
        let text = format!(
            "The {thing} stands in the {room}. Its colour is {colour}. Nobody has moved the {thing} for years."
        );
        let document =
            json!({"_id": format!("d-{thing}"), "title": format!("About the {thing}"), "text": text});
        let question = format!("What is the colour of the {thing}?");
        let query = json!({"_id": format!("q-{thing}"), "text": question, "metadata": {"answers": [colour]}});
        corpus += &format!("{document}\n");
        queries += &format!("{query}\n");
        qrels += &format!("q-{thing}\td-{thing}\t1\n");
    }
    for (id, text) in
        [("u-1", "Which emperor conquered Carthage?"), ("u-2", "When does photosynthesis begin?")]
    {
        queries += &format!("{}\n", json!({"_id": id, "text": text, "metadata": {"answerable": false}}));
    }
    fs::write(folder.join("corpus.jsonl"), corpus).unwrap();
    fs::write(folder.join("queries.jsonl"), queries).unwrap();
    fs::write(folder.join("qrels/test.tsv"), qrels).unwrap();
    folder
}

/// No server listens here.
const NOWHERE: &str = "http://127.0.0.1:9";

async fn eval(folder: &Path, url: &str, dataset: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--url", url, "eval", "--dataset", dataset.to_str().unwrap()];
    all.extend(arguments);
    raglan(folder, &[], &all).await
}

fn mean(summary: &Value, system: usize, measure: &str) -> f64 {
    let measures = &summary["systems"][system]["measures"];
    measures[measure]["mean"].as_f64().unwrap_or_else(|| panic!("no {measure}: {summary:#}"))
}

#[tokio::test]
async fn a_set_is_taken_in_asked_and_reported_and_its_run_measured_again_without_a_server() {
    let server = Server::plain().await;
    let folder = server.folder();
    let dataset = house(folder);
    let files = ["--run-file", "house.run", "--per-query", "house.jsonl", "--html", "house.html"];
    let arguments = [&["--ingest", "--answers", "--json"][..], &files].concat();
    let output = eval(folder, server.url(), &dataset, &arguments).await.expect_code(0);
    let summary = output.json();
    assert_eq!(
        summary["dataset"],
        json!({"name": "house", "questions": 12, "judged": 10, "with_answers": 10, "unanswerable": 2, "held_out": 0, "documents": 10})
    );
    assert!(output.stderr.contains("10 taken in, 0 unchanged, 0 failed"), "{output:#?}");
    // Each question names its thing, which one document alone has.
    for measure in ["ndcg@10", "recall@1", "mrr@10", "map@100", "answer_contains", "cited_relevant"] {
        assert!((mean(&summary, 0, measure) - 1.0).abs() < 1e-9, "{measure}: {summary:#}");
    }
    assert!((mean(&summary, 0, "precision@5") - 0.2).abs() < 1e-9);
    assert!(mean(&summary, 0, "wrong_refusal").abs() < 1e-9);
    assert!((mean(&summary, 0, "unanswerable_not_found") - 1.0).abs() < 1e-9, "{summary:#}");
    let system = &summary["systems"][0];
    assert_eq!((&system["collection"], &system["answers"]["asked"]), (&json!("house"), &json!(12)));
    assert!(system["search"]["took"]["p50_ms"].as_f64().unwrap() > 0.0);

    let rows = fs::read_to_string(folder.join("house.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 12);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["ranking"][0]["document"]),
        (&json!("q-kettle"), &json!("d-kettle"))
    );
    assert!(rows[0]["answer"]["text"].as_str().unwrap().contains("crimson"));
    assert_eq!(rows[10]["answer"]["found"], false);
    let page = fs::read_to_string(folder.join("house.html")).unwrap();
    assert!(
        page.contains("Evaluation: house") && page.contains("<svg") && !page.contains("<script"),
        "{page}"
    );

    // The same without asking anybody.
    let again =
        eval(folder, NOWHERE, &dataset, &["--from-run", "house.run", "--json"]).await.expect_code(0).json();
    for measure in ["ndcg@10", "recall@100", "precision@5", "mrr@10", "map@100"] {
        assert_eq!(
            again["systems"][0]["measures"][measure], summary["systems"][0]["measures"][measure],
            "{measure}"
        );
    }

    // Unchanged documents are not taken in again; a table and not JSON.
    let output =
        eval(folder, server.url(), &dataset, &["--ingest", "--mode", "keyword"]).await.expect_code(0);
    assert!(output.stderr.contains("0 taken in, 10 unchanged"), "{output:#?}");
    assert!(output.stdout.starts_with("house: 12 questions over 10 documents"), "{output:#?}");
    assert!(
        output.stdout.contains("Recall")
            && output.stdout.contains("p50")
            && !output.stdout.contains('\u{1b}'),
        "{output:#?}"
    );
}

#[tokio::test]
async fn two_configurations_and_two_runs_are_compared() {
    let server = Server::plain().await;
    let folder = server.folder();
    let dataset = house(folder);
    let arguments =
        ["--ingest", "--mode", "hybrid", "--against", "keyword", "--json", "--run-file", "good.run"];
    let summary = eval(folder, server.url(), &dataset, &arguments).await.expect_code(0).json();
    assert_eq!(
        (&summary["systems"][0]["label"], &summary["systems"][1]["label"]),
        (&json!("hybrid"), &json!("keyword"))
    );
    let compared = summary["comparison"].as_array().unwrap();
    let ndcg = compared.iter().find(|row| row["measure"] == "ndcg@10").unwrap();
    // There is no model, so the two are one and the same.
    assert_eq!((&ndcg["difference"]["mean"], &ndcg["difference"]["p"]), (&json!(0.0), &json!(1.0)));

    // A worse run: each question finds the next thing first.
    let mut worse = String::new();
    for (at, (thing, ..)) in THINGS.iter().enumerate() {
        let other = THINGS[(at + 1) % THINGS.len()].0;
        worse += &format!("q-{thing} Q0 d-{other} 1 2.0 worse\nq-{thing} Q0 d-{thing} 2 1.0 worse\n");
    }
    fs::write(folder.join("worse.run"), worse).unwrap();
    let offline = ["--from-run", "good.run", "--against-run", "worse.run", "--json"];
    let output = eval(folder, NOWHERE, &dataset, &offline).await.expect_code(0);
    let summary = output.json();
    let mrr =
        summary["comparison"].as_array().unwrap().iter().find(|row| row["measure"] == "mrr@10").unwrap();
    assert_eq!(
        (&mrr["first"], &mrr["second"], &mrr["difference"]["lower"]),
        (&json!(1.0), &json!(0.5), &json!(10))
    );
    assert!(mrr["difference"]["p"].as_f64().unwrap() < 0.01, "{mrr:#}");
    let text = eval(folder, NOWHERE, &dataset, &offline[..4]).await.expect_code(0).stdout;
    assert!(text.contains("worse.run less good.run") && text.contains("0/0/10  worse"), "{text}");
    // The draws are the same each time; the time of day aside, so is everything.
    let again = eval(folder, NOWHERE, &dataset, &offline).await.expect_code(0).json();
    assert_eq!((&again["comparison"], &again["systems"]), (&summary["comparison"], &summary["systems"]));
}

#[tokio::test]
async fn held_out_questions_are_asked_where_their_documents_are_not() {
    let server = Server::plain().await;
    let folder = server.folder();
    let dataset = house(folder);
    // A document that must go: it was taken in before it was known that it is to be held out.
    let api = server.api();
    let arguments = ["--answers", "--hold-out", "3", "--seed", "5", "--json", "--per-query", "held.jsonl"];
    let missing = eval(folder, server.url(), &dataset, &arguments).await.expect_code(2);
    assert!(missing.stderr.contains("--ingest makes it"), "{missing:#?}");
    let with_ingest = [&["--ingest"][..], &arguments].concat();
    let summary = eval(folder, server.url(), &dataset, &with_ingest).await.expect_code(0).json();
    let set = &summary["dataset"];
    assert_eq!((&set["questions"], &set["held_out"], &set["documents"]), (&json!(12), &json!(3), &json!(7)));
    assert_eq!(summary["systems"][0]["collection"], "house-hold-out-3-seed-5");
    assert!((mean(&summary, 0, "held_out_not_found") - 1.0).abs() < 1e-9, "{summary:#}");
    assert!(mean(&summary, 0, "wrong_refusal").abs() < 1e-9, "{summary:#}");
    assert_eq!(summary["systems"][0]["measures"]["answer_contains"]["questions"], 7);
    let held = || -> BTreeSet<String> {
        let rows = fs::read_to_string(folder.join("held.jsonl")).unwrap();
        let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.filter(|row| row["held_out"] == true).map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = held();
    assert_eq!(first.len(), 3);

    // What slipped in is a mistake without --ingest, and goes with it.
    let thing = first.first().unwrap().trim_start_matches("q-");
    let slipped = json!({"external_id": format!("d-{thing}"), "text": "It slipped in.", "collection": "house-hold-out-3-seed-5"});
    api.ingest(&slipped).await;
    let output = eval(folder, server.url(), &dataset, &arguments).await.expect_code(2);
    assert!(output.stderr.contains("1 documents that are to be held out"), "{output:#?}");
    let again = eval(folder, server.url(), &dataset, &with_ingest).await.expect_code(0).json();
    assert_eq!(again["dataset"], summary["dataset"]);
    assert_eq!(held(), first, "the same questions each time");
}

#[tokio::test]
async fn the_questions_of_a_folder_of_files_are_asked() {
    let server = Server::plain().await;
    let dataset = server.folder().join("notes");
    fs::create_dir_all(dataset.join("docs/deep")).unwrap();
    fs::write(
        dataset.join("docs/lamp.md"),
        "# Lamp\n\nThe lamp in the hall is green and was bought in Oslo.\n",
    )
    .unwrap();
    fs::write(
        dataset.join("docs/deep/my rug.md"),
        "# Rug\n\nThe rug in the kitchen is as old as the house.\n",
    )
    .unwrap();
    let questions = r#"{"question": "Which colour has the lamp in the hall?", "document": "lamp.md", "contains": "green"}
{"id": "rug", "question": "How old is the rug in the kitchen?", "documents": ["deep/my rug.md"], "answers": ["as old as the house"]}
{"question": "Who invented the telephone exchange?", "unanswerable": true}
"#;
    fs::write(dataset.join("questions.jsonl"), questions).unwrap();
    let arguments = ["--ingest", "--answers", "--json", "--run-file", "notes.run"];
    let summary = eval(server.folder(), server.url(), &dataset, &arguments).await.expect_code(0).json();
    for measure in ["recall@5", "answer_contains", "cited_relevant", "unanswerable_not_found"] {
        assert!((mean(&summary, 0, measure) - 1.0).abs() < 1e-9, "{measure}: {summary:#}");
    }
    // An id with a space goes into a run and comes back.
    let run = fs::read_to_string(server.folder().join("notes.run")).unwrap();
    assert!(run.contains("\tdocs/deep/my rug.md\t"), "{run}");
    let again = eval(server.folder(), NOWHERE, &dataset, &["--from-run", "notes.run", "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(again["systems"][0]["measures"]["map@100"], summary["systems"][0]["measures"]["map@100"]);
    // The questions alone, over the collection as it stands.
    let file = dataset.join("questions.jsonl");
    let alone = ["--collection", "notes", "--json"];
    let alone = eval(server.folder(), server.url(), &file, &alone).await.expect_code(0).json();
    assert_eq!((&alone["dataset"]["name"], &alone["dataset"]["documents"]), (&json!("questions"), &json!(2)));
}

#[tokio::test]
async fn what_is_wrong_with_a_set_is_told_and_the_exit_code_is_2() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = house(folder.path());
    let wrong = async |arguments: &[&str], expected: &str| {
        let output = eval(folder.path(), NOWHERE, &dataset, arguments).await.expect_code(2);
        assert!(output.stderr.contains(expected) && output.stdout.is_empty(), "{expected}: {output:#?}");
    };
    wrong(&["--split", "dev"], "has no dev.tsv; --split can be: test").await;
    wrong(&["--from-run", "nothing.run"], "nothing.run cannot be read").await;
    fs::write(folder.path().join("other.run"), "q1 Q0 d1 1 1.0 t\n").unwrap();
    wrong(&["--from-run", "other.run"], "has none of the questions of the set").await;
    fs::write(folder.path().join("torn.run"), "q1 Q0 d1 1 1.0 t\nq1 Q0\n").unwrap();
    wrong(&["--from-run", "torn.run"], "line 2").await;
    wrong(&["--html", "no/such/folder/page.html"], "cannot be written").await;
    wrong(&["--k", "200"], "--depth").await;
    wrong(&["--hold-out", "11", "--answers"], "only 10 questions").await;
    // A server that is not there is no wrong input.
    let output = eval(folder.path(), NOWHERE, &dataset, &[]).await.expect_code(1);
    assert!(output.stderr.contains("raglan serve"), "{output:#?}");

    fs::write(dataset.join("qrels/test.tsv"), "q-kettle\td-kettle\t1\nq-sofa\n").unwrap();
    wrong(&[], "test.tsv: line 2").await;
    let nowhere = folder.path().join("nowhere");
    let output = eval(folder.path(), NOWHERE, &nowhere, &[]).await.expect_code(2);
    assert!(output.stderr.contains("cannot be read"), "{output:#?}");

    // With a server: a broken corpus is told of before anything is sent, and names that fit nothing.
    let server = Server::plain().await;
    let dataset = house(server.folder());
    let corpus = fs::read_to_string(dataset.join("corpus.jsonl")).unwrap();
    fs::write(dataset.join("corpus.jsonl"), format!("{corpus}{{\"_id\": \"x\"}}\n")).unwrap();
    let output = eval(server.folder(), server.url(), &dataset, &["--ingest"]).await.expect_code(2);
    assert!(output.stderr.contains("corpus.jsonl: line 11: missing field `text`"), "{output:#?}");
    server.api().get("/v1/collections/house").await.expect(404);
    fs::write(dataset.join("corpus.jsonl"), corpus.replace("\"d-", "\"other-")).unwrap();
    let output = eval(server.folder(), server.url(), &dataset, &["--ingest"]).await.expect_code(2);
    assert!(output.stderr.contains("none of the relevant documents is in the collection"), "{output:#?}");
}

/// Rankings with ties, graded judgements, judgements below 0, and questions that find nothing: every measure of every question must be what
/// trec_eval says.
#[tokio::test]
async fn trec_eval_measures_the_same() {
    let Some(python) = python() else {
        skip("evaluation::trec_eval_measures_the_same", "there is no Python with pytrec_eval");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let dataset = folder.path().join("random");
    fs::create_dir_all(dataset.join("qrels")).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let (mut queries, mut qrels, mut run) =
        (String::new(), "query-id\tcorpus-id\tscore\n".to_owned(), String::new());
    for question in 0..60 {
        queries += &format!("{}\n", json!({"_id": format!("q{question}"), "text": "?"}));
        qrels += &format!("q{question}\td{}\t1\n", 1_000 + question);
        for document in 0..200 {
            if random.random_bool(0.08) {
                qrels += &format!("q{question}\td{document}\t{}\n", random.random_range(-1..4));
            }
            // Scores of few steps, so that many are equal; every tenth question finds nothing.
            if question % 10 != 9 && random.random_bool(0.7) {
                run += &format!(
                    "q{question} Q0 d{document} 0 {} t\n",
                    f64::from(random.random_range(0..40)) / 8.0
                );
            }
        }
    }
    fs::write(dataset.join("queries.jsonl"), queries).unwrap();
    let qrels_file = dataset.join("qrels/test.tsv");
    fs::write(&qrels_file, qrels).unwrap();
    let run_file = folder.path().join("random.run");
    fs::write(&run_file, run).unwrap();

    let arguments: [&OsStr; 6] =
        [qrels_file.as_ref(), run_file.as_ref(), "100".as_ref(), "1".as_ref(), "5".as_ref(), "20".as_ref()];
    let theirs = python_script(&python, "trec_eval.py", &arguments, "").await.expect_code(0).json();
    let arguments = ["--from-run", "random.run", "--k", "1,5,20", "--per-query", "ours.jsonl", "--json"];
    eval(folder.path(), NOWHERE, &dataset, &arguments).await.expect_code(0);
    let ours = fs::read_to_string(folder.path().join("ours.jsonl")).unwrap();
    let mut compared = 0;
    for line in ours.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let id = row["id"].as_str().unwrap();
        let measures: BTreeMap<String, f64> = serde_json::from_value(row["measures"].clone()).unwrap();
        for (name, value) in measures {
            // What found nothing is left out there, and 0 here.
            let expected = theirs[id].get(&name).map_or(0.0, |value| value.as_f64().unwrap());
            assert!((value - expected).abs() < 1e-6, "{id} {name}: {value}, not {expected}");
            compared += 1;
        }
    }
    assert_eq!(compared, 60 * (4 * 3 + 2));
}
