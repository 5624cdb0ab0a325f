//! One good file of each format, and what the broken ones are made of.

use std::io::{Cursor, Write};

use docx_rs::{
    AbstractNumbering, Docx, IndentLevel, Level, LevelJc, LevelText, NumberFormat, Numbering, NumberingId,
    Paragraph, Run, Start, Style, StyleType, Table, TableCell, TableRow,
};
use lopdf::{Document, EncryptionState, EncryptionVersion, Object, Permissions, Stream, dictionary};
use zip::{ZipWriter, write::SimpleFileOptions};

pub const TEXT: &str = "A plain text\n============\n\nThis is prose that was wrapped at some width by an\neditor, so that its lines are about equally long,\nand ends here.\n\n- one\n- two\n";

pub const MARKDOWN: &str = r#"---
title: "Backups"
tags: [ops, disk]
version: 3
---

# Backing up

A *backup* is taken [every night](https://example.org/nightly) with `pg_dump`.

## Steps

1. Stop the writer.
2. Copy the files:
   - data
   - log
3. Start it again.

```sh
raglan backup --to /mnt   # slow

echo done
```

| Kind | Kept |
|------|------|
| daily | 7 days |
| weekly | 8 weeks |

<details><summary>Why?</summary><p>Because disks fail.</p></details>
"#;

pub const HTML: &str = r##"<!DOCTYPE html>
<html lang="en"><head><title>Limits &mdash; Manual</title><meta name="author" content="Ada">
<style>p { color: red }</style><script>var a = "<p>no</p>";</script></head>
<body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/all">All pages</a></li></ul></nav>
<div class="breadcrumb"><a href="/">Start</a> &gt; Limits</div>
<h1>Limits<a class="headerlink" href="#l">&para;</a></h1>
<p>Every tenant has a <b>share</b> of the
 queue. It is counted in jobs.</p>
<h2>Values</h2>
<table><thead><tr><th>Name</th><th>Default</th></tr></thead>
<tbody><tr><td>jobs</td><td>100</td></tr><tr><td>bytes</td><td>10&nbsp;MiB</td></tr></tbody></table>
<ol><li>First, ask.</li><li>Then wait.</li></ol>
<pre><code>limits:
  jobs: 100</code></pre>
<p hidden>Not shown.</p>
<footer>Copyright, imprint and so on</footer>
</body></html>"##;

pub const CSV: &str = "name;city;note\nAda;London;\"wrote; and\ncalculated\"\nGrace;New York;\n";

pub const JSON: &str = r#"{"service": {"name": "api", "ports": [80, 443]}, "hosts": [{"id": 1, "up": true}, {"id": 2, "up": null}]}"#;

pub const JSON_LINES: &str =
    "{\"title\": \"One\", \"text\": \"The first.\"}\n\n{\"id\": 2, \"kind\": \"row\"}\n";

pub const PAGES: [&[(&str, f32)]; 2] = [
    &[
        ("The Guarantees", 20.0),
        ("", 11.0),
        ("Every job ends. It has a deadline, and past the dead-", 11.0),
        ("line it fails with a reason that can be read by all.", 11.0),
        ("", 11.0),
        ("1.2 Durability", 11.0),
        ("", 11.0),
        ("What was accepted is stored before the answer is sent.", 11.0),
    ],
    &[("The second page says something else, and no more.", 11.0)],
];

/// A PDF of lines and their sizes, one list a page; an empty line is a gap.
pub fn pdf(pages: &[&[(&str, f32)]]) -> Vec<u8> {
    bytes_of(pdf_document(pages))
}

pub fn bytes_of(mut document: Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    document.save_to(&mut bytes).unwrap();
    bytes
}

pub fn pdf_document(pages: &[&[(&str, f32)]]) -> Document {
    let contents: Vec<String> = pages
        .iter()
        .map(|lines| {
            let mut y = 740.0;
            let mut content = String::from("BT\n");
            for (text, size) in *lines {
                content += &format!("/F1 {size} Tf 1 0 0 1 72 {y} Tm ({text}) Tj\n");
                y -= size * 1.3;
            }
            content + "ET"
        })
        .collect();
    pdf_of_contents(&contents.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A PDF whose pages have these contents and the font F1.
pub fn pdf_of_contents(contents: &[&str]) -> Document {
    let mut document = Document::with_version("1.5");
    let root = document.new_object_id();
    let font = document.add_object(dictionary! {
        "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Helvetica", "Encoding" => "WinAnsiEncoding",
    });
    let mut kids = Vec::new();
    for content in contents {
        let content = document.add_object(Stream::new(dictionary! {}, content.as_bytes().to_vec()));
        kids.push(Object::Reference(document.add_object(dictionary! {
            "Type" => "Page", "Parent" => root, "Contents" => content,
        })));
    }
    let pages = dictionary! {
        "Type" => "Pages", "Count" => kids.len() as i64, "Kids" => kids,
        "MediaBox" => vec![0.into(), 0.into(), 612.into(), 792.into()],
        "Resources" => dictionary! { "Font" => dictionary! { "F1" => font } },
    };
    document.objects.insert(root, pages.into());
    let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => root });
    let info = document.add_object(dictionary! {
        "Title" => Object::string_literal("Guarantees"), "Author" => Object::string_literal("Ada"),
    });
    document.trailer.set("Root", catalog);
    document.trailer.set("Info", info);
    document
}

/// The font of such a PDF.
pub fn font_of(document: &Document) -> Object {
    let fonts =
        document.objects.iter().filter(|(_, object)| object.type_name().is_ok_and(|name| name == b"Font"));
    fonts.map(|(id, _)| Object::Reference(*id)).next().unwrap()
}

pub fn encrypted_pdf(user_password: &str) -> Vec<u8> {
    let mut document = pdf_document(&PAGES);
    let id = Object::string_literal("0123456789abcdef");
    document.trailer.set("ID", vec![id.clone(), id]);
    let state = EncryptionState::try_from(EncryptionVersion::V2 {
        document: &document,
        owner_password: "owner",
        user_password,
        key_length: 128,
        permissions: Permissions::all(),
    })
    .unwrap();
    document.encrypt(&state).unwrap();
    bytes_of(document)
}

pub fn docx() -> Vec<u8> {
    let text = |text: &str| Paragraph::new().add_run(Run::new().add_text(text));
    let cell = |content: &str| TableCell::new().add_paragraph(text(content));
    let style = |id: &str, name: &str| Style::new(id, StyleType::Paragraph).name(name);
    let item = |content: &str| text(content).numbering(NumberingId::new(1), IndentLevel::new(0));
    let bullets =
        Level::new(0, Start::new(1), NumberFormat::new("bullet"), LevelText::new("•"), LevelJc::new("left"));
    let mut bytes = Cursor::new(Vec::new());
    Docx::new()
        .add_style(style("Title", "Title"))
        .add_style(style("Heading1", "heading 1"))
        .add_style(style("berschrift2", "heading 2"))
        .add_style(style("MyHeading", "My own").based_on("berschrift2"))
        .add_abstract_numbering(AbstractNumbering::new(1).add_level(bullets))
        .add_numbering(Numbering::new(1, 1))
        .add_paragraph(text("Checklist").style("Title"))
        .add_paragraph(text("Before").style("Heading1"))
        .add_paragraph(
            Paragraph::new()
                .add_run(Run::new().add_text("Read the "))
                .add_run(Run::new().add_text("manual").bold())
                .add_run(Run::new().add_text(" & the rest.")),
        )
        .add_paragraph(item("Have a key"))
        .add_paragraph(item("Have time"))
        .add_paragraph(text("After").style("MyHeading"))
        .add_table(Table::new(vec![
            TableRow::new(vec![cell("Step"), cell("Who")]),
            TableRow::new(vec![cell("Check"), cell("You")]),
        ]))
        .build()
        .pack(&mut bytes)
        .unwrap();
    bytes.into_inner()
}

/// A ZIP file of these entries, packed.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The first bytes of an OLE container, and a name among its streams.
pub fn ole(stream: &str) -> Vec<u8> {
    let mut bytes = vec![0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1];
    bytes.resize(512, 0);
    bytes.extend(stream.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.resize(1024, 0);
    bytes
}
