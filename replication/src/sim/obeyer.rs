//! Somebody who is commanded, as an agent is: whoever leads sends orders, which take their time; it remembers the
//! highest fence it heard, and carries out an order only if its fence is no lower.
//!
//! A fence is (term, node), since this openraft may elect two leaders in one term.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng as _;

use crate::log::lock;
use crate::sim::breaks::{self, Break};
use crate::sim::faults::{self, Fault};
use crate::sim::invariants::obeyed::{Leader, Obeyed};
use crate::sim::life::Life;
use crate::sim::violated;
use crate::sim::world::Cluster;

/// The one who obeys. It never forgets.
#[derive(Default)]
pub(crate) struct Obeyer(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    highest: Leader,
    /// By term: who commanded.
    leaders: BTreeMap<u64, Vec<u64>>,
    law: Obeyed,
}

impl Obeyer {
    fn hear(&self, fence: Leader) {
        let mut heard = lock(&self.0);
        let leaders = heard.leaders.entry(fence.0).or_default();
        if !leaders.contains(&fence.1) {
            leaders.push(fence.1);
            if leaders.len() == 2 {
                faults::fired(Fault::TwoLeaders);
            }
        }
        let deposed = match breaks::is(Break::FenceByTerm) {
            true => fence.0 < heard.highest.0,
            false => fence < heard.highest,
        };
        if deposed {
            return;
        }
        heard.highest = heard.highest.max(fence);
        if let Err(broken) = heard.law.look(fence) {
            violated(&broken);
        }
    }
}

/// Commands while `replica` leads.
pub(crate) async fn command(replica: Cluster, life: Arc<Life>, obeyer: Arc<Obeyer>) {
    let mut leadership = replica.leadership();
    let mut chance = life.chance();
    let node_id = replica.identity().node_id;
    loop {
        let Ok(term) = leadership.wait_for(|now| now.is_me).await.map(|now| now.term) else { return };
        let late = chance.random_range(0..10) == 0;
        let takes = Duration::from_millis(chance.random_range(if late { 20..300 } else { 1..4 }));
        let obeyer = Arc::clone(&obeyer);
        // An order that is under way arrives even if its sender dies.
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            obeyer.hear((term, node_id));
        });
        tokio::time::sleep(Duration::from_millis(chance.random_range(5..40))).await;
    }
}
