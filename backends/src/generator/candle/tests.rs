use futures::StreamExt;
use raglan_engine::tiny::{self, Stored};
use raglan_pipeline::{contract::generator as contract, domain::GenerationOptions};
use serde_json::json;

use super::*;
use crate::models::NoProgress;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // It never ends by itself, so that a cancel finds it at work.
    let config = tiny::config("qwen2", &json!({"eos_token_id": null}));
    tiny::write(folder.path(), &config, Stored::F32, 1).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    folder
}

fn settings(folder: &tempfile::TempDir) -> CandleSettings {
    CandleSettings {
        device: DeviceChoice::Cpu,
        cache: CacheSize::Blocks(1_000),
        ..CandleSettings::new("tiny", folder.path())
    }
}

async fn load(settings: CandleSettings) -> CandleGenerator {
    CandleGenerator::load(settings, Arc::new(NoProgress)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract() {
    let folder = folder();
    contract::run_all(Arc::new(load(settings(&folder)).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_and_why_it_ended_is_told() {
    let folder = folder();
    let generator = load(settings(&folder)).await;
    let mut request = contract::request();
    request.options.max_tokens = 7;
    let stream = generator.generate(request, CancellationToken::new()).await.unwrap();
    let items = contract::collect(stream).await;
    let Some(Ok(Generated::End { reason, usage, .. })) = items.last() else { panic!("{items:?}") };
    assert_eq!(*reason, FinishReason::Length);
    assert_eq!(usage.completion_tokens, 7);
    assert!(usage.prompt_tokens > 500, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_too_long_and_a_prompt_within_the_budget_is_not() {
    let folder = folder();
    let generator = load(CandleSettings { max_context_tokens: Some(4_000), ..settings(&folder) }).await;
    let budget = generator.context_tokens().unwrap() - 100;
    let tokenizer = generator.tokenizer().unwrap();
    let passages: Vec<_> = (0..40).map(|at| contract::passage(&format!("{at} words. ").repeat(30))).collect();
    let builder =
        raglan_pipeline::generation::prompt::PromptBuilder::new(Some(budget), Some(tokenizer.as_ref()));
    let prompt = builder.build("Which words?", &passages).unwrap();
    assert!(prompt.included > 3 && prompt.included < 40, "{}", prompt.included);
    let options = GenerationOptions { max_tokens: 100, ..GenerationOptions::default() };
    let request = GenerationRequest {
        question: "Which words?".to_owned(),
        passages: passages[..prompt.included].to_vec().into(),
        system: prompt.system,
        user: prompt.user,
        options,
    };
    let stream = generator.generate(request.clone(), CancellationToken::new()).await.unwrap();
    assert!(matches!(contract::collect(stream).await.last(), Some(Ok(Generated::End { .. }))));
    let longer = GenerationRequest { user: request.user.repeat(2), ..request };
    let mut stream = generator.generate(longer, CancellationToken::new()).await.unwrap();
    assert!(matches!(stream.next().await, Some(Err(ModelError::TooLong(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_makes_chance_repeatable() {
    let folder = folder();
    let text = async |settings: CandleSettings| {
        let generator = load(settings).await;
        let mut request = contract::request();
        request.options = GenerationOptions { max_tokens: 30, temperature: 1.0 };
        contract::text(
            &contract::collect(generator.generate(request, CancellationToken::new()).await.unwrap()).await,
        )
    };
    let seeded = CandleSettings { seed: Some(5), ..settings(&folder) };
    assert_eq!(text(seeded.clone()).await, text(seeded).await);
    assert_ne!(text(settings(&folder)).await, text(settings(&folder)).await);
}
