use candle_core::{Result, bail};
use rayon::prelude::*;

use super::math::exp;
use crate::{element::Element, rows::Rows};

/// Values from which on it pays to share work among threads, and what a thread takes at least.
const SHARE: usize = 16 * 1024;

/// Rows that a thread takes at once.
fn rows_at_once(width: usize) -> usize {
    (SHARE / width.max(1)).max(1)
}

/// Calls a function for each row of the result, in parallel where there are many, with `scratch` values of memory of each thread.
fn for_rows<T: Element>(
    out: &mut [T],
    width: usize,
    scratch: usize,
    work: impl Fn(usize, &mut [T], &mut [f32]) + Sync,
) {
    if width == 0 {
        return;
    }
    let step = rows_at_once(width);
    out.par_chunks_mut(step * width).enumerate().for_each(|(part, out)| {
        let mut memory = vec![0f32; scratch];
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            work(part * step + row, out, &mut memory);
        }
    });
}

/// Divides a row by the root of the mean of its squares and multiplies it by the weights.
fn norm_row(row: &mut [f32], weight: &[f32], epsilon: f32) {
    const SUMS: usize = 16;
    let (parts, rest) = row.as_chunks::<SUMS>();
    let mut sums = [0f32; SUMS];
    for part in parts {
        for lane in 0..SUMS {
            sums[lane] += part[lane] * part[lane];
        }
    }
    let squares: f32 = sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>();
    let share = 1.0 / (squares / row.len() as f32 + epsilon).sqrt();
    for (value, weight) in row.iter_mut().zip(weight) {
        *value = *value * share * weight;
    }
}

fn widened<T: Element>(values: &[T]) -> Vec<f32> {
    let mut wide = vec![0.0; values.len()];
    T::widen(values, &mut wide);
    wide
}

pub(crate) fn rms_norm<T: Element>(x: &[T], rows: &Rows, weight: &[T], epsilon: f32) -> Vec<T> {
    let weight = widened(weight);
    let mut out = vec![T::zero(); rows.count() * rows.width];
    for_rows(&mut out, rows.width, rows.width, |row, out, wide| {
        T::widen(rows.row(x, row), wide);
        norm_row(wide, &weight, epsilon);
        T::narrow(wide, out);
    });
    out
}

/// The norm, and the sum.
pub(crate) fn add_rms_norm<T: Element>(
    (x, residual): (&[T], &[T]),
    (rows, residual_rows): (&Rows, &Rows),
    weight: &[T],
    epsilon: f32,
) -> (Vec<T>, Vec<T>) {
    let weight = widened(weight);
    let width = rows.width;
    let mut sum = vec![T::zero(); rows.count() * width];
    for_rows(&mut sum, width, 2 * width, |row, out, memory| {
        let (a, b) = memory.split_at_mut(width);
        T::widen(rows.row(x, row), a);
        T::widen(residual_rows.row(residual, row), b);
        for (a, b) in a.iter_mut().zip(b) {
            *a += *b;
        }
        T::narrow(a, out);
    });
    let mut normed = vec![T::zero(); sum.len()];
    for_rows(&mut normed, width, width, |row, out, wide| {
        T::widen(&sum[row * width..][..width], wide);
        norm_row(wide, &weight, epsilon);
        T::narrow(wide, out);
    });
    (normed, sum)
}

pub(crate) fn rope<T: Element>(
    x: &[T],
    rows: &Rows,
    (cos, sin): (&[f32], &[f32]),
    positions: &[u32],
) -> Result<Vec<T>> {
    let half = rows.width / 2;
    let table = cos.len() / half.max(1);
    if let Some(position) = positions.iter().find(|position| **position as usize >= table) {
        bail!("rope: position {position} is beyond the tables of {table}");
    }
    let width = rows.group_width();
    let mut out = vec![T::zero(); rows.groups * width];
    for_rows(&mut out, width, width, |token, out, wide| {
        T::widen(rows.group(x, token), wide);
        let at = positions[token] as usize * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        for head in wide.chunks_exact_mut(rows.width) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
        T::narrow(wide, out);
    });
    Ok(out)
}

pub(crate) fn silu_mul<T: Element>((gate, up): (&[T], &[T]), (gate_rows, up_rows): (&Rows, &Rows)) -> Vec<T> {
    let width = gate_rows.width;
    let mut out = vec![T::zero(); gate_rows.count() * width];
    for_rows(&mut out, width, 2 * width, |row, out, memory| {
        let (gates, ups) = memory.split_at_mut(width);
        T::widen(gate_rows.row(gate, row), gates);
        T::widen(up_rows.row(up, row), ups);
        for (gate, up) in gates.iter_mut().zip(ups) {
            // The exponential is of what is not above 0, whatever the sign.
            let power = exp(-gate.abs());
            let sigmoid = if *gate < 0.0 { power } else { 1.0 } / (1.0 + power);
            *gate = *gate * sigmoid * *up;
        }
        T::narrow(gates, out);
    });
    out
}
