//! One HNSW graph (Malkov and Yashunin, <https://arxiv.org/abs/1603.09320>) with its vectors as f16, by usearch.

use std::path::Path;

use half::{f16, slice::HalfFloatSliceExt};
use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::{rows::Bytes, usearch::UsearchSettings};

/// The fewest vectors that room is made for.
const SMALLEST: usize = 64;
/// usearch's own setting, which counts where a search asks for fewer. Ours always asks for as many as it wants.
const FEWEST_CANDIDATES: usize = 1;
/// Fewer vectors than this are added by one thread: starting more would take longer.
const WORTH_A_THREAD: usize = 64;

/// What decides how a graph is built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub dimension: usize,
    pub settings: UsearchSettings,
    /// Searches that may run at the same time. As many threads may add meanwhile.
    pub threads: usize,
}

/// A question, of unit length, and as bytes.
pub(super) struct Query {
    vector: Vec<f32>,
    pub bytes: Bytes,
}

impl Query {
    /// None where the vector has no direction: zero, or not finite.
    pub(super) fn new(vector: &[f32]) -> Option<Self> {
        let norm = norm(vector)?;
        let mut unit = Vec::with_capacity(vector.len());
        scale(vector, norm, &mut unit);
        Some(Self { vector: unit, bytes: Bytes::of(vector, norm) })
    }
}

/// The length of a vector that has a direction: one that is neither zero nor has values that are not finite.
pub(super) fn norm(vector: &[f32]) -> Option<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    (norm.is_finite() && norm > 0.0).then_some(norm)
}

/// Brings a vector of this length to unit length.
fn scale(vector: &[f32], norm: f32, unit: &mut Vec<f32>) {
    unit.clear();
    unit.extend(vector.iter().map(|x| x / norm));
}

/// Vectors by number, brought to unit length. Numbers are given by the caller, each once. Searching and adding may happen at the same time;
/// making room may not, and takes the graph exclusively.
pub(super) struct Graph {
    index: Index,
    shape: Shape,
}

impl Graph {
    pub(super) fn new(shape: Shape) -> PortResult<Self> {
        let options = IndexOptions {
            dimensions: shape.dimension,
            // That of unit vectors is their cosine, and takes 23 ns to compute where the cosine itself, which sums three products, takes 39 ns (384 numbers).
            metric: MetricKind::IP,
            quantization: ScalarKind::F16,
            connectivity: shape.settings.connectivity,
            expansion_add: shape.settings.expansion_add,
            expansion_search: FEWEST_CANDIDATES,
            multi: false,
        };
        let mut graph = Self { index: Index::new(&options).map_err(|e| failed("making", e))?, shape };
        graph.make_room(SMALLEST)?;
        Ok(graph)
    }

    /// Reads a saved graph. The file's checksum must have been checked: usearch trusts what it reads.
    pub(super) fn load(path: &Path, shape: Shape) -> PortResult<Self> {
        let mut graph = Self::new(shape)?;
        graph.index.load(utf8(path)?).map_err(|e| failed("loading", e))?;
        if graph.index.dimensions() != shape.dimension
            || graph.index.scalar_kind() != ScalarKind::F16
            || graph.index.metric_kind() != MetricKind::IP
        {
            return Err(PortError::new(ErrorKind::Corrupt, "the saved graph is of another shape"));
        }
        graph.index.change_expansion_add(shape.settings.expansion_add);
        graph.index.change_expansion_search(FEWEST_CANDIDATES);
        graph.make_room(0)?;
        Ok(graph)
    }

    /// Writes the graph to a file; the caller makes it durable.
    pub(super) fn save(&self, path: &Path) -> PortResult<()> {
        self.index.save(utf8(path)?).map_err(|e| failed("saving", e))?;
        let written =
            std::fs::metadata(path).map_err(|e| unavailable("the saved graph cannot be read back", e))?.len();
        // usearch does not look whether its last block reached the disk.
        if written != self.index.serialized_length() as u64 {
            return Err(PortError::new(
                ErrorKind::Unavailable,
                "the graph was not saved whole: is the disk full?",
            ));
        }
        Ok(())
    }

    /// How many vectors it holds.
    pub(super) fn len(&self) -> usize {
        self.index.size()
    }

    pub(super) fn contains(&self, key: u32) -> bool {
        self.index.contains(u64::from(key))
    }

    /// Makes room for so many more vectors, by half as much again where the room is too small.
    pub(super) fn make_room(&mut self, more: usize) -> PortResult<()> {
        let needed = self.len() + more;
        let capacity = self.index.capacity();
        let room = if needed > capacity { needed.max(capacity + capacity / 2) } else { capacity };
        self.index
            .reserve_capacity_and_threads(room.max(SMALLEST), self.shape.threads * 2)
            .map_err(|e| failed("making room in", e))
    }

    /// Adds vectors, on so many threads where there are many. Room must have been made. After an error some may have been added.
    pub(super) fn add(&self, entries: &[(u32, &[f32])], threads: usize) -> PortResult<()> {
        let threads = (entries.len() / WORTH_A_THREAD).clamp(1, threads.clamp(1, self.shape.threads));
        let share = entries.len().div_ceil(threads).max(1);
        let add = |entries: &[(u32, &[f32])]| {
            let mut unit = Vec::with_capacity(self.shape.dimension);
            entries.iter().try_for_each(|(key, vector)| {
                // One without a direction, which the caller keeps away, would be near nothing.
                scale(vector, norm(vector).unwrap_or(f32::INFINITY), &mut unit);
                self.index.add(u64::from(*key), &unit)
            })
        };
        let done = std::thread::scope(|scope| {
            let mut shares = entries.chunks(share);
            let first = shares.next().unwrap_or_default();
            let others: Vec<_> = shares.map(|share| scope.spawn(move || add(share))).collect();
            let mut done = vec![add(first).map_err(|e| failed("adding to", e))];
            done.extend(others.into_iter().map(|other| match other.join() {
                Ok(done) => done.map_err(|e| failed("adding to", e)),
                Err(_) => {
                    Err(PortError::new(ErrorKind::Internal, "a thread that added to the graph panicked"))
                }
            }));
            done
        });
        done.into_iter().collect()
    }

    /// A walk through the graph that keeps so many candidates. Returns them, about the nearest of those that are allowed, best first.
    pub(super) fn nearest(
        &self,
        query: &Query,
        candidates: usize,
        allow: Option<impl Fn(u32) -> bool>,
    ) -> PortResult<Vec<u32>> {
        // usearch keeps at least as many candidates as it is asked for results.
        let matches = match allow {
            Some(allow) => {
                let allow = |key: u64| u32::try_from(key).is_ok_and(&allow);
                self.index.filtered_search(&query.vector, candidates, allow)
            }
            None => self.index.search(&query.vector, candidates),
        };
        let keys = matches.map_err(|e| failed("searching", e))?.keys;
        Ok(keys.into_iter().filter_map(|key| u32::try_from(key).ok()).collect())
    }

    /// The instructions that distances are computed with, as usearch names them; `serial` where it found none to be of use.
    pub(super) fn instructions(&self) -> String {
        self.index.hardware_acceleration()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.index.memory_usage()
    }

    /// The cosine between the question and a vector; none where there is no such vector.
    pub(super) fn cosine(&self, key: u32, query: &Query, scratch: &mut Scratch) -> PortResult<Option<f32>> {
        let Some(vector) = self.read(key, scratch)? else { return Ok(None) };
        let (dot, square) = dot_and_square(&query.vector, vector);
        let cosine = dot / square.sqrt();
        Ok(cosine.is_finite().then(|| cosine.clamp(-1.0, 1.0)))
    }

    /// Reads a vector back, as it is kept; none where there is none.
    pub(super) fn read<'a>(&self, key: u32, scratch: &'a mut Scratch) -> PortResult<Option<&'a [f32]>> {
        let Scratch { kept, halves, vector } = scratch;
        kept.resize(self.shape.dimension, 0);
        halves.resize(self.shape.dimension, f16::ZERO);
        vector.resize(self.shape.dimension, 0.0);
        // As f16, because half converts with the processor's instructions and usearch one number after the other.
        let into = usearch::f16::from_mut_i16s(kept);
        if self.index.get(u64::from(key), into).map_err(|e| failed("reading from", e))? != 1 {
            return Ok(None);
        }
        for (half, bits) in halves.iter_mut().zip(&*kept) {
            *half = f16::from_bits(bits.cast_unsigned());
        }
        halves.convert_to_f32_slice(vector);
        Ok(Some(vector))
    }
}

/// Memory for reading vectors, to be used again and again.
#[derive(Default)]
pub(super) struct Scratch {
    kept: Vec<i16>,
    halves: Vec<f16>,
    vector: Vec<f32>,
}

/// The dot product of two vectors and the square of the second one's length, in lanes that the compiler makes SIMD of.
fn dot_and_square(a: &[f32], b: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    let (mut dot, mut square) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            dot[lane] += a[lane] * b[lane];
            square[lane] += b[lane] * b[lane];
        }
    }
    let rest =
        a_rest.iter().zip(b_rest).fold((0.0, 0.0), |(dot, square), (a, b)| (dot + a * b, square + b * b));
    (dot.iter().sum::<f32>() + rest.0, square.iter().sum::<f32>() + rest.1)
}

fn utf8(path: &Path) -> PortResult<&str> {
    path.to_str().ok_or_else(|| {
        PortError::new(ErrorKind::Invalid, format!("the index's folder {} is not UTF-8", path.display()))
    })
}

fn failed(doing: &str, error: impl std::error::Error + Send + Sync + 'static) -> PortError {
    PortError::new(ErrorKind::Internal, format!("{doing} the vector graph failed")).with_source(error)
}

pub(super) fn unavailable(what: &str, error: std::io::Error) -> PortError {
    PortError::new(ErrorKind::Unavailable, what).with_source(error)
}
