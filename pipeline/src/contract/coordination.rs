//! See the port's doc comment for the promises that are checked here.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use uuid::Uuid;

use crate::ports::{Coordination, ReplicaReport};

type Shared = Arc<dyn Coordination>;

const HOUR: Duration = Duration::from_secs(3_600);
/// A time that has run out by the time anybody looks.
const NO_TIME: Duration = Duration::ZERO;

/// Runs the whole suite; `fresh` gives one that knows of nobody.
pub async fn run_all(fresh: impl AsyncFn() -> Shared) {
    nobody_has_reported_in_the_beginning(fresh().await).await;
    all_instances_see_where_all_replicas_stand(fresh().await).await;
    a_later_report_takes_the_place_of_an_earlier_one(fresh().await).await;
    a_report_whose_time_has_run_out_is_not_seen(fresh().await).await;
    an_instance_that_stops_takes_its_reports_back(fresh().await).await;
    reports_at_once_are_all_kept(fresh().await).await;
    a_name_is_led_by_the_first_to_ask(fresh().await).await;
    of_twenty_that_ask_at_once_one_leads(fresh().await).await;
    names_are_led_apart(fresh().await).await;
    a_lead_whose_time_has_run_out_goes_to_another(fresh().await).await;
    a_lead_that_was_resigned_is_free(fresh().await).await;
    only_the_leader_resigns(fresh().await).await;
}

/// As the port gives them: by instance and name.
fn sorted(mut reports: Vec<(Uuid, &str, u64)>) -> Vec<ReplicaReport> {
    reports.sort_unstable();
    reports
        .into_iter()
        .map(|(instance, replica, position)| ReplicaReport { instance, replica: replica.into(), position })
        .collect()
}

pub async fn nobody_has_reported_in_the_beginning(shared: Shared) {
    assert!(shared.positions().await.unwrap().is_empty());
    shared.withdraw(Uuid::new_v4()).await.unwrap();
}

pub async fn all_instances_see_where_all_replicas_stand(shared: Shared) {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let reports =
        [(one, "vectors", 7), (two, "keywords", 9), (one, "keywords", 0), (two, "Schlüsselwörter", 8)];
    for (instance, replica, position) in reports {
        shared.report(instance, replica, position, HOUR).await.unwrap();
    }
    assert_eq!(shared.positions().await.unwrap(), sorted(reports.to_vec()));
}

pub async fn a_later_report_takes_the_place_of_an_earlier_one(shared: Shared) {
    let instance = Uuid::new_v4();
    // The last as of a replica that began anew.
    for position in [3, 12, 12, 1] {
        shared.report(instance, "keywords", position, HOUR).await.unwrap();
        assert_eq!(shared.positions().await.unwrap(), sorted(vec![(instance, "keywords", position)]));
    }
}

pub async fn a_report_whose_time_has_run_out_is_not_seen(shared: Shared) {
    let (dead, lives) = (Uuid::new_v4(), Uuid::new_v4());
    shared.report(dead, "keywords", 5, NO_TIME).await.unwrap();
    shared.report(lives, "keywords", 6, HOUR).await.unwrap();
    assert_eq!(shared.positions().await.unwrap(), sorted(vec![(lives, "keywords", 6)]));
    shared.report(lives, "keywords", 7, NO_TIME).await.unwrap();
    assert!(shared.positions().await.unwrap().is_empty(), "the later one's time counts");
    shared.report(dead, "keywords", 8, HOUR).await.unwrap();
    assert_eq!(shared.positions().await.unwrap(), sorted(vec![(dead, "keywords", 8)]), "it was only slow");
}

pub async fn an_instance_that_stops_takes_its_reports_back(shared: Shared) {
    let (stops, goes_on) = (Uuid::new_v4(), Uuid::new_v4());
    for (instance, replica) in [(stops, "keywords"), (stops, "vectors"), (goes_on, "keywords")] {
        shared.report(instance, replica, 4, HOUR).await.unwrap();
    }
    for _ in 0..2 {
        shared.withdraw(stops).await.unwrap();
        assert_eq!(shared.positions().await.unwrap(), sorted(vec![(goes_on, "keywords", 4)]));
    }
}

pub async fn reports_at_once_are_all_kept(shared: Shared) {
    let instances: Vec<_> = (0..10).map(|_| Uuid::new_v4()).collect();
    let reports = instances.iter().flat_map(|instance| ["a", "b"].map(|replica| (*instance, replica)));
    let reports = reports.map(|(instance, replica)| {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            for position in 1..=5 {
                shared.report(instance, replica, position, HOUR).await.unwrap();
            }
        })
    });
    for report in join_all(reports).await {
        report.unwrap();
    }
    let all = instances.iter().flat_map(|instance| [(*instance, "a", 5), (*instance, "b", 5)]).collect();
    assert_eq!(shared.positions().await.unwrap(), sorted(all));
}

pub async fn a_name_is_led_by_the_first_to_ask(shared: Shared) {
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    for _ in 0..3 {
        assert!(shared.lead("feed", first, HOUR).await.unwrap(), "asking again prolongs it");
        assert!(!shared.lead("feed", second, HOUR).await.unwrap());
    }
}

pub async fn of_twenty_that_ask_at_once_one_leads(shared: Shared) {
    let asks = (0..20).map(|_| {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { shared.lead("feed", Uuid::new_v4(), HOUR).await.unwrap() })
    });
    let leaders = join_all(asks).await.into_iter().filter(|leads| *leads.as_ref().unwrap()).count();
    assert_eq!(leaders, 1);
}

pub async fn names_are_led_apart(shared: Shared) {
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(shared.lead("feed", one, HOUR).await.unwrap());
    assert!(shared.lead("Feed", two, HOUR).await.unwrap());
    assert!(shared.lead("sweep", one, HOUR).await.unwrap());
    assert!(!shared.lead("feed", two, HOUR).await.unwrap());
}

pub async fn a_lead_whose_time_has_run_out_goes_to_another(shared: Shared) {
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(shared.lead("feed", first, NO_TIME).await.unwrap());
    assert!(shared.lead("feed", second, HOUR).await.unwrap());
    assert!(!shared.lead("feed", first, HOUR).await.unwrap(), "it woke up too late");
    // Prolonging may also shorten.
    assert!(shared.lead("feed", second, NO_TIME).await.unwrap());
    assert!(shared.lead("feed", first, HOUR).await.unwrap());
}

pub async fn a_lead_that_was_resigned_is_free(shared: Shared) {
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(shared.lead("feed", first, HOUR).await.unwrap());
    for _ in 0..2 {
        shared.resign("feed", first).await.unwrap();
    }
    assert!(shared.lead("feed", second, HOUR).await.unwrap());
    assert!(!shared.lead("feed", first, HOUR).await.unwrap());
}

pub async fn only_the_leader_resigns(shared: Shared) {
    let (leads, other) = (Uuid::new_v4(), Uuid::new_v4());
    shared.resign("feed", other).await.unwrap();
    assert!(shared.lead("feed", leads, HOUR).await.unwrap());
    shared.resign("feed", other).await.unwrap();
    shared.resign("sweep", leads).await.unwrap();
    assert!(!shared.lead("feed", other, HOUR).await.unwrap());
}
