//! Fonts of a PDF as the library that places text wants them: how codes become characters and how wide they are.

use std::collections::{BTreeMap, HashMap};

use lopdf::{Dictionary, Document, Object, ObjectId, Stream, dictionary};

use super::pdf_prepare::{dictionary, entry, is_number};

/// The largest font program or map that is looked at, in bytes.
const MAX_FONT_BYTES: usize = 8 << 20;
/// The most codes of a font: those of two bytes.
const MAX_CODES: u32 = 0x1_0000;
/// How deep the brackets of a font program's text may be nested: its parser recurses.
const MAX_NESTING: usize = 64;
/// The encodings that are known by name.
const ENCODINGS: [&[u8]; 3] = [b"WinAnsiEncoding", b"MacRomanEncoding", b"MacExpertEncoding"];
/// The fonts that every reader has, whose widths need not be given.
const CORE: [&str; 14] = [
    "Courier",
    "Courier-Bold",
    "Courier-BoldOblique",
    "Courier-Oblique",
    "Helvetica",
    "Helvetica-Bold",
    "Helvetica-BoldOblique",
    "Helvetica-Oblique",
    "Symbol",
    "Times-Bold",
    "Times-BoldItalic",
    "Times-Italic",
    "Times-Roman",
    "ZapfDingbats",
];

/// The fonts that were taken over, each once.
#[derive(Default)]
pub(super) struct Fonts {
    known: HashMap<ObjectId, Option<ObjectId>>,
}

impl Fonts {
    /// Adds a font of `source` to `target`, if it can be used.
    pub(super) fn take_over(
        &mut self,
        source: &Document,
        font: &Object,
        target: &mut Document,
    ) -> Option<ObjectId> {
        let id = font.as_reference().ok();
        if let Some(known) = id.and_then(|id| self.known.get(&id)) {
            return *known;
        }
        let taken = dictionary(source, font)
            .and_then(|font| rebuilt(source, font, target))
            .map(|font| target.add_object(font));
        if let Some(id) = id {
            self.known.insert(id, taken);
        }
        taken
    }
}

fn rebuilt(source: &Document, font: &Dictionary, target: &mut Document) -> Option<Dictionary> {
    let subtype = name(source, font, b"Subtype")?;
    if subtype == "Type0" { composite(source, font, target) } else { simple(source, font, &subtype, target) }
}

/// A font with codes of one byte.
fn simple(source: &Document, font: &Dictionary, subtype: &str, target: &mut Document) -> Option<Dictionary> {
    let base = name(source, font, b"BaseFont").unwrap_or_default();
    let is_core = CORE.contains(&base.as_str());
    let type1 = matches!(subtype, "Type1" | "MMType1");
    let descriptor = entry(source, font, b"FontDescriptor").and_then(|object| object.as_dict().ok());
    let mut new = dictionary! {
        "Type" => "Font",
        "Subtype" => if type1 { "Type1" } else { "TrueType" },
        "BaseFont" => Object::Name(if is_core { base.into_bytes() } else { b"Other".to_vec() }),
    };
    // The glyphs of a Type 3 font have a scale of their own; that of the others is a thousandth.
    let scale = if subtype == "Type3" {
        entry(source, font, b"FontMatrix")
            .and_then(|matrix| matrix.as_array().ok()?.first()?.as_float().ok())
            .map_or(1.0, |scale| scale * 1000.0)
    } else {
        1.0
    };
    if let Some((first, widths)) = widths(source, font, scale) {
        let last = first + i64::try_from(widths.len()).unwrap_or(0) - 1;
        new.set("FirstChar", first);
        new.set("LastChar", last);
        new.set("Widths", widths);
    }
    let missing =
        descriptor.and_then(|descriptor| entry(source, descriptor, b"MissingWidth")?.as_float().ok());
    if let Some(missing) = missing {
        new.set("MissingWidth", missing * scale);
    }
    let to_unicode = to_unicode(source, font, target);
    let encoding = encoding(source, font);
    if encoding.is_none() {
        let programs: &[&[u8]] = if type1 { &[b"FontFile", b"FontFile3"] } else { &[] };
        let program = descriptor
            .filter(|_| to_unicode.is_none())
            .and_then(|descriptor| programs.iter().find_map(|key| program(source, descriptor, key, target)));
        if let Some((key, program)) = program {
            let descriptor = dictionary! { "Type" => "FontDescriptor", key => program };
            new.set("FontDescriptor", target.add_object(descriptor));
        } else if to_unicode.is_some() && !is_core {
            new.set("Encoding", "WinAnsiEncoding");
        }
    }
    if let Some(encoding) = encoding {
        new.set("Encoding", encoding);
    }
    if let Some(map) = to_unicode {
        new.set("ToUnicode", map);
    }
    Some(new)
}

/// A font with codes of two bytes. Without a map to characters its text cannot be read.
fn composite(source: &Document, font: &Dictionary, target: &mut Document) -> Option<Dictionary> {
    let map = to_unicode(source, font, target)?;
    let descendants = entry(source, font, b"DescendantFonts")?.as_array().ok()?;
    let descendant = dictionary(source, descendants.first()?)?;
    let default = entry(source, descendant, b"DW").and_then(|width| width.as_float().ok()).unwrap_or(1000.0);
    let new = dictionary! {
        "Type" => "Font",
        "Subtype" => "CIDFontType2",
        "BaseFont" => "Other",
        "DW" => default as i64,
        "W" => cid_widths(source, descendant),
        "FontDescriptor" => dictionary! { "Type" => "FontDescriptor" },
    };
    let new = target.add_object(new);
    Some(dictionary! {
        "Type" => "Font",
        "Subtype" => "Type0",
        "BaseFont" => "Other",
        "Encoding" => "Identity-H",
        "ToUnicode" => map,
        "DescendantFonts" => vec![Object::Reference(new)],
    })
}

/// The first code and the widths from it on.
fn widths(source: &Document, font: &Dictionary, scale: f32) -> Option<(i64, Vec<Object>)> {
    let first = entry(source, font, b"FirstChar")?.as_i64().ok().filter(|first| (0..256).contains(first))?;
    let widths = entry(source, font, b"Widths")?.as_array().ok().filter(|widths| !widths.is_empty())?;
    let width = |object: &Object| {
        let width =
            source.dereference(object).ok().and_then(|(_, object)| object.as_float().ok()).unwrap_or(0.0);
        Object::Real(width * scale)
    };
    Some((first, widths.iter().take(256).map(width).collect()))
}

/// The widths of a composite font in the form "first [width width …]" alone.
fn cid_widths(source: &Document, descendant: &Dictionary) -> Vec<Object> {
    let mut new = Vec::new();
    let Some(Object::Array(old)) = entry(source, descendant, b"W") else { return new };
    let mut left = MAX_CODES as usize;
    let mut at = 0;
    while let Some(first) = old.get(at).and_then(|object| number(source, object)) {
        let Some((_, second)) = old.get(at + 1).and_then(|object| source.dereference(object).ok()) else {
            break;
        };
        let widths: Vec<Object> = match second {
            Object::Array(widths) => {
                at += 2;
                widths.iter().map(|width| Object::Real(number(source, width).unwrap_or(0.0))).collect()
            }
            last => {
                let last = last.as_float().unwrap_or(-1.0);
                let Some(width) = old.get(at + 2).and_then(|object| number(source, object)) else { break };
                at += 3;
                let count = (last - first + 1.0).clamp(0.0, left as f32) as usize;
                vec![Object::Real(width); count]
            }
        };
        let Some(rest) = left.checked_sub(widths.len()) else { break };
        left = rest;
        new.extend([Object::Integer(first as i64), Object::Array(widths)]);
    }
    new
}

fn number(source: &Document, object: &Object) -> Option<f32> {
    source.dereference(object).ok().filter(|(_, object)| is_number(object))?.1.as_float().ok()
}

fn name(source: &Document, dict: &Dictionary, key: &[u8]) -> Option<String> {
    entry(source, dict, key)?.as_name().ok().map(|name| String::from_utf8_lossy(name).into_owned())
}

/// The encoding, as a name that is known or as differences to one.
fn encoding(source: &Document, font: &Dictionary) -> Option<Object> {
    let known = |object: &Object| object.as_name().is_ok_and(|name| ENCODINGS.contains(&name));
    match entry(source, font, b"Encoding")? {
        name @ Object::Name(_) => known(name).then(|| name.clone()),
        Object::Dictionary(old) => {
            let mut new = dictionary! { "Type" => "Encoding" };
            if let Some(base) = entry(source, old, b"BaseEncoding").filter(|base| known(base)) {
                new.set("BaseEncoding", base.clone());
            }
            if let Some(Object::Array(old)) = entry(source, old, b"Differences") {
                new.set("Differences", differences(source, old));
            }
            Some(Object::Dictionary(new))
        }
        _ => None,
    }
}

/// Names of glyphs and the codes that they begin at, codes kept below 256.
fn differences(source: &Document, old: &[Object]) -> Vec<Object> {
    let mut code = 0;
    let mut new = Vec::new();
    for object in old {
        match source.dereference(object) {
            Ok((_, Object::Integer(at))) => {
                code = *at;
                if (0..256).contains(&code) {
                    new.push(Object::Integer(code));
                }
            }
            Ok((_, name @ Object::Name(_))) => {
                if (0..256).contains(&code) {
                    new.push(name.clone());
                }
                code = code.saturating_add(1);
            }
            _ => {}
        }
    }
    new
}

/// A font program whose own encoding is needed, as nothing else says what its codes mean.
fn program(
    source: &Document,
    descriptor: &Dictionary,
    key: &[u8],
    target: &mut Document,
) -> Option<(Vec<u8>, ObjectId)> {
    let stream = entry(source, descriptor, key)?.as_stream().ok()?;
    let content = stream.get_plain_content_with_limit(MAX_FONT_BYTES).ok()?;
    let mut dict = Dictionary::new();
    if key == b"FontFile3" {
        // The other kinds of compact fonts say nothing about codes.
        stream.dict.get(b"Subtype").and_then(Object::as_name).ok().filter(|subtype| *subtype == b"Type1C")?;
        dict.set("Subtype", "Type1C");
    } else if nesting(&content) > MAX_NESTING {
        return None;
    }
    Some((key.to_vec(), target.add_object(Stream::new(dict, content))))
}

/// How deep the brackets of a font program are nested, in the part of it that is text.
fn nesting(program: &[u8]) -> usize {
    let end = program.windows(5).position(|window| window == b"eexec").unwrap_or(program.len());
    let (mut depth, mut most) = (0_usize, 0);
    for byte in &program[..end] {
        match byte {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// The map from codes to characters, written anew.
fn to_unicode(source: &Document, font: &Dictionary, target: &mut Document) -> Option<ObjectId> {
    let stream = entry(source, font, b"ToUnicode")?.as_stream().ok()?;
    let content = stream.get_plain_content_with_limit(MAX_FONT_BYTES).ok()?;
    let map = characters(&content);
    if map.is_empty() {
        return None;
    }
    let hex = |text: &str| text.encode_utf16().map(|unit| format!("{unit:04X}")).collect::<String>();
    let lines: String = map.iter().map(|(code, text)| format!("<{code:04X}> <{}>\n", hex(text))).collect();
    let written = format!("{} beginbfchar\n{lines}endbfchar\n", map.len());
    Some(target.add_object(Stream::new(Dictionary::new(), written.into_bytes())))
}

#[derive(Debug, PartialEq)]
enum Token {
    Hex(Vec<u8>),
    Open,
    Close,
    Word(Vec<u8>),
}

/// Reads a map: `<code> <text>` between beginbfchar and endbfchar, and `<first> <last> <text>` or
/// `<first> <last> [<text> …]` between beginbfrange and endbfrange. (ISO 32000-1, 9.10.3)
fn characters(cmap: &[u8]) -> BTreeMap<u32, String> {
    let mut map = BTreeMap::new();
    let mut tokens = Tokens { bytes: cmap };
    // Ranges may overlap without end; no font needs them to.
    let mut left = MAX_CODES * 4;
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) if word == b"beginbfchar" => {
                while let (Some(Token::Hex(code)), Some(Token::Hex(text))) = (tokens.next(), tokens.next()) {
                    insert(&mut map, code_of(&code), utf16(&text));
                }
            }
            Token::Word(word) if word == b"beginbfrange" => ranges(&mut tokens, &mut map, &mut left),
            _ => {}
        }
    }
    map
}

fn ranges(tokens: &mut Tokens<'_>, map: &mut BTreeMap<u32, String>, left: &mut u32) {
    while let (Some(Token::Hex(first)), Some(Token::Hex(last))) = (tokens.next(), tokens.next()) {
        let (first, last) = (code_of(&first), code_of(&last).min(MAX_CODES - 1));
        match tokens.next() {
            Some(Token::Hex(mut units)) => {
                for code in first..=last {
                    let Some(rest) = left.checked_sub(1) else { return };
                    *left = rest;
                    insert(map, code, utf16(&units));
                    // Only the last two bytes count up.
                    if let Some(low) = units.last_chunk_mut::<2>() {
                        *low = u16::from_be_bytes(*low).wrapping_add(1).to_be_bytes();
                    }
                }
            }
            Some(Token::Open) => {
                for code in first.. {
                    match tokens.next() {
                        Some(Token::Hex(text)) if code <= last => insert(map, code, utf16(&text)),
                        Some(Token::Hex(_)) => {}
                        _ => break,
                    }
                }
            }
            _ => return,
        }
    }
}

fn insert(map: &mut BTreeMap<u32, String>, code: u32, text: Option<String>) {
    if let Some(text) = text.filter(|_| code < MAX_CODES) {
        map.insert(code, text);
    }
}

fn code_of(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0_u32, |code, byte| code.saturating_mul(256).saturating_add(u32::from(*byte)))
}

/// A few characters in UTF-16, nothing else.
fn utf16(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || bytes.len() > 64 {
        return None;
    }
    let units: Vec<u16> = match bytes {
        [single] => vec![u16::from(*single)],
        bytes => bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
    };
    String::from_utf16(&units).ok().filter(|text| !text.is_empty() && !text.contains('\0'))
}

struct Tokens<'a> {
    bytes: &'a [u8],
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let (first, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            match first {
                b'[' => return Some(Token::Open),
                b']' => return Some(Token::Close),
                b'%' => {
                    let end =
                        rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
                    self.bytes = &rest[end..];
                }
                b'<' if rest.first() == Some(&b'<') => self.bytes = &rest[1..],
                b'<' => {
                    let end = rest.iter().position(|byte| *byte == b'>')?;
                    self.bytes = &rest[end + 1..];
                    return Some(Token::Hex(hex(&rest[..end])));
                }
                byte if byte.is_ascii_alphanumeric() || *byte == b'/' => {
                    let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
                    let mut word = vec![*first];
                    word.extend(&rest[..length]);
                    self.bytes = &rest[length..];
                    return Some(Token::Word(word));
                }
                _ => {}
            }
        }
    }
}

fn hex(digits: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> =
        digits.iter().filter_map(|digit| char::from(*digit).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read() {
        let cmap = b"/CIDInit /ProcSet findresource begin << /A (x) >> % <comment>\n\
            1 begincodespacerange <0000> <FFFF> endcodespacerange\n\
            2 beginbfchar\n<0003> <0020> <0004> <00660069>\nendbfchar\n\
            3 beginbfrange <0010> <0012> <0041>\n<0020><0021>[<0061> <D83DDE00>] <0030> <0030> <D800> endbfrange\n\
            1 beginbfchar <0005> <0062> endbfchar";
        let map: Vec<(u32, String)> = characters(cmap).into_iter().collect();
        let want = [(3, " "), (4, "fi"), (5, "b"), (16, "A"), (17, "B"), (18, "C"), (32, "a"), (33, "😀")];
        assert_eq!(map, want.map(|(code, text)| (code, text.to_owned())));
    }

    #[test]
    fn ranges_without_end_are_cut() {
        let map = characters(b"1 beginbfrange <00000000> <FFFFFFFF> <0041> endbfrange");
        assert!(!map.is_empty() && map.len() <= MAX_CODES as usize);
    }
}
