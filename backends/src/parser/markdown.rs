//! Markdown, with tables, footnotes, task lists and front matter.

use pulldown_cmark::{Event, MetadataBlockKind, Options, Parser, Tag, TagEnd};
use raglan_pipeline::{
    domain::Metadata,
    ingestion::clean::DocumentBuilder,
    ports::{BlockKind, ParseError, ParsedDocument},
};
use serde_json::Value;

use super::{Task, html, table};

/// Reads Markdown. The title is the front matter's, else the first heading of level 1.
pub(super) fn parse(text: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS;
    let mut reader =
        Reader { task, builder: task.builder(), state: State::default(), metadata: Metadata::new() };
    for event in Parser::new_ext(text, options) {
        reader.take(event)?;
    }
    reader.flush()?;
    let mut metadata = reader.metadata;
    let title = match metadata.remove("title") {
        Some(Value::String(title)) if !title.trim().is_empty() => Some(title),
        _ => reader.builder.leading_heading(1).map(str::to_owned),
    };
    reader.builder.finish(title.as_deref(), "text/markdown", metadata)
}

#[derive(Default)]
struct State {
    /// Text of the block that is open.
    inline: String,
    /// What a list item begins with.
    prefix: Option<String>,
    /// The next number of each list that is open; none for bullets.
    lists: Vec<Option<u64>>,
    /// Text that is kept apart: code, HTML, front matter.
    raw: Option<String>,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    cells: Vec<String>,
}

struct Reader<'a> {
    task: &'a Task,
    builder: DocumentBuilder,
    state: State,
    metadata: Metadata,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), ParseError> {
        match event {
            Event::Start(tag) => return self.start(tag),
            Event::End(tag) => return self.end(tag),
            Event::Text(text) | Event::Html(text) => match &mut self.state.raw {
                Some(raw) => raw.push_str(&text),
                None => self.state.inline.push_str(&text),
            },
            Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.state.inline.push_str(&text);
            }
            Event::InlineHtml(tag) if tag.to_ascii_lowercase().starts_with("<br") => {
                self.state.inline.push('\n')
            }
            Event::SoftBreak => self.state.inline.push(' '),
            Event::HardBreak => self.state.inline.push('\n'),
            Event::TaskListMarker(done) => self.state.inline.push_str(if done { "[x] " } else { "[ ] " }),
            Event::Rule => return self.flush(),
            Event::InlineHtml(_) | Event::FootnoteReference(_) => {}
        }
        Ok(())
    }

    fn start(&mut self, tag: Tag<'_>) -> Result<(), ParseError> {
        match tag {
            Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::MetadataBlock(_) => {
                self.flush()?;
                self.state.raw = Some(String::new());
            }
            Tag::List(first) => {
                self.flush()?;
                self.state.lists.push(first);
            }
            Tag::Item => {
                self.flush()?;
                let prefix = match self.state.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "- ".to_owned(),
                };
                self.state.prefix = Some(prefix);
            }
            Tag::Heading { .. }
            | Tag::Paragraph
            | Tag::BlockQuote(_)
            | Tag::FootnoteDefinition(_)
            | Tag::Table(_) => {
                self.flush()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) -> Result<(), ParseError> {
        match tag {
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.state.inline);
                self.builder.heading(level as u8, &text)
            }
            TagEnd::CodeBlock => {
                let code = self.state.raw.take().unwrap_or_default();
                self.builder.push(BlockKind::Code, &code)
            }
            TagEnd::HtmlBlock => {
                let fragment = self.state.raw.take().unwrap_or_default();
                html::fragment(&mut self.builder, &fragment, self.task)
            }
            TagEnd::MetadataBlock(kind) => {
                let raw = self.state.raw.take().unwrap_or_default();
                self.metadata = front_matter(&raw, kind);
                Ok(())
            }
            TagEnd::List(_) => {
                self.state.lists.pop();
                self.flush()
            }
            TagEnd::Paragraph | TagEnd::BlockQuote(_) | TagEnd::FootnoteDefinition => self.flush(),
            TagEnd::Item => {
                self.flush()?;
                self.state.prefix = None;
                Ok(())
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.state.inline);
                self.state.cells.push(cell);
                Ok(())
            }
            TagEnd::TableHead => {
                self.state.header = std::mem::take(&mut self.state.cells);
                Ok(())
            }
            TagEnd::TableRow => {
                let cells = std::mem::take(&mut self.state.cells);
                self.state.rows.push(cells);
                Ok(())
            }
            TagEnd::Table => {
                let (header, rows) =
                    (std::mem::take(&mut self.state.header), std::mem::take(&mut self.state.rows));
                let rows = table::rows(Some(&header), &rows);
                rows.iter().try_for_each(|row| self.builder.push(BlockKind::Row, row))
            }
            _ => Ok(()),
        }
    }

    /// Ends the block that is open.
    fn flush(&mut self) -> Result<(), ParseError> {
        let text = std::mem::take(&mut self.state.inline);
        if text.trim().is_empty() {
            return Ok(());
        }
        match self.state.prefix.take() {
            Some(prefix) => self.builder.paragraph(&format!("{prefix}{text}")),
            None => self.builder.paragraph(&text),
        }
    }
}

/// The simple `key: value` (or `key = value`) lines of front matter. Anything nested is left out.
fn front_matter(raw: &str, kind: MetadataBlockKind) -> Metadata {
    let sign = match kind {
        MetadataBlockKind::YamlStyle => ':',
        MetadataBlockKind::PlusesStyle => '=',
    };
    let mut metadata = Metadata::new();
    let mut open: Option<String> = None;
    for line in raw.lines() {
        if let Some(item) = line.trim_start().strip_prefix("- ")
            && let Some(key) = &open
        {
            if let Value::Array(items) =
                metadata.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new()))
            {
                items.push(scalar(item));
            }
            continue;
        }
        open = None;
        let Some((key, value)) = line.split_once(sign) else { continue };
        let simple = !key.is_empty()
            && key.trim().chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
            && !key.starts_with(char::is_whitespace);
        match (simple, value.trim()) {
            (false, _) => {}
            (true, "") => open = Some(key.trim().to_owned()),
            (true, value) => {
                let value = match value.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
                    Some(list) => Value::Array(
                        list.split(',').filter(|item| !item.trim().is_empty()).map(scalar).collect(),
                    ),
                    None => scalar(value),
                };
                metadata.insert(key.trim().to_owned(), value);
            }
        }
    }
    metadata
}

fn scalar(text: &str) -> Value {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Value::String(inner.to_owned());
        }
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::String(text.to_owned()),
        },
    }
}
