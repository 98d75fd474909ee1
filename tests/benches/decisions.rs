//! Micro-benchmarks of the pure part: `cargo bench -p tests --bench decisions`. A round on a cluster of 10,000 hosts, and what `apply`
//! takes for its placements. `bench engine` measures the same to the end, and at other sizes.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use engine::state::command::Assign;
use engine::{Command, Op, View, round};
use tests::decisions::{Demand, Memory};

const HOSTS: usize = 10_000;
const FULL_PERCENT: u64 = 50;
const JOBS: usize = 100;
const TASKS: usize = 10_000;

fn pending(demand: Demand) -> Memory {
    let mut memory = Memory::with_hosts(HOSTS).expect("hosts");
    memory.fill(FULL_PERCENT).expect("they have room");
    memory.submit(demand, JOBS, TASKS).expect("good jobs");
    memory
}

fn rounds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round");
    group.throughput(Throughput::Elements(TASKS as u64));
    for demand in Demand::ALL {
        let view = View::new(&pending(demand).state);
        group.bench_function(demand.name(), |bencher| bencher.iter(|| round(&view, usize::MAX)));
    }
    group.finish();
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(TASKS as u64)).sample_size(10);
    for demand in [Demand::Plain, Demand::Limit] {
        let state = pending(demand).state;
        let decided = round(&View::new(&state), usize::MAX);
        let command = |assign: &Assign| Command::new(state.clock(), Op::Assign(assign.clone()));
        let commands: Vec<Command> = decided.assigns.iter().map(command).collect();
        let inputs = || (state.clone(), commands.clone());
        group.bench_function(demand.name(), |bencher| {
            bencher.iter_batched(
                inputs,
                |(mut state, commands)| {
                    let applied: Vec<_> = commands.into_iter().map(|command| state.apply(command)).collect();
                    (state, applied)
                },
                BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

criterion_group!(decisions, rounds, apply);
criterion_main!(decisions);
