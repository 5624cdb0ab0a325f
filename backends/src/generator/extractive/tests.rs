//! A small corpus of our own, with questions that it answers and questions that it does not.

use raglan_pipeline::{
    contract::generator as contract,
    domain::{Embedding, Passage},
    generation::citations::cite,
    ports::{EmbedderInfo, Tokenize},
};

use super::{terms::Stems, *};

/// A stand-in for a model: a vector has a place for each meaning, and a few words have the same meaning.
struct FakeEmbedder {
    info: EmbedderInfo,
    fails: bool,
}

const DIMENSION: usize = 512;

const MEANINGS: [&[&str]; 6] = [
    &["founded", "established", "started", "began"],
    &["cost", "price", "euros", "expensive"],
    &["fixed", "repaired", "mended"],
    &["remove", "delete", "erase"],
    &["boss", "director", "leads", "head"],
    &["loud", "noise", "decibels"],
];

impl FakeEmbedder {
    fn slot(fails: bool) -> EmbedderSlot {
        EmbedderSlot::Ready(Arc::new(Self {
            info: EmbedderInfo { model: "fake".to_owned(), dimension: DIMENSION, max_tokens: 256 },
            fails,
        }))
    }

    fn vector(text: &str) -> Vec<f32> {
        let stems = Stems::new();
        let mut vector = vec![0.0; DIMENSION];
        vector[0] = 0.1;
        for term in stems.terms(text) {
            let meaning =
                MEANINGS.iter().position(|words| words.iter().any(|word| stems.terms(word).contains(&term)));
            let hash = term.bytes().fold(14_695_981_039_346_656_037_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211)
            });
            let place = meaning
                .map_or(8 + usize::try_from(hash % (DIMENSION as u64 - 8)).unwrap(), |meaning| meaning + 1);
            vector[place] = 1.0;
        }
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.into_iter().map(|x| x / length).collect()
    }
}

#[async_trait]
impl Embedder for FakeEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        unreachable!("sentences are not counted in tokens")
    }

    async fn embed(&self, texts: Vec<String>, _: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        if self.fails {
            return Err(ModelError::try_later("out of order"));
        }
        Ok(texts
            .iter()
            .map(|text| Embedding { vector: Self::vector(text), tokens: 1, truncated: false })
            .collect())
    }
}

fn passages() -> Vec<Passage> {
    let texts: [(&str, &[&str], &str); 7] = [
        (
            "The company",
            &["History"],
            "Nordmole Pumps was established by Anna Berg in Bremen. It had four employees at first. In 1987 the company \
             moved to Kiel.[3] Today Jonas Witt leads it.",
        ),
        (
            "Pump P-200",
            &["Technical data"],
            "The P-200 moves 40 litres of water a minute. Its motor runs on 230 volts and takes 1.2 kilowatts, see Fig. 2. \
             At full speed it reaches 62 decibels. The housing is made of stainless steel.",
        ),
        (
            "Pump P-200",
            &["Maintenance"],
            "Change the seal every 18 months. To change the seal:\n\n1. Switch the pump off.\n2. Drain the water.\n3. Pull the old \
             seal out with the hook.\n\nA worn seal makes the pump drip.",
        ),
        (
            "Server manual",
            &["Configuration", "Network"],
            "The server listens on port 8080 by default. Set `listen` in the configuration to change it. Restart the server \
             afterwards:\n\n```sh\nserverctl restart\n```\n\nBehind a proxy, trust its addresses with `proxies[0]`.",
        ),
        (
            "Server manual",
            &["Data"],
            "To delete a user, open the list of users and press Remove. Deleted users can be restored for 30 days. \
             Backups are written to /var/backups every night.",
        ),
        (
            "FAQ",
            &[],
            "Is there a discount for schools? Yes, 15 percent on all orders. What does shipping take? Three working days.",
        ),
        (
            "Prices",
            &[],
            "| Product | Price |\n|---|---|\n| Pump P-200 | 480 euros |\n| Seal kit | 35 euros |\n\nAll prices include tax.",
        ),
    ];
    let make = |(title, headings, text): &(&str, &[&str], &str)| {
        let mut passage = contract::passage(text);
        passage.record.title = (*title).to_owned();
        passage.record.heading_path = headings.iter().map(|heading| (*heading).to_owned()).collect();
        passage
    };
    texts.iter().map(make).collect()
}

/// A question, words of its answer with their sources, and whether words alone find it (the meaning being the same but not the words).
const ANSWERED: [(&str, &str, u32, bool); 17] = [
    (
        "How many litres of water does the P-200 move a minute?",
        "The P-200 moves 40 litres of water a minute.",
        2,
        true,
    ),
    ("What is the housing made of?", "The housing is made of stainless steel.", 2, true),
    ("How loud is the pump at full speed?", "At full speed it reaches 62 decibels.", 2, true),
    ("When did the company move to Kiel?", "In 1987 the company moved to Kiel.", 1, true),
    ("Who founded Nordmole Pumps?", "Nordmole Pumps was established by Anna Berg in Bremen.", 1, true),
    ("How many employees did Nordmole have at first?", "It had four employees at first.", 1, true),
    ("Who leads the company today?", "Today Jonas Witt leads it.", 1, true),
    ("Who is the boss of the company today?", "Today Jonas Witt leads it.", 1, false),
    ("How often must the seal be changed?", "Change the seal every 18 months.", 3, true),
    ("How do I change the seal?", "Pull the old seal out with the hook.", 3, true),
    (
        "Which port does the server listen on by default?",
        "The server listens on port 8080 by default.",
        4,
        true,
    ),
    ("How do I restart the server?", "serverctl restart", 4, true),
    ("How can I remove a user?", "To delete a user, open the list of users and press Remove.", 5, true),
    ("How many days can deleted users be restored?", "Deleted users can be restored for 30 days.", 5, true),
    ("Is there a discount for schools?", "Yes, 15 percent on all orders.", 6, true),
    ("What does the seal kit cost?", "| Seal kit | 35 euros |", 7, false),
    ("Where are backups written to?", "Backups are written to /var/backups every night.", 5, true),
];

const UNANSWERED: [&str; 8] = [
    "What is the capital of France?",
    "Who won the football world cup in 1990?",
    "How do I bake sourdough bread?",
    "What colour is the chief accountant's car?",
    "Which programming language is best for games?",
    "How tall is Mount Everest?",
    "Wie wird das Wetter morgen?",
    "",
];

async fn ask(generator: &ExtractiveGenerator, question: &str) -> (String, bool) {
    let request = contract::request_about(question, passages());
    let stream = generator.generate(request, CancellationToken::new()).await.unwrap();
    let items = contract::collect(stream).await;
    let Some(Ok(Generated::End { reason: FinishReason::Stop, usage, found, degraded })) = items.last() else {
        panic!("{items:?}")
    };
    assert_eq!((*usage, degraded.as_slice()), (Usage::default(), [].as_slice()));
    (contract::text(&items), *found)
}

fn generator(embedder: bool) -> ExtractiveGenerator {
    let slot = if embedder { FakeEmbedder::slot(false) } else { EmbedderSlot::Off };
    ExtractiveGenerator::new(slot, ExtractiveSettings::default())
}

/// What holds for every answer: its markers are read as they were meant, and each part of it stands in its source.
fn check(question: &str, answer: &str) {
    let passages = passages();
    let cited = cite(answer, &passages);
    assert_eq!(cited.answer, answer, "{question}");
    assert!(!cited.citations.is_empty(), "{question}: {answer}");
    for citation in &cited.citations {
        let source = &passages[citation.marker as usize - 1].record;
        assert!(source.text.contains(&citation.text));
    }
    let sources = passages.iter().map(|passage| passage.record.text.as_str()).collect::<Vec<_>>().join("\n");
    let (sources, mut bare) = (sources.replace("[3]", ""), answer.to_owned());
    for number in 1..=passages.len() {
        bare = bare.replace(&format!("[{number}]"), "\u{0}");
    }
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    // A row of a table comes with the names of the columns, which may stand further up.
    for part in bare.split(['\u{0}', '\n']) {
        assert!(flat(&sources).contains(&flat(part)), "{question}: {part:?} stands nowhere");
    }
}

#[tokio::test]
async fn answers_are_the_right_sentences_of_the_right_sources() {
    for embedder in [true, false] {
        let generator = generator(embedder);
        let mut wrong = Vec::new();
        for (question, words, source, by_words_alone) in ANSWERED {
            let (answer, found) = ask(&generator, question).await;
            if found {
                check(question, &answer);
            }
            let right = found && answer.contains(words) && answer.contains(&format!("[{source}]"));
            if !right && (embedder || by_words_alone) {
                wrong.push(format!("{question} -> {answer}"));
            }
        }
        assert!(wrong.is_empty(), "embedder: {embedder}\n{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn what_the_passages_do_not_say_is_said_not_to_be_there() {
    for embedder in [true, false] {
        let generator = generator(embedder);
        for question in UNANSWERED {
            assert_eq!(ask(&generator, question).await, (NOT_FOUND.to_owned(), false), "{question}");
        }
    }
}

#[tokio::test]
async fn an_embedder_that_fails_leaves_the_words_and_is_named() {
    let words = generator(false);
    for slot in [FakeEmbedder::slot(true), EmbedderSlot::Missing] {
        let broken = ExtractiveGenerator::new(slot, ExtractiveSettings::default());
        for (question, ..) in ANSWERED {
            let request = contract::request_about(question, passages());
            let stream = broken.generate(request, CancellationToken::new()).await.unwrap();
            let items = contract::collect(stream).await;
            let Some(Ok(Generated::End { found, degraded, .. })) = items.last() else { panic!("{items:?}") };
            assert_eq!(degraded, &[Degraded::Embedder], "{question}");
            assert_eq!((contract::text(&items), *found), ask(&words, question).await, "{question}");
        }
    }
}

#[tokio::test]
async fn a_list_comes_whole_and_a_back_reference_with_what_it_points_to() {
    let generator = generator(true);
    let (answer, _) = ask(&generator, "How do I change the seal?").await;
    assert!(
        answer.contains("To change the seal:\n\n1. Switch the pump off.\n2. Drain the water.\n3. Pull the old seal out with the hook. [3]"),
        "{answer}"
    );
    let (answer, _) = ask(&generator, "How many employees did Nordmole have at first?").await;
    assert!(
        answer.starts_with("Nordmole Pumps was established by Anna Berg in Bremen. It had four"),
        "{answer}"
    );
    let (answer, _) = ask(&generator, "How do I restart the server?").await;
    assert!(answer.contains("```sh\nserverctl restart\n```\n[4]"), "{answer}");
}

#[tokio::test]
async fn a_row_comes_with_the_names_of_its_columns_which_alone_answer_nothing() {
    let (answer, _) = ask(&generator(true), "What does the seal kit cost?").await;
    assert!(answer.contains("| Product | Price |\n|---|---|\n| Seal kit | 35 euros |\n[7]"), "{answer}");
    let (answer, found) = ask(&generator(false), "Which product has which price?").await;
    assert!(!found || answer.contains("euros"), "{answer}");
}

#[tokio::test]
async fn headings_do_not_come_along() {
    let mut passage = contract::passage(
        "Late readers\n\nIt gets the past first.\n\nSlow readers\n\nThis never holds the pump up.",
    );
    passage.record.heading_path = vec!["Late readers".to_owned()];
    let request = contract::request_about("What holds the pump up?", vec![passage]);
    let stream = generator(false).generate(request, CancellationToken::new()).await.unwrap();
    assert_eq!(contract::text(&contract::collect(stream).await), "This never holds the pump up. [1]");
}

/// The words are there, but not what is asked: by meaning and words together that must show.
#[tokio::test]
async fn questions_on_the_same_subject_that_are_not_answered_are_refused() {
    for question in [
        "Who designed the logo of Nordmole?",
        "When did Jonas Witt marry Petra Sommer?",
        "How many doctors work at the hospital in Kiel?",
        "Why was the factory in Bremen burnt down?",
        "Which colours can be ordered for the hook?",
        "How do I connect a scanner to the printer?",
    ] {
        let (answer, found) = ask(&generator(true), question).await;
        assert!(!found, "{question}: {answer}");
    }
}

#[tokio::test]
async fn a_number_that_stands_nowhere_refuses_nothing_by_itself() {
    let (answer, found) = ask(&generator(true), "Can deleted users be restored for 45 days?").await;
    assert!(found && answer.contains("restored for 30 days"), "{answer}");
}

#[tokio::test]
async fn two_facts_that_are_asked_for_are_both_given() {
    let question = "What is the housing made of and what does the motor run on?";
    let (answer, _) = ask(&generator(true), question).await;
    assert!(answer.contains("stainless steel") && answer.contains("230 volts"), "{answer}");
}

#[tokio::test]
async fn other_languages_are_answered_too() {
    let passages = [
        "Die Pumpe fördert 40 Liter Wasser in der Minute. Das Gehäuse besteht aus Edelstahl.",
        "La pompe a été installée en 2019 dans la cave nord.",
        "ポンプは北の地下室にあります。色は青です。",
    ]
    .map(contract::passage);
    for (question, words) in [
        ("Wie viele Liter Wasser fördert die Pumpe in der Minute?", "40 Liter Wasser"),
        ("Quand la pompe a-t-elle été installée ?", "installée en 2019"),
        ("ポンプはどこにありますか", "北の地下室"),
    ] {
        let request = contract::request_about(question, passages.to_vec());
        let stream = generator(false).generate(request, CancellationToken::new()).await.unwrap();
        let answer = contract::text(&contract::collect(stream).await);
        assert!(answer.contains(words), "{question}: {answer}");
    }
}

#[tokio::test]
async fn a_sentence_that_stands_in_two_passages_is_written_once() {
    let text = "The P-200 moves 40 litres of water a minute.";
    let passages = vec![contract::passage(text), contract::passage(&format!("{text} It is blue."))];
    let generator = generator(false);
    let request = contract::request_about("How many litres does the P-200 move?", passages);
    let stream = generator.generate(request, CancellationToken::new()).await.unwrap();
    assert_eq!(contract::text(&contract::collect(stream).await), format!("{text} [1]"));
}

#[tokio::test]
async fn it_keeps_the_contract() {
    for embedder in [false, true] {
        contract::run_all(Arc::new(generator(embedder))).await;
    }
}
