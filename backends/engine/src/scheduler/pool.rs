//! The blocks of the cache: who uses which, and what those that nobody uses still hold.

use std::collections::{BTreeMap, HashMap};

/// What a full block holds, by a number that no other content ever gets: the same tokens behind the same tokens.
pub(super) type ContentId = u64;

/// The content before a sequence's first block.
pub(super) const NOTHING: ContentId = 0;

/// What a full block holds. It is compared, not only hashed, so two contents are never taken for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    before: ContentId,
    tokens: Box<[u32]>,
}

#[derive(Debug, Default)]
struct Block {
    users: u32,
    content: Option<(Content, ContentId)>,
    /// When the last user left it.
    left_at: u64,
}

/// The beginning of a sequence that the cache holds already.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) blocks: Vec<u32>,
    pub(super) contents: Vec<ContentId>,
    /// How many of the blocks nobody uses: taking the prefix makes so many fewer free.
    pub(super) idle: usize,
}

/// Blocks, counted by their users. A full block is found by its content, and keeps it after its last user has left until the block is needed for
/// something else; those left longest ago go first. A block with a content is never written: only full blocks have one.
#[derive(Debug)]
pub(super) struct BlockPool {
    block_size: usize,
    blocks: Vec<Block>,
    /// Free, and holding nothing of use.
    blank: Vec<u32>,
    /// Free, and still holding a content: by when they were left.
    idle: BTreeMap<u64, u32>,
    contents: HashMap<Content, u32>,
    clock: u64,
    last_content: ContentId,
}

impl BlockPool {
    pub(super) fn new(blocks: usize, block_size: usize) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            block_size,
            blocks: (0..count).map(|_| Block::default()).collect(),
            // The lowest is taken first.
            blank: (0..count).rev().collect(),
            idle: BTreeMap::new(),
            contents: HashMap::new(),
            clock: 0,
            last_content: NOTHING,
        }
    }

    /// All blocks.
    pub(super) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody uses.
    pub(super) fn free(&self) -> usize {
        self.blank.len() + self.idle.len()
    }

    /// Takes so many blocks for one user, or none at all.
    pub(super) fn allocate(&mut self, count: usize) -> Option<Vec<u32>> {
        if count > self.free() {
            return None;
        }
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let block = match self.blank.pop() {
                Some(block) => block,
                None => {
                    let (_, block) = self.idle.pop_first()?;
                    if let Some((content, _)) = self.blocks[block as usize].content.take() {
                        self.contents.remove(&content);
                    }
                    block
                }
            };
            self.blocks[block as usize].users = 1;
            taken.push(block);
        }
        Some(taken)
    }

    /// The longest beginning of these tokens that full blocks hold, of `most` blocks at most.
    pub(super) fn prefix(&self, tokens: &[u32], most: usize) -> Prefix {
        let mut prefix = Prefix::default();
        let mut before = NOTHING;
        for tokens in tokens.chunks_exact(self.block_size).take(most) {
            let content = Content { before, tokens: tokens.into() };
            let Some(&block) = self.contents.get(&content) else { break };
            let Some((_, id)) = &self.blocks[block as usize].content else { break };
            before = *id;
            prefix.idle += usize::from(self.blocks[block as usize].users == 0);
            prefix.blocks.push(block);
            prefix.contents.push(before);
        }
        prefix
    }

    /// Adds a user to the blocks of a prefix.
    pub(super) fn take(&mut self, prefix: &Prefix) {
        for &block in &prefix.blocks {
            let block = &mut self.blocks[block as usize];
            if block.users == 0 {
                self.idle.remove(&block.left_at);
            }
            block.users += 1;
        }
    }

    /// Makes known that a block is full of these tokens, behind the content `before`. Where another block holds the same, that one stays known.
    pub(super) fn fill(&mut self, block: u32, before: ContentId, tokens: &[u32]) -> ContentId {
        let content = Content { before, tokens: tokens.into() };
        if let Some(&known) = self.contents.get(&content)
            && let Some((_, id)) = &self.blocks[known as usize].content
        {
            return *id;
        }
        self.last_content += 1;
        self.contents.insert(content.clone(), block);
        self.blocks[block as usize].content = Some((content, self.last_content));
        self.last_content
    }

    /// Forgets the contents of the blocks that nobody uses.
    pub(super) fn forget(&mut self) {
        for index in std::mem::take(&mut self.idle).into_values() {
            if let Some((content, _)) = self.blocks[index as usize].content.take() {
                self.contents.remove(&content);
            }
            self.blank.push(index);
        }
    }

    /// Takes a user from each of these blocks of one sequence. Its last blocks are left first: a beginning is worth more than what follows it.
    pub(super) fn release(&mut self, blocks: &[u32]) {
        for &index in blocks.iter().rev() {
            let block = &mut self.blocks[index as usize];
            block.users = block.users.saturating_sub(1);
            if block.users > 0 {
                continue;
            }
            if block.content.is_some() {
                self.clock += 1;
                block.left_at = self.clock;
                self.idle.insert(self.clock, index);
            } else {
                self.blank.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 4;

    impl BlockPool {
        /// Panics where the books do not balance.
        pub(in crate::scheduler) fn check(&self, held: &[&[u32]]) {
            let mut users = vec![0; self.blocks.len()];
            for block in held.iter().copied().flatten() {
                users[*block as usize] += 1;
            }
            let counted: Vec<u32> = self.blocks.iter().map(|block| block.users).collect();
            assert_eq!(counted, users, "every user is counted once");
            let blank: BTreeSet<u32> = self.blank.iter().copied().collect();
            let idle: BTreeSet<u32> = self.idle.values().copied().collect();
            assert_eq!((blank.len(), idle.len()), (self.blank.len(), self.idle.len()), "none is free twice");
            for (index, block) in (0..).zip(&self.blocks) {
                let free = (blank.contains(&index), idle.contains(&index));
                let expected = match (block.users, &block.content) {
                    (0, None) => (true, false),
                    (0, Some(_)) => (false, true),
                    _ => (false, false),
                };
                assert_eq!(free, expected, "block {index}: {block:?}");
                if let Some((content, _)) = &block.content {
                    assert_eq!(self.contents.get(content), Some(&index));
                }
            }
            let known = self.blocks.iter().filter(|block| block.content.is_some()).count();
            assert_eq!(known, self.contents.len());
        }
    }

    /// A sequence as the pool sees it.
    struct User {
        tokens: Vec<u32>,
        blocks: Vec<u32>,
    }

    fn begin(pool: &mut BlockPool, tokens: Vec<u32>) -> Option<User> {
        let prefix = pool.prefix(&tokens, tokens.len() / SIZE);
        let more = tokens.len().div_ceil(SIZE) - prefix.blocks.len();
        if more > pool.free() - prefix.idle {
            return None;
        }
        pool.take(&prefix);
        let (mut blocks, mut contents) = (prefix.blocks, prefix.contents);
        let shared = blocks.len();
        blocks.extend(pool.allocate(more).expect("counted before"));
        for (block, full) in tokens.chunks_exact(SIZE).enumerate().skip(shared) {
            let before = contents.last().copied().unwrap_or(NOTHING);
            contents.push(pool.fill(blocks[block], before, full));
        }
        Some(User { tokens, blocks })
    }

    proptest! {
        #[test]
        fn no_block_is_lost_or_given_twice(
            steps in prop::collection::vec((0_u8..4, 1_usize..30, 0_u32..3), 1..200),
            total in 1_usize..24,
        ) {
            let mut pool = BlockPool::new(total, SIZE);
            let mut users: Vec<User> = Vec::new();
            for (action, number, kind) in steps {
                if action < 3 {
                    // Few kinds of token, so that beginnings are often the same.
                    let tokens = (0..number).map(|at| if at < 9 { kind } else { kind + (at as u32 % 2) });
                    let free = pool.free();
                    match begin(&mut pool, tokens.collect()) {
                        Some(user) => users.push(user),
                        None => prop_assert_eq!(pool.free(), free, "a refusal takes nothing"),
                    }
                } else if !users.is_empty() {
                    let user = users.swap_remove(number % users.len());
                    pool.release(&user.blocks);
                }
                let held: Vec<&[u32]> = users.iter().map(|user| user.blocks.as_slice()).collect();
                pool.check(&held);
                // Two sequences share a block only where all their tokens up to its end are the same.
                for (a, b) in users.iter().flat_map(|a| users.iter().map(move |b| (a, b))) {
                    for (at, (one, other)) in a.blocks.iter().zip(&b.blocks).enumerate() {
                        if one == other && !std::ptr::eq(a, b) {
                            let end = (at + 1) * SIZE;
                            prop_assert!(a.tokens.len() >= end && b.tokens.len() >= end);
                            prop_assert_eq!(&a.tokens[..end], &b.tokens[..end]);
                        }
                    }
                }
            }
            for user in users.drain(..) {
                pool.release(&user.blocks);
            }
            prop_assert_eq!(pool.free(), total);
            prop_assert!(pool.allocate(total).is_some(), "all can be had again");
            prop_assert!(pool.contents.is_empty(), "and hold nothing then");
        }
    }

    #[test]
    fn what_was_left_longest_ago_goes_first_and_endings_before_beginnings() {
        let mut pool = BlockPool::new(4, SIZE);
        let old = begin(&mut pool, vec![1; 8]).unwrap();
        let young = begin(&mut pool, vec![2; 8]).unwrap();
        pool.release(&old.blocks);
        pool.release(&young.blocks);
        let known = |pool: &BlockPool, token| pool.prefix(&[token; 8], 2).blocks.len();
        assert_eq!((known(&pool, 1), known(&pool, 2)), (2, 2));
        pool.allocate(1).unwrap();
        assert_eq!((known(&pool, 1), known(&pool, 2)), (1, 2));
        pool.allocate(1).unwrap();
        assert_eq!((known(&pool, 1), known(&pool, 2)), (0, 2));
        assert_eq!(pool.free(), 2);
    }
}
