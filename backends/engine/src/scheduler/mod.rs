//! Which sequences compute which of their tokens in the next step. It knows no model: what it needs is how many tokens each sequence has.
//!
//! A step first gives every running sequence that is past its prompt its one token, so that nothing a newcomer brings holds up those that write.
//! What is left of the step's tokens goes to prompts, in pieces where they are longer, in the order in which they came. Sequences are admitted in
//! that order too, and only while there are blocks for all their tokens and one more for each that runs: a long one at the front is waited for,
//! so that it is not overtaken forever. When the blocks run out all the same, the sequence that came last gives its own back and waits, in its old
//! place; its tokens are computed again when it returns, as far as their blocks were not kept. So the first one always gets on, and all end.

mod pool;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use self::pool::{BlockPool, ContentId, NOTHING};
use crate::RequestError;

/// A sequence's number, in the order in which they came.
pub type SequenceId = u64;

/// What bounds the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Blocks of the cache.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Tokens of a step.
    pub batch_tokens: usize,
    /// Sequences that run at once; not more than `batch_tokens`.
    pub sequences: usize,
    /// Sequences that wait, those that were sent back among them, before newcomers are refused.
    pub waiting: usize,
    /// Tokens of one sequence, its answer included.
    pub context_tokens: usize,
}

impl Limits {
    /// Blocks for so many tokens.
    #[must_use]
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size)
    }

    /// The most tokens of a sequence: what is allowed, and what the cache can hold.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.context_tokens.min(self.blocks * self.block_size)
    }
}

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub id: SequenceId,
    /// The first of its tokens that is computed.
    pub start: usize,
    /// How many are.
    pub count: usize,
    /// Whether they reach the sequence's end, so that the next token can be chosen.
    pub completes: bool,
}

/// A step: at most one part for each sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// The parts.
    pub parts: Vec<Part>,
    /// Tokens of the parts that belong to prompts, or are computed again.
    pub prefill_tokens: usize,
}

impl Step {
    /// Tokens of all parts.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }
}

/// A sequence's tokens and where their keys and values are.
#[derive(Debug)]
pub struct Sequence {
    /// Prompt and answer.
    tokens: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
    /// How many are in the cache.
    computed: usize,
    blocks: Vec<u32>,
    /// Of the full blocks that are made known.
    contents: Vec<ContentId>,
}

impl Sequence {
    /// Prompt and answer.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens the prompt has.
    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.prompt
    }

    /// The blocks of the cache that hold its tokens, in their order.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    fn missing(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

/// What waits and runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// How often one was sent back to wait, since the start.
    pub preempted: u64,
    /// Blocks that no sequence uses.
    pub free_blocks: usize,
    /// All blocks.
    pub blocks: usize,
    /// Tokens of prompts that were found in the cache, since the start.
    pub reused_tokens: u64,
}

/// Decides what the steps compute.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    sequences: HashMap<SequenceId, Sequence>,
    /// In the order in which they came.
    running: Vec<SequenceId>,
    /// The same; all came after those that run.
    waiting: VecDeque<SequenceId>,
    last_id: SequenceId,
    preempted: u64,
    reused_tokens: u64,
}

impl Scheduler {
    /// A scheduler with nothing to do. Limits of zero are taken as one, and no more sequences run than a step has tokens.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let batch_tokens = limits.batch_tokens.max(1);
        let limits = Limits {
            block_size: limits.block_size.max(1),
            batch_tokens,
            sequences: limits.sequences.clamp(1, batch_tokens),
            ..limits
        };
        Self {
            limits,
            pool: BlockPool::new(limits.blocks, limits.block_size),
            sequences: HashMap::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            last_id: 0,
            preempted: 0,
            reused_tokens: 0,
        }
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a sequence that may grow by `answer` tokens.
    ///
    /// # Errors
    /// [`RequestError`] where it is empty, could never be run, or too many wait.
    pub fn add(&mut self, prompt: Vec<u32>, answer: usize) -> Result<SequenceId, RequestError> {
        if prompt.is_empty() || answer == 0 {
            return Err(RequestError::Invalid("a prompt and an answer have at least one token".to_owned()));
        }
        let room = self.limits.longest();
        if prompt.len().saturating_add(answer) > room {
            return Err(RequestError::TooLong { prompt: prompt.len(), answer, room });
        }
        if self.waiting.len() >= self.limits.waiting {
            return Err(RequestError::Full { waiting: self.waiting.len() });
        }
        self.last_id += 1;
        let sequence = Sequence {
            prompt: prompt.len(),
            tokens: prompt,
            computed: 0,
            blocks: Vec::new(),
            contents: Vec::new(),
        };
        self.sequences.insert(self.last_id, sequence);
        self.waiting.push_back(self.last_id);
        Ok(self.last_id)
    }

    /// A sequence that is not over.
    #[must_use]
    pub fn sequence(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences.get(&id)
    }

    /// Whether there is nothing to compute.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// What waits and runs.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            running: self.running.len(),
            waiting: self.waiting.len(),
            preempted: self.preempted,
            free_blocks: self.pool.free(),
            blocks: self.pool.total(),
            reused_tokens: self.reused_tokens,
        }
    }

    /// The next step; empty only where there is nothing to do.
    pub fn plan(&mut self) -> Step {
        let preempted = self.make_room();
        let mut step = Step::default();
        let mut left = self.limits.batch_tokens;
        for prompts in [false, true] {
            for id in &self.running {
                let Some(sequence) = self.sequences.get(id) else { continue };
                if (sequence.missing() > 1) == prompts {
                    left -= step.add(*id, sequence, left);
                }
            }
        }
        // What was sent back just now would take the blocks that it gave up.
        while !preempted && left > 0 && self.running.len() < self.limits.sequences {
            let Some(id) = self.admit() else { break };
            if let Some(sequence) = self.sequences.get(&id) {
                left -= step.add(id, sequence, left);
            }
        }
        step
    }

    /// Gives each running sequence the block that its next token needs; answers whether others had to go for it.
    fn make_room(&mut self) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while let Some(&id) = self.running.get(at) {
            at += 1;
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let more = self.limits.blocks_for(sequence.tokens.len()).saturating_sub(sequence.blocks.len());
            loop {
                if let Some(blocks) = self.pool.allocate(more) {
                    if let Some(sequence) = self.sequences.get_mut(&id) {
                        sequence.blocks.extend(blocks);
                    }
                    break;
                }
                preempted = true;
                if self.preempt_last() == Some(id) {
                    break;
                }
            }
        }
        preempted
    }

    /// Sends the running sequence that came last back to wait.
    fn preempt_last(&mut self) -> Option<SequenceId> {
        let id = self.running.pop()?;
        if let Some(sequence) = self.sequences.get_mut(&id) {
            self.pool.release(&sequence.blocks);
            sequence.blocks.clear();
            sequence.contents.clear();
            sequence.computed = 0;
        }
        self.waiting.push_front(id);
        self.preempted += 1;
        Some(id)
    }

    /// Lets the first that waits run, where there is room for it.
    fn admit(&mut self) -> Option<SequenceId> {
        let id = *self.waiting.front()?;
        let sequence = self.sequences.get_mut(&id)?;
        // At least the last token is computed, since the next one is chosen from what it gives; so no shared block is ever written.
        let most = (sequence.tokens.len() - 1) / self.limits.block_size;
        let prefix = self.pool.prefix(&sequence.tokens, most);
        let more = self.limits.blocks_for(sequence.tokens.len()) - prefix.blocks.len();
        let spare = self.running.len();
        if more + spare + prefix.idle > self.pool.free() {
            return None;
        }
        self.pool.take(&prefix);
        let blocks = self.pool.allocate(more)?;
        sequence.computed = prefix.blocks.len() * self.limits.block_size;
        self.reused_tokens += sequence.computed as u64;
        sequence.blocks = prefix.blocks;
        sequence.blocks.extend(blocks);
        sequence.contents = prefix.contents;
        self.waiting.pop_front();
        self.running.push(id);
        Some(id)
    }

    /// Records that a step was computed. Sequences that are over by now are passed by.
    pub fn computed(&mut self, step: &Step) {
        let size = self.limits.block_size;
        for part in &step.parts {
            let Some(sequence) = self.sequences.get_mut(&part.id) else { continue };
            sequence.computed = part.start + part.count;
            while sequence.contents.len() < sequence.computed / size {
                let full = sequence.contents.len();
                let before = sequence.contents.last().copied().unwrap_or(NOTHING);
                let tokens = &sequence.tokens[full * size..(full + 1) * size];
                sequence.contents.push(self.pool.fill(sequence.blocks[full], before, tokens));
            }
        }
    }

    /// Adds the token that was chosen for a sequence.
    pub fn push(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.tokens.push(token);
        }
    }

    /// Forgets what the blocks that nobody uses hold: none of it is found again.
    pub fn forget(&mut self) {
        self.pool.forget();
    }

    /// Ends a sequence, wherever it stands, and frees what it holds.
    pub fn remove(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pool.release(&sequence.blocks);
            self.running.retain(|running| *running != id);
            self.waiting.retain(|waiting| *waiting != id);
        }
    }
}

impl Step {
    /// Adds what a sequence can compute of its tokens; answers how many.
    fn add(&mut self, id: SequenceId, sequence: &Sequence, left: usize) -> usize {
        let count = sequence.missing().min(left);
        if count == 0 {
            return 0;
        }
        let completes = count == sequence.missing();
        self.parts.push(Part { id, start: sequence.computed, count, completes });
        // The last token of a sequence that writes is the only one that it has not computed.
        if count > 1 || !completes || sequence.tokens.len() == sequence.prompt {
            self.prefill_tokens += count;
        }
        count
    }
}
