use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

fn limits(blocks: usize, batch_tokens: usize, sequences: usize) -> Limits {
    Limits { blocks, block_size: 4, batch_tokens, sequences, waiting: usize::MAX, context_tokens: usize::MAX }
}

/// A model that needs no arithmetic: each sequence writes a number of tokens that is known beforehand.
struct Simulation {
    scheduler: Scheduler,
    /// Of each sequence that is not over: how many tokens it still writes.
    left: BTreeMap<SequenceId, usize>,
    steps: usize,
}

impl Simulation {
    fn new(limits: Limits) -> Self {
        Self { scheduler: Scheduler::new(limits), left: BTreeMap::new(), steps: 0 }
    }

    fn add(&mut self, prompt: Vec<u32>, answer: usize) -> Result<SequenceId, RequestError> {
        let id = self.scheduler.add(prompt, answer)?;
        self.left.insert(id, answer);
        Ok(id)
    }

    fn remove(&mut self, id: SequenceId) {
        self.scheduler.remove(id);
        self.left.remove(&id);
    }

    /// One step, with all that must hold; answers which sequences ended in it.
    fn step(&mut self) -> Vec<SequenceId> {
        self.steps += 1;
        let step = self.scheduler.plan();
        self.check(&step);
        self.scheduler.computed(&step);
        let mut ended = Vec::new();
        for part in step.parts.iter().filter(|part| part.completes) {
            self.scheduler.push(part.id, (part.id % 7) as u32);
            let left = self.left.get_mut(&part.id).expect("what is computed is not over");
            *left -= 1;
            if *left == 0 {
                ended.push(part.id);
            }
        }
        for id in &ended {
            self.remove(*id);
        }
        ended
    }

    fn check(&self, step: &Step) {
        let scheduler = &self.scheduler;
        assert!(step.tokens() <= scheduler.limits.batch_tokens, "the budget is kept: {step:?}");
        assert!(scheduler.running.len() <= scheduler.limits.sequences);
        let mut seen = std::collections::BTreeSet::new();
        for part in &step.parts {
            assert!(seen.insert(part.id), "one part each");
            let sequence = &scheduler.sequences[&part.id];
            assert_eq!(part.start, sequence.computed);
            assert_eq!(part.completes, part.start + part.count == sequence.tokens.len());
            let needed = scheduler.limits.blocks_for(part.start + part.count);
            assert!(sequence.blocks.len() >= needed, "there is a place for what is computed");
            // Nothing is written into a block that others may read.
            let first_written = part.start / scheduler.limits.block_size;
            assert!(first_written >= sequence.contents.len(), "a known block stays as it is");
        }
        // The first to come always gets on, so none waits forever.
        if let Some(oldest) = self.left.keys().next() {
            assert!(step.parts.iter().any(|part| part.id == *oldest), "{oldest} starves: {step:?}");
        }
        // Whoever writes gets a token in every step.
        for id in &scheduler.running {
            let writes = scheduler.sequences[id].missing() == 1;
            assert!(!writes || step.parts.iter().any(|part| part.id == *id), "{id} is held up");
        }
        let order: Vec<_> = scheduler.running.iter().chain(&scheduler.waiting).collect();
        assert!(order.is_sorted(), "none overtakes: {order:?}");
        let held: Vec<&[u32]> = scheduler.sequences.values().map(|one| one.blocks.as_slice()).collect();
        scheduler.pool.check(&held);
    }
}

fn prompt(random: &mut StdRng, longest: usize) -> Vec<u32> {
    // Some begin alike, as prompts with the same instructions do.
    let alike = random.random_range(0..3);
    let length = random.random_range(1..=longest);
    (0..length)
        .map(|at| if at < 20 && alike > 0 { alike + at as u32 } else { random.random_range(0..50) })
        .collect()
}

#[test]
fn ten_thousand_arrivals_end_and_lose_no_block() {
    let mut random = StdRng::seed_from_u64(11);
    let mut run = Simulation::new(limits(120, 48, 24));
    let (mut arrived, mut ended, mut cancelled) = (0, 0, 0);
    while arrived < 10_000 || !run.left.is_empty() {
        // Bursts, so that at times far more come than can run.
        let burst =
            if random.random_ratio(1, 20) { random.random_range(0..60) } else { random.random_range(0..2) };
        for _ in 0..burst.min(10_000 - arrived) {
            let long = random.random_ratio(1, 50);
            let tokens = prompt(&mut random, if long { 300 } else { 40 });
            let answer = random.random_range(1..=if long { 150 } else { 20 });
            run.add(tokens, answer).expect("it fits");
            arrived += 1;
        }
        if random.random_ratio(1, 8) && !run.left.is_empty() {
            let victim = random.random_range(0..run.left.len());
            let id = *run.left.keys().nth(victim).expect("within");
            run.remove(id);
            cancelled += 1;
        }
        ended += run.step().len();
    }
    assert_eq!(ended + cancelled, 10_000);
    assert!(cancelled > 500, "{cancelled} cancels are none");
    let counts = run.scheduler.counts();
    assert_eq!(counts.free_blocks, counts.blocks, "every block came back");
    assert!(counts.preempted > 100, "the cache was never short: {counts:?}");
    assert!(counts.reused_tokens > 1_000, "nothing was shared: {counts:?}");
    assert_eq!((counts.running, counts.waiting), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_ends(
        seed in 0_u64..1_000_000,
        blocks in 2_usize..30,
        batch_tokens in 1_usize..20,
        sequences in 1_usize..12,
        arrivals in 1_usize..60,
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut run = Simulation::new(limits(blocks, batch_tokens, sequences));
        let (mut taken, mut ended) = (0, 0);
        for _ in 0..arrivals {
            let tokens = prompt(&mut random, blocks * 4);
            let answer = random.random_range(1..=10);
            let fits = tokens.len() + answer <= blocks * 4;
            let added = run.add(tokens, answer);
            prop_assert_eq!(added.is_ok(), fits);
            taken += usize::from(fits);
            ended += run.step().len();
        }
        while !run.left.is_empty() {
            ended += run.step().len();
            prop_assert!(run.steps < 100_000);
        }
        prop_assert_eq!(ended, taken);
        prop_assert!(run.scheduler.is_idle());
        prop_assert_eq!(run.scheduler.counts().free_blocks, blocks);
    }
}

#[test]
fn a_long_prompt_comes_in_pieces_beside_those_that_write() {
    let mut run = Simulation::new(limits(100, 8, 8));
    let short = run.add(vec![1; 3], 50).unwrap();
    run.step();
    let long = run.add(vec![2; 30], 1).unwrap();
    let mut pieces = Vec::new();
    while run.left.contains_key(&long) {
        let step = run.scheduler.plan();
        run.check(&step);
        assert!(step.parts.iter().any(|part| part.id == short && part.count == 1));
        pieces.extend(step.parts.iter().filter(|part| part.id == long).map(|part| part.count));
        run.scheduler.computed(&step);
        run.scheduler.push(short, 5);
        if step.parts.iter().any(|part| part.id == long && part.completes) {
            run.remove(long);
        }
    }
    assert_eq!(pieces, [7, 7, 7, 7, 2]);
}

#[test]
fn the_beginning_that_prompts_share_is_computed_once() {
    let mut run = Simulation::new(limits(100, 100, 8));
    run.add((0..22).collect(), 1).unwrap();
    run.step();
    // The same 20 tokens, then others; and exactly the same prompt, of which the last token is computed all the same.
    let other: Vec<u32> = (0..20).chain([77; 5]).collect();
    run.add(other, 1).unwrap();
    run.add((0..20).collect(), 1).unwrap();
    let step = run.scheduler.plan();
    let starts: Vec<_> = step.parts.iter().map(|part| (part.start, part.count)).collect();
    assert_eq!(starts, [(20, 5), (16, 4)]);
    assert_eq!(run.scheduler.counts().reused_tokens, 36);
}

#[test]
fn the_last_to_come_goes_back_and_keeps_its_place() {
    // Two of 8 tokens fill 4 blocks; the first one's next token takes the second one's block.
    let mut run = Simulation::new(Limits { blocks: 5, ..limits(5, 16, 4) });
    let first = run.add(vec![1; 8], 8).unwrap();
    let second = run.add(vec![2; 8], 8).unwrap();
    // One block must stay free for each that runs, so the second waits while the first alone leaves three.
    run.step();
    assert_eq!(run.scheduler.running, [first, second]);
    let third = run.add(vec![3; 4], 1).unwrap();
    run.step();
    assert_eq!(run.scheduler.counts().preempted, 1);
    assert_eq!(run.scheduler.running, [first]);
    assert_eq!(run.scheduler.waiting, [second, third]);
    while !run.left.is_empty() {
        run.step();
    }
}

#[test]
fn what_can_never_run_or_is_too_much_is_refused() {
    let mut scheduler = Scheduler::new(Limits { waiting: 1, context_tokens: 10, ..limits(100, 8, 4) });
    assert_eq!(scheduler.add(vec![1; 8], 3), Err(RequestError::TooLong { prompt: 8, answer: 3, room: 10 }));
    assert!(matches!(scheduler.add(Vec::new(), 3), Err(RequestError::Invalid(_))));
    scheduler.add(vec![1; 8], 2).unwrap();
    assert_eq!(scheduler.add(vec![1; 8], 2), Err(RequestError::Full { waiting: 1 }));
    let mut small = Scheduler::new(limits(2, 8, 4));
    assert_eq!(small.add(vec![1; 8], 1), Err(RequestError::TooLong { prompt: 8, answer: 1, room: 8 }));
}
