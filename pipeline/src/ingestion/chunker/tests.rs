use proptest::prelude::*;

use super::*;
use crate::{
    domain::Metadata,
    ingestion::{clean::DocumentBuilder, word_tokenizer::WordTokenizer},
    ports::BlockKind,
};

fn document(pieces: &[(BlockKind, String)]) -> ParsedDocument {
    let mut builder = DocumentBuilder::new(1 << 24);
    for (kind, raw) in pieces {
        builder.push(*kind, raw).unwrap();
    }
    builder.finish(None, "text/plain", Metadata::new()).unwrap_or_default()
}

fn cut(document: &ParsedDocument, title: &str, settings: &ChunkerSettings) -> Vec<ChunkDraft> {
    chunk(document, title, &WordTokenizer, settings)
}

fn embedded(title: &str, draft: &ChunkDraft) -> String {
    embedded_text(title, &draft.heading_path, &draft.text)
}

fn heading(level: u8, text: &str) -> (BlockKind, String) {
    (BlockKind::Heading(level), text.to_owned())
}

fn paragraph(text: impl Into<String>) -> (BlockKind, String) {
    (BlockKind::Paragraph, text.into())
}

/// Sentences of ten tokens each, all different.
fn prose(seed: usize, sentences: usize) -> String {
    (0..sentences).map(|i| format!("Part {seed} says in line {i} what it says. ")).collect()
}

/// What must hold of the chunks of any document.
fn check(document: &ParsedDocument, title: &str, settings: &ChunkerSettings, drafts: &[ChunkDraft]) {
    let chars: Vec<char> = document.text.chars().collect();
    let mut covered = vec![false; chars.len()];
    let mut last = (0, 0);
    for (i, draft) in drafts.iter().enumerate() {
        assert_eq!(draft.ordinal as usize, i);
        assert!(draft.start_char < draft.end_char, "chunk {i} is empty");
        let slice: String = chars[draft.start_char..draft.end_char].iter().collect();
        assert_eq!(slice, draft.text, "chunk {i} is not what its offsets say");
        assert!((draft.start_char, draft.end_char) > last, "chunk {i} is out of order");
        last = (draft.start_char, draft.end_char);
        covered[draft.start_char..draft.end_char].fill(true);
        let tokens = WordTokenizer.tokens(&embedded(title, draft)).len();
        assert!(tokens <= draft.tokens, "chunk {i} says {} tokens and has {tokens}", draft.tokens);
        assert!(draft.tokens <= settings.max_tokens, "chunk {i} has {} tokens", draft.tokens);
    }
    for (i, c) in chars.iter().enumerate() {
        assert!(covered[i] || c.is_whitespace(), "character {i} ({c:?}) is in no chunk");
    }
}

fn kind() -> impl Strategy<Value = BlockKind> {
    prop_oneof![
        3 => (1u8..=4).prop_map(BlockKind::Heading),
        6 => Just(BlockKind::Paragraph),
        1 => Just(BlockKind::Code),
        1 => Just(BlockKind::Row),
    ]
}

fn content() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        8 => "[a-z]{1,9}[.?,:;]?",
        1 => "[A-Z][a-zäöü]{1,6}",
        1 => "[東京日本語テスト。]{1,30}",
        1 => "\\PC{1,12}",
        1 => "[a-z0-9/+=]{60,400}",
    ];
    proptest::collection::vec(word, 1..120).prop_map(|words| {
        words
            .into_iter()
            .enumerate()
            .map(|(i, word)| if i % 17 == 16 { format!("{word}.\n") } else { format!("{word} ") })
            .collect()
    })
}

fn settings() -> impl Strategy<Value = ChunkerSettings> {
    (60usize..260, 30usize..60, 0usize..15, 0usize..60).prop_map(
        |(max_tokens, target, overlap_tokens, min_tokens)| ChunkerSettings {
            max_tokens,
            target_tokens: target,
            overlap_tokens,
            min_tokens,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_hold_everything_within_the_limits(
        pieces in proptest::collection::vec((kind(), content()), 0..14),
        title in "[A-Za-z ]{0,60}",
        settings in settings(),
    ) {
        let pieces: Vec<_> = pieces
            .into_iter()
            .map(|(kind, text)| match kind {
                BlockKind::Heading(_) => (kind, text.chars().take(60).collect()),
                _ => (kind, text),
            })
            .collect();
        let document = document(&pieces);
        let drafts = cut(&document, &title, &settings);
        check(&document, &title, &settings, &drafts);
        prop_assert_eq!(&drafts, &cut(&document, &title, &settings));
    }

    #[test]
    fn a_change_in_one_section_leaves_the_others(
        sizes in proptest::collection::vec(6usize..60, 2..10),
        changed in any::<prop::sample::Index>(),
        sentences in 6usize..60,
    ) {
        let settings = ChunkerSettings::default();
        let changed = changed.index(sizes.len());
        let make = |edit: bool| {
            // Long enough by itself that the document is never one chunk.
            let preface = [heading(2, "Preface"), paragraph(prose(99, 30))];
            let pieces: Vec<_> = preface
                .into_iter()
                .chain(sizes.iter().enumerate().flat_map(|(i, size)| {
                    let text =
                        if edit && i == changed { prose(1000 + i, sentences) } else { prose(i, *size) };
                    [heading(2, &format!("Section {i}")), paragraph(text)]
                }))
                .collect();
            let others = |draft: &ChunkDraft| !draft.heading_path.contains(&format!("Section {changed}"));
            let drafts = cut(&document(&pieces), "Manual", &settings);
            drafts.into_iter().filter(others).map(|draft| embedded("Manual", &draft)).collect::<Vec<_>>()
        };
        prop_assert_eq!(make(false), make(true));
    }
}

#[test]
fn a_small_document_is_one_chunk_with_its_text_whole() {
    let document = document(&[
        heading(1, "Install"),
        paragraph("Run it."),
        heading(2, "On Linux"),
        paragraph("Unpack it."),
        heading(1, "Use"),
        paragraph("Ask."),
    ]);
    let drafts = cut(&document, "Manual", &ChunkerSettings::default());
    assert_eq!(drafts.len(), 1);
    assert_eq!(drafts[0].text, document.text);
    assert!(drafts[0].heading_path.is_empty());
    assert!(cut(&ParsedDocument::default(), "", &ChunkerSettings::default()).is_empty());
}

#[test]
fn text_without_blocks_is_cut_too() {
    let document = ParsedDocument { text: prose(1, 100), ..ParsedDocument::default() };
    let settings = ChunkerSettings::default();
    let drafts = cut(&document, "", &settings);
    assert!(drafts.len() >= 5, "{} chunks", drafts.len());
    check(&document, "", &settings, &drafts);
}

#[test]
fn sections_are_not_mixed_and_know_their_headings() {
    let document = document(&[
        heading(1, "Manual"),
        heading(2, "Install"),
        paragraph(prose(1, 40)),
        heading(3, "Linux"),
        paragraph(prose(2, 10)),
        heading(2, "Use"),
        paragraph(prose(3, 12)),
    ]);
    let drafts = cut(&document, "Manual", &ChunkerSettings::default());
    let first = embedded("Manual", &drafts[0]);
    assert!(first.starts_with("Manual\n\nInstall\n\nPart 1 "), "{first}");
    let paths: Vec<String> = drafts.iter().map(|draft| draft.heading_path.join("/")).collect();
    assert!(paths.iter().filter(|path| *path == "Manual/Install").count() >= 2, "{paths:?}");
    assert!(paths.contains(&"Manual/Install/Linux".to_owned()), "{paths:?}");
    for draft in &drafts {
        let parts = ["Part 1", "Part 2", "Part 3"].iter().filter(|part| draft.text.contains(**part)).count();
        assert_eq!(parts, 1, "{}", draft.text);
    }
    let second = embedded("Manual", &drafts[1]);
    assert!(second.starts_with("Manual. Install\nPart 1 "), "{second}");
}

#[test]
fn small_neighbours_are_put_together_but_not_over_a_higher_heading() {
    let mut pieces = vec![heading(1, "Words"), paragraph(prose(0, 30))];
    for i in 0..12 {
        pieces.push(heading(2, &format!("Word {i}")));
        pieces.push(paragraph(format!("It means the number {i} and nothing else.")));
    }
    pieces.push(heading(1, "Other"));
    pieces.push(paragraph("A last small one that stands alone."));
    let document = document(&pieces);
    let drafts = cut(&document, "", &ChunkerSettings::default());
    let small: Vec<_> = drafts.iter().filter(|draft| draft.text.contains("Word ")).collect();
    assert!(small.len() < 12, "{} chunks for 12 small sections", small.len());
    assert!(small.iter().any(|draft| draft.heading_path == ["Words"]), "{small:?}");
    let last = drafts.last().unwrap();
    assert!(last.text.starts_with("Other"), "{}", last.text);

    // One of them grows: the groups after it are soon the same again.
    pieces[9].1 = prose(7, 12);
    let after: Vec<String> = cut(&self::document(&pieces), "", &ChunkerSettings::default())
        .iter()
        .map(|draft| embedded("", draft))
        .collect();
    let same = drafts.iter().filter(|draft| after.contains(&embedded("", draft))).count();
    assert!(same + 4 >= drafts.len(), "{same} of {} chunks stayed", drafts.len());
}

#[test]
fn an_insertion_into_a_long_text_moves_few_cuts() {
    let paragraphs: Vec<String> = (0..80).map(|i| prose(i, 2 + i * 7 % 4)).collect();
    let make = |paragraphs: &[String]| -> Vec<String> {
        let pieces: Vec<_> = paragraphs.iter().map(|text| paragraph(text.clone())).collect();
        let drafts = cut(&document(&pieces), "", &ChunkerSettings::default());
        drafts.into_iter().map(|draft| draft.text).collect()
    };
    let before = make(&paragraphs);
    let mut edited = paragraphs.clone();
    edited.insert(1, "Something new is said here, in a sentence of its own.".to_owned());
    let after = make(&edited);
    let same = before.iter().filter(|text| after.contains(text)).count();
    assert!(before.len() > 10 && same * 2 > before.len(), "{same} of {} chunks stayed", before.len());
}

#[test]
fn neighbours_overlap_by_whole_sentences() {
    let document = document(&[paragraph(prose(1, 80))]);
    let drafts = cut(&document, "", &ChunkerSettings::default());
    for pair in drafts.windows(2) {
        assert!(pair[1].start_char < pair[0].end_char, "no overlap");
        assert!(pair[1].text.starts_with("Part 1 says"), "{}", pair[1].text);
        let shared = pair[0].end_char - pair[1].start_char;
        let tail: String = pair[1].text.chars().take(shared).collect();
        assert!(pair[0].text.ends_with(&tail));
        assert!(WordTokenizer.tokens(&tail).len() <= ChunkerSettings::default().overlap_tokens);
    }
}

#[test]
fn code_is_cut_at_lines() {
    let code: String = (0..200).map(|i| format!("    let x{i} = f({i});\n")).collect();
    let document = document(&[heading(1, "Code"), (BlockKind::Code, code)]);
    let drafts = cut(&document, "", &ChunkerSettings::default());
    assert!(drafts.len() > 5);
    for draft in &drafts[1..] {
        assert!(draft.text.starts_with("    let x"), "{}", draft.text);
    }
    assert!(drafts.iter().all(|draft| draft.text.ends_with(");")));
}

#[test]
fn a_word_without_end_is_cut() {
    let document = document(&[paragraph("x".repeat(50_000))]);
    let settings = ChunkerSettings::default();
    let drafts = cut(&document, "Long", &settings);
    check(&document, "Long", &settings, &drafts);
}

#[test]
fn embedded_text_says_nothing_twice() {
    let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    assert_eq!(embedded_text("Guide", &path(&["A", "B"]), "Text."), "Guide. A › B\nText.");
    assert_eq!(embedded_text("Guide", &path(&["GUIDE", "B"]), "Text."), "Guide. B\nText.");
    assert_eq!(embedded_text("Guide", &path(&["Guide", "B"]), "B\n\nText."), "Guide.\nB\n\nText.");
    assert_eq!(embedded_text("Why?", &[], "Text."), "Why?\nText.");
    assert_eq!(embedded_text("", &path(&["A", "B"]), "Text."), "A › B\nText.");
    assert_eq!(embedded_text("", &[], "Text."), "Text.");
    assert_eq!(embedded_text("Guide", &[], "Guide\n\nText."), "Guide\n\nText.");
    assert_eq!(embedded_text("Guide", &[], "Guidelines."), "Guide.\nGuidelines.");
    let long = embedded_text(&"word ".repeat(100), &[], "Text.");
    assert!(long.chars().count() < 180 && long.ends_with("word…\nText."), "{long}");
}

#[test]
fn headings_that_would_take_too_much_are_left_out() {
    let long = "東".repeat(150);
    let document = document(&[heading(1, &long), heading(2, "Short"), paragraph(prose(1, 60))]);
    let settings = ChunkerSettings::default();
    let drafts = cut(&document, "", &settings);
    check(&document, "", &settings, &drafts);
    assert!(drafts.iter().skip(1).any(|draft| draft.heading_path == ["Short"]), "{drafts:?}");
}

#[test]
fn the_hash_is_sha256() {
    assert_eq!(content_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn settings_are_checked() {
    assert_eq!(ChunkerSettings::default().problem(), None);
    assert_eq!(ChunkerSettings::for_model(256), ChunkerSettings::default());
    assert!(ChunkerSettings { target_tokens: 300, ..Default::default() }.problem().is_some());
    assert!(ChunkerSettings { overlap_tokens: 150, ..Default::default() }.problem().is_some());
    assert!(ChunkerSettings { max_tokens: 3, ..Default::default() }.problem().is_some());
}
