//! From a question to a tantivy query, and from what it finds to chunks.

use std::collections::HashMap;

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
    tokenizer::TextAnalyzer,
};
use uuid::Uuid;

use super::{
    schema::{CHUNK_HIGH, CHUNK_LOW, Fields},
    storage::failed,
    tantivy::TantivySettings,
};
use crate::replica::terms;

/// So many different words of a question count; the rest of a longer one is left out.
const MOST_WORDS: usize = 256;

/// A question's words with how often each occurs, in the order of their first occurrence.
pub(super) fn words(analyser: &mut TextAnalyzer, text: &str) -> Vec<(String, u32)> {
    let mut words: Vec<(String, u32)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut tokens = analyser.token_stream(text);
    while let Some(token) = tokens.next() {
        match places.get(&token.text) {
            Some(place) => words[*place].1 += 1,
            None if words.len() < MOST_WORDS => {
                places.insert(token.text.clone(), words.len());
                words.push((token.text.clone(), 1));
            }
            None => {}
        }
    }
    words
}

/// The best entries for these words.
pub(super) fn search(
    searcher: &Searcher,
    fields: &Fields,
    settings: &TantivySettings,
    words: &[(String, u32)],
    scope: &SearchScope,
) -> PortResult<Vec<Hit>> {
    let limit = scope.limit.min(usize::try_from(searcher.num_docs()).unwrap_or(usize::MAX));
    let scored = scored_terms(fields, settings, words);
    if limit == 0 || scored.is_empty() {
        return Ok(Vec::new());
    }
    let any_word: Box<dyn Query> = Box::new(BooleanQuery::new(scored));
    let conditions = conditions(searcher, fields, scope)?;
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

fn scored_terms(
    fields: &Fields,
    settings: &TantivySettings,
    words: &[(String, u32)],
) -> Vec<(Occur, Box<dyn Query>)> {
    let boosts =
        [(fields.title, settings.title), (fields.headings, settings.headings), (fields.body, settings.body)];
    words
        .iter()
        .flat_map(|(word, times)| boosts.map(|(field, boost)| (field, word, boost * *times as f32)))
        .filter(|(_, _, boost)| *boost > 0.0)
        .map(|(field, word, boost)| -> (Occur, Box<dyn Query>) {
            let term = TermQuery::new(Term::from_field_text(field, word), IndexRecordOption::WithFreqs);
            (Occur::Should, Box::new(BoostQuery::new(Box::new(term), boost)))
        })
        .collect()
}

/// What an entry must be beside having a word.
fn conditions(searcher: &Searcher, fields: &Fields, scope: &SearchScope) -> PortResult<Vec<Box<dyn Query>>> {
    let mut conditions: Vec<Box<dyn Query>> = Vec::new();
    let here = fields.scope_term(&scope.tenant, &scope.collection);
    let everything: u64 = searcher.segment_readers().iter().map(|segment| u64::from(segment.max_doc())).sum();
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
