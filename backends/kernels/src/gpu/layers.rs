use super::{
    Argument::{Address, Count, Number},
    Launch, View, blocks, count, stride,
};

/// Threads for a row of so many values, of which each takes `step` at once: whole warps, no more than 512.
fn row_threads(width: usize, step: usize) -> u32 {
    (width.div_ceil(step).next_multiple_of(32)).clamp(32, 512) as u32
}

/// How kernels go over rows: whether by 16 bytes, and how many values that are.
fn steps(value_bytes: usize, aligned: bool) -> (u32, usize) {
    if aligned { (1, 16 / value_bytes) } else { (0, 1) }
}

/// Whether an address is a multiple of 16.
fn aligned(address: u64) -> bool {
    address.is_multiple_of(16)
}

pub(crate) fn rms_norm(x: View, weight: u64, out: u64, epsilon: f32, value_bytes: usize) -> Launch {
    let rows = x.rows;
    let (vectors, step) = steps(value_bytes, x.is_aligned(value_bytes) && aligned(weight));
    Launch {
        kernel: "rms_norm",
        grid: [blocks(rows.count()), 1, 1],
        threads: row_threads(rows.width, step),
        arguments: vec![
            Address(x.address),
            count(rows.group_rows),
            stride(rows.group_stride),
            Address(weight),
            Address(out),
            count(rows.width),
            Number(epsilon),
            Count(vectors),
        ],
    }
}

/// `out` is where the norm goes, then the sum.
pub(crate) fn add_rms_norm(
    x: View,
    residual: View,
    weight: u64,
    (out, sum): (u64, u64),
    epsilon: f32,
    value_bytes: usize,
) -> Launch {
    let rows = x.rows;
    let all_aligned = x.is_aligned(value_bytes) && residual.is_aligned(value_bytes) && aligned(weight);
    let (vectors, step) = steps(value_bytes, all_aligned);
    Launch {
        kernel: "add_rms_norm",
        grid: [blocks(rows.count()), 1, 1],
        threads: row_threads(rows.width, step),
        arguments: vec![
            Address(x.address),
            count(rows.group_rows),
            stride(rows.group_stride),
            Address(residual.address),
            count(residual.rows.group_rows),
            stride(residual.rows.group_stride),
            Address(weight),
            Address(out),
            Address(sum),
            count(rows.width),
            Number(epsilon),
            Count(vectors),
        ],
    }
}

/// The tables of rotary embedding, and each token's place in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Angles {
    pub(crate) cos: u64,
    pub(crate) sin: u64,
    /// Rows of a table.
    pub(crate) table: usize,
    pub(crate) positions: u64,
}

pub(crate) fn rope(x: View, angles: Angles, out: u64) -> Launch {
    let rows = x.rows;
    Launch {
        kernel: "rope",
        grid: [blocks(rows.groups), 1, 1],
        threads: row_threads(rows.group_width() / 2, 1),
        arguments: vec![
            Address(x.address),
            stride(rows.group_stride),
            count(rows.group_rows),
            count(rows.width),
            Address(angles.cos),
            Address(angles.sin),
            count(angles.table),
            Address(angles.positions),
            Address(out),
        ],
    }
}

/// The two caches, and where tokens go in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    pub(crate) k_cache: u64,
    pub(crate) v_cache: u64,
    pub(crate) slots: u64,
    /// Slots of the cache.
    pub(crate) slot_count: usize,
}

pub(crate) fn write_kv(k: View, v: View, to: Slots, value_bytes: usize) -> Launch {
    let width = k.rows.group_width();
    let all_aligned = [k, v].iter().all(|view| view.is_aligned(value_bytes))
        && [to.k_cache, to.v_cache].into_iter().all(aligned);
    let (vectors, step) = steps(value_bytes, all_aligned);
    Launch {
        kernel: "write_kv",
        grid: [blocks(k.rows.groups), 1, 1],
        threads: row_threads(width, step),
        arguments: vec![
            Address(k.address),
            stride(k.rows.group_stride),
            Address(v.address),
            stride(v.rows.group_stride),
            Address(to.k_cache),
            Address(to.v_cache),
            count(width),
            Address(to.slots),
            count(to.slot_count),
            Count(vectors),
        ],
    }
}

pub(crate) fn rope_write_kv(
    [q, k, v]: [View; 3],
    angles: Angles,
    to: Slots,
    out: u64,
    value_bytes: usize,
) -> Launch {
    let (vectors, _) = steps(value_bytes, v.is_aligned(value_bytes) && aligned(to.v_cache));
    Launch {
        kernel: "rope_write_kv",
        grid: [blocks(q.rows.groups), 1, 1],
        threads: row_threads(q.rows.group_width() / 2, 1),
        arguments: vec![
            Address(q.address),
            stride(q.rows.group_stride),
            count(q.rows.group_rows),
            Address(k.address),
            stride(k.rows.group_stride),
            Address(v.address),
            stride(v.rows.group_stride),
            count(k.rows.group_rows),
            count(q.rows.width),
            Address(angles.cos),
            Address(angles.sin),
            count(angles.table),
            Address(angles.positions),
            Address(to.k_cache),
            Address(to.v_cache),
            Address(to.slots),
            count(to.slot_count),
            Address(out),
            Count(vectors),
        ],
    }
}

pub(crate) fn silu_mul(gate: View, up: View, out: u64, value_bytes: usize) -> Launch {
    const THREADS: usize = 256;
    let rows = gate.rows;
    let (vectors, step) = steps(value_bytes, gate.is_aligned(value_bytes) && up.is_aligned(value_bytes));
    Launch {
        kernel: "silu_mul",
        grid: [blocks(rows.count()), blocks(rows.width.div_ceil(THREADS * step)), 1],
        threads: THREADS as u32,
        arguments: vec![
            Address(gate.address),
            count(rows.group_rows),
            stride(rows.group_stride),
            Address(up.address),
            count(up.rows.group_rows),
            stride(up.rows.group_stride),
            Address(out),
            count(rows.width),
            Count(vectors),
        ],
    }
}
