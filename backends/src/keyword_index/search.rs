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
        let words = analyser.question(&self.tongues()?, question);
        let limit = scope.limit.min(usize::try_from(searcher.num_docs()).unwrap_or(usize::MAX));
        let scored = self.scored_terms(&words);
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

    /// The languages that the collection has. A question is too short to tell its own; what decides is how the words were cut that it
    /// is to be compared with.
    fn tongues(&self) -> PortResult<Vec<Tongue>> {
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
        Ok(held.into_iter().map(|(_, tongue)| tongue).take(MOST_TONGUES).collect())
    }

    /// A word's forms in several languages count as words of their own: an entry is of one language and has one of them.
    fn scored_terms(&self, words: &[Word]) -> Vec<(Occur, Box<dyn Query>)> {
        let Self { fields, settings, .. } = self;
        let boosts = [
            (fields.title, settings.title),
            (fields.headings, settings.headings),
            (fields.body, settings.body),
        ];
        words
            .iter()
            .flat_map(|word| word.forms.iter().map(|form| (form, word.times)))
            .flat_map(|(form, times)| boosts.map(|(field, boost)| (field, form, boost * times as f32)))
            .filter(|(_, _, boost)| *boost > 0.0)
            .map(|(field, form, boost)| -> (Occur, Box<dyn Query>) {
                let term = TermQuery::new(Term::from_field_text(field, form), IndexRecordOption::WithFreqs);
                (Occur::Should, Box::new(BoostQuery::new(Box::new(term), boost)))
            })
            .collect()
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
