//! The smallest parts that chunks are made of, and where to cut between them.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::{
    sections::{Section, hash},
    units::{Units, trimmed},
};
use crate::ports::{Block, BlockKind};

/// What lies before a piece: the more, the better a place to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    /// It goes on inside a sentence, line or row that is too long for one chunk.
    Inside,
    /// A sentence or a line begins.
    Sentence,
    /// A block begins.
    Block,
    /// A section begins.
    Section,
}

/// A sentence, a line of code, a row, a heading, or a part of one of these that is too long by itself.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its bytes in the document.
    pub(super) range: Range<usize>,
    /// Its tokens.
    pub(super) tokens: usize,
    /// Index of its section.
    pub(super) section: usize,
    /// What lies before it.
    pub(super) gap: Gap,
    /// Whether it is a heading, which is never the last of a chunk if it can be helped.
    pub(super) heading: bool,
    /// Whether it may be repeated at the beginning of the next chunk.
    pub(super) repeatable: bool,
}

/// How large chunks may be, in tokens of text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// The most.
    pub(super) max: usize,
    /// What is aimed at.
    pub(super) target: usize,
    /// The most that is repeated.
    pub(super) overlap: usize,
}

/// A chunk as ranges of pieces: what it repeats of the one before, then what is its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// First piece, repeated ones included.
    pub(super) from: usize,
    /// First piece of its own.
    pub(super) own: usize,
    /// One past its last piece.
    pub(super) end: usize,
}

/// Cuts the blocks of these sections into pieces of at most `max` tokens, and so small that the headings over a
/// piece fit into the same chunk.
pub(super) fn pieces(
    text: &str,
    blocks: &[Block],
    sections: &[Section],
    group: Range<usize>,
    units: &Units,
    max: usize,
) -> Vec<Piece> {
    let headings: usize = group
        .clone()
        .filter_map(|index| blocks.get(sections[index].blocks.start))
        .filter(|block| matches!(block.kind, BlockKind::Heading(_)))
        .map(|block| units.count(&block.range))
        .sum();
    let limit = max - headings.min(max / 2);
    let mut pieces: Vec<Piece> = Vec::new();
    for index in group {
        for block in &blocks[sections[index].blocks.clone()] {
            let heading = matches!(block.kind, BlockKind::Heading(_));
            let repeatable = block.kind == BlockKind::Paragraph;
            // What ends with a colon leads in what follows: better not to part them.
            let leads_in = pieces.last().is_some_and(|last| text[last.range.clone()].ends_with(':'));
            for (nth, part) in parts(text, block, units).into_iter().enumerate() {
                let after_empty_line =
                    |last: &Piece| text[last.range.end..part.start].matches('\n').count() > 1;
                let gap = match nth {
                    0 if heading => Gap::Section,
                    0 if !leads_in => Gap::Block,
                    0 => Gap::Sentence,
                    // Code is made of blocks too.
                    _ if pieces.last().is_some_and(after_empty_line) => Gap::Block,
                    _ => Gap::Sentence,
                };
                let tokens = units.count(&part);
                let piece =
                    |range, tokens, gap| Piece { range, tokens, section: index, gap, heading, repeatable };
                if tokens <= limit {
                    pieces.push(piece(part, tokens, gap));
                    continue;
                }
                for (nth, range) in units.split_long(text, &part, limit).into_iter().enumerate() {
                    let tokens = units.count(&range);
                    pieces.push(piece(range, tokens, if nth == 0 { gap } else { Gap::Inside }));
                }
            }
        }
    }
    pieces
}

/// A block's sentences, lines or itself. Every visible character of the block is in exactly one of them.
fn parts(text: &str, block: &Block, units: &Units) -> Vec<Range<usize>> {
    let start = block.range.start;
    let content = &text[block.range.clone()];
    let split: Vec<Range<usize>> = match block.kind {
        BlockKind::Heading(_) | BlockKind::Row => vec![trimmed(text, block.range.clone())],
        BlockKind::Paragraph => {
            let ends =
                content.split_sentence_bound_indices().map(|(at, sentence)| start + at + sentence.len());
            let mut from = start;
            ends.filter(|end| *end == block.range.end || units.is_between(*end))
                .map(|end| trimmed(text, std::mem::replace(&mut from, end)..end))
                .collect()
        }
        BlockKind::Code => {
            let mut at = start;
            content
                .split_inclusive('\n')
                .map(|line| {
                    let range = at..at + line.trim_end().len();
                    at += line.len();
                    range
                })
                .collect()
        }
    };
    split.into_iter().filter(|range| !range.is_empty()).collect()
}

/// Joins pieces to chunks. Each begins where the one before ended, after at most `overlap` tokens of whole
/// sentences that it repeats.
///
/// Of the places where a chunk may end, between six tenths of the target and the target, the one with the largest
/// gap is taken, and among equals the one whose following text has the least hash. The text around a cut
/// decides, not its distance from the beginning; so after an insertion the cuts soon fall where they fell before.
pub(super) fn cuts(text: &str, pieces: &[Piece], sizes: Sizes) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let mut rest: usize = pieces.iter().map(|piece| piece.tokens).sum();
    let mut own = 0;
    while own < pieces.len() {
        let previous = cuts.last().map_or(0, |cut| cut.own);
        let (mut from, mut repeated) = overlap(pieces, previous, own, sizes.overlap);
        let room = sizes.max.min(sizes.target.max(least(&pieces[own..]) + repeated));
        let end = if rest + repeated <= sizes.max {
            pieces.len()
        } else {
            end_of(text, pieces, own, room.saturating_sub(repeated))
        };
        let tokens: usize = pieces[own..end].iter().map(|piece| piece.tokens).sum();
        while from < own && tokens + repeated > sizes.max {
            repeated -= pieces[from].tokens;
            from += 1;
        }
        cuts.push(Cut { from, own, end });
        rest -= tokens;
        own = end;
    }
    cuts
}

/// Tokens of the headings that these pieces begin with and of the first piece under them.
fn least(pieces: &[Piece]) -> usize {
    let headings = pieces.iter().take_while(|piece| piece.heading).count();
    pieces.iter().take(headings + 1).map(|piece| piece.tokens).sum()
}

/// The pieces before `own` that are repeated, and their tokens.
fn overlap(pieces: &[Piece], previous: usize, own: usize, most: usize) -> (usize, usize) {
    let (mut from, mut tokens) = (own, 0);
    if pieces[own].gap == Gap::Inside || pieces[own].gap == Gap::Section {
        return (from, tokens);
    }
    for index in (previous + 1..own).rev() {
        let piece = &pieces[index];
        let fits = tokens + piece.tokens <= most;
        if !fits || !piece.repeatable || piece.gap == Gap::Inside || piece.section != pieces[own].section {
            break;
        }
        (from, tokens) = (index, tokens + piece.tokens);
    }
    (from, tokens)
}

/// Where a chunk that begins at `own` and has `room` tokens ends best.
fn end_of(text: &str, pieces: &[Piece], own: usize, room: usize) -> usize {
    let mut tokens = 0;
    let mut last_fitting = own + 1;
    let mut best: Option<(Gap, std::cmp::Reverse<u64>, usize)> = None;
    for (index, piece) in pieces.iter().enumerate().skip(own) {
        if index > own && !pieces[index - 1].heading {
            last_fitting = index;
            if tokens * 10 >= room * 6 {
                let candidate = (piece.gap, std::cmp::Reverse(hash(&text[piece.range.clone()])), index);
                best = best.max(Some(candidate));
            }
        }
        tokens += piece.tokens;
        if tokens > room {
            break;
        }
    }
    match best {
        Some((gap, _, index)) if gap > Gap::Inside => index,
        _ => last_fitting,
    }
}
