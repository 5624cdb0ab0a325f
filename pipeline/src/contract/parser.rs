//! What every parser must do, whatever it is given. See [`Parser`] for the promises.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use unicode_normalization::is_nfc;

use crate::ports::{ParseError, ParsedDocument, Parser, SourceFile};

/// Runs all checks. `good` are files that the parser must read; the others are made from them.
pub fn run_all(parser: &dyn Parser, good: &[SourceFile]) {
    assert!(!good.is_empty(), "give the suite files that can be read");
    for file in good {
        good_file_is_read_twice_alike(parser, file);
        mutations_do_no_harm(parser, file, 60);
    }
    random_bytes_do_no_harm(parser, 200);
    an_empty_file_is_empty(parser);
}

/// A good file is read, and read alike the second time.
pub fn good_file_is_read_twice_alike(parser: &dyn Parser, file: &SourceFile) {
    let first = parse(parser, file).unwrap_or_else(|error| panic!("{} is not read: {error}", file.name));
    assert_eq!(Ok(&first), parse(parser, file).as_ref(), "{} is read differently the second time", file.name);
}

/// Cut, overwritten and doubled files are read or refused, never worse.
pub fn mutations_do_no_harm(parser: &dyn Parser, file: &SourceFile, tries: u64) {
    for seed in 0..tries {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = file.bytes.to_vec();
        for _ in 0..random.random_range(1..8) {
            if bytes.is_empty() {
                break;
            }
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..5) {
                0 => bytes.truncate(at),
                1 => bytes[at] = random.random(),
                2 => bytes[at] ^= 1 << random.random_range(0..8),
                3 => {
                    let end = (at + random.random_range(1..64)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let end = (at + random.random_range(1..64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        let _ = parse(parser, &SourceFile { bytes: Bytes::from(bytes), ..file.clone() });
    }
}

/// Noise under any name is read or refused.
pub fn random_bytes_do_no_harm(parser: &dyn Parser, tries: u64) {
    let names =
        ["a.txt", "a.md", "a.html", "a.pdf", "a.docx", "a.csv", "a.tsv", "a.json", "a.jsonl", "a", "a.exe"];
    let starts: [&[u8]; 6] = [b"", b"%PDF-1.7\n", b"PK\x03\x04", b"<html>", b"{\"a\":", b"\xEF\xBB\xBF"];
    for seed in 0..tries {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = starts[random.random_range(0..starts.len())].to_vec();
        let start = bytes.len();
        bytes.resize(start + random.random_range(0..2000), 0);
        random.fill_bytes(&mut bytes[start..]);
        if random.random() {
            // Noise that looks like text reaches further into the parsers.
            for byte in &mut bytes[start..] {
                *byte = b' ' + *byte % 95;
            }
        }
        let name = names[random.random_range(0..names.len())].to_owned();
        let _ = parse(parser, &SourceFile { name, media_type: None, bytes: Bytes::from(bytes) });
    }
}

/// No bytes are [`ParseError::Empty`], whatever the name says.
pub fn an_empty_file_is_empty(parser: &dyn Parser) {
    for name in ["a.txt", "a.pdf", "a.docx", "a"] {
        let file = SourceFile { name: name.to_owned(), media_type: None, bytes: Bytes::new() };
        let error = parse(parser, &file).expect_err("an empty file was read");
        assert!(matches!(error, ParseError::Empty(_)), "an empty {name} gives {error:?}");
    }
}

/// Parses, and checks what holds of every result.
fn parse(parser: &dyn Parser, file: &SourceFile) -> Result<ParsedDocument, ParseError> {
    let result = catch_unwind(AssertUnwindSafe(|| parser.parse(file)))
        .unwrap_or_else(|_| panic!("the parser panicked on a variant of {}", file.name));
    match &result {
        Ok(document) => check(document, &file.name),
        Err(error) => assert!(!error.to_string().is_empty() && !error.code().is_empty()),
    }
    result
}

fn check(document: &ParsedDocument, name: &str) {
    let text = document.text.as_str();
    assert!(!text.trim().is_empty(), "{name}: no text, and no error");
    assert!(!document.media_type.is_empty(), "{name}: no media type");
    assert!(is_nfc(text), "{name}: the text is not in NFC");
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert_eq!(text.find(bad), None, "{name}: a control character");
    if let Some(title) = &document.title {
        assert!(
            !title.trim().is_empty() && !title.contains(char::is_control),
            "{name}: the title is {title:?}"
        );
    }
    let mut end = 0;
    for block in &document.blocks {
        assert!(block.range.start >= end, "{name}: blocks overlap or are out of order");
        assert!(text[end..block.range.start].trim().is_empty(), "{name}: text outside of blocks");
        let piece =
            text.get(block.range.clone()).unwrap_or_else(|| panic!("{name}: {:?} is no range", block.range));
        assert!(!piece.trim().is_empty(), "{name}: an empty block");
        assert!(
            end == 0 || text[end..block.range.start].contains("\n\n"),
            "{name}: no blank line between blocks"
        );
        end = block.range.end;
    }
    assert!(text[end..].trim().is_empty(), "{name}: text after the last block");
}
