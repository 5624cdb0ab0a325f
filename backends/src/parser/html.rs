//! HTML: a page's main content without its navigation.
//!
//! What a page marks as its main content is taken, else its body without navigation and the like. Where much of
//! that is links, the readability rules look for the article in it; elsewhere they would lose code, tables and short
//! sections of manuals.

use dom_query::{Document, NodeRef};
use dom_smoothie::{Config, Readability};
use raglan_pipeline::{
    domain::Metadata,
    ingestion::clean::{DocumentBuilder, one_line},
    ports::{BlockKind, ParseError, ParsedDocument},
};
use serde_json::Value;

use super::{
    Task, guarded,
    html_blocks::{Found, blocks},
};

/// A page is searched for an article where links are more than one part in this many of its text.
const LINK_SHARE: usize = 3;
/// How deep elements may be nested. Pages made by hand or by tools stay far below; deeper ones are made to harm.
const MAX_DEPTH: usize = 512;
/// Larger pages are not searched for an article, in bytes.
const MAX_ARTICLE_BYTES: usize = 4 << 20;
/// The least text that is taken for a page's main content, in bytes.
const MIN_MAIN: usize = 200;

/// Reads a page.
pub(super) fn parse(text: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let page = load(text)?;
    task.check_time()?;
    let title = title(&page);
    let metadata = metadata(&page);
    let found = main_content(&page, text, task)?;
    let mut builder = task.builder();
    for (kind, text) in &found.blocks {
        builder.push(*kind, text)?;
    }
    let title = title.or_else(|| builder.leading_heading(1).map(str::to_owned));
    builder.finish(title.as_deref(), "text/html", metadata)
}

/// Adds the blocks of a piece of HTML inside another format.
pub(super) fn fragment(builder: &mut DocumentBuilder, html: &str, task: &Task) -> Result<(), ParseError> {
    let page = load(html)?;
    task.check_time()?;
    let found = page.body().map(|body| blocks(&body)).unwrap_or_default();
    found.blocks.iter().try_for_each(|(kind, text)| builder.push(*kind, text))
}

fn load(text: &str) -> Result<Document, ParseError> {
    let too_deep = || ParseError::TooLarge(format!("its elements are nested more than {MAX_DEPTH} deep"));
    // Before parsing, as the time that parsing takes grows with the depth.
    if nesting(text) > MAX_DEPTH {
        return Err(too_deep());
    }
    let page = Document::from(text);
    // After it, as the parser counts otherwise than a glance at the tags.
    if depth(&page.root()) > MAX_DEPTH {
        return Err(too_deep());
    }
    Ok(page)
}

fn main_content(page: &Document, text: &str, task: &Task) -> Result<Found, ParseError> {
    let body = page.body().map(|body| blocks(&body)).unwrap_or_default();
    for marked in ["main", "[role=main]", "article"] {
        let elements = page.select(marked);
        if let [element] = elements.nodes() {
            let found = blocks(element);
            if found.text >= MIN_MAIN && found.text * 3 >= body.plain() {
                return Ok(found);
            }
        }
    }
    let is_manual = body.links * LINK_SHARE < body.text;
    if is_manual || text.len() > MAX_ARTICLE_BYTES {
        return Ok(body);
    }
    task.check_time()?;
    let article = guarded(|| article(page)).flatten();
    task.check_time()?;
    let Some(mut article) = article.filter(|article| article.text >= MIN_MAIN) else { return Ok(body) };
    // The rules take the page's heading for its title and leave it out.
    let is_first = |(kind, _): &&(BlockKind, String)| *kind == BlockKind::Heading(1);
    if !article.blocks.iter().any(|block| is_first(&block))
        && let Some(heading) = body.blocks.iter().find(is_first)
    {
        article.blocks.insert(0, heading.clone());
    }
    Ok(article)
}

/// What the readability rules take for the article, if they find one.
fn article(page: &Document) -> Option<Found> {
    let config = Config { disable_json_ld: true, keep_classes: true, ..Config::default() };
    let mut readability = Readability::with_document(page.clone(), None, Some(config)).ok()?;
    let article = Document::from(readability.parse().ok()?.content);
    if depth(&article.root()) > MAX_DEPTH {
        return None;
    }
    article.body().map(|body| blocks(&body))
}

fn title(page: &Document) -> Option<String> {
    let element = |name: &str| page.select_single(name).text().to_string();
    let graph =
        page.select_single("meta[property='og:title']").attr("content").map(|title| title.to_string());
    [element("head title"), graph.unwrap_or_default(), element("title")]
        .into_iter()
        .map(|title| one_line(&title))
        .find(|title| !title.is_empty())
}

fn metadata(page: &Document) -> Metadata {
    let named = |name: &str| page.select_single(&format!("meta[name='{name}']")).attr("content");
    let language = page.select_single("html").attr("lang");
    [("author", named("author")), ("description", named("description")), ("language", language)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), one_line(&value?))))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key, Value::String(value)))
        .collect()
}

/// How deep elements are nested at most, at a glance: tags that open less those that close.
fn nesting(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut most) = (0, 0_usize, 0);
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == b'<') {
        at += next + 1;
        let closes = bytes.get(at) == Some(&b'/');
        let start = at + usize::from(closes);
        let length = bytes[start..].iter().take(12).take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let name = bytes[start..start + length].to_ascii_lowercase();
        at = start + length;
        match name.as_slice() {
            b"" | b"br" | b"img" | b"hr" | b"input" | b"meta" | b"link" | b"col" | b"area" | b"base"
            | b"embed" | b"source" | b"track" | b"wbr" | b"param" => {}
            // These need not be closed: the next one closes them.
            b"p" | b"li" | b"dt" | b"dd" | b"tr" | b"td" | b"th" | b"thead" | b"tbody" | b"tfoot"
            | b"option" | b"optgroup" | b"colgroup" | b"rt" | b"rp" => {}
            b"script" | b"style" if !closes => at = past_raw(bytes, at, &name),
            _ if closes => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
        most = most.max(depth);
    }
    most
}

/// Past the end of an element whose content is no markup.
fn past_raw(bytes: &[u8], from: usize, name: &[u8]) -> usize {
    let mut at = from;
    while let Some(next) = bytes[at..].windows(2).position(|pair| pair == b"</") {
        at += next + 2;
        if bytes[at..].get(..name.len()).is_some_and(|end| end.eq_ignore_ascii_case(name)) {
            return at;
        }
    }
    bytes.len()
}

/// How deep a tree is, without recursion.
fn depth(root: &NodeRef<'_>) -> usize {
    let mut open = vec![(*root, 1)];
    let mut most = 0;
    while let Some((node, depth)) = open.pop() {
        most = most.max(depth);
        if depth > MAX_DEPTH {
            break;
        }
        open.extend(node.children_it(false).map(|child| (child, depth + 1)));
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_seen_at_a_glance() {
        assert_eq!(nesting("<div><p>a<p>b<br><ul><li>c<li>d</ul></div><div></div>"), 2);
        assert_eq!(nesting("<script>if (a<b) '<div><div>'</script><b>x</b>"), 1);
        assert!(nesting(&"<div>".repeat(100_000)) > MAX_DEPTH);
    }
}
