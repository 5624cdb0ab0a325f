use raglan_pipeline::contract;

use super::*;
use crate::models::{Precision, tiny};

fn load_with(family: &'static str, precision: Precision) -> LocalReranker {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::reranker(folder.path(), family);
    LocalReranker::load(&model, Placement::Cpu(precision), &tiny::settings()).unwrap()
}

fn load() -> LocalReranker {
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
    let error = LocalReranker::load(
        &tiny::embedder(folder.path(), &[]),
        Placement::Cpu(Precision::F32),
        &tiny::settings(),
    );
    let error = error.err().unwrap().to_string();
    assert!(error.contains("no cross-encoder"), "{error}");
}

/// The same path as on a GPU, on candle's own CPU device.
#[cfg(feature = "candle")]
mod on_candle {
    use candle_core::Device;

    use super::*;
    use crate::models::GpuPrecision;

    const TEXTS: [&str; 5] =
        ["password", "", "a b c d e f g h i j k l m n o p q r s t u v w", "the harvest", "東京の天気"];

    async fn scores(reranker: &LocalReranker) -> Vec<f32> {
        reranker.score("harvest of account", TEXTS.map(str::to_owned).to_vec()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_keeps_the_contract_and_scores_as_the_packed_encoder_does() {
        for family in ["bert", "xlm-roberta"] {
            let packed = scores(&load_with(family, Precision::F32)).await;
            for (precision, most) in [(GpuPrecision::F32, 1e-4), (GpuPrecision::F16, 2e-2)] {
                let folder = tempfile::tempdir().unwrap();
                let model = tiny::reranker(folder.path(), family);
                let ours =
                    LocalReranker::on_device(&model, precision, &Device::Cpu, &tiny::settings()).unwrap();
                for (ours, theirs) in scores(&ours).await.iter().zip(&packed) {
                    let error = (ours - theirs).abs() / theirs.abs().max(1.0);
                    assert!(error < most, "{family}, {precision:?}: {ours} and {theirs}");
                }
                if precision == GpuPrecision::F32 {
                    contract::models::reranker::run_all(Arc::new(ours)).await;
                }
            }
        }
    }

    #[test]
    fn an_embedding_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let model = tiny::embedder(folder.path(), &[]);
        let error = LocalReranker::on_device(&model, GpuPrecision::F32, &Device::Cpu, &tiny::settings());
        let error = error.err().unwrap().to_string();
        assert!(error.contains("no cross-encoder"), "{error}");
    }
}
