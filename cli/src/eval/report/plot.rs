//! Plots as inline SVG: no script, no picture from elsewhere; colours come from the page's style sheet.

use std::fmt::Write;

use super::html::escape;

/// The width of a plot's own coordinates; the page scales it.
const WIDTH: f64 = 720.0;

/// Left of the bars, for their names.
const NAMES: f64 = 190.0;

/// Right of the bars, for their values.
const VALUES: f64 = 130.0;

/// One bar: a value from 0 to 1 with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Where it ends.
    pub value: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where the interval ends.
    pub high: f64,
}

/// Horizontal bars with whiskers, in groups: for each name one bar a system (none where the system has no such value).
pub fn bars(title: &str, groups: &[(String, Vec<Option<Bar>>)]) -> String {
    const THICK: f64 = 14.0;
    const GAP: f64 = 10.0;
    let rows: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = as_f64(rows) * THICK + as_f64(groups.len()) * GAP + 26.0;
    let x = |share: f64| NAMES + share.clamp(0.0, 1.0) * (WIDTH - NAMES - VALUES);
    let mut out = open(title, height);
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let at = x(share);
        let bottom = height - 20.0;
        let _ = write!(out, r#"<line class="grid" x1="{at:.1}" y1="0" x2="{at:.1}" y2="{bottom:.1}"/>"#);
        let _ = write!(out, r#"<text class="tick" x="{at:.1}" y="{:.1}">{share:.2}</text>"#, height - 6.0);
    }
    let mut y = GAP / 2.0;
    for (name, bars) in groups {
        let middle = y + as_f64(bars.len()) * THICK / 2.0 + 4.0;
        let _ = write!(
            out,
            r#"<text class="name" x="{:.1}" y="{middle:.1}">{}</text>"#,
            NAMES - 8.0,
            escape(name)
        );
        for (system, bar) in bars.iter().enumerate() {
            if let Some(Bar { value, low, high }) = bar {
                let line = y + THICK / 2.0;
                let _ = write!(
                    out,
                    r#"<rect class="s{system}" x="{NAMES}" y="{:.1}" width="{:.1}" height="{:.1}"/><path class="whisker" d="M{:.1} {line:.1}H{:.1}M{:.1} {:.1}v6M{:.1} {:.1}v6"/><text class="value" x="{:.1}" y="{:.1}">{value:.3} ({low:.3}–{high:.3})</text>"#,
                    y + 1.0,
                    x(*value) - NAMES,
                    THICK - 2.0,
                    x(*low),
                    x(*high),
                    x(*low),
                    line - 3.0,
                    x(*high),
                    line - 3.0,
                    WIDTH - VALUES + 8.0,
                    line + 4.0,
                );
            }
            y += THICK;
        }
        y += GAP;
    }
    out.push_str("</svg>");
    out
}

/// One column of a histogram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What falls into it: `0.2–0.3`.
    pub name: String,
    /// How many, for each system.
    pub counts: Vec<usize>,
}

/// Upright columns, one a system beside each other.
pub fn histogram(title: &str, axis: &str, columns: &[Column]) -> String {
    const HEIGHT: f64 = 240.0;
    const BOTTOM: f64 = 40.0;
    const LEFT: f64 = 50.0;
    let most = columns.iter().flat_map(|column| &column.counts).copied().max().unwrap_or(0).max(1);
    let tall = HEIGHT - BOTTOM - 18.0;
    let y = |count: usize| HEIGHT - BOTTOM - tall * as_f64(count) / as_f64(most);
    let each = (WIDTH - LEFT - 10.0) / as_f64(columns.len().max(1));
    let mut out = open(title, HEIGHT);
    for count in [0, most.div_ceil(2), most] {
        let at = y(count);
        let _ = write!(out, r#"<line class="grid" x1="{LEFT}" y1="{at:.1}" x2="{WIDTH}" y2="{at:.1}"/>"#);
        let _ = write!(out, r#"<text class="name" x="{:.1}" y="{:.1}">{count}</text>"#, LEFT - 6.0, at + 4.0);
    }
    for (place, column) in columns.iter().enumerate() {
        let left = LEFT + 5.0 + as_f64(place) * each;
        let wide = (each - 6.0) / as_f64(column.counts.len().max(1));
        for (system, count) in column.counts.iter().enumerate() {
            let (top, x) = (y(*count), left + as_f64(system) * wide);
            let _ = write!(
                out,
                r#"<rect class="s{system}" x="{x:.1}" y="{top:.1}" width="{:.1}" height="{:.1}"/>"#,
                wide - 1.0,
                HEIGHT - BOTTOM - top
            );
            if *count > 0 {
                let _ = write!(
                    out,
                    r#"<text class="count" x="{:.1}" y="{:.1}">{count}</text>"#,
                    x + wide / 2.0,
                    top - 3.0
                );
            }
        }
        let middle = left + (each - 6.0) / 2.0;
        let _ = write!(
            out,
            r#"<text class="tick" x="{middle:.1}" y="{:.1}">{}</text>"#,
            HEIGHT - BOTTOM + 15.0,
            escape(&column.name)
        );
    }
    let _ = write!(
        out,
        r#"<text class="tick" x="{:.1}" y="{:.1}">{}</text></svg>"#,
        LEFT + (WIDTH - LEFT) / 2.0,
        HEIGHT - 6.0,
        escape(axis)
    );
    out
}

/// Columns for values from 0 to 1: those of 0 alone, ten equal parts, those of 1 alone.
pub fn share_columns(values: &[Vec<f64>]) -> Vec<Column> {
    let place = |value: f64| {
        if value <= 0.0 {
            0
        } else if value >= 1.0 {
            11
        } else {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 9
            let part = (value * 10.0).floor() as usize;
            1 + part.min(9)
        }
    };
    let name = |at: usize| match at {
        0 => "0".to_owned(),
        11 => "1".to_owned(),
        part => format!("< {:.1}", as_f64(part) / 10.0),
    };
    columns(12, name, values, place)
}

/// Columns for times, each up to √2 as long as the one before, from the shortest to the longest.
pub fn time_columns(values: &[Vec<f64>]) -> Vec<Column> {
    let step = 2f64.sqrt();
    let all = values.iter().flatten().copied().filter(|value| *value > 0.0);
    let (least, most) =
        all.fold((f64::INFINITY, 0.0f64), |(least, most), value| (least.min(value), most.max(value)));
    if most <= 0.0 {
        return Vec::new();
    }
    // At most twenty columns: a spread that is wider gets wider columns.
    let spread = (most / least).max(1.0).ln();
    let width = step.ln().max(spread / 19.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 20
    let place = |value: f64| ((value.max(least) / least).ln() / width).floor() as usize;
    let ends = |at: usize| {
        let end = least * (width * as_f64(at + 1)).exp();
        if end < 10.0 { format!("< {end:.1}") } else { format!("< {end:.0}") }
    };
    columns(place(most) + 1, ends, values, place)
}

fn columns(
    count: usize,
    name: impl Fn(usize) -> String,
    values: &[Vec<f64>],
    place: impl Fn(f64) -> usize,
) -> Vec<Column> {
    let mut columns: Vec<Column> =
        (0..count).map(|at| Column { name: name(at), counts: vec![0; values.len()] }).collect();
    for (system, values) in values.iter().enumerate() {
        for value in values {
            columns[place(*value).min(count - 1)].counts[system] += 1;
        }
    }
    columns
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><title>{title}</title>"#
    )
}

#[allow(clippy::cast_precision_loss)] // counts of questions
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_one_column() {
        let values = [vec![0.0, 0.05, 0.1, 0.95, 1.0, 1.0], vec![0.5]];
        let columns = share_columns(&values);
        let first: Vec<usize> = columns.iter().map(|column| column.counts[0]).collect();
        assert_eq!(first, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(columns[6].counts, [0, 1]);
        assert_eq!((columns[1].name.as_str(), columns[11].name.as_str()), ("< 0.1", "1"));

        let times = [vec![1.0, 1.2, 2.1, 100.0], vec![3.0]];
        let columns = time_columns(&times);
        assert!((10..=20).contains(&columns.len()), "{columns:?}");
        assert_eq!(columns.iter().map(|column| column.counts[0]).sum::<usize>(), 4);
        assert_eq!(columns[0].counts[0], 2);
        assert_eq!(time_columns(&[vec![5.0]]).len(), 1);
        assert_eq!(time_columns(&[vec![0.001, 1e6]]).len(), 20);
        assert_eq!(time_columns(&[vec![]]), []);
    }
}
