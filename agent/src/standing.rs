//! Who a host is, whom it obeys, how far its counters have come; and whether a scheduler's frame may be obeyed. Pure.

use proto::Fence;
use proto::wire::{self, SchedulerFrame, journal_record::Body};

/// Of a hello that names all tasks.
const WHOLE_HELLO: u32 = 1;
/// Of one that only says that nothing has changed.
const BRIEF_HELLO: u32 = 2;

/// What the records of a host's journal say of the host itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// The journal's id and the machine as it was when opened; `host_id` is that of [`Standing::host_id`].
    pub identity: wire::HostIdentity,
    /// Of the cluster last obeyed; empty = none yet.
    pub cluster_id: String,
    /// Stays the same through restore and recover.
    pub lineage_id: String,
    /// Highest ever obeyed.
    pub fence: Fence,
    /// 0 = not registered yet.
    pub host_id: u64,
    /// Sequence of the newest report.
    pub sequence: u64,
    /// Newest generation that an intent names, under this host id and epoch: older wanted sets are late.
    pub generation: u64,
}

/// Why a frame is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It names no cluster, or no fence.
    Nameless,
    /// Of a lower fence: a leader that was deposed.
    Deposed,
    /// Of another cluster, or of an older history of this one.
    Foreign,
}

impl Refusal {
    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Nameless => "nameless",
            Refusal::Deposed => "deposed",
            Refusal::Foreign => "foreign",
        }
    }
}

impl Standing {
    /// Takes in one more record, as far as it speaks of the host itself.
    pub fn add(&mut self, body: &Body) {
        match body {
            Body::Opened(opened) => {
                self.identity = opened.identity.clone().unwrap_or_default();
                self.sequence = self.sequence.max(opened.sequence);
            }
            Body::Obeyed(obeyed) => {
                let fence = obeyed.fence.as_ref().map(Fence::from).unwrap_or_default();
                if fence.epoch != self.fence.epoch || obeyed.host_id != self.host_id {
                    self.generation = 0;
                }
                self.cluster_id.clone_from(&obeyed.cluster_id);
                self.lineage_id.clone_from(&obeyed.lineage_id);
                self.host_id = obeyed.host_id;
                self.identity.host_id = obeyed.host_id;
                self.fence = fence;
            }
            Body::Intent(intent) => self.generation = self.generation.max(intent.generation),
            Body::Report(made) => {
                let sequence = made.report.as_ref().map_or(0, |report| report.sequence);
                self.sequence = self.sequence.max(sequence);
            }
            Body::Launched(_) | Body::Forgotten(_) => {}
        }
    }

    /// Whom the host obeys.
    pub fn obeyed(&self) -> wire::Obeyed {
        wire::Obeyed {
            cluster_id: self.cluster_id.clone(),
            lineage_id: self.lineage_id.clone(),
            fence: Some(self.fence.into()),
            host_id: self.host_id,
        }
    }

    /// What a hello says of the host's allegiance: cluster, lineage, and the fence if there is one. With a `digest`
    /// other than 0 it is a brief one.
    pub fn hello(&self, digest: u64) -> wire::Hello {
        wire::Hello {
            cluster_id: self.cluster_id.clone(),
            lineage_id: self.lineage_id.clone(),
            fence: (!self.cluster_id.is_empty()).then(|| self.fence.into()),
            identity: Some(self.identity.clone()),
            level: if digest == 0 { WHOLE_HELLO } else { BRIEF_HELLO },
            digest,
            ..wire::Hello::default()
        }
    }

    /// Whether a frame may be obeyed. `Ok(Some(_))`: only after this is on the disk.
    pub fn admit(&self, frame: &SchedulerFrame) -> Result<Option<wire::Obeyed>, Refusal> {
        let fence = frame.fence.as_ref().map(Fence::from).ok_or(Refusal::Nameless)?;
        if frame.cluster_id.is_empty() {
            return Err(Refusal::Nameless);
        }
        let obeyed = || wire::Obeyed {
            cluster_id: frame.cluster_id.clone(),
            lineage_id: frame.lineage_id.clone(),
            fence: Some(fence.into()),
            host_id: self.host_id,
        };
        if self.cluster_id.is_empty() {
            return Ok(Some(obeyed()));
        }
        if frame.lineage_id != self.lineage_id {
            return Err(Refusal::Foreign);
        }
        if frame.cluster_id != self.cluster_id {
            return if fence.epoch > self.fence.epoch { Ok(Some(obeyed())) } else { Err(Refusal::Foreign) };
        }
        match fence.cmp(&self.fence) {
            std::cmp::Ordering::Less => Err(Refusal::Deposed),
            std::cmp::Ordering::Equal => Ok(None),
            std::cmp::Ordering::Greater => Ok(Some(obeyed())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_command() {
        let fence = |epoch, term, leader| Fence { epoch, term, leader };
        let empty = Standing::default();
        let book = Standing {
            cluster_id: "c".into(),
            lineage_id: "l".into(),
            fence: fence(5, 3, 2),
            host_id: 9,
            ..Standing::default()
        };
        let refused = |why| Err(why);
        for (book, cluster, lineage, fence, want) in [
            (&empty, "c", "l", fence(1, 1, 1), Ok(true)),
            (&empty, "", "l", fence(1, 1, 1), refused(Refusal::Nameless)),
            (&book, "c", "l", fence(5, 3, 2), Ok(false)),
            (&book, "c", "l", fence(5, 3, 3), Ok(true)),
            (&book, "c", "l", fence(5, 4, 1), Ok(true)),
            (&book, "c", "l", fence(6, 1, 1), Ok(true)),
            (&book, "c", "l", fence(5, 3, 1), refused(Refusal::Deposed)),
            (&book, "c", "l", fence(5, 2, 9), refused(Refusal::Deposed)),
            (&book, "c", "l", fence(4, 9, 9), refused(Refusal::Deposed)),
            (&book, "c", "m", fence(9, 9, 9), refused(Refusal::Foreign)),
            (&book, "d", "l", fence(6, 1, 1), Ok(true)),
            (&book, "d", "l", fence(5, 9, 9), refused(Refusal::Foreign)),
            (&book, "d", "m", fence(6, 1, 1), refused(Refusal::Foreign)),
        ] {
            let frame = SchedulerFrame {
                cluster_id: cluster.into(),
                lineage_id: lineage.into(),
                fence: Some(fence.into()),
                ..Default::default()
            };
            let got = book.admit(&frame).map(|obeyed| obeyed.is_some());
            assert_eq!(got, want, "{cluster} {lineage} {fence}");
        }
        let nameless = SchedulerFrame { cluster_id: "c".into(), ..Default::default() };
        assert_eq!(book.admit(&nameless), Err(Refusal::Nameless));
    }
}
