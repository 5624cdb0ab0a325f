//! What is read of a good file of each format.

use lopdf::{Object, Stream, dictionary};

use super::*;

#[test]
fn plain_text() {
    let document = parse("notes.txt", samples::TEXT).unwrap();
    assert_eq!(
        outline(&document),
        [
            "1 A plain text",
            "P This is prose that was wrapped at some width by an editor, so that its lines are about equally long, and ends here.",
            "P - one\n- two",
        ]
    );
    assert_eq!(document.media_type, "text/plain");
}

#[test]
fn source_code_stays_as_it_is() {
    let document = parse("a.py", "def f(x):\n    return x\n\nprint(f(1))\n").unwrap();
    assert_eq!(outline(&document), ["C def f(x):\n    return x\n\nprint(f(1))"]);
}

#[test]
fn markdown() {
    let document = parse("backup.md", samples::MARKDOWN).unwrap();
    assert_eq!(
        outline(&document),
        [
            "1 Backing up",
            "P A backup is taken every night with pg_dump.",
            "2 Steps",
            "P 1. Stop the writer.",
            "P 2. Copy the files:",
            "P - data",
            "P - log",
            "P 3. Start it again.",
            "C raglan backup --to /mnt   # slow\n\necho done",
            "R Kind: daily; Kept: 7 days",
            "R Kind: weekly; Kept: 8 weeks",
            "P Why?",
            "P Because disks fail.",
        ]
    );
    assert_eq!(document.title.as_deref(), Some("Backups"));
    assert_eq!(
        serde_json::json!(document.metadata),
        serde_json::json!({"tags": ["ops", "disk"], "version": 3})
    );
}

#[test]
fn markdown_without_front_matter_has_its_heading_for_a_title() {
    assert_eq!(parse("a.md", "# One *title*\n\ntext").unwrap().title.as_deref(), Some("One title"));
    assert_eq!(parse("a.md", "text\n\n## Two\n\ntext").unwrap().title, None);
}

#[test]
fn html() {
    let document = parse("limits.html", samples::HTML).unwrap();
    assert_eq!(
        outline(&document),
        [
            "1 Limits",
            "P Every tenant has a share of the queue. It is counted in jobs.",
            "2 Values",
            "R Name: jobs; Default: 100",
            "R Name: bytes; Default: 10 MiB",
            "P 1. First, ask.",
            "P 2. Then wait.",
            "C limits:\n  jobs: 100",
        ]
    );
    assert_eq!(document.title.as_deref(), Some("Limits — Manual"));
    assert_eq!(serde_json::json!(document.metadata), serde_json::json!({"author": "Ada", "language": "en"}));
}

#[test]
fn html_main_content_is_preferred() {
    let page =
        |body: &str| format!("<html><body><div>Buy now! {}</div>{body}</body></html>", "Offer. ".repeat(20));
    let text = "Sentences that are the content of this page. ".repeat(8);
    let document = parse("a.html", page(&format!("<main><h2>About</h2><p>{text}</p></main>"))).unwrap();
    assert!(document.text.starts_with("About\n\nSentences"), "{}", document.text);
}

#[test]
fn html_article_among_links_is_found() {
    let links: String =
        (0..200).map(|i| format!("<div><a href='/{i}'>Read story number {i} now</a></div>")).collect();
    let text = "A long paragraph of an article, with commas, and clauses, and an end. ".repeat(6);
    let article = format!("<div class='post'><h2>News</h2><p>{text}</p><p>{text}</p><p>{text}</p></div>");
    let document = parse("a.html", format!("<html><body><div>{links}</div>{article}</body></html>")).unwrap();
    assert!(!document.text.contains("story number"), "{}", document.text);
    assert!(document.text.contains("A long paragraph of an article"));
}

#[test]
fn html_of_manuals() {
    let page = "<html><body><div class='navheader'><a href='x'>Prev</a></div><div class='chapter'><h2>4.2. Memory</h2>\
        <dl><dt><code>work_mem</code> (integer)</dt><dd><p>Sets it.</p></dd></dl>\
        <div class='note'><h3>Note</h3><p>Restart.</p></div>\
        <table><tr><th>Function</th></tr><tr><td>f ( x )<p>Does it.</p></td></tr></table></div>\
        <div class='navfooter'>Next</div></body></html>";
    assert_eq!(
        outline(&parse("a.html", page).unwrap()),
        [
            "2 4.2. Memory",
            "P work_mem (integer):",
            "P Sets it.",
            "P Note:",
            "P Restart.",
            "R f ( x ) Does it."
        ]
    );
}

#[test]
fn html_in_other_encodings() {
    let page = "<html><head><meta charset='iso-8859-2'><title>Zażółć</title></head><body><p>gęślą jaźń</p></body></html>";
    let (bytes, _, _) = encoding_rs::ISO_8859_2.encode(page);
    let document = parse("a.html", bytes.into_owned()).unwrap();
    assert_eq!((document.title.as_deref(), document.text.as_str()), (Some("Zażółć"), "gęślą jaźń"));
}

#[test]
fn csv() {
    let document = parse("people.csv", samples::CSV).unwrap();
    assert_eq!(
        outline(&document),
        ["R name: Ada; city: London; note: wrote; and calculated", "R name: Grace; city: New York"]
    );
    let document = parse("numbers.tsv", "1\t2\n3\t4\n").unwrap();
    assert_eq!(outline(&document), ["R 1 | 2", "R 3 | 4"]);
    assert_eq!(document.media_type, "text/tab-separated-values");
}

#[test]
fn json() {
    let document = parse("state.json", samples::JSON).unwrap();
    let mut rows = outline(&document);
    rows.sort();
    assert_eq!(
        rows,
        ["R hosts.id: 1; hosts.up: true", "R hosts.id: 2", "R service.name: api", "R service.ports: 80, 443"]
    );
    let document = parse("doc.json", r#"{"title": "T", "text": "One.\n\nTwo.", "lang": "en"}"#).unwrap();
    assert_eq!(outline(&document), ["P One.", "P Two."]);
    assert_eq!(document.title.as_deref(), Some("T"));
    assert_eq!(serde_json::json!(document.metadata), serde_json::json!({"lang": "en"}));
}

#[test]
fn json_lines() {
    let document = parse("all.jsonl", samples::JSON_LINES).unwrap();
    assert_eq!(outline(&document), ["2 One", "P The first.", "R id: 2; kind: row"]);
    let error = parse("all.jsonl", "{\"a\": 1}\n{\"a\": \n").unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn docx() {
    let document = parse("list.docx", samples::docx()).unwrap();
    assert_eq!(
        outline(&document),
        [
            "1 Checklist",
            "1 Before",
            "P Read the manual & the rest.",
            "P - Have a key",
            "P - Have time",
            "2 After",
            "R Step: Check; Who: You",
        ]
    );
    assert_eq!(document.title.as_deref(), Some("Checklist"));
}

#[test]
fn docx_details() {
    let body = "<w:document xmlns:w='x'><w:body>\
        <w:p><w:pPr><w:tabs><w:tab w:pos='1'/></w:tabs><w:outlineLvl w:val='2'/></w:pPr><w:r><w:t>Deep</w:t></w:r></w:p>\
        <w:p><w:pPr><w:pStyle w:val='TOC1'/></w:pPr><w:r><w:t>Deep 3</w:t></w:r></w:p>\
        <w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/>\
        <w:t>c &lt; &#100;</w:t><w:noBreakHyphen/></w:r></w:p>\
        </w:body></w:document>";
    let core = "<x:p xmlns:x='x'><dc:title>Of &amp; On</dc:title><dc:creator>Ada</dc:creator></x:p>";
    let bytes =
        samples::zip(&[("word/document.xml", body.as_bytes()), ("docProps/core.xml", core.as_bytes())]);
    let document = parse("a.docx", bytes).unwrap();
    assert_eq!(outline(&document), ["3 Deep", "P a b\nc < d-"]);
    assert_eq!(document.title.as_deref(), Some("Of & On"));
    assert_eq!(document.metadata["author"], "Ada");
}

#[test]
fn pdf() {
    let document = parse("guarantees.pdf", samples::pdf(&samples::PAGES)).unwrap();
    assert_eq!(
        outline(&document),
        [
            "1 The Guarantees",
            "P Every job ends. It has a deadline, and past the deadline it fails with a reason that can be read by all.",
            "2 1.2 Durability",
            "P What was accepted is stored before the answer is sent.",
            "P The second page says something else, and no more.",
        ]
    );
    assert_eq!(document.title.as_deref(), Some("Guarantees"));
    assert_eq!(document.metadata["author"], "Ada");
}

#[test]
fn pdf_that_an_empty_password_opens() {
    let document = parse("a.pdf", samples::encrypted_pdf("")).unwrap();
    assert!(document.text.contains("What was accepted is stored"), "{}", document.text);
}

#[test]
fn pdf_forms_are_written_out_where_they_are_used() {
    let mut document = samples::pdf_of_contents(&[
        "BT /F1 10 Tf 72 700 Td (Before) Tj ET /Fm Do q 1 0 0 1 0 -99 cm /Fm Do Q",
    ]);
    let form = Stream::new(
        dictionary! {
            "Type" => "XObject", "Subtype" => "Form",
            "Matrix" => vec![1.into(), 0.into(), 0.into(), 1.into(), 72.into(), 600.into()],
        },
        b"BT /F1 10 Tf (From a form) Tj ET".to_vec(),
    );
    let form = document.add_object(form);
    let page = document.page_iter().next().unwrap();
    let font = samples::font_of(&document);
    let page = document.get_dictionary_mut(page).unwrap();
    page.set("Resources", dictionary! {
        "Font" => dictionary! { "F1" => font }, "XObject" => dictionary! { "Fm" => Object::Reference(form) },
    });
    let parsed = parse("a.pdf", samples::bytes_of(document)).unwrap();
    assert_eq!(parsed.text.matches("From a form").count(), 2, "{}", parsed.text);
    assert!(parsed.text.starts_with("Before"));
}

#[test]
fn pdf_characters_come_from_the_fonts_map() {
    let mut document = samples::pdf_of_contents(&["BT /F1 10 Tf 72 700 Td <000100020003> Tj ET"]);
    let map = Stream::new(
        dictionary! {},
        b"2 beginbfrange <0001> <0002> <0042> <0003> <0003> [<D83DDE00>] endbfrange".to_vec(),
    );
    let map = document.add_object(map);
    let page = document.page_iter().next().unwrap();
    let descendant = dictionary! { "Type" => "Font", "Subtype" => "CIDFontType2", "BaseFont" => "X", "W" => vec![1.into(), 3.into(), 500.into()] };
    let font = dictionary! {
        "Type" => "Font", "Subtype" => "Type0", "BaseFont" => "X", "Encoding" => "Identity-H",
        "DescendantFonts" => vec![descendant.into()], "ToUnicode" => map,
    };
    let page = document.get_dictionary_mut(page).unwrap();
    page.set("Resources", dictionary! { "Font" => dictionary! { "F1" => font } });
    assert_eq!(parse("a.pdf", samples::bytes_of(document)).unwrap().text, "BC😀");
}

#[test]
fn pdf_page_that_cannot_be_read_is_named() {
    let mut document = samples::pdf_document(&samples::PAGES);
    let second = document.page_iter().nth(1).unwrap();
    let huge = document.add_object(Stream::new(dictionary! {}, vec![b' '; 20 << 20]));
    document.get_dictionary_mut(second).unwrap().set("Contents", huge);
    document.compress();
    let document = parse("a.pdf", samples::bytes_of(document)).unwrap();
    assert!(document.text.contains("Every job ends"));
    assert_eq!(document.metadata["unreadable_pages"], serde_json::json!([2]));
}

#[test]
fn content_counts_more_than_the_name() {
    assert_eq!(parse("a.txt", samples::pdf(&samples::PAGES)).unwrap().media_type, "application/pdf");
    assert_eq!(parse("a.pdf", samples::HTML).unwrap().media_type, "text/html");
    assert_eq!(parse("a.zip", samples::docx()).unwrap().title.as_deref(), Some("Checklist"));
    assert_eq!(parse("state", samples::JSON).unwrap().media_type, "application/json");
    let with_type =
        SourceFile { media_type: Some("text/markdown; charset=utf-8".to_owned()), ..file("x", "# T\n\nt") };
    assert_eq!(DefaultParser::default().parse(&with_type).unwrap().media_type, "text/markdown");
}
