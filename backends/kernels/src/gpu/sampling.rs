use super::{Argument::Address, Launch, View, blocks, count, stride};
use crate::SampleRow;

/// Threads of a block; the kernel is written for as many.
const THREADS: u32 = 1024;

/// What the kernel reads of the rows' settings, word by word: a block for each row, then the tokens that were seen.
pub(crate) fn settings(rows: &[SampleRow<'_>]) -> Vec<u32> {
    let mut words = Vec::with_capacity(rows.len() * 10);
    let mut seen = Vec::new();
    for row in rows {
        let tokens = if row.repetition_penalty == 1.0 { &[] } else { row.seen };
        words.extend([
            row.temperature.to_bits(),
            row.top_k,
            row.top_p.to_bits(),
            row.repetition_penalty.to_bits(),
            seen.len() as u32,
            tokens.len() as u32,
            row.seed as u32,
            (row.seed >> 32) as u32,
            row.position as u32,
            (row.position >> 32) as u32,
        ]);
        seen.extend_from_slice(tokens);
    }
    words.extend(seen);
    words
}

/// `scratch` has as many floats as there are logits.
pub(crate) fn sample(logits: View, settings: u64, scratch: u64, out: u64) -> Launch {
    let rows = logits.rows;
    Launch {
        kernel: "sample",
        grid: [blocks(rows.count()), 1, 1],
        threads: THREADS,
        arguments: vec![
            Address(logits.address),
            stride(rows.group_stride),
            count(rows.width),
            Address(settings),
            count(rows.count()),
            Address(scratch),
            Address(out),
        ],
    }
}
