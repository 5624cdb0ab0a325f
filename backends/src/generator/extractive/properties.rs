//! What holds for any passages and questions.

use proptest::prelude::*;
use raglan_pipeline::{contract::generator as contract, domain::Passage, generation::citations::cite};
use unicode_segmentation::UnicodeSegmentation;

use super::{ExtractiveSettings, candidates::Material, choose, write};

fn settings() -> ExtractiveSettings {
    ExtractiveSettings { lexical_threshold: 0.0, ..ExtractiveSettings::default() }
}

fn answer(question: &str, passages: &[Passage]) -> String {
    let material = Material::gather(question, passages, settings().max_candidates);
    write::write(&choose::choose(&material, None, &settings()), &material, passages)
}

/// Text as documents have it: prose, headings, lists, tables, code, references, quotes, other scripts.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[A-Z][a-z]{1,8}( [a-zà-ü]{1,8}| [0-9]{1,4}){2,9}[.!?] ",
        1 => Just("It stops then. ".to_owned()),
        1 => "\n\n#{0,2} ?[A-Z][a-z]{2,8}( [a-z]{2,8}){0,3}\n\n",
        1 => "Do this:\n\n(- [a-z]{3,8} [a-z]{3,8}\n){1,4}\n",
        1 => "\n\n1\\. [A-Z][a-z]{3,8}\n2\\. [a-z]{3,8} [0-9]{1,3}\n\n",
        1 => "\n\n\\| [a-z]{3,6} \\| [a-z]{3,6} \\|\n\\|---\\|---\\|\n(\\| [a-z]{3,6} \\| [0-9]{1,4} \\|\n){1,3}\n",
        1 => "\n```sh\n[a-z]{3,8} --[a-z]{3,8}\n(```\n)?",
        1 => "See `[a-z]{2,6}(`)? and \\[[5-9][0-9]\\]\\. ",
        1 => "(東京は日本の首都です。|Größe zählt\\. |\u{200b}\u{301}|🦀 )",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn passages() -> impl Strategy<Value = Vec<Passage>> {
    prop::collection::vec(text(), 0..4)
        .prop_map(|texts| texts.iter().map(|text| contract::passage(text)).collect())
}

fn words(text: &str) -> Vec<&str> {
    text.unicode_words().collect()
}

proptest! {
    #[test]
    fn every_word_stands_in_the_cited_source_in_order(
        passages in passages(), question in "(what|how|when|who)( [a-z0-9]{1,8}){0,6}",
    ) {
        let answer = answer(&question, &passages);
        let cited = cite(&answer, &passages);
        prop_assert_eq!(&cited.answer, &answer, "every marker of it names a source");
        // What stands before a marker are words of its source, in the source's order.
        let mut rest = answer.as_str();
        let mut found = 0;
        while !rest.is_empty() {
            let end = rest.match_indices('[').find_map(|(at, _)| {
                let (inside, _) = rest[at + 1..].split_once(']')?;
                let number: usize = inside.parse().ok()?;
                (1..=passages.len()).contains(&number).then_some((at, inside.len() + 2, number))
            });
            let Some((at, length, number)) = end else {
                prop_assert!(words(rest).is_empty(), "{:?} has no citation", rest);
                break;
            };
            let source = words(&passages[number - 1].record.text);
            let mut from = 0;
            for word in words(&rest[..at]) {
                let place = source[from..].iter().position(|other| *other == word);
                prop_assert!(place.is_some(), "{:?} stands not in source {} where it should: {:?}", word, number, answer);
                from += place.unwrap() + 1;
                found += 1;
            }
            rest = &rest[at + length..];
        }
        prop_assert!(answer.is_empty() || found > 0, "{:?}", answer);
    }

    #[test]
    fn the_same_question_has_the_same_answer(passages in passages(), question in "[a-zA-Z0-9 ?]{0,60}") {
        prop_assert_eq!(answer(&question, &passages), answer(&question, &passages));
    }

    #[test]
    fn shares_stay_between_0_and_1(passages in passages(), question in "\\PC{0,60}") {
        let material = Material::gather(&question, &passages, 48);
        prop_assert!(material.candidates.len() <= 48);
        for candidate in &material.candidates {
            for share in [candidate.lexical, material.coverage(&candidate.around), candidate.rank] {
                prop_assert!((0.0..=1.001).contains(&share), "{candidate:?}");
            }
        }
    }
}

/// Were each sentence compared with each other one, these would take minutes.
#[test]
fn large_passages_are_read_once() {
    let text = |sentences: usize| -> String {
        (0..sentences)
            .map(|n| format!("Valve {n} of the northern line is opened by motor {}. ", n * 7))
            .collect()
    };
    let large = text(4_000);
    assert!(large.len() > 200_000);
    let passages = [contract::passage(&large)];
    let found = answer("Which motor opens valve 3999?", &passages);
    assert_eq!(found, "Valve 3999 of the northern line is opened by motor 27993. [1]");
    let lists = [
        contract::passage(&"- valve\n".repeat(60_000)),
        contract::passage(&"| valve | motor |\n".repeat(60_000)),
    ];
    assert!(answer("Which motor opens the valve?", &lists).contains("valve"));
    let one = [contract::passage(&"word ".repeat(50_000))];
    assert_eq!(answer("Which word is it?", &one), "", "a text without sentences is no answer");
}
