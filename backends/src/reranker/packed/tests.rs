use raglan_pipeline::contract;

use super::*;
use crate::models::tiny;

fn load_with(family: &'static str, precision: Precision) -> PackedReranker {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::reranker(folder.path(), family);
    PackedReranker::load(&model, precision, &tiny::settings()).unwrap()
}

fn load() -> PackedReranker {
    load_with("bert", Precision::Int8)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiny_model_keeps_the_contract() {
    for family in ["bert", "xlm-roberta"] {
        for precision in [Precision::F32, Precision::Int8] {
            contract::models::reranker::run_all(Arc::new(load_with(family, precision))).await;
        }
    }
}

#[tokio::test]
async fn padding_does_not_count() {
    let reranker = load();
    let alone = reranker.score("harvest", vec!["a".to_owned()]).await.unwrap();
    let beside_long = vec!["a".to_owned(), "b c d e f g h i j k l m n o p q r s t u v".to_owned()];
    let beside = reranker.score("harvest", beside_long).await.unwrap();
    assert!((alone[0] - beside[0]).abs() < 1e-4, "{alone:?} and {beside:?}");
}

#[tokio::test]
async fn the_passage_is_cut_and_the_question_stays() {
    let reranker = load();
    let room = 64 - 3;
    let question = "a b c";
    let fitting = "d ".repeat(room - 3);
    let over = "d ".repeat(room * 3);
    let scores = reranker.score(question, vec![fitting, over]).await.unwrap();
    assert!((scores[0] - scores[1]).abs() < 1e-4, "{scores:?}");
}

#[test]
fn an_embedding_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = PackedReranker::load(&tiny::embedder(folder.path(), &[]), Precision::F32, &tiny::settings());
    let error = error.err().unwrap().to_string();
    assert!(error.contains("no cross-encoder"), "{error}");
}
