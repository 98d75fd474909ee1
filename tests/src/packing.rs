//! How well tasks are packed: the engine's rounds beside first-fit and chance, on the same mix of jobs.

use anyhow::Result;
use engine::validate::check_job_spec;
use engine::{Op, View, round};
use proto::Resources;
use proto::resources::EXECUTOR_RAM_MIB;

use crate::decisions::{HOST, Memory, wire_job};

/// Numbers that are the same on every machine and for ever (SplitMix64).
struct Dice(u64);

impl Dice {
    /// Both included.
    fn between(&mut self, first: u64, last: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        first + (x ^ (x >> 31)) % (last - first + 1)
    }
}

/// How tasks are packed until the first large one fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The engine's rounds.
    BinPack,
    /// The first host that has room, in a fixed order.
    FirstFit,
    /// Any host that has room.
    Random,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 3] = [Policy::BinPack, Policy::FirstFit, Policy::Random];

    /// As the figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Policy::BinPack => "bin-pack",
            Policy::FirstFit => "first-fit",
            Policy::Random => "random",
        }
    }
}

/// One job of the mix: what a task takes, how many, and whether it is a large one.
type Job = (Resources, u32, bool);

/// A mix as traces of large clusters show it in kind (many small tasks, few large ones): of 100 jobs 90 are of 1 to 50
/// tasks of up to a core, 9 of 1 to 10 tasks of 1 to 4 cores, and one is a single task of half a host. Ram goes from
/// 1 to 6 GiB a core.
fn mix(dice: &mut Dice) -> Job {
    let (cpu_milli, count, large) = match dice.between(0, 99) {
        0..90 => (dice.between(50, 999), dice.between(1, 50) as u32, false),
        90..99 => (dice.between(1_000, 3_999), dice.between(1, 10) as u32, false),
        _ => (HOST.cpu_milli / 2, 1, true),
    };
    let ram_mib = if large { HOST.ram_mib / 2 } else { cpu_milli * dice.between(1, 6) * 1024 / 1000 };
    (Resources { cpu_milli, ram_mib: ram_mib.max(32), disk_mib: 64, gpus: 0 }, count, large)
}

/// What share of all hosts was in use when the first large task found no place.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Of the cores.
    pub cpu: f64,
    /// Of the memory.
    pub ram: f64,
}

/// Packs the mix of that seed on `hosts` hosts. All policies see the same tasks in the same order, and know of none
/// before its turn but those of its own job; what finds no place does not wait.
pub fn packed(policy: Policy, hosts: usize, seed: u64) -> Result<Used> {
    let (mut dice, mut chance) = (Dice(seed), Dice(!seed));
    let mut memory = if policy == Policy::BinPack { Some(Memory::with_hosts(hosts)?) } else { None };
    let mut view = memory.as_ref().map(|memory| View::new(&memory.state)).unwrap_or_default();
    let mut free = vec![HOST; hosts];
    let mut used = Resources::default();
    for number in 0_u64.. {
        let (demand, count, large) = mix(&mut dice);
        let mut taken = demand.plus(Resources { ram_mib: EXECUTOR_RAM_MIB, ..Resources::default() });
        let placed = match &mut memory {
            Some(memory) => {
                memory.hints.clear();
                let spec = check_job_spec(&wire_job("mix", &format!("job-{number}"), demand, count))?;
                // What a task takes is what its executor needs, too.
                taken = spec.config.demand;
                let key = spec.config.job.clone();
                memory.apply(Op::CreateJob(spec))?;
                view.absorb(&memory.state, &std::mem::take(&mut memory.hints));
                let decided = round(&view, usize::MAX);
                view.launch(&decided);
                let mut placed = 0;
                for assign in decided.assigns {
                    placed += memory.apply(Op::Assign(assign))?.tasks;
                }
                view.absorb(&memory.state, &std::mem::take(&mut memory.hints));
                if placed < count && !large {
                    let waiting = memory.state.tasks().filter(|task| task.host.is_none());
                    let instances = waiting.map(|task| task.instance).collect();
                    memory.apply(Op::KillTasks { job: key, instances, message: String::new() })?;
                    view.absorb(&memory.state, &std::mem::take(&mut memory.hints));
                }
                placed
            }
            None => (0..count).filter(|_| fit(policy, &mut free, taken, &mut chance)).count() as u32,
        };
        used = used.plus(taken.times(placed));
        if large && placed == 0 {
            break;
        }
    }
    let all = HOST.times(hosts as u32);
    let share = |used: u64, all: u64| used as f64 / all as f64;
    Ok(Used { cpu: share(used.cpu_milli, all.cpu_milli), ram: share(used.ram_mib, all.ram_mib) })
}

fn fit(policy: Policy, free: &mut [Resources], demand: Resources, chance: &mut Dice) -> bool {
    let fits: Vec<usize> = match policy {
        Policy::Random => (0..free.len()).filter(|&at| demand.fits_in(&free[at])).collect(),
        _ => (0..free.len()).find(|&at| demand.fits_in(&free[at])).into_iter().collect(),
    };
    if fits.is_empty() {
        return false;
    }
    let at = fits[chance.between(0, fits.len() as u64 - 1) as usize];
    free[at] = free[at].minus_or_zero(demand);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn packing_ends_at_the_first_large_task() -> Result<()> {
        for policy in Policy::ALL {
            let used = packed(policy, 20, 1)?;
            ensure!((0.2..1.0).contains(&used.cpu) && (0.2..1.0).contains(&used.ram), "{policy:?}: {used:?}");
        }
        Ok(())
    }
}
