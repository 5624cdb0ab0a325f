//! The blocks of a tree of HTML elements: headings, paragraphs, list items, code and table rows.

use dom_query::NodeRef;
use raglan_pipeline::ports::BlockKind;

use super::table;

/// What was found in a part of a page.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The blocks in order, not cleaned yet.
    pub(super) blocks: Vec<(BlockKind, String)>,
    /// Bytes of visible text.
    pub(super) text: usize,
    /// Bytes of it that are links.
    pub(super) links: usize,
}

impl Found {
    /// Bytes of text outside of links.
    pub(super) fn plain(&self) -> usize {
        self.text.saturating_sub(self.links)
    }
}

/// Collects the blocks under `root`. The tree's depth is checked by the caller.
pub(super) fn blocks(root: &NodeRef<'_>) -> Found {
    let mut walker = Walker { inside_main: is_main(&name(root)), ..Walker::default() };
    walker.children(root);
    walker.flush();
    walker.found
}

#[derive(Default)]
struct Walker {
    found: Found,
    /// Text of the block that is open.
    inline: String,
    /// What the next block begins with, in a list.
    prefix: Option<String>,
    /// The next number of each list that is open; none for bullets.
    lists: Vec<Option<u64>>,
    inside_main: bool,
    inside_link: bool,
}

impl Walker {
    fn children(&mut self, node: &NodeRef<'_>) {
        for child in node.children_it(false) {
            if child.is_text() {
                let text = child.text();
                let visible = text.split_whitespace().map(str::len).sum::<usize>();
                self.found.text += visible;
                if self.inside_link {
                    self.found.links += visible;
                }
                // A line break in the source is a space; those of the text come from elements.
                self.inline.extend(text.chars().map(|c| if c.is_ascii_whitespace() { ' ' } else { c }));
            } else if child.is_element() {
                self.element(&child);
            }
        }
    }

    fn element(&mut self, node: &NodeRef<'_>) {
        let name = name(node);
        if is_hidden(&name, node, self.inside_main) {
            return;
        }
        match name.as_str() {
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                self.flush();
                self.children(node);
                let text = std::mem::take(&mut self.inline);
                // The sign of a link to the heading itself.
                let text = text.trim().trim_end_matches(['¶', '#', '§']).to_owned();
                self.prefix = None;
                if is_callout(&text) {
                    return self.push(BlockKind::Paragraph, format!("{text}:"));
                }
                self.push(BlockKind::Heading(name.as_bytes()[1] - b'0'), text);
            }
            "pre" | "listing" | "xmp" => {
                self.flush();
                let code = raw_text(node);
                self.found.text += code.len();
                self.push(BlockKind::Code, code);
            }
            "table" => self.table(node),
            "br" => self.inline.push('\n'),
            "a" => {
                let outer = std::mem::replace(&mut self.inside_link, true);
                self.children(node);
                self.inside_link = outer;
            }
            "ul" | "ol" | "menu" => {
                self.flush();
                let first = node.attr("start").and_then(|start| start.parse().ok()).unwrap_or(1);
                self.lists.push((name == "ol").then_some(first));
                self.children(node);
                self.flush();
                self.lists.pop();
                self.prefix = None;
            }
            "li" => {
                self.flush();
                self.prefix = Some(match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                });
                self.children(node);
                self.flush();
                self.prefix = None;
            }
            "dt" => {
                self.flush();
                self.children(node);
                // So that what it says is read, and cut, together with its term.
                let term = self.inline.trim_end().len();
                self.inline.truncate(term);
                if self.inline.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ')' | ']' | '"' | '”'))
                {
                    self.inline.push(':');
                }
                self.flush();
            }
            "main" | "article" => {
                let outer = std::mem::replace(&mut self.inside_main, true);
                self.block(node);
                self.inside_main = outer;
            }
            name if is_block(name) => self.block(node),
            _ => self.children(node),
        }
    }

    fn block(&mut self, node: &NodeRef<'_>) {
        self.flush();
        self.children(node);
        self.flush();
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.inline);
        if text.trim().is_empty() {
            return;
        }
        let text = match self.prefix.take() {
            Some(prefix) => format!("{prefix}{}", text.trim_start()),
            None => text,
        };
        self.push(BlockKind::Paragraph, text);
    }

    fn push(&mut self, kind: BlockKind, text: String) {
        if !text.trim().is_empty() {
            self.found.blocks.push((kind, text));
        }
    }

    fn table(&mut self, table: &NodeRef<'_>) {
        self.flush();
        if is_layout(table) {
            return self.block(table);
        }
        let mut header: Option<Vec<String>> = None;
        let mut body: Vec<Vec<String>> = Vec::new();
        for row in rows(table) {
            if name(&row) == "caption" {
                self.block(&row);
                continue;
            }
            let cells: Vec<NodeRef<'_>> =
                row.children_it(false).filter(|cell| matches!(name(cell).as_str(), "td" | "th")).collect();
            let all_heads = !cells.is_empty() && cells.iter().all(|cell| name(cell) == "th");
            let texts: Vec<String> = cells.iter().map(|cell| self.cell(cell)).collect();
            if all_heads && header.is_none() && body.is_empty() {
                header = Some(texts);
            } else {
                body.push(texts);
            }
        }
        for row in table::rows(header.as_deref(), &body) {
            self.push(BlockKind::Row, row);
        }
    }

    /// A cell's text, its blocks one after the other.
    fn cell(&mut self, cell: &NodeRef<'_>) -> String {
        let mut inner = Self { inside_main: true, ..Self::default() };
        inner.children(cell);
        inner.flush();
        self.found.text += inner.found.text;
        self.found.links += inner.found.links;
        let texts: Vec<String> = inner.found.blocks.into_iter().map(|(_, text)| text).collect();
        texts.join(" ")
    }
}

/// The rows and captions of a table, not those of tables in it.
fn rows<'a>(table: &NodeRef<'a>) -> Vec<NodeRef<'a>> {
    table
        .children_it(false)
        .flat_map(|part| match name(&part).as_str() {
            "tr" | "caption" => vec![part],
            "thead" | "tbody" | "tfoot" => part.children_it(false).filter(|row| name(row) == "tr").collect(),
            _ => Vec::new(),
        })
        .collect()
}

/// Whether a table only puts things beside each other: it holds headings or other tables, or says so itself.
fn is_layout(table: &NodeRef<'_>) -> bool {
    let says_so = table.attr("role").is_some_and(|role| matches!(&*role, "presentation" | "none"));
    says_so || {
        table.descendants_it().filter(|node| node.is_element()).any(|node| {
            matches!(name(&node).as_str(), "table" | "h1" | "h2" | "h3" | "h4" | "article" | "main")
        })
    }
}

/// Whether a heading only says how to take the next paragraph. As a heading it would have all that follows under it.
fn is_callout(heading: &str) -> bool {
    let heading = heading.trim().to_lowercase();
    ["note", "notes", "tip", "hint", "warning", "caution", "important", "danger"].contains(&heading.as_str())
}

/// Preformatted text as it stands.
fn raw_text(pre: &NodeRef<'_>) -> String {
    let mut text = String::new();
    for node in pre.descendants_it() {
        if node.is_text() {
            text.push_str(&node.text());
        } else if name(&node) == "br" {
            text.push('\n');
        }
    }
    text
}

fn name(node: &NodeRef<'_>) -> String {
    node.node_name().map(|name| name.to_ascii_lowercase()).unwrap_or_default()
}

fn is_main(name: &str) -> bool {
    matches!(name, "main" | "article")
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "p" | "div"
            | "section"
            | "header"
            | "footer"
            | "blockquote"
            | "figure"
            | "figcaption"
            | "address"
            | "details"
            | "summary"
            | "dl"
            | "dt"
            | "dd"
            | "hr"
            | "center"
            | "fieldset"
            | "hgroup"
            | "tr"
            | "td"
            | "th"
            | "tbody"
            | "thead"
            | "tfoot"
            | "caption"
            | "body"
            | "html"
    )
}

/// Whether an element shows no content: it is not visible, or it is there to get around and not to be read.
fn is_hidden(name: &str, node: &NodeRef<'_>, inside_main: bool) -> bool {
    match name {
        "script" | "style" | "noscript" | "template" | "svg" | "iframe" | "object" | "embed" | "canvas"
        | "video" | "audio" | "head" | "nav" | "aside" | "form" | "button" | "select" | "textarea"
        | "input" | "dialog" => {
            return true;
        }
        // The head of a page is not content, the head of an article is.
        "header" | "footer" if !inside_main => return !holds_title(node),
        "footer" => return true,
        _ => {}
    }
    let is = |attribute: &str, values: &[&str]| {
        node.attr(attribute).is_some_and(|value| values.iter().any(|v| value.eq_ignore_ascii_case(v)))
    };
    let style =
        node.attr("style").map(|style| style.replace(' ', "").to_ascii_lowercase()).unwrap_or_default();
    node.has_attr("hidden")
        || is("aria-hidden", &["true"])
        || is("role", &["navigation", "search", "contentinfo", "complementary", "menu", "menubar"])
        || style.contains("display:none")
        || (is_named_navigation(node) && !holds_content(node))
}

fn is_named_navigation(node: &NodeRef<'_>) -> bool {
    ["class", "id"].into_iter().any(|attribute| {
        node.attr(attribute).is_some_and(|value| value.split_ascii_whitespace().any(is_navigation))
    })
}

/// Whether the page's content stands in this element, whatever its name: "with sidebar" is not the sidebar.
fn holds_content(node: &NodeRef<'_>) -> bool {
    node.descendants_it().any(|node| matches!(name(&node).as_str(), "main" | "article" | "h1"))
}

/// Whether a page's header has a heading of the first level and no other text to speak of.
fn holds_title(header: &NodeRef<'_>) -> bool {
    let has_heading = header.descendants_it().any(|node| name(&node) == "h1");
    let has_navigation =
        header.descendants_it().any(|node| matches!(name(&node).as_str(), "nav" | "ul" | "form"));
    has_heading && !has_navigation
}

/// Names by which pages mark what leads elsewhere.
fn is_navigation(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let whole = [
        "nav",
        "navbar",
        "navheader",
        "navfooter",
        "navigation",
        "sidebar",
        "sphinxsidebar",
        "breadcrumb",
        "breadcrumbs",
        "toc",
        "skip-link",
        "headerlink",
        "anchorjs-link",
        "permalink",
        "cookie-banner",
        "sr-only",
        "visually-hidden",
        "menu",
        "pagination",
        "edit-link",
        "site-header",
        "site-footer",
        "page-toc",
    ];
    whole.contains(&name.as_str())
}
