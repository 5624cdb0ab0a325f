//! Files that cannot be read: each has its own reason, and none harms more than itself.

use std::time::Duration;

use lopdf::{Object, Stream, dictionary};

use super::*;

fn code(name: &str, bytes: impl Into<Bytes>) -> &'static str {
    match parse(name, bytes) {
        Ok(document) => panic!("{name} was read: {:?}", document.text.chars().take(200).collect::<String>()),
        Err(error) => error.code(),
    }
}

#[test]
fn empty_files() {
    assert_eq!(code("a.md", ""), "empty");
    assert_eq!(code("a.txt", " \n\n\t"), "empty");
    assert_eq!(code("a.html", "<html><body><script>x</script></body></html>"), "empty");
    assert_eq!(code("a.json", "{}"), "empty");
    assert_eq!(code("a.csv", ",,\n,,\n"), "empty");
    assert_eq!(code("a.docx", samples::zip(&[("word/document.xml", b"<w:document/>")])), "empty");
}

#[test]
fn scanned_pdf() {
    let bytes = samples::bytes_of(samples::pdf_of_contents(&["q 100 0 0 100 0 0 cm /Im1 Do Q", ""]));
    let error = parse("scan.pdf", bytes).unwrap_err();
    assert_eq!(error.code(), "empty");
    assert!(error.to_string().contains("scanned"), "{error}");
}

#[test]
fn truncated_files() {
    let docx = samples::docx();
    assert_eq!(code("a.docx", docx[..docx.len() / 2].to_vec()), "corrupt");
    assert_eq!(code("a.pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Cat".to_vec()), "corrupt");
    assert_eq!(code("a.json", "{\"a\": [1, 2"), "corrupt");
    assert_eq!(
        code("a.docx", samples::zip(&[("word/document.xml", b"<w:document><w:p></w:document>")])),
        "corrupt"
    );
}

#[test]
fn encrypted_files() {
    assert_eq!(code("a.pdf", samples::encrypted_pdf("secret")), "encrypted");
    assert_eq!(code("a.docx", samples::ole("EncryptedPackage")), "encrypted");
}

#[test]
fn other_formats_are_named_with_what_to_do() {
    let says = |name: &str, bytes: Vec<u8>, what: &str| {
        let error = parse(name, bytes).unwrap_err();
        assert_eq!(error.code(), "unsupported", "{name}");
        assert!(error.to_string().contains(what), "{name}: {error}");
    };
    says("a.doc", samples::ole("WordDocument"), "save it as DOCX");
    says("a.docx", samples::zip(&[("xl/workbook.xml", b"<x/>")]), "CSV");
    says("a.zip", samples::zip(&[("a.txt", b"x")]), "ZIP archive");
    says("a.rtf", b"{\\rtf1 text}".to_vec(), "RTF");
    says("a.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01".to_vec(), "image/png");
    says("a.txt", (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect(), "binary");
}

#[test]
fn too_large_files() {
    let small = DefaultParser::new(ParserLimits {
        max_bytes: 1 << 20,
        max_text_bytes: 50_000,
        max_unpacked_bytes: 1 << 20,
        ..ParserLimits::default()
    });
    let code = |name: &str, bytes: Vec<u8>| small.parse(&file(name, bytes)).unwrap_err().code();
    assert_eq!(code("a.txt", vec![b'x'; (1 << 20) + 1]), "too_large");
    assert_eq!(code("a.txt", b"word ".repeat(20_000)), "too_large");
    let bomb = [b"<w:document><w:body>".to_vec(), vec![b' '; 8 << 20]].concat();
    assert_eq!(code("bomb.docx", samples::zip(&[("word/document.xml", bomb.as_slice())])), "too_large");
    let content = "BT /F1 10 Tf 72 700 Td (0123456789) Tj ET\n".repeat(6_000);
    assert_eq!(code("a.pdf", samples::bytes_of(samples::pdf_of_contents(&[content.as_str()]))), "too_large");
}

#[test]
fn deep_nesting() {
    assert_eq!(code("a.html", format!("<html>{}x", "<div>".repeat(100_000))), "too_large");
    // Hidden from a glance at the tags, as a drawing's style is no style sheet.
    let hidden = format!("<html><body><svg><style>{}x</style></svg></body></html>", "<g>".repeat(3_000));
    assert_eq!(code("a.html", hidden), "too_large");
    assert_eq!(code("a.json", format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))), "too_large");
    for (open, close) in [(">", ""), ("- ", ""), ("[", "](x)"), ("*", "*"), ("<div>", "</div>")] {
        let text = format!("{}x{}", open.repeat(20_000), close.repeat(20_000));
        let _ = parse("a.md", text);
    }
    let tables = format!("<w:document>{}", "<w:tbl><w:tr><w:tc><w:p>".repeat(50_000));
    let _ = parse("a.docx", samples::zip(&[("word/document.xml", tables.as_bytes())]));
}

#[test]
fn pdf_that_refers_to_itself() {
    // A form that shows itself twice, and a page that is its own parent.
    let mut document = samples::pdf_of_contents(&["/Fm Do BT /F1 10 Tf 72 700 Td (Still here) Tj ET"]);
    let form = document.new_object_id();
    let page = document.page_iter().next().unwrap();
    let font = samples::font_of(&document);
    let resources = dictionary! {
        "XObject" => dictionary! { "Fm" => Object::Reference(form) }, "Font" => dictionary! { "F1" => font },
    };
    let dict = dictionary! { "Type" => "XObject", "Subtype" => "Form", "Resources" => resources.clone() };
    document.objects.insert(form, Stream::new(dict, b"/Fm Do /Fm Do".to_vec()).into());
    let dict = document.get_dictionary_mut(page).unwrap();
    dict.set("Resources", resources);
    dict.set("Parent", page);
    dict.remove(b"MediaBox");
    let parsed = parse("a.pdf", samples::bytes_of(document)).unwrap();
    assert_eq!(parsed.text, "Still here");
}

#[test]
fn pdf_bomb() {
    let mut document = samples::pdf_of_contents(&[""]);
    let page = document.page_iter().next().unwrap();
    let zeros = document.add_object(Stream::new(dictionary! {}, vec![b'\n'; 64 << 20]));
    document.get_dictionary_mut(page).unwrap().set("Contents", zeros);
    document.compress();
    let bytes = samples::bytes_of(document);
    assert!(bytes.len() < 1 << 20);
    assert_eq!(code("bomb.pdf", bytes), "corrupt");
}

#[test]
fn the_time_is_limited() {
    let hurried = DefaultParser::new(ParserLimits { max_time: Duration::ZERO, ..ParserLimits::default() });
    let text = "A paragraph.\n\n".repeat(1000);
    assert_eq!(hurried.parse(&file("a.md", text)), Err(ParseError::Timeout(0)));
    assert_eq!(hurried.parse(&file("a.pdf", samples::pdf(&samples::PAGES))), Err(ParseError::Timeout(0)));
}
