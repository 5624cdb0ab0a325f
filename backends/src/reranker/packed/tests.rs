use raglan_pipeline::contract;

use super::*;
use crate::models::{reference::Reference, tiny};

fn load_with(family: &'static str, precision: Precision) -> (PackedReranker, Reference) {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::reranker(folder.path(), family);
    let reranker = PackedReranker::load(&model, precision, &tiny::settings()).unwrap();
    (reranker, Reference::load(&model))
}

fn load() -> PackedReranker {
    load_with("bert", Precision::Int8).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tiny_model_keeps_the_contract() {
    for family in ["bert", "xlm-roberta"] {
        for precision in [Precision::F32, Precision::Int8] {
            contract::models::reranker::run_all(Arc::new(load_with(family, precision).0)).await;
        }
    }
}

#[tokio::test]
async fn scores_are_those_of_candle() {
    let question = "how is a password changed";
    let texts = ["open the account", "a", "the harvest of grapes begins late, says the account", ""];
    for family in ["bert", "xlm-roberta"] {
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Int8, 0.1)] {
            let (reranker, reference) = load_with(family, precision);
            let scores = reranker.score(question, texts.map(str::to_owned).to_vec()).await.unwrap();
            let tokenizer = &reranker.tokenizer;
            let query = tokenizer.encode_first(question, 64).unwrap();
            for (text, score) in texts.iter().zip(scores) {
                let text = tokenizer.encode_first(text, 64).unwrap();
                let expected = reference.score(&tokenizer.pair(&query, text, reranker.max_tokens).unwrap());
                assert!(
                    (score - expected).abs() < tolerance,
                    "{family} {precision:?}: {score} for {expected}"
                );
            }
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
