//! From a question to a tantivy query, and from what it finds to chunks.

use std::{cmp::Reverse, collections::HashMap};

use raglan_pipeline::{
    domain::ChunkId,
    ports::{ErrorKind, Hit, PortError, PortResult, SearchScope},
};
use tantivy::{
    DocAddress, Searcher, Term,
    collector::TopDocs,
    columnar::Column,
    query::{BooleanQuery, BoostQuery, ConstScoreQuery, Occur, Query, TermQuery, TermSetQuery},
    schema::IndexRecordOption,
};
use uuid::Uuid;

use super::{
    analysis::{Analyser, Word},
    language::{TONGUES, Tongue},
    schema::{CHUNK_HIGH, CHUNK_LOW, Fields},
    storage::failed,
    tantivy::TantivySettings,
};
use crate::replica::terms;

/// A question is put into so many of the languages that its collection has, the most frequent first.
const MOST_TONGUES: usize = 8;

/// A search in an index as it is at one moment.
pub(super) struct Search<'a> {
    pub searcher: &'a Searcher,
    pub fields: &'a Fields,
    pub settings: &'a TantivySettings,
    pub scope: &'a SearchScope,
}

impl Search<'_> {
    /// The best entries for a question.
    pub(super) fn run(&self, analyser: &Analyser, question: &str) -> PortResult<Vec<Hit>> {
        let Self { searcher, scope, .. } = self;
        let tongues = self.tongues()?;
        let names: Vec<Tongue> = tongues.iter().map(|(_, tongue)| *tongue).collect();
        let words = analyser.question(&names, question);
        let limit = scope.limit.min(usize::try_from(searcher.num_docs()).unwrap_or(usize::MAX));
        let scored = self.scored_terms(&words, &tongues)?;
        if limit == 0 || scored.is_empty() {
            return Ok(Vec::new());
        }
        let any_word: Box<dyn Query> = Box::new(BooleanQuery::new(scored));
        let conditions = self.conditions()?;
        let query = if conditions.is_empty() {
            any_word
        } else {
            // Conditions decide what is found, and count for nothing in the score.
            let conditions = conditions.into_iter().map(|condition| -> (Occur, Box<dyn Query>) {
                (Occur::Must, Box::new(ConstScoreQuery::new(condition, 0.0)))
            });
            Box::new(BooleanQuery::new(conditions.chain([(Occur::Must, any_word)]).collect()))
        };
        let found = searcher.search(&*query, &TopDocs::with_limit(limit).order_by_score()).map_err(failed)?;
        let mut ids = ChunkIds { searcher, columns: HashMap::new() };
        let mut hits = found
            .into_iter()
            .filter(|(score, _)| *score > 0.0)
            .map(|(score, address)| Ok(Hit { chunk_id: ids.at(address)?, score }))
            .collect::<PortResult<Vec<Hit>>>()?;
        hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk_id.cmp(&b.chunk_id)));
        Ok(hits)
    }

    /// The languages that the collection has, with the number of entries of each. A question is too short to tell its own; what decides is how the words were cut that it
    /// is to be compared with.
    fn tongues(&self) -> PortResult<Vec<(u64, Tongue)>> {
        let SearchScope { tenant, collection, .. } = self.scope;
        let mut held: Vec<(u64, Tongue)> = Vec::new();
        for (tongue, ..) in TONGUES {
            let term = self.fields.language_term(tenant, collection, tongue);
            let entries = self.searcher.doc_freq(&term).map_err(failed)?;
            if entries > 0 {
                held.push((entries, tongue));
            }
        }
        held.sort_by_key(|(entries, _)| Reverse(*entries));
        held.truncate(MOST_TONGUES);
        Ok(held)
    }

    /// A word's forms are terms of their own: an entry is of one language and has one of them. How rare the word is is told by all of its
    /// forms together, and a language that leaves it out has it everywhere. Else a stop word of most of the collection would be the rarest
    /// of words, and the few entries of other languages would come first for every question.
    fn scored_terms(
        &self,
        words: &[Word],
        tongues: &[(u64, Tongue)],
    ) -> PortResult<Vec<(Occur, Box<dyn Query>)>> {
        let Self { searcher, fields, settings, .. } = self;
        let boosts = [
            (fields.title, settings.title),
            (fields.headings, settings.headings),
            (fields.body, settings.body),
        ];
        let entries: u64 =
            searcher.segment_readers().iter().map(|segment| u64::from(segment.max_doc())).sum();
        let mut scored: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for word in words {
            let is_left_out = |tongue: &Tongue| word.stopped.contains(tongue);
            let left_out: u64 =
                tongues.iter().filter(|(_, tongue)| is_left_out(tongue)).map(|(entries, _)| entries).sum();
            for (field, boost) in boosts {
                let boost = boost * word.times as f32;
                if boost <= 0.0 {
                    continue;
                }
                let terms = word.forms.iter().map(|form| Term::from_field_text(field, form));
                let counted: Vec<(Term, u64)> = if tongues.len() == 1 {
                    terms.map(|term| (term, 0)).collect()
                } else {
                    terms
                        .map(|term| Ok((term.clone(), searcher.doc_freq(&term).map_err(failed)?)))
                        .collect::<PortResult<_>>()?
                };
                let everywhere = left_out + counted.iter().map(|(_, held)| held).sum::<u64>();
                for (term, held) in counted {
                    let share = rarity(entries, everywhere) / rarity(entries, held);
                    let term = TermQuery::new(term, IndexRecordOption::WithFreqs);
                    scored.push((Occur::Should, Box::new(BoostQuery::new(Box::new(term), boost * share))));
                }
            }
        }
        Ok(scored)
    }

    /// What an entry must be beside having a word.
    fn conditions(&self) -> PortResult<Vec<Box<dyn Query>>> {
        let Self { searcher, fields, scope, .. } = self;
        let mut conditions: Vec<Box<dyn Query>> = Vec::new();
        let here = fields.scope_term(&scope.tenant, &scope.collection);
        let everything: u64 =
            searcher.segment_readers().iter().map(|segment| u64::from(segment.max_doc())).sum();
        // Where there is one collection only, tantivy's faster plan for bare unions can be used.
        if searcher.doc_freq(&here).map_err(failed)? < everything {
            conditions.push(Box::new(TermQuery::new(here, IndexRecordOption::Basic)));
        }
        for clause in terms::of_filter(&scope.filter) {
            let terms = clause.iter().map(|term| Term::from_field_text(fields.metadata, term));
            conditions.push(Box::new(TermSetQuery::new(terms)));
        }
        Ok(conditions)
    }
}

/// BM25's inverse document frequency, as tantivy has it.
fn rarity(entries: u64, held: u64) -> f32 {
    #[allow(clippy::cast_precision_loss)] // near enough
    let (entries, held) = (entries.max(held) as f32, held as f32);
    (1.0 + (entries - held + 0.5) / (held + 0.5)).ln()
}

/// Chunk ids by address.
struct ChunkIds<'a> {
    searcher: &'a Searcher,
    columns: HashMap<u32, (Column<u64>, Column<u64>)>,
}

impl ChunkIds<'_> {
    fn at(&mut self, address: DocAddress) -> PortResult<ChunkId> {
        let missing = || PortError::new(ErrorKind::Corrupt, "an entry of the keyword index has no chunk");
        if !self.columns.contains_key(&address.segment_ord) {
            let fast = self.searcher.segment_reader(address.segment_ord).fast_fields();
            let columns = (fast.u64(CHUNK_HIGH).map_err(failed)?, fast.u64(CHUNK_LOW).map_err(failed)?);
            self.columns.insert(address.segment_ord, columns);
        }
        let (high, low) = self.columns.get(&address.segment_ord).ok_or_else(missing)?;
        let pair = high.first(address.doc_id).zip(low.first(address.doc_id));
        pair.map(|(high, low)| ChunkId(Uuid::from_u64_pair(high, low))).ok_or_else(missing)
    }
}
