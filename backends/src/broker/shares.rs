//! How the classes of a queue share its deliveries.

use raglan_pipeline::domain::Priority;

/// How many classes there are.
pub(super) const CLASSES: usize = Priority::ALL.len();

/// Smooth weighted round-robin, as in nginx's upstream balancer: at each delivery every class that waits earns its weight, the richest is
/// served and pays what all earned. So each gets its share, evenly spread. A class is named by its place in [`Priority::ALL`].
#[derive(Debug, Default)]
pub(super) struct Shares {
    credit: [i64; CLASSES],
}

impl Shares {
    /// The class whose turn it is among those that wait.
    pub(super) fn next(&self, waiting: [bool; CLASSES]) -> Option<usize> {
        let mut richest: Option<(usize, i64)> = None;
        for class in (0..CLASSES).filter(|class| waiting[*class]) {
            let credit = self.credit[class] + weight(class);
            if richest.is_none_or(|(_, most)| credit > most) {
                richest = Some((class, credit));
            }
        }
        richest.map(|(class, _)| class)
    }

    /// Notes that a class was served while these waited.
    pub(super) fn serve(&mut self, class: usize, waiting: [bool; CLASSES]) {
        let mut earned = 0;
        for other in (0..CLASSES).filter(|other| waiting[*other]) {
            self.credit[other] += weight(other);
            earned += weight(other);
        }
        self.credit[class] -= earned;
    }

    /// Notes that nothing waits in a class any more: it has saved nothing up and owes nothing.
    pub(super) fn forget(&mut self, class: usize) {
        self.credit[class] = 0;
    }
}

/// Of twelve deliveries while all classes wait, how many a class gets.
fn weight(class: usize) -> i64 {
    match Priority::ALL[class] {
        Priority::Interactive => 8,
        Priority::Normal => 3,
        Priority::Batch => 1,
    }
}
