//! Files that cannot be read, each in its own way.

use std::io::{Cursor, Write};

use zip::{ZipWriter, write::SimpleFileOptions};

use crate::files::{self, File};

/// A file that cannot be read, and why.
pub struct Bad {
    pub file: File,
    /// For programs.
    pub code: &'static str,
    /// A part of what people are told.
    pub says: &'static str,
}

fn new(name: &'static str, bytes: impl Into<Vec<u8>>, code: &'static str, says: &'static str) -> Bad {
    Bad { file: File { name, bytes: bytes.into() }, code, says }
}

/// One of each kind. Files larger than `limit` bytes, packed or unpacked, are too large.
pub fn bad(limit: usize) -> Vec<Bad> {
    // What is made for the end-to-end tests too.
    let made = |name: &str| files::bad().into_iter().find(|(file, _)| file.name == name).unwrap().0.bytes;
    let docx = files::docx("Half of this is missing.");
    vec![
        new("empty.md", "", "empty", "no bytes"),
        new("blank.txt", " \n\t\r\n ", "empty", "no text"),
        new("only-script.html", "<html><body><script>run()</script></body></html>", "empty", "no text"),
        new("scanned.pdf", files::pdf(""), "empty", "scanned"),
        new("torn.pdf", &files::pdf("A page that is torn.")[..200], "corrupt", "cannot be read"),
        new("locked.pdf", made("locked.pdf"), "encrypted", "password"),
        new("old-word.docx", ole("WordDocument"), "unsupported", "before 2007"),
        new("locked.docx", ole("EncryptedPackage"), "encrypted", "password"),
        new("torn.docx", &docx[..docx.len() / 2], "corrupt", "ZIP or DOCX"),
        new("bomb.docx", bomb(limit), "too_large", "unpacks"),
        new("sheet.docx", packed("xl/workbook.xml", b"<workbook/>"), "unsupported", "spreadsheet"),
        new("picture.md", png(), "unsupported", "image/png"),
        new("program.txt", made("program.bin"), "unsupported", "binary"),
        new("noise.txt", made("noise.txt"), "unsupported", "binary"),
        new("noise.csv", &b"\x00\x01\x02\x03\xff\xfe\x00\x00\x80\x81\x82"[..], "unsupported", "binary"),
        new("torn.json", r#"{"birds": [{"name": "her"#, "corrupt", "line 1, column 24"),
        new("deep.json", format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000)), "too_large", "nested"),
        new("torn.jsonl", "{\"name\": \"kite\"}\n{\"name\":\n", "corrupt", "line 2"),
        new("huge.txt", "A huge file. ".repeat(limit / 10), "too_large", "more than"),
    ]
}

/// The beginning of an OLE container, and the name of a stream in it.
fn ole(stream: &str) -> Vec<u8> {
    let mut bytes = vec![0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1];
    bytes.resize(512, 0);
    bytes.extend(stream.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.resize(1024, 0);
    bytes
}

/// A Word document that is small, and large once it is unpacked.
fn bomb(limit: usize) -> Vec<u8> {
    let text = format!("<w:document><w:body><w:p><w:r><w:t>{}", "a".repeat(limit * 50));
    let bomb = packed("word/document.xml", text.as_bytes());
    assert!(bomb.len() < limit / 2, "a bomb is small: {}", bomb.len());
    bomb
}

fn packed(name: &str, content: &[u8]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(name, SimpleFileOptions::default()).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap().into_inner()
}

/// A picture of one pixel.
fn png() -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(b"\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89");
    bytes.extend(b"\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xa7\x35\x81\x84");
    bytes.extend(b"\x00\x00\x00\x00IEND\xaeB`\x82");
    bytes
}
