//! Rows of tables as text that can be read by itself.

/// A row as "header: cell; header: cell", or "cell | cell" where there is no header. Empty cells are left out, and so
/// is the header of a single column, which is the table's title.
pub(super) fn row(header: Option<&[String]>, cells: &[String]) -> String {
    let Some(header) = header.filter(|header| header.len() > 1) else {
        return filled(cells).map(|(_, cell)| cell).collect::<Vec<_>>().join(" | ");
    };
    let labelled = filled(cells).map(|(i, cell)| match header.get(i).map(|label| flat(label)) {
        Some(label) if !label.is_empty() && label != cell => {
            format!("{}: {cell}", label.trim_end_matches(':'))
        }
        _ => cell,
    });
    labelled.collect::<Vec<_>>().join("; ")
}

/// All rows of a table. Where the header stands alone it is a row itself.
pub(super) fn rows(header: Option<&[String]>, body: &[Vec<String>]) -> Vec<String> {
    let mut rows: Vec<String> = body.iter().map(|cells| row(header, cells)).collect();
    if let Some(header) = header
        && rows.iter().all(String::is_empty)
    {
        rows.push(row(None, header));
    }
    rows
}

fn filled(cells: &[String]) -> impl Iterator<Item = (usize, String)> {
    cells.iter().map(|cell| flat(cell)).enumerate().filter(|(_, cell)| !cell.is_empty())
}

fn flat(cell: &str) -> String {
    cell.split_whitespace().collect::<Vec<_>>().join(" ")
}
