//! Files of each format, good and broken.

use std::io::Cursor;

use docx_rs::{Docx, Paragraph, Run};
use lopdf::{
    Document, EncryptionState, EncryptionVersion, Object, Permissions, Stream, StringFormat,
    content::{Content, Operation},
    dictionary,
};

/// A file to send.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name, which is its external id.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

fn file(name: &'static str, bytes: impl Into<Vec<u8>>) -> File {
    File { name, bytes: bytes.into() }
}

/// One good file of each format, with a word that only it has.
pub fn good() -> Vec<(File, &'static str)> {
    let utf16: Vec<u8> =
        "\u{feff}The kestrel is written in sixteen bits.".encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        (file("plain.txt", "The albatross crosses the ocean without landing."), "albatross"),
        (file("utf16.txt", utf16), "kestrel"),
        (
            file(
                "latin.txt",
                &b"The r\xe9publique of the bustard lies in the caf\xe9, where the men\xfc is fran\xe7ais."[..],
            ),
            "bustard",
        ),
        (file("notes.md", "# Birds\n\n## Waders\n\nThe *curlew* walks on the **shore**.\n"), "curlew"),
        (
            file(
                "page.html",
                "<!doctype html><html><head><title>Dippers</title></head><body><nav>Home About Navigationword</nav>\
                 <main><h1>Dippers</h1><p>The dipper lives at the brook and walks under water. It sings in winter, and it \
                 builds its nest behind waterfalls, where nobody looks for it.</p></main><script>var scriptword = 1;</script></body></html>",
            ),
            "dipper",
        ),
        (file("report.pdf", pdf("The egret stands in shallow water.")), "egret"),
        (file("letter.docx", docx("The flamingo stands on one leg.")), "flamingo"),
        (file("table.csv", "bird,colour\ngoldfinch,yellow and red\nhoopoe,orange\n"), "goldfinch"),
        (
            file(
                "data.json",
                r#"{"birds": [{"name": "heron", "food": "fish"}, {"name": "ibis", "food": "insects"}]}"#,
            ),
            "heron",
        ),
        (file("lines.jsonl", "{\"name\": \"jackdaw\"}\n{\"name\": \"kite\"}\n"), "jackdaw"),
    ]
}

/// A broken file of each kind, with the code it must fail with.
pub fn bad() -> Vec<(File, &'static [&'static str])> {
    let good_docx = docx("Half of this is missing.");
    vec![
        (file("empty.txt", ""), &["empty"]),
        (file("blank.md", " \n\n\t\n"), &["empty"]),
        (file("no-text.html", "<html><body><script>x()</script></body></html>"), &["empty"]),
        (file("picture.pdf", pdf("")), &["empty"]),
        (file("torn.pdf", &pdf("A torn page.")[..200]), &["corrupt"]),
        (file("locked.pdf", encrypted_pdf()), &["encrypted"]),
        (file("torn.docx", &good_docx[..good_docx.len() / 2]), &["corrupt"]),
        (file("torn.json", r#"{"birds": [{"name": "her"#), &["corrupt"]),
        (file("bad-line.jsonl", "{\"name\": \"kite\"}\n{\"name\":\n"), &["corrupt"]),
        (file("noise.txt", noise()), &["corrupt", "unsupported"]),
        // A picture under a name that promises text, and a program.
        (file("picture.txt", &b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"[..]), &["unsupported", "corrupt"]),
        (file("program.bin", &b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00\x01\x00\x00\x00"[..]), &["unsupported"]),
        (file("table.csv", &b"\x00\x01\x02\x03\xff\xfe\x00\x00\x80\x81\x82"[..]), &["corrupt", "unsupported"]),
    ]
}

/// Bytes without sense, the same ones each time.
fn noise() -> Vec<u8> {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; 4096];
    rand::rngs::StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    bytes
}

/// A page of PDF with this line.
pub fn pdf(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    pdf_document(line).save_to(&mut bytes).unwrap();
    bytes
}

fn pdf_document(line: &str) -> Document {
    let mut document = Document::with_version("1.5");
    let pages = document.new_object_id();
    let font =
        document.add_object(dictionary! {"Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Helvetica"});
    let resources = document.add_object(dictionary! {"Font" => dictionary! {"F1" => font}});
    let mut operations = Vec::new();
    if !line.is_empty() {
        operations.extend([
            Operation::new("BT", vec![]),
            Operation::new("Tf", vec!["F1".into(), 12.into()]),
            Operation::new("Td", vec![72.into(), 720.into()]),
            Operation::new("Tj", vec![Object::string_literal(line)]),
            Operation::new("ET", vec![]),
        ]);
    }
    let content = Stream::new(dictionary! {}, Content { operations }.encode().unwrap());
    let content = document.add_object(content);
    let page = document.add_object(dictionary! {
        "Type" => "Page",
        "Parent" => pages,
        "Contents" => content,
        "Resources" => resources,
        "MediaBox" => vec![0.into(), 0.into(), 595.into(), 842.into()],
    });
    let tree = dictionary! {"Type" => "Pages", "Kids" => vec![page.into()], "Count" => 1};
    document.objects.insert(pages, Object::Dictionary(tree));
    let catalog = document.add_object(dictionary! {"Type" => "Catalog", "Pages" => pages});
    document.trailer.set("Root", catalog);
    document
}

fn encrypted_pdf() -> Vec<u8> {
    let mut document = pdf_document("A secret.");
    let id = Object::String(vec![7; 16], StringFormat::Hexadecimal);
    document.trailer.set("ID", vec![id.clone(), id]);
    let state = EncryptionState::try_from(EncryptionVersion::V2 {
        document: &document,
        owner_password: "owner",
        user_password: "user",
        key_length: 128,
        permissions: Permissions::PRINTABLE,
    })
    .unwrap();
    document.encrypt(&state).unwrap();
    let mut bytes = Vec::new();
    document.save_to(&mut bytes).unwrap();
    bytes
}

/// A Word document with this paragraph.
pub fn docx(text: &str) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let paragraph = Paragraph::new().add_run(Run::new().add_text(text));
    Docx::new().add_paragraph(paragraph).pack(&mut bytes).unwrap();
    bytes.into_inner()
}
