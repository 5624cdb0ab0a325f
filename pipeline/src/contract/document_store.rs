//! See the port's doc comment for the promises that are checked here.

mod changes;
mod fixtures;
mod reading;
mod writing;

use std::sync::Arc;

pub use self::{
    changes::{Replica, replay},
    fixtures::{Draft, passages, texts},
};
use crate::ports::DocumentStore;

type Store = Arc<dyn DocumentStore>;

/// Runs the whole suite. `fresh` gives an empty store.
pub async fn run_all(fresh: impl AsyncFn() -> Store) {
    writing::an_external_id_resolves_to_one_id(fresh().await).await;
    writing::of_twenty_resolves_at_once_all_get_one_id(fresh().await).await;
    writing::staging_shows_nothing(fresh().await).await;
    writing::publishing_shows_the_document_as_it_was_given(fresh().await).await;
    writing::an_update_keeps_what_did_not_change(fresh().await).await;
    writing::publishing_twice_is_publishing_once(fresh().await).await;
    writing::an_older_version_is_superseded_and_leaves_nothing(fresh().await).await;
    writing::many_documents_are_staged_and_published_together(fresh().await).await;
    writing::a_batch_is_published_whole_or_not_at_all(fresh().await).await;
    writing::keeping_a_chunk_that_has_gone_is_a_conflict(fresh().await).await;
    writing::what_a_staged_version_keeps_cannot_be_taken_from_it(fresh().await).await;
    writing::publishing_what_was_deleted_is_a_conflict(fresh().await).await;
    writing::what_a_job_did_is_kept_with_the_live_version(fresh().await).await;
    writing::a_version_of_an_earlier_job_does_not_replace_that_of_a_later_one(fresh().await).await;
    writing::a_document_that_names_a_chunk_twice_is_refused(fresh().await).await;
    writing::a_deleted_document_is_gone_for_all_readers(fresh().await).await;
    writing::of_two_jobs_at_once_on_one_document_one_stays_whole(fresh().await).await;
    writing::staged_versions_nobody_published_are_cleaned_away(fresh().await).await;
    reading::passages_are_live_and_come_in_the_order_asked(fresh().await).await;
    reading::tenants_do_not_see_each_other(fresh().await).await;
    reading::a_reader_sees_the_old_version_or_the_new_one(fresh().await).await;
    reading::documents_are_listed_by_id_and_filtered(fresh().await).await;
    reading::pages_are_filled_and_stable_while_documents_come_in(fresh().await).await;
    reading::collections_are_described_and_counted(fresh().await).await;
    reading::a_collection_goes_with_all_its_documents(fresh().await).await;
    changes::a_new_store_has_an_empty_log_and_one_history(fresh().await).await;
    changes::an_update_logs_only_what_changed(fresh().await).await;
    changes::a_change_of_metadata_reaches_chunks_that_stay(fresh().await).await;
    changes::a_new_model_replaces_the_vector(fresh().await).await;
    changes::pages_of_changes_are_bounded_and_never_empty_before_the_end(fresh().await).await;
    changes::a_follower_arrives_at_the_head_although_changes_are_left_out(fresh().await).await;
    changes::old_deletes_leave_the_log_and_move_the_horizon(fresh().await).await;
    for seed in 0..6 {
        replay(fresh().await, seed, 80).await;
    }
}
