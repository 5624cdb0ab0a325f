//! A document's sections, and which of them are cut together.

use std::ops::Range;

use super::units::Units;
use crate::ports::{Block, BlockKind, ParsedDocument};

/// One in how many headings begins a new group of small sections. The heading itself decides, so that a change
/// to one section moves the groups after it no further than to the next such heading.
const GROUP_EVERY: u64 = 4;

/// A heading with what stands under it, up to the next heading of any level.
#[derive(Debug)]
pub(super) struct Section {
    /// Headings from the outermost in, its own last.
    pub(super) path: Vec<String>,
    /// Level of its heading, from 1; 0 for what stands before the first heading.
    pub(super) level: u8,
    /// Its blocks, the heading first.
    pub(super) blocks: Range<usize>,
    /// Its tokens, the heading's included.
    pub(super) tokens: usize,
}

impl Section {
    /// Whether it has more than its heading.
    pub(super) fn has_body(&self) -> bool {
        self.level == 0 || self.blocks.len() > 1
    }
}

/// The blocks to cut: the document's, or all of its text as one where it names none.
pub(super) fn blocks(document: &ParsedDocument) -> Vec<Block> {
    if document.blocks.is_empty() && !document.text.is_empty() {
        return vec![Block { kind: BlockKind::Paragraph, range: 0..document.text.len() }];
    }
    document.blocks.clone()
}

/// Finds the sections, in order.
pub(super) fn sections(text: &str, blocks: &[Block], units: &Units) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut open: Vec<(u8, String)> = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let tokens = units.count(&block.range);
        if let BlockKind::Heading(level) = block.kind {
            open.retain(|(above, _)| *above < level);
            let name = text[block.range.clone()].split_whitespace().collect::<Vec<_>>().join(" ");
            open.push((level, name));
        } else if let Some(section) = sections.last_mut() {
            section.blocks.end = index + 1;
            section.tokens += tokens;
            continue;
        }
        sections.push(Section {
            path: open.iter().map(|(_, name)| name.clone()).collect(),
            level: open.last().map_or(0, |(level, _)| *level),
            blocks: index..index + 1,
            tokens,
        });
    }
    sections
}

/// Puts small sections together: one that is less than `min` tokens with the first section under it, and small
/// neighbours with each other up to `target` tokens. Nothing is put together over a heading of a higher level.
pub(super) fn groups(sections: &[Section], min: usize, target: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, next) in sections.iter().enumerate() {
        let joins = match groups.last() {
            Some(group) => {
                let (first, last) = (&sections[group.start], &sections[index - 1]);
                if next.level > last.level {
                    tokens < min
                } else {
                    next.level >= first.level.max(1)
                        && last.tokens < min
                        && next.tokens < min
                        && tokens + next.tokens <= target
                        && next.path.last().is_none_or(|name| !hash(name).is_multiple_of(GROUP_EVERY))
                }
            }
            None => false,
        };
        if joins && let Some(group) = groups.last_mut() {
            group.end = index + 1;
            tokens += next.tokens;
        } else {
            groups.push(index..index + 1);
            tokens = next.tokens;
        }
    }
    groups
}

/// The headings that all of these have in common, from the outermost in.
pub(super) fn common_path<'a>(paths: impl IntoIterator<Item = &'a [String]>) -> Vec<String> {
    paths
        .into_iter()
        .reduce(|a, b| {
            let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            &a[..shared]
        })
        .unwrap_or_default()
        .to_vec()
}

/// FNV-1a with a final mix. The same in every build and on every machine: chunks depend on it.
pub(super) fn hash(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 16
}
