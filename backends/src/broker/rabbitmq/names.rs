//! What the queues and exchanges are called.

use raglan_pipeline::domain::{Priority, Stage, Tenant};
use sha2::{Digest, Sha256};

/// The names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
    lanes: u16,
}

impl Names {
    pub(super) fn new(prefix: &str, lanes: u16) -> Self {
        Self { prefix: prefix.to_owned(), lanes }
    }

    /// The queue where a tenant's new messages of a class wait. The hash is part of what processes of all versions agree on.
    pub(super) fn lane(&self, stage: Stage, class: Priority, tenant: &Tenant) -> String {
        let digest = Sha256::digest(tenant.as_str());
        let hash = digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        self.lane_number(stage, class, hash % u64::from(self.lanes))
    }

    fn lane_number(&self, stage: Stage, class: Priority, number: u64) -> String {
        format!("{}{}.{}.{number}", self.prefix, stage.as_str(), class.as_str())
    }

    /// The lanes of a class.
    pub(super) fn lanes(&self, stage: Stage, class: Priority) -> Vec<String> {
        (0..u64::from(self.lanes)).map(|number| self.lane_number(stage, class, number)).collect()
    }

    /// The queue where messages of a class wait that come back: handed back, refused, or with their delay over.
    pub(super) fn returns(&self, stage: Stage, class: Priority) -> String {
        format!("{}{}.{}.returns", self.prefix, stage.as_str(), class.as_str())
    }

    /// All queues of a class that a consumer reads.
    pub(super) fn inlets(&self, stage: Stage, class: Priority) -> Vec<String> {
        let mut inlets = self.lanes(stage, class);
        inlets.push(self.returns(stage, class));
        inlets
    }

    /// The queue of the dead letters.
    pub(super) fn dead(&self, stage: Stage) -> String {
        format!("{}{}.dead", self.prefix, stage.as_str())
    }

    /// A rung of the ladder of delays, and the exchange before it.
    pub(super) fn rung(&self, stage: Stage, rung: u32) -> String {
        format!("{}{}.delay.{rung:02}", self.prefix, stage.as_str())
    }

    /// The exchange at the foot of the ladder.
    pub(super) fn due(&self, stage: Stage) -> String {
        format!("{}{}.due", self.prefix, stage.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_lane_is_the_same_in_every_version() {
        let names = Names::new("raglan.", 4);
        let lane =
            |tenant: &str| names.lane(Stage::Retrieval, Priority::Normal, &Tenant::new(tenant).unwrap());
        assert_eq!(lane("default"), "raglan.retrieval.normal.1");
        assert_eq!(lane("acme"), "raglan.retrieval.normal.0");
        assert_eq!(lane("greedy"), "raglan.retrieval.normal.2");
    }
}
