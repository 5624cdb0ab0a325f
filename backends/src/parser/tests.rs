mod broken;
mod formats;
mod samples;

use bytes::Bytes;
use raglan_pipeline::{
    contract::parser as contract,
    ports::{BlockKind, ParseError, ParsedDocument, Parser, SourceFile},
};

use super::{DefaultParser, ParserLimits};

fn file(name: &str, bytes: impl Into<Bytes>) -> SourceFile {
    SourceFile { name: name.to_owned(), media_type: None, bytes: bytes.into() }
}

fn parse(name: &str, bytes: impl Into<Bytes>) -> Result<ParsedDocument, ParseError> {
    DefaultParser::default().parse(&file(name, bytes))
}

/// The blocks with a letter for their kind: "1 Title", "P text", "C code", "R row".
fn outline(document: &ParsedDocument) -> Vec<String> {
    let line = |kind: BlockKind, text: &str| match kind {
        BlockKind::Heading(level) => format!("{level} {text}"),
        BlockKind::Paragraph => format!("P {text}"),
        BlockKind::Code => format!("C {text}"),
        BlockKind::Row => format!("R {text}"),
    };
    document.blocks.iter().map(|block| line(block.kind, &document.text[block.range.clone()])).collect()
}

#[test]
fn the_contract_holds() {
    let good = [
        file("a.txt", samples::TEXT),
        file("a.md", samples::MARKDOWN),
        file("a.html", samples::HTML),
        file("a.csv", samples::CSV),
        file("a.json", samples::JSON),
        file("a.jsonl", samples::JSON_LINES),
        file("a.docx", samples::docx()),
        file("a.pdf", samples::pdf(&samples::PAGES)),
    ];
    contract::run_all(&DefaultParser::default(), &good);
}
