//! Rebuilds a PDF with nothing in it but the text of its pages and what their fonts need.
//!
//! The reader used here bounds what it unpacks and how deep it goes. The one that places the text does not, and panics on
//! what it does not expect; so it is given a file in which everything is as it expects. Forms (content that pages share) are
//! written out where they are used, which also bounds them: a form may hold itself.

use lopdf::{
    Dictionary, Document, LoadOptions, Object, ObjectId, Stream,
    content::{Content, Operation},
    dictionary,
};
use raglan_pipeline::{domain::Metadata, ingestion::clean::one_line, ports::ParseError};
use serde_json::Value;

use super::{Task, guarded, pdf_fonts::Fonts};

/// The most that the content of one page may unpack to, in bytes. Drawings may have more, texts do not.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// The most operations of one page, forms written out.
const MAX_PAGE_OPERATIONS: usize = 1_000_000;
/// How deep forms may be nested.
const MAX_FORM_DEPTH: usize = 12;
/// How deep the tree of pages may be.
const MAX_TREE_DEPTH: usize = 64;
/// The size of a page that names none, in points: letter.
const DEFAULT_BOX: [f32; 4] = [0.0, 0.0, 612.0, 792.0];

/// A file as it was rebuilt.
pub(super) struct Prepared {
    pub(super) bytes: Vec<u8>,
    pub(super) pages: usize,
    /// Pages whose content could not be taken over, from 1.
    pub(super) unreadable: Vec<usize>,
    pub(super) title: Option<String>,
    pub(super) metadata: Metadata,
}

/// Reads and rebuilds a file.
pub(super) fn prepare(bytes: &[u8], task: &Task) -> Result<Prepared, ParseError> {
    let options = LoadOptions::with_max_decompressed_size(task.limits.max_unpacked_bytes);
    let source = Document::load_mem_with_options(bytes, options).map_err(|error| refused(&error, task))?;
    // A file whose empty password opens it is open by now.
    if source.trailer.has(b"Encrypt") && !source.was_encrypted() {
        return Err(ParseError::Encrypted);
    }
    let pages: Vec<ObjectId> = source.page_iter().collect();
    if pages.is_empty() {
        return Err(ParseError::Corrupt("it has no pages".to_owned()));
    }
    let mut target = Document::with_version("1.5");
    let root = target.new_object_id();
    let mut fonts = Fonts::default();
    let mut unreadable = Vec::new();
    let mut kids = Vec::with_capacity(pages.len());
    let mut left = task.limits.max_unpacked_bytes;
    for (index, id) in pages.iter().enumerate() {
        task.check_time()?;
        let page = guarded(|| flatten(&source, *id, &mut target, &mut fonts)).flatten();
        let (content, resources, media_box) = page.unwrap_or_else(|| {
            unreadable.push(index + 1);
            (Vec::new(), Dictionary::new(), DEFAULT_BOX)
        });
        left = left.checked_sub(content.len()).ok_or_else(|| task.unpacks_to_too_much())?;
        let content = target.add_object(Stream::new(Dictionary::new(), content));
        kids.push(Object::Reference(target.add_object(dictionary! {
            "Type" => "Page",
            "Parent" => root,
            "MediaBox" => media_box.map(Object::Real).to_vec(),
            "Resources" => dictionary! { "Font" => resources },
            "Contents" => content,
        })));
    }
    let count = i64::try_from(kids.len()).unwrap_or(i64::MAX);
    target.objects.insert(root, dictionary! { "Type" => "Pages", "Kids" => kids, "Count" => count }.into());
    let catalog = target.add_object(dictionary! { "Type" => "Catalog", "Pages" => root });
    target.trailer.set("Root", catalog);
    let mut rebuilt = Vec::new();
    target.save_to(&mut rebuilt).map_err(|error| ParseError::Corrupt(error.to_string()))?;
    let (title, metadata) = about(&source);
    Ok(Prepared { bytes: rebuilt, pages: pages.len(), unreadable, title, metadata })
}

fn refused(error: &lopdf::Error, task: &Task) -> ParseError {
    match error {
        lopdf::Error::Decryption(_) | lopdf::Error::InvalidPassword => ParseError::Encrypted,
        lopdf::Error::Decompress(lopdf::DecompressError::MemoryLimitExceeded { .. }) => {
            task.unpacks_to_too_much()
        }
        error => ParseError::Corrupt(error.to_string()),
    }
}

/// What the file says about itself. Titles that programs make up from file names are none.
fn about(source: &Document) -> (Option<String>, Metadata) {
    let info = source.trailer.get(b"Info").ok().and_then(|info| dictionary(source, info));
    let text = |key: &[u8]| {
        let value = source.dereference(info?.get(key).ok()?).ok()?.1;
        let text = one_line(&lopdf::decode_text_string(value).ok()?);
        (!text.is_empty()).then_some(text)
    };
    let made_up = |title: &String| {
        let lower = title.to_lowercase();
        let endings = [".doc", ".docx", ".dvi", ".tex", ".indd", ".pdf", ".odt", ".rtf", ".qxd", ".fm"];
        lower.starts_with("untitled")
            || lower.starts_with("microsoft word")
            || endings.iter().any(|ending| lower.ends_with(ending))
    };
    let metadata = [(b"Author".as_slice(), "author"), (b"Subject", "subject"), (b"Keywords", "keywords")]
        .into_iter()
        .filter_map(|(key, name)| Some((name.to_owned(), Value::String(text(key)?))))
        .collect();
    (text(b"Title").filter(|title| !made_up(title)), metadata)
}

type Flat = (Vec<u8>, Dictionary, [f32; 4]);

/// A page's text operations, the fonts that they name, and the page's size.
fn flatten(source: &Document, page: ObjectId, target: &mut Document, fonts: &mut Fonts) -> Option<Flat> {
    let page = source.get_dictionary(page).ok()?;
    let resources = inherited(source, page, b"Resources").and_then(|object| dictionary(source, object));
    let media_box = inherited(source, page, b"MediaBox").and_then(|object| numbers(source, object));
    let mut content = Vec::new();
    append_streams(source, page.get(b"Contents").ok(), &mut content)?;
    let empty = Dictionary::new();
    let mut flat = Flattener {
        source,
        target,
        fonts,
        named: Dictionary::new(),
        operations: Vec::new(),
        bytes_left: MAX_PAGE_BYTES.checked_sub(content.len())?,
    };
    flat.run(&content, resources.unwrap_or(&empty), 0)?;
    let Flattener { operations, named, .. } = flat;
    let content = Content { operations }.encode().ok()?;
    Some((content, named, media_box.unwrap_or(DEFAULT_BOX)))
}

fn append_streams(source: &Document, object: Option<&Object>, content: &mut Vec<u8>) -> Option<()> {
    let Some((_, object)) = object.and_then(|object| source.dereference(object).ok()) else {
        return Some(());
    };
    match object {
        Object::Stream(stream) => {
            let left = MAX_PAGE_BYTES - content.len();
            match stream.get_plain_content_with_limit(left) {
                Ok(bytes) => content.extend(bytes),
                Err(lopdf::Error::Decompress(lopdf::DecompressError::MemoryLimitExceeded { .. })) => {
                    return None;
                }
                // A part that is broken is left out; the page may have others.
                Err(_) => {}
            }
            content.push(b'\n');
        }
        Object::Array(parts) => {
            for part in parts {
                if let Ok((_, Object::Stream(_))) = source.dereference(part) {
                    append_streams(source, Some(part), content)?;
                }
                if content.len() >= MAX_PAGE_BYTES {
                    return None;
                }
            }
        }
        _ => {}
    }
    Some(())
}

struct Flattener<'a> {
    source: &'a Document,
    target: &'a mut Document,
    fonts: &'a mut Fonts,
    /// The fonts of the page by their new names.
    named: Dictionary,
    operations: Vec<Operation>,
    bytes_left: usize,
}

impl Flattener<'_> {
    /// Takes over the text operations of some content; none where there are too many.
    fn run(&mut self, content: &[u8], resources: &Dictionary, depth: usize) -> Option<()> {
        let decoded = Content::decode(content).ok()?;
        // Whether a font is set, for each state that was saved: text without a font is not shown.
        let mut has_font = vec![false];
        for Operation { operator, operands } in decoded.operations {
            if self.operations.len() > MAX_PAGE_OPERATIONS {
                return None;
            }
            let font_set = has_font.last().copied().unwrap_or(false);
            let numbers = |count: usize| operands.len() == count && operands.iter().all(is_number);
            match operator.as_str() {
                "BT" | "ET" | "T*" => self.push(&operator, Vec::new()),
                "Tc" | "Tw" | "Tz" | "TL" | "Ts" if numbers(1) => self.push(&operator, operands),
                "Td" | "TD" if numbers(2) => self.push(&operator, operands),
                "Tm" | "cm" if numbers(6) => self.push(&operator, operands),
                "q" => {
                    has_font.push(font_set);
                    self.push("q", Vec::new());
                }
                "Q" if has_font.len() > 1 => {
                    has_font.pop();
                    self.push("Q", Vec::new());
                }
                "Tf" => {
                    if let [Object::Name(name), size] = operands.as_slice()
                        && is_number(size)
                        && let Some(name) = self.font(resources, name)
                    {
                        self.push("Tf", vec![Object::Name(name), size.clone()]);
                        if let Some(top) = has_font.last_mut() {
                            *top = true;
                        }
                    }
                }
                "Tj" if font_set => self.show(operands.into_iter().next()),
                "'" if font_set => {
                    self.push("T*", Vec::new());
                    self.show(operands.into_iter().next());
                }
                "\"" if font_set && operands.len() == 3 => {
                    self.push("T*", Vec::new());
                    self.show(operands.into_iter().nth(2));
                }
                "TJ" if font_set => {
                    if let Some(Object::Array(parts)) = operands.into_iter().next() {
                        let is_text = |part: &Object| matches!(part, Object::String(..)) || is_number(part);
                        let parts: Vec<Object> = parts.into_iter().filter(is_text).collect();
                        self.push("TJ", vec![Object::Array(parts)]);
                    }
                }
                "Do" => {
                    if let [Object::Name(name)] = operands.as_slice() {
                        self.form(resources, name, depth)?;
                    }
                }
                _ => {}
            }
        }
        for _ in 1..has_font.len() {
            self.push("Q", Vec::new());
        }
        Some(())
    }

    fn push(&mut self, operator: &str, operands: Vec<Object>) {
        self.operations.push(Operation::new(operator, operands));
    }

    fn show(&mut self, text: Option<Object>) {
        if let Some(text @ Object::String(..)) = text {
            self.push("Tj", vec![text]);
        }
    }

    /// Writes out a form. Pictures are passed over.
    fn form(&mut self, resources: &Dictionary, name: &[u8], depth: usize) -> Option<()> {
        let source = self.source;
        let stream = entry(source, resources, b"XObject")
            .and_then(|objects| dictionary(source, objects))
            .and_then(|objects| entry(source, objects, name))
            .and_then(|object| object.as_stream().ok());
        let Some(stream) = stream.filter(|stream| is_form(&stream.dict)) else { return Some(()) };
        if depth >= MAX_FORM_DEPTH {
            return Some(());
        }
        let own = entry(source, &stream.dict, b"Resources").and_then(|object| dictionary(source, object));
        let content = match stream.get_plain_content_with_limit(self.bytes_left) {
            Ok(content) => content,
            Err(lopdf::Error::Decompress(lopdf::DecompressError::MemoryLimitExceeded { .. })) => return None,
            Err(_) => return Some(()),
        };
        // An empty form costs something too: there may be very many of them.
        self.bytes_left = self.bytes_left.checked_sub(content.len() + 16)?;
        self.push("q", Vec::new());
        if let Some(matrix) = stream.dict.get(b"Matrix").ok().and_then(|matrix| numbers::<6>(source, matrix))
        {
            self.push("cm", matrix.map(Object::Real).to_vec());
        }
        self.run(&content, own.unwrap_or(resources), depth + 1)?;
        self.push("Q", Vec::new());
        Some(())
    }

    /// The new name of a font, which is the same for the same font.
    fn font(&mut self, resources: &Dictionary, name: &[u8]) -> Option<Vec<u8>> {
        let fonts =
            entry(self.source, resources, b"Font").and_then(|fonts| dictionary(self.source, fonts))?;
        let object = fonts.get(name).ok()?;
        let id = self.fonts.take_over(self.source, object, self.target)?;
        let name = format!("F{}", id.0).into_bytes();
        self.named.set(name.clone(), Object::Reference(id));
        Some(name)
    }
}

fn is_form(dict: &Dictionary) -> bool {
    dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|subtype| subtype == b"Form")
}

pub(super) fn is_number(object: &Object) -> bool {
    matches!(object, Object::Integer(_) | Object::Real(_))
}

/// An entry of a dictionary, its reference followed.
pub(super) fn entry<'a>(source: &'a Document, dict: &'a Dictionary, key: &[u8]) -> Option<&'a Object> {
    source.dereference(dict.get(key).ok()?).ok().map(|(_, object)| object)
}

pub(super) fn dictionary<'a>(source: &'a Document, object: &'a Object) -> Option<&'a Dictionary> {
    source.dereference(object).ok()?.1.as_dict().ok()
}

/// Exactly this many numbers.
fn numbers<const N: usize>(source: &Document, object: &Object) -> Option<[f32; N]> {
    let array = source.dereference(object).ok()?.1.as_array().ok()?;
    let values: Option<Vec<f32>> = array
        .iter()
        .map(|value| source.dereference(value).ok()?.1.as_float().ok().filter(|value| value.is_finite()))
        .collect();
    values?.try_into().ok()
}

/// An entry of a page, or of what is over it in the tree of pages.
fn inherited<'a>(source: &'a Document, page: &'a Dictionary, key: &[u8]) -> Option<&'a Object> {
    let mut node = page;
    for _ in 0..MAX_TREE_DEPTH {
        if let Ok(object) = node.get(key) {
            return Some(object);
        }
        node = entry(source, node, b"Parent")?.as_dict().ok()?;
    }
    None
}
