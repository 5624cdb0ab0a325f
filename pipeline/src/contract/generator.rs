//! See the port's doc comment for the promises that are checked here.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    domain::{ChunkId, DocumentId, GenerationOptions, Metadata, Passage, PassageRecord, Ranks},
    generation::prompt::PromptBuilder,
    ports::{Generated, GenerationRequest, Generator, ModelError},
};

/// Far longer than any step here takes; a step that hangs fails the test and not the whole run.
const HANG: Duration = Duration::from_secs(60);

type Output = BoxStream<'static, Result<Generated, ModelError>>;

/// Runs the whole contract. The generator must answer [`request`] with more than one piece of text, slowly enough (or in steps
/// small enough) that a cancel after the first piece finds it at work.
pub async fn run_all(generator: Arc<dyn Generator>) {
    a_text_ends_once(&generator).await;
    no_passages_are_an_answer_too(&generator).await;
    cancelled_before_it_begins(&generator).await;
    cancelled_while_it_writes(&generator).await;
    a_dropped_stream_harms_nothing(&generator).await;
    two_at_once_do_not_mix(&generator).await;
    an_idle_one_has_a_place(&generator).await;
    its_tokens_are_in_their_order(&generator);
}

/// A question with two passages that answer it.
#[must_use]
pub fn request() -> GenerationRequest {
    let passages: Vec<Passage> = [
        "The blue pump moves 40 litres of water a minute. It was installed in the north cellar in 2019.",
        "The red pump is a spare. It stands beside the blue pump and moves 25 litres of water a minute.",
    ]
    .iter()
    .map(|text| passage(text))
    .collect();
    request_about("How many litres of water does the blue pump move a minute?", passages)
}

/// A request with its prompt rendered.
#[must_use]
pub fn request_about(question: &str, passages: Vec<Passage>) -> GenerationRequest {
    let prompt = PromptBuilder::default().build(question, &passages).unwrap();
    GenerationRequest {
        question: question.to_owned(),
        passages: passages.into(),
        system: prompt.system,
        user: prompt.user,
        options: GenerationOptions::default(),
    }
}

/// A passage of a document of its own.
#[must_use]
pub fn passage(text: &str) -> Passage {
    let document_id = DocumentId(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()));
    Passage {
        record: PassageRecord {
            chunk_id: ChunkId::derive(document_id, text, 0),
            document_id,
            external_id: format!("doc-{}", document_id.0.simple()),
            title: "Pumps".to_owned(),
            uri: None,
            metadata: Metadata::new(),
            heading_path: Vec::new(),
            text: text.to_owned(),
            ordinal: 0,
            start: 0,
            end: text.chars().count(),
        },
        score: 0.5,
        ranks: Ranks::default(),
    }
}

/// All items of a stream. Panics where it breaks the rule of one end, or hangs.
pub async fn collect(mut stream: Output) -> Vec<Result<Generated, ModelError>> {
    let mut items = Vec::new();
    while let Some(item) = within(stream.next()).await {
        items.push(item);
    }
    let ends = items.iter().filter(|item| !matches!(item, Ok(Generated::Delta(_)))).count();
    assert_eq!(ends, 1, "a stream has exactly one end or error: {items:?}");
    assert!(!matches!(items.last(), Some(Ok(Generated::Delta(_)))), "nothing follows the end: {items:?}");
    items
}

/// All pieces joined.
#[must_use]
pub fn text(items: &[Result<Generated, ModelError>]) -> String {
    let deltas = items.iter().filter_map(|item| match item {
        Ok(Generated::Delta(text)) => Some(text.as_str()),
        _ => None,
    });
    deltas.collect()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("it hangs")
}

async fn begin(generator: &Arc<dyn Generator>, cancel: &CancellationToken) -> Output {
    within(generator.generate(request(), cancel.clone())).await.expect("a fair request is begun")
}

async fn a_text_ends_once(generator: &Arc<dyn Generator>) {
    assert!(!generator.model().trim().is_empty(), "results name the model");
    assert!(generator.context_tokens() != Some(0), "a prompt of no tokens is no use");
    let items = collect(begin(generator, &CancellationToken::new()).await).await;
    let Some(Ok(Generated::End { degraded, .. })) = items.last() else { panic!("{:?}", items.last()) };
    let distinct = degraded.iter().enumerate().all(|(at, part)| !degraded[..at].contains(part));
    assert!(distinct, "what was missing is named once: {degraded:?}");
    assert!(!text(&items).trim().is_empty(), "there is a text");
    let empty = items.iter().any(|item| matches!(item, Ok(Generated::Delta(text)) if text.is_empty()));
    assert!(!empty, "an empty piece is no piece");
}

async fn no_passages_are_an_answer_too(generator: &Arc<dyn Generator>) {
    let request = request_about("Who built the tower?", Vec::new());
    let stream = within(generator.generate(request, CancellationToken::new())).await.expect("it is begun");
    let items = collect(stream).await;
    assert!(matches!(items.last(), Some(Ok(Generated::End { .. }))), "{:?}", items.last());
}

async fn cancelled_before_it_begins(generator: &Arc<dyn Generator>) {
    let cancel = CancellationToken::new();
    cancel.cancel();
    match within(generator.generate(request(), cancel)).await {
        Err(error) => assert!(matches!(error, ModelError::Cancelled), "{error}"),
        Ok(stream) => {
            let items = collect(stream).await;
            assert!(matches!(items.as_slice(), [Err(ModelError::Cancelled)]), "{items:?}");
        }
    }
}

async fn cancelled_while_it_writes(generator: &Arc<dyn Generator>) {
    let cancel = CancellationToken::new();
    let mut stream = begin(generator, &cancel).await;
    let first = within(stream.next()).await;
    assert!(matches!(first, Some(Ok(Generated::Delta(_)))), "{first:?}");
    cancel.cancel();
    let rest = collect(stream).await;
    assert!(matches!(rest.last(), Some(Err(ModelError::Cancelled))), "{rest:?}");
    assert!(rest.len() <= 2, "it stops within one token: {rest:?}");
}

async fn a_dropped_stream_harms_nothing(generator: &Arc<dyn Generator>) {
    let mut stream = begin(generator, &CancellationToken::new()).await;
    within(stream.next()).await;
    drop(stream);
    drop(generator.generate(request(), CancellationToken::new()));
    a_text_ends_once(generator).await;
}

async fn two_at_once_do_not_mix(generator: &Arc<dyn Generator>) {
    let cancel = CancellationToken::new();
    let (one, two) = (begin(generator, &cancel).await, begin(generator, &CancellationToken::new()).await);
    let mut one = one;
    within(one.next()).await;
    cancel.cancel();
    let two = collect(two).await;
    assert!(matches!(two.last(), Some(Ok(Generated::End { .. }))), "one cancel is for one text: {two:?}");
    assert!(matches!(collect(one).await.last(), Some(Err(ModelError::Cancelled))));
}

async fn an_idle_one_has_a_place(generator: &Arc<dyn Generator>) {
    // A place that is given back is there again.
    for _ in 0..3 {
        drop(within(generator.place()).await);
    }
}

fn its_tokens_are_in_their_order(generator: &Arc<dyn Generator>) {
    let Some(tokenizer) = generator.tokenizer() else { return };
    let text = "The blue pump moves 40 litres – a minute.";
    let tokens = tokenizer.tokens(text);
    assert!(tokens.len() > 4, "{tokens:?}");
    assert!(tokens.iter().all(|token| token.start <= token.end && token.end <= text.len()), "{tokens:?}");
    assert!(tokens.is_sorted_by_key(|token| token.start), "{tokens:?}");
}
