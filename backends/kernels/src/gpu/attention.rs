use candle_core::DType;

use super::{
    Argument::{Address, Number},
    Launch, View, blocks, count,
    program::AttentionShape,
    stride,
};
pub(crate) use crate::attention::check_heads_on_gpu as check;
use crate::batch::AttentionSequence;

/// Queries that a block of `prefill` takes.
const QUERIES: usize = 64;
/// Threads of both kernels' blocks.
const THREADS: u32 = 128;
/// Heads that a block of `decode` takes at most.
const HEADS: usize = 8;
/// Keys that are worth a block of their own.
const LEAST_SHARE: usize = 128;
/// Blocks for each of the GPU's processors, from which on contexts are not split further.
const BLOCKS_EACH: usize = 4;

/// What the kernels read of a step's sequences: one array of words, and where in it is what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) words: Vec<u32>,
    /// Tokens that are the only ones of their sequences, which come first, and all others.
    pub(crate) singles: usize,
    pub(crate) others: usize,
    /// Tiles of queries of the others.
    pub(crate) tiles: usize,
    /// The longest context of a single token, and of any.
    pub(crate) longest_single: usize,
    pub(crate) longest: usize,
}

/// Words of an item of `decode`, and of a tile of `prefill`.
const ITEM_WORDS: usize = 3;
const TILE_WORDS: usize = 4;

impl Work {
    /// Lays the sequences out, which have been checked.
    pub(crate) fn new(sequences: &[AttentionSequence], block_size: usize) -> Self {
        let mut tables = Vec::new();
        let (mut singles, mut others) = (Vec::new(), Vec::new());
        let mut tiles: Vec<[u32; TILE_WORDS]> = Vec::new();
        let (mut longest_single, mut longest) = (0, 0);
        for sequence in sequences {
            let AttentionSequence { query_start, query_len, context_len, ref blocks } = *sequence;
            let table = tables.len() as u32;
            tables.extend_from_slice(&blocks[..context_len.div_ceil(block_size)]);
            let place = context_len - query_len;
            let items = if query_len == 1 { &mut singles } else { &mut others };
            items.extend(
                (0..query_len).map(|query| [(query_start + query) as u32, table, (place + query + 1) as u32]),
            );
            if query_len == 1 {
                longest_single = longest_single.max(context_len);
            } else {
                tiles.extend((0..query_len).step_by(QUERIES).map(|first| {
                    let queries = QUERIES.min(query_len - first);
                    [(query_start + first) as u32, queries as u32, (place + first) as u32, table]
                }));
            }
            longest = longest.max(context_len);
        }
        // What takes longest begins first.
        tiles.sort_by_key(|[_, queries, place, _]| std::cmp::Reverse(place + queries));
        let words = singles
            .iter()
            .chain(&others)
            .flatten()
            .chain(tiles.iter().flatten())
            .chain(&tables)
            .copied()
            .collect();
        Self {
            words,
            singles: singles.len(),
            others: others.len(),
            tiles: tiles.len(),
            longest_single,
            longest,
        }
    }

    /// Where the tiles begin, in words.
    fn tiles_at(&self) -> usize {
        (self.singles + self.others) * ITEM_WORDS
    }

    /// Where the block tables begin, in words.
    fn tables_at(&self) -> usize {
        self.tiles_at() + self.tiles * TILE_WORDS
    }
}

/// Everything that attention of a step is launched with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: AttentionShape,
    pub(crate) kv_heads: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
    /// Processors of the GPU.
    pub(crate) processors: usize,
    pub(crate) work: &'a Work,
}

/// Addresses of the tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensors {
    pub(crate) q: View,
    /// Aligned to 16 bytes.
    pub(crate) k_cache: u64,
    pub(crate) v_cache: u64,
    /// Where the work has been brought to.
    pub(crate) words: u64,
    pub(crate) out: u64,
    /// Memory of as many floats as [`Attention::scratch`] says.
    pub(crate) scratch: u64,
}

impl Attention<'_> {
    /// Whether there are tensor cores for it.
    fn has_prefill(&self) -> bool {
        self.dtype != DType::F32 && self.shape.head_dim.is_multiple_of(16)
    }

    /// Tokens that go through `decode`: where `prefill` cannot be had, all.
    fn items(&self) -> usize {
        self.work.singles + if self.has_prefill() { 0 } else { self.work.others }
    }

    /// Parts into which contexts are split, so that few long ones keep the whole GPU busy.
    fn splits(&self) -> usize {
        let longest = if self.has_prefill() { self.work.longest_single } else { self.work.longest };
        let longest = longest.min(self.window.unwrap_or(usize::MAX));
        let blocks = self.items() * self.kv_heads * self.shape.group.div_ceil(HEADS);
        let wanted = (self.processors * BLOCKS_EACH).div_ceil(blocks.max(1));
        wanted.min(longest.div_ceil(LEAST_SHARE)).clamp(1, 64)
    }

    /// Parts that are put together afterwards.
    fn parts(&self) -> usize {
        match self.splits() {
            1 => 0,
            splits => self.items() * self.kv_heads * self.shape.group * splits,
        }
    }

    /// Floats of scratch memory: for each part its highest score and its sum, then its values.
    pub(crate) fn scratch(&self) -> usize {
        self.parts() * (2 + self.shape.head_dim)
    }

    /// The kernels, in their order.
    pub(crate) fn launches(&self, tensors: Tensors) -> Vec<Launch> {
        let Tensors { q, k_cache, v_cache, words, out, scratch } = tensors;
        let word = |at: usize| Address(words + 4 * at as u64);
        let heads = self.kv_heads * self.shape.group;
        let window = count(self.window.unwrap_or(u32::MAX as usize));
        let mut launches = Vec::new();
        let items = self.items();
        if items > 0 {
            let splits = self.splits();
            let sums = scratch + 8 * self.parts() as u64;
            launches.push(Launch {
                kernel: "decode",
                grid: [
                    blocks(items),
                    blocks(self.kv_heads * self.shape.group.div_ceil(HEADS)),
                    blocks(splits),
                ],
                threads: THREADS,
                arguments: vec![
                    Address(q.address),
                    stride(q.rows.group_stride),
                    Address(k_cache),
                    Address(v_cache),
                    word(0),
                    word(self.work.tables_at()),
                    count(self.kv_heads),
                    Number(self.scale),
                    window,
                    Address(out),
                    Address(scratch),
                    Address(sums),
                ],
            });
            if splits > 1 {
                launches.push(Launch {
                    kernel: "combine",
                    grid: [blocks(items), blocks(heads), 1],
                    threads: THREADS,
                    arguments: vec![Address(scratch), Address(sums), word(0), count(splits), Address(out)],
                });
            }
        }
        if self.has_prefill() && self.work.tiles > 0 {
            launches.push(Launch {
                kernel: "prefill",
                grid: [blocks(self.work.tiles), blocks(heads), 1],
                threads: THREADS,
                arguments: vec![
                    Address(q.address),
                    stride(q.rows.group_stride),
                    Address(k_cache),
                    Address(v_cache),
                    word(self.work.tiles_at()),
                    word(self.work.tables_at()),
                    count(self.kv_heads),
                    Number(self.scale),
                    window,
                    Address(out),
                ],
            });
        }
        launches
    }
}
