//! Clients: each appends and reads, one after the other, at whichever replica it believes to lead, and tells the
//! oracle what it was promised.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::timeout;

use crate::error::ProposeError;
use crate::sim::breaks::{self, Break};
use crate::sim::faults::{self, Fault};
use crate::sim::oracle;
use crate::sim::world::{Cluster, World};

/// A client waits no longer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Runs until the world says that clients are done.
pub(crate) async fn run(world: Arc<World>, number: u64, mut chance: StdRng) {
    let mut next = number * 1_000_000;
    let mut last = None;
    while !world.is_quiet() {
        tokio::time::sleep(Duration::from_millis(chance.random_range(1..80))).await;
        let Some(replica) = choose(&world, &mut last, &mut chance) else { continue };
        let known = oracle::known();
        if chance.random_range(0..5) == 0 {
            let running = world.running();
            let replica = match running.len() {
                0 => continue,
                // Every replica must show what anybody was told.
                some if chance.random_range(0..2) == 0 => running[chance.random_range(0..some)].1.clone(),
                _ => replica,
            };
            let waits = breaks::is(Break::ReadWithoutBarrier);
            let shown = if waits { Ok(Ok(())) } else { timeout(PATIENCE, replica.barrier()).await };
            match shown {
                Ok(Ok(())) => oracle::read(replica.read(|list| list.items.len() as u64), known),
                _ => last = None,
            }
            continue;
        }
        next += 1;
        if !append(&replica, next, known).await {
            last = None;
        }
    }
}

/// Appends `command`; answers whether it was acknowledged.
pub(crate) async fn append(replica: &Cluster, command: u64, known: u64) -> bool {
    let proposed = timeout(PATIENCE, replica.propose(Bytes::copy_from_slice(&command.to_be_bytes()))).await;
    match &proposed {
        Ok(Ok(proposed)) => oracle::acknowledged(command, proposed.reply, known),
        Ok(Err(ProposeError::NotLeader { .. } | ProposeError::Busy { .. })) => oracle::refused(command),
        Ok(Err(ProposeError::NoRoom)) => {
            faults::fired(Fault::NoRoom);
            oracle::refused(command);
        }
        _ => oracle::unanswered(command),
    }
    matches!(proposed, Ok(Ok(_)))
}

/// The replica that answered last, or who says that it leads, or any.
fn choose(world: &World, last: &mut Option<usize>, chance: &mut StdRng) -> Option<Cluster> {
    let running = world.running();
    if running.is_empty() {
        return None;
    }
    let kept = last.and_then(|place| running.iter().find(|(running, _)| *running == place));
    let leads = || running.iter().find(|(_, replica)| replica.leadership().borrow().is_me);
    let any = &running[chance.random_range(0..running.len())];
    let (place, replica) =
        if chance.random_range(0..10) == 0 { any } else { kept.or_else(leads).unwrap_or(any) };
    *last = Some(*place);
    Some(replica.clone())
}
