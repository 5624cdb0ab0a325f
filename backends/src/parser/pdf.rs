//! PDF: text page by page, put together to paragraphs and headings.
//!
//! A file is first rebuilt with nothing in it but text and fonts ([`super::pdf_prepare`]), as the library that places the text
//! trusts what it reads. What it places becomes lines, and these become blocks ([`super::pdf_layout`]).

use std::fmt;

use pdf_extract::{MediaBox, OutputDev, OutputError, Transform, output_doc, output_doc_page};
use raglan_pipeline::ports::{ParseError, ParsedDocument};

use super::{
    Task, guarded,
    pdf_layout::{self, Glyph, Page},
    pdf_prepare::prepare,
};

/// Characters between two looks at the clock.
const CHECK_EVERY: usize = 4096;

/// Reads a file.
pub(super) fn parse(bytes: &[u8], task: &Task) -> Result<ParsedDocument, ParseError> {
    let prepared = prepare(bytes, task)?;
    task.check_time()?;
    let document = guarded(|| pdf_extract::Document::load_mem(&prepared.bytes))
        .and_then(Result::ok)
        .ok_or_else(|| ParseError::Corrupt("its pages cannot be rebuilt".to_owned()))?;
    let mut device = Device { pages: Vec::new(), in_string: false, bytes: 0, seen: 0, stopped: None, task };
    let mut unreadable = prepared.unreadable.clone();
    // All pages at once is quicker; a page on which the library gives up ends that, and those after it go one by one.
    let mut outcome = guarded(|| output_doc(&document, &mut device));
    while !matches!(outcome, Some(Ok(()))) {
        if let Some(error) = device.stopped.take() {
            return Err(error);
        }
        task.check_time()?;
        let failed = device.pages.len().max(1);
        unreadable.push(failed);
        device.pages.resize_with(failed, Page::default);
        if failed >= prepared.pages {
            break;
        }
        let next = u32::try_from(failed + 1).unwrap_or(u32::MAX);
        outcome = guarded(|| output_doc_page(&document, &mut device, next));
        while matches!(outcome, Some(Ok(()))) && device.pages.len() < prepared.pages {
            let next = u32::try_from(device.pages.len() + 1).unwrap_or(u32::MAX);
            outcome = guarded(|| output_doc_page(&document, &mut device, next));
        }
    }
    let mut builder = task.builder();
    pdf_layout::blocks(&device.pages, &mut builder)?;
    unreadable.sort_unstable();
    unreadable.dedup();
    if builder.is_empty() {
        return Err(if unreadable.is_empty() {
            ParseError::Empty(
                "its pages seem to be scanned: they are pictures; run text recognition on it first"
                    .to_owned(),
            )
        } else {
            ParseError::Corrupt(format!("none of its pages can be read; {} are damaged", unreadable.len()))
        });
    }
    let mut metadata = prepared.metadata;
    if !unreadable.is_empty() {
        tracing::warn!(pages = ?unreadable, "some pages of a pdf cannot be read");
        metadata.insert("unreadable_pages".to_owned(), unreadable.into());
    }
    let title = prepared.title.or_else(|| builder.leading_heading(1).map(str::to_owned));
    builder.finish(title.as_deref(), "application/pdf", metadata)
}

/// Takes the characters as they are placed.
struct Device<'a> {
    pages: Vec<Page>,
    /// Whether the next character follows another one of the same string.
    in_string: bool,
    bytes: usize,
    seen: usize,
    stopped: Option<ParseError>,
    task: &'a Task,
}

impl Device<'_> {
    fn check(&mut self, added: usize) -> Result<(), OutputError> {
        self.bytes += added;
        self.seen += 1;
        if self.bytes > self.task.limits.max_text_bytes {
            let limit = self.task.limits.max_text_bytes;
            self.stopped = Some(ParseError::TooLarge(format!("it has more than {limit} bytes of text")));
        } else if self.seen.is_multiple_of(CHECK_EVERY) {
            self.stopped = self.task.check_time().err();
        }
        if self.stopped.is_some() { Err(fmt::Error.into()) } else { Ok(()) }
    }
}

impl OutputDev for Device<'_> {
    fn begin_page(
        &mut self,
        _number: u32,
        media_box: &MediaBox,
        _art_box: Option<(f64, f64, f64, f64)>,
    ) -> Result<(), OutputError> {
        self.pages.push(Page::new(media_box.ury - media_box.lly));
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn output_character(
        &mut self,
        matrix: &Transform,
        width: f64,
        _spacing: f64,
        font_size: f64,
        text: &str,
    ) -> Result<(), OutputError> {
        self.check(text.len())?;
        let glyph = Glyph {
            direction: (matrix.m11, matrix.m12),
            position: (matrix.m31, matrix.m32),
            size: font_size.abs() * (matrix.m21.hypot(matrix.m22)),
            advance: width * font_size.abs() * (matrix.m11.hypot(matrix.m12)),
            text,
            begins_string: !self.in_string,
        };
        self.in_string = true;
        if let Some(page) = self.pages.last_mut() {
            page.add(&glyph);
        }
        Ok(())
    }

    fn begin_word(&mut self) -> Result<(), OutputError> {
        self.in_string = false;
        self.check(0)
    }

    fn end_word(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), OutputError> {
        self.in_string = false;
        self.check(0)
    }
}
