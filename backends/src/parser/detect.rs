//! What a file is: by its bytes first, then by the media type it came with, then by the ending of its name.

use std::io::Cursor;

use raglan_pipeline::ports::{ParseError, SourceFile};
use zip::ZipArchive;

use super::encoding;

/// How far into a file its first signs are looked for, in bytes.
const HEAD: usize = 1024;
/// The first bytes of an OLE container: Office files before 2007, and encrypted ones of today.
const OLE: [u8; 8] = [0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1];

/// A file's format, and its text where the format is text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Pdf,
    Docx,
    Html(String),
    Markdown(String),
    Csv(String),
    Json(String),
    JsonLines(String),
    Code(String),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Html,
    Markdown,
    Csv,
    Json,
    JsonLines,
    Code,
    Text,
}

/// Decides the format.
pub(super) fn detect(file: &SourceFile) -> Result<Content, ParseError> {
    let bytes = &file.bytes[..];
    let head = &bytes[..bytes.len().min(HEAD)];
    if head.windows(5).any(|window| window == b"%PDF-") {
        return Ok(Content::Pdf);
    }
    if bytes.starts_with(&OLE) {
        return Err(ole(bytes));
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return archive(file);
    }
    if bytes.starts_with(b"{\\rtf") {
        return Err(ParseError::Unsupported(
            "it is RTF; save it as DOCX or PDF and send it again".to_owned(),
        ));
    }
    // Signatures of two or three letters also begin ordinary words, so text is not asked for them.
    if !encoding::is_text(bytes)
        && let Some(kind) = infer::get(bytes)
        && kind.matcher_type() != infer::MatcherType::Text
    {
        return Err(ParseError::Unsupported(format!("it is {}", kind.mime_type())));
    }
    let hint = hint(file);
    let text = encoding::decode(bytes, declared(file, head).as_deref())?;
    Ok(of_text(text, hint))
}

fn of_text(text: String, hint: Option<Hint>) -> Content {
    if is_html(&text, hint) {
        return Content::Html(text);
    }
    match hint {
        Some(Hint::Html) => Content::Html(text),
        Some(Hint::Markdown) => Content::Markdown(text),
        Some(Hint::Csv) => Content::Csv(text),
        Some(Hint::Json) => Content::Json(text),
        Some(Hint::JsonLines) => Content::JsonLines(text),
        Some(Hint::Code) => Content::Code(text),
        Some(Hint::Text) => Content::Text(text),
        None if text.trim_start().starts_with(['{', '['])
            && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok() =>
        {
            Content::Json(text)
        }
        None => Content::Text(text),
    }
}

/// Whether the text begins as an HTML page does, after an XML declaration and comments.
fn is_html(text: &str, hint: Option<Hint>) -> bool {
    let mut rest = text.trim_start();
    loop {
        let (open, close) = if rest.starts_with("<?xml") {
            ("<?xml", "?>")
        } else if rest.starts_with("<!--") {
            ("<!--", "-->")
        } else {
            break;
        };
        match rest[open.len()..].find(close) {
            Some(end) => rest = rest[open.len() + end + close.len()..].trim_start(),
            None => return false,
        }
    }
    let begins = |tag: &str| rest.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    ["<!doctype html", "<html", "<head", "<body"].into_iter().any(begins)
        || (hint.is_none()
            && ["<title", "<div", "<p>", "<h1", "<table", "<main", "<article"].into_iter().any(begins))
}

fn hint(file: &SourceFile) -> Option<Hint> {
    let media_type = file.media_type.as_deref().unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let ending = file.name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let by_ending = ending.as_deref().and_then(by_ending);
    match media_type.as_str() {
        "text/html" | "application/xhtml+xml" => Some(Hint::Html),
        "text/markdown" | "text/x-markdown" => Some(Hint::Markdown),
        "text/csv" | "text/tab-separated-values" => Some(Hint::Csv),
        "application/json" => by_ending.filter(|hint| *hint == Hint::JsonLines).or(Some(Hint::Json)),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Some(Hint::JsonLines)
        }
        // The media type of whatever its sender does not know better.
        "text/plain" => by_ending.or(Some(Hint::Text)),
        _ => by_ending,
    }
}

fn by_ending(ending: &str) -> Option<Hint> {
    Some(match ending {
        "html" | "htm" | "xhtml" => Hint::Html,
        "md" | "markdown" | "mdown" | "mkd" | "mdx" => Hint::Markdown,
        "csv" | "tsv" | "tab" => Hint::Csv,
        "json" | "geojson" => Hint::Json,
        "jsonl" | "ndjson" => Hint::JsonLines,
        "txt" | "text" | "log" | "rst" | "adoc" | "org" => Hint::Text,
        "rs" | "py" | "js" | "ts" | "jsx" | "tsx" | "java" | "kt" | "c" | "h" | "cc" | "cpp" | "hpp"
        | "cs" | "go" | "rb" | "php" | "swift" | "scala" | "sh" | "bash" | "ps1" | "sql" | "lua" | "pl"
        | "r" | "toml" | "yaml" | "yml" | "ini" | "cfg" | "conf" | "xml" | "css" | "proto" | "tf" => {
            Hint::Code
        }
        _ => return None,
    })
}

/// The encoding that the media type or the page itself names.
fn declared(file: &SourceFile, head: &[u8]) -> Option<String> {
    let media_type = file.media_type.as_deref().unwrap_or_default().to_ascii_lowercase();
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let page = if head.contains("<meta") || head.starts_with("<?xml") { head.as_str() } else { "" };
    [(media_type.as_str(), "charset="), (page, "charset="), (page, "encoding=")].into_iter().find_map(
        |(text, key)| {
            let value = &text[text.find(key)? + key.len()..];
            let label: String = value
                .trim_start_matches(['"', '\''])
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':'))
                .collect();
            (!label.is_empty()).then_some(label)
        },
    )
}

fn ole(bytes: &[u8]) -> ParseError {
    let name: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
    if bytes.windows(name.len()).any(|window| window == name) {
        ParseError::Encrypted
    } else {
        ParseError::Unsupported(
            "it is an Office file in the format before 2007; save it as DOCX or PDF and send it again"
                .to_owned(),
        )
    }
}

/// A ZIP file is what its entries say. Without its directory it cannot be read, whatever it was.
fn archive(file: &SourceFile) -> Result<Content, ParseError> {
    let unsupported = |what: &str| Err(ParseError::Unsupported(what.to_owned()));
    let Ok(archive) = ZipArchive::new(Cursor::new(&file.bytes[..])) else {
        return Err(ParseError::Corrupt(
            "it begins as a ZIP or DOCX file and is cut off or damaged".to_owned(),
        ));
    };
    let holds = |start: &str| archive.file_names().any(|name| name.starts_with(start));
    if holds("word/document") || (holds("word/") && holds("[Content_Types].xml")) {
        Ok(Content::Docx)
    } else if holds("xl/") {
        unsupported("it is a spreadsheet; save it as CSV and send it again")
    } else if holds("ppt/") {
        unsupported("it is a presentation; save it as PDF and send it again")
    } else if holds("content.xml") {
        unsupported("it is an OpenDocument file; save it as DOCX or PDF and send it again")
    } else if holds("META-INF/container.xml") {
        unsupported("it is an EPUB; send its HTML pages or a PDF")
    } else {
        unsupported("it is a ZIP archive; send the files in it")
    }
}
