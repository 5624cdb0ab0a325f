//! DOCX: the text of a Word document with headings, lists, tables and notes.
//!
//! The parts of the package are read as a stream of XML events: nothing in it makes the reader recurse, and what is
//! unpacked is counted.

use std::{
    collections::HashMap,
    io::{Cursor, Read},
};

use quick_xml::{
    Reader,
    events::{BytesRef, BytesStart, Event},
};
use raglan_pipeline::{
    domain::Metadata,
    ingestion::clean::DocumentBuilder,
    ports::{BlockKind, ParseError, ParsedDocument},
};
use serde_json::Value;
use zip::{ZipArchive, result::ZipError};

use super::{Task, table};

const MEDIA_TYPE: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";

/// Reads a document. Its title is the one among its properties, else its first heading of the first level.
pub(super) fn parse(bytes: &[u8], task: &Task) -> Result<ParsedDocument, ParseError> {
    let mut package = Package { archive: open(bytes)?, left: task.limits.max_unpacked_bytes, task };
    let Some(document) = package.part("word/document.xml")? else {
        return Err(ParseError::Corrupt("it has no word/document.xml".to_owned()));
    };
    let styles = package.part("word/styles.xml")?.map(|xml| styles(&xml)).transpose()?.unwrap_or_default();
    let properties =
        package.part("docProps/core.xml")?.map(|xml| properties(&xml)).transpose()?.unwrap_or_default();
    let mut body = Body::new(task, &styles);
    body.read(&document)?;
    for notes in ["word/footnotes.xml", "word/endnotes.xml"] {
        if let Some(xml) = package.part(notes)? {
            body.read(&xml)?;
        }
    }
    let named = |key: &str| properties.get(key).filter(|value| !value.trim().is_empty());
    let title =
        named("title").cloned().or(body.title).or_else(|| body.builder.leading_heading(1).map(str::to_owned));
    let metadata: Metadata = [("creator", "author"), ("subject", "subject"), ("keywords", "keywords")]
        .into_iter()
        .filter_map(|(key, name)| Some((name.to_owned(), Value::String(named(key)?.trim().to_owned()))))
        .collect();
    body.builder.finish(title.as_deref(), MEDIA_TYPE, metadata)
}

fn open(bytes: &[u8]) -> Result<ZipArchive<Cursor<&[u8]>>, ParseError> {
    ZipArchive::new(Cursor::new(bytes)).map_err(|error| ParseError::Corrupt(format!("its package: {error}")))
}

struct Package<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    /// Bytes that may still be unpacked.
    left: usize,
    task: &'a Task,
}

impl Package<'_> {
    /// A part of the package, where it has it.
    fn part(&mut self, name: &str) -> Result<Option<Vec<u8>>, ParseError> {
        self.task.check_time()?;
        let entry = match self.archive.by_name(name) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(ZipError::UnsupportedArchive(reason)) if reason.contains("assword") => {
                return Err(ParseError::Encrypted);
            }
            Err(error) => return Err(ParseError::Corrupt(format!("{name}: {error}"))),
        };
        let mut content = Vec::new();
        // What the entry says about its size is not to be trusted: the reading stops where the limit is.
        let most = u64::try_from(self.left).unwrap_or(u64::MAX).saturating_add(1);
        entry
            .take(most)
            .read_to_end(&mut content)
            .map_err(|error| ParseError::Corrupt(format!("{name}: {error}")))?;
        match self.left.checked_sub(content.len()) {
            Some(left) => self.left = left,
            None => return Err(self.task.unpacks_to_too_much()),
        }
        Ok(Some(content))
    }
}

/// What a paragraph's style says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Title,
    Heading(u8),
    Code,
    /// A line of a table of contents, which says nothing that the headings do not say.
    Contents,
}

/// The styles that matter, by their ids; those based on another are that one.
fn styles(xml: &[u8]) -> Result<HashMap<String, Style>, ParseError> {
    let mut known: HashMap<String, Style> = HashMap::new();
    let mut based: Vec<(String, String)> = Vec::new();
    let mut id = String::new();
    for_each(xml, |event| {
        if let Event::Start(element) | Event::Empty(element) = event {
            match element.local_name().as_ref() {
                b"style" => id = attribute(element, b"styleId").unwrap_or_default(),
                b"name" => {
                    if let Some(style) = attribute(element, b"val").and_then(|name| style_named(&name)) {
                        known.insert(id.clone(), style);
                    }
                }
                b"basedOn" => based.extend(attribute(element, b"val").map(|base| (id.clone(), base))),
                b"outlineLvl" => {
                    if let Some(level) = outline_level(element) {
                        known.entry(id.clone()).or_insert(Style::Heading(level));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    // A style comes after the one that it is based on, nearly always; twice is enough for the rest.
    for (id, base) in based.iter().chain(&based) {
        if let Some(style) = known.get(base).copied() {
            known.entry(id.clone()).or_insert(style);
        }
    }
    Ok(known)
}

fn style_named(name: &str) -> Option<Style> {
    let name = name.to_lowercase().replace(['_', '-', ' '], "");
    if name == "title" {
        return Some(Style::Title);
    }
    if name == "tocheading" || name.strip_prefix("toc").is_some_and(|level| level.parse::<u8>().is_ok()) {
        return Some(Style::Contents);
    }
    if ["htmlpreformatted", "code", "sourcecode", "macrotext", "plaintext"].contains(&name.as_str()) {
        return Some(Style::Code);
    }
    let level: u8 = name.strip_prefix("heading")?.parse().ok()?;
    (level > 0).then_some(Style::Heading(level.min(6)))
}

fn outline_level(element: &BytesStart<'_>) -> Option<u8> {
    // 0 is the first level, 9 is body text.
    attribute(element, b"val")?.parse::<u8>().ok().filter(|level| *level < 9).map(|level| (level + 1).min(6))
}

/// The document's properties by their names.
fn properties(xml: &[u8]) -> Result<HashMap<String, String>, ParseError> {
    let mut properties: HashMap<String, String> = HashMap::new();
    let mut open = String::new();
    for_each(xml, |event| {
        match event {
            Event::Start(element) => {
                open = String::from_utf8_lossy(element.local_name().as_ref()).into_owned()
            }
            Event::End(_) => open.clear(),
            Event::Text(text) if !open.is_empty() => {
                properties.entry(open.clone()).or_default().push_str(&text.decode().unwrap_or_default());
            }
            Event::GeneralRef(reference) if !open.is_empty() => {
                properties.entry(open.clone()).or_default().extend(character(reference));
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(properties)
}

#[derive(Default)]
struct Paragraph {
    text: String,
    style: Option<Style>,
    outline: Option<u8>,
    in_list: bool,
}

#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
    cells: Vec<String>,
    cell: String,
    /// Whether the first row is marked as the header.
    has_header: bool,
}

struct Body<'a> {
    builder: DocumentBuilder,
    styles: &'a HashMap<String, Style>,
    title: Option<String>,
    code: String,
    /// Paragraphs that are open: text boxes stand inside others.
    paragraphs: Vec<Paragraph>,
    tables: Vec<Table>,
    in_text: bool,
    in_tab_stops: bool,
    /// How many open elements hold what is shown elsewhere, or not at all.
    skipped: usize,
}

impl<'a> Body<'a> {
    fn new(task: &Task, styles: &'a HashMap<String, Style>) -> Self {
        Self {
            builder: task.builder(),
            styles,
            title: None,
            code: String::new(),
            paragraphs: Vec::new(),
            tables: Vec::new(),
            in_text: false,
            in_tab_stops: false,
            skipped: 0,
        }
    }

    fn read(&mut self, xml: &[u8]) -> Result<(), ParseError> {
        for_each(xml, |event| match event {
            Event::Start(element) => self.start(element, false),
            Event::Empty(element) => self.start(element, true),
            Event::End(element) => self.end(element.local_name().as_ref()),
            Event::Text(text) if self.in_text => {
                self.append(&text.decode().unwrap_or_default());
                Ok(())
            }
            Event::CData(text) if self.in_text => {
                self.append(&text.decode().unwrap_or_default());
                Ok(())
            }
            Event::GeneralRef(reference) if self.in_text => {
                if let Some(c) = character(reference) {
                    self.append(c.encode_utf8(&mut [0; 4]));
                }
                Ok(())
            }
            _ => Ok(()),
        })?;
        self.end_code()
    }

    fn append(&mut self, text: &str) {
        if self.skipped == 0
            && let Some(paragraph) = self.paragraphs.last_mut()
        {
            paragraph.text.push_str(text);
        }
    }

    fn start(&mut self, element: &BytesStart<'_>, is_empty: bool) -> Result<(), ParseError> {
        let name = element.local_name();
        match name.as_ref() {
            // The older twin of a drawing that is there already, text moved elsewhere, and deleted text.
            b"Fallback" | b"moveFrom" | b"del" if !is_empty => self.skipped += 1,
            b"p" if !is_empty => self.paragraphs.push(Paragraph::default()),
            b"tbl" if !is_empty => {
                self.end_code()?;
                self.tables.push(Table::default());
            }
            b"tblHeader" => {
                if let Some(table) = self.tables.last_mut()
                    && table.rows.is_empty()
                    && attribute(element, b"val").is_none_or(|on| on != "0" && on != "false")
                {
                    table.has_header = true;
                }
            }
            b"t" if !is_empty => self.in_text = true,
            // The tab stops of a paragraph have the name that a tab in its text has.
            b"tabs" if !is_empty => self.in_tab_stops = true,
            b"tab" if !self.in_tab_stops => self.append("\t"),
            b"br" | b"cr" => self.append("\n"),
            b"noBreakHyphen" => self.append("-"),
            _ => {}
        }
        if let Some(paragraph) = self.paragraphs.last_mut() {
            match name.as_ref() {
                b"pStyle" => {
                    let id = attribute(element, b"val").unwrap_or_default();
                    paragraph.style = self.styles.get(&id).copied().or_else(|| style_named(&id));
                }
                b"outlineLvl" => paragraph.outline = outline_level(element),
                b"numPr" => paragraph.in_list = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, name: &[u8]) -> Result<(), ParseError> {
        match name {
            b"Fallback" | b"moveFrom" | b"del" => self.skipped = self.skipped.saturating_sub(1),
            b"t" => self.in_text = false,
            b"tabs" => self.in_tab_stops = false,
            b"p" => {
                if let Some(paragraph) = self.paragraphs.pop() {
                    return self.paragraph(paragraph);
                }
            }
            b"tc" => {
                if let Some(table) = self.tables.last_mut() {
                    let cell = std::mem::take(&mut table.cell);
                    table.cells.push(cell);
                }
            }
            b"tr" => {
                if let Some(table) = self.tables.last_mut() {
                    let cells = std::mem::take(&mut table.cells);
                    table.rows.push(cells);
                }
            }
            b"tbl" => {
                if let Some(table) = self.tables.pop() {
                    return self.table(&table);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn paragraph(&mut self, paragraph: Paragraph) -> Result<(), ParseError> {
        if let Some(table) = self.tables.last_mut() {
            table.cell.push_str(&paragraph.text);
            table.cell.push('\n');
            return Ok(());
        }
        if paragraph.style == Some(Style::Code) {
            self.code.push_str(&paragraph.text);
            self.code.push('\n');
            return Ok(());
        }
        self.end_code()?;
        let text = paragraph.text;
        let heading = match (paragraph.outline, paragraph.style) {
            (Some(level), _) | (None, Some(Style::Heading(level))) => Some(level),
            _ => None,
        };
        match (paragraph.style, heading) {
            (Some(Style::Contents), _) => Ok(()),
            (_, Some(level)) => self.builder.heading(level, &text),
            (Some(Style::Title), _) => {
                if self.title.is_none() && !text.trim().is_empty() {
                    self.title = Some(text.clone());
                }
                self.builder.heading(1, &text)
            }
            _ if paragraph.in_list && !text.trim().is_empty() => self.builder.paragraph(&format!("- {text}")),
            _ => self.builder.paragraph(&text),
        }
    }

    fn table(&mut self, table: &Table) -> Result<(), ParseError> {
        // Word marks headers seldom; a first row without empty cells over more rows is taken for one.
        let (header, body) = match table.rows.split_first() {
            Some((first, rest))
                if table.has_header
                    || (!rest.is_empty() && first.iter().all(|cell| !cell.trim().is_empty())) =>
            {
                (Some(first.as_slice()), rest)
            }
            _ => (None, table.rows.as_slice()),
        };
        let rows = table::rows(header, body);
        match self.tables.last_mut() {
            Some(outer) => outer.cell.push_str(&rows.join("; ")),
            None => rows.iter().try_for_each(|row| self.builder.push(BlockKind::Row, row))?,
        }
        Ok(())
    }

    fn end_code(&mut self) -> Result<(), ParseError> {
        let code = std::mem::take(&mut self.code);
        self.builder.push(BlockKind::Code, &code)
    }
}

/// Calls `take` with each event of a document.
fn for_each(
    xml: &[u8],
    mut take: impl FnMut(&Event<'_>) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    let mut reader = Reader::from_reader(xml);
    loop {
        match reader.read_event() {
            Ok(Event::Eof) => return Ok(()),
            Ok(event) => take(&event)?,
            Err(error) => return Err(ParseError::Corrupt(format!("its XML: {error}"))),
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &[u8]) -> Option<String> {
    let found =
        element.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(String::from_utf8_lossy(&found.value).into_owned())
}

/// The character that `&name;` or `&#number;` stands for.
fn character(reference: &BytesRef<'_>) -> Option<char> {
    if let Ok(Some(c)) = reference.resolve_char_ref() {
        return Some(c);
    }
    match &reference[..] {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        _ => None,
    }
}
