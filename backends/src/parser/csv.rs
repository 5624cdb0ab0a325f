//! Comma-separated values and their kin: one row a record, with the header's names.

use csv::ReaderBuilder;
use raglan_pipeline::{
    domain::Metadata,
    ports::{BlockKind, ParseError, ParsedDocument},
};

use super::{Task, table};

/// Bytes from the beginning that decide the delimiter.
const SAMPLE: usize = 64 << 10;
/// Records that decide the delimiter.
const SAMPLE_RECORDS: usize = 50;

/// Reads records. The first is the header, unless it has numbers, empty or repeated names.
pub(super) fn parse(text: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let delimiter = delimiter(text);
    let mut builder = task.builder();
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut header: Option<Vec<String>> = None;
    for (index, record) in reader.records().enumerate() {
        let record = record.map_err(|error| ParseError::Corrupt(error.to_string()))?;
        let cells: Vec<String> = record.iter().map(|cell| cell.trim().to_owned()).collect();
        if index == 0 && is_header(&cells) {
            header = Some(cells);
        } else {
            builder.push(BlockKind::Row, &table::row(header.as_deref(), &cells))?;
        }
    }
    if builder.is_empty()
        && let Some(header) = &header
    {
        builder.push(BlockKind::Row, &table::row(None, header))?;
    }
    let media_type = if delimiter == b'\t' { "text/tab-separated-values" } else { "text/csv" };
    builder.finish(None, media_type, Metadata::new())
}

fn is_header(cells: &[String]) -> bool {
    let named = cells.iter().filter(|cell| !cell.is_empty() && cell.parse::<f64>().is_err());
    let mut names: Vec<&String> = named.collect();
    names.sort_unstable();
    names.dedup();
    names.len() == cells.len()
}

/// The delimiter that gives the most columns that most records have.
fn delimiter(text: &str) -> u8 {
    let sample = &text[..text.floor_char_boundary(SAMPLE)];
    let score = |delimiter: u8| {
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .from_reader(sample.as_bytes());
        let widths: Vec<usize> =
            reader.records().take(SAMPLE_RECORDS).map_while(Result::ok).map(|record| record.len()).collect();
        let first = widths.first().copied().unwrap_or(1);
        let alike = widths.iter().filter(|width| **width == first).count();
        if first < 2 { 0 } else { first * alike * 100 / widths.len() }
    };
    // The earlier one wins a tie.
    [b',', b';', b'\t', b'|'].into_iter().rev().max_by_key(|delimiter| score(*delimiter)).unwrap_or(b',')
}
