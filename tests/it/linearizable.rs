//! What clients of the register map are told, while replicas are killed, paused and cut apart, is linearizable.
//!
//! The short run is part of every test; `chaos_` runs when `BOREALIS_CHAOS_OPERATIONS` says how many operations.
//! `BOREALIS_SEED` repeats the harness's choices; what the processes do with them is not repeated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{self, PATIENCE};
use tests::linearizable::judge;
use tests::network::Network;
use tests::registers::clients::Load;
use tests::registers::cluster::{Registers, Setup};
use tests::registers::storm::{self, Plan};
use tests::wait;

fn number(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{name} is {text:?}, not a number"))
}

pub(crate) fn seed() -> Result<u64> {
    Ok(number("BOREALIS_SEED")?.unwrap_or_else(rand::random::<u64>))
}

/// In a network of its own; without root on 127.0.0.1, and then nothing is cut.
fn run(replicas: usize, plan: Plan) -> Result<()> {
    if Network::possible() {
        let network = Arc::new(Network::new(replicas)?);
        return network.block_on(async || storm(replicas, plan, Some(Arc::clone(&network))).await);
    }
    println!("not root: replicas are killed and paused, and not cut apart");
    tokio::runtime::Runtime::new()?.block_on(storm(replicas, plan, None))
}

async fn storm(replicas: usize, plan: Plan, network: Option<Arc<Network>>) -> Result<()> {
    let _turn = cluster::turn().await;
    let began = Instant::now();
    // Small limits, so that snapshots and new segments fall among the faults.
    let arguments = ["--segment-bytes", "1048576", "--snapshot-entries", "5000"].map(str::to_owned);
    let setup = Setup { replicas, arguments: arguments.into(), network, ..Setup::default() };
    let mut cluster = Registers::start(&setup, None).await?;
    let ran = storm::run(&mut cluster, plan).await?;
    let (clients, seed) = (plan.clients, plan.seed);
    let took = began.elapsed();
    println!("{replicas} replicas, {clients} clients, BOREALIS_SEED={seed}, {took:.0?}\n{}", ran.table);
    ran.table.verdict()?;
    ensure!(ran.report.operations as u64 >= plan.operations, "{}: too few", ran.report);
    ensure!(ran.report.keys == plan.keys as usize, "{}: some keys were never used", ran.report);
    cluster.stop()
}

#[test]
fn a_short_storm_leaves_a_linearizable_history() -> Result<()> {
    let lasts = Duration::from_millis(600);
    run(3, Plan { seed: seed()?, rounds: 1, operations: 3_000, keys: 100, clients: 12, lasts })
}

#[test]
fn chaos_storms_over_three_and_five_replicas_leave_linearizable_histories() -> Result<()> {
    let Some(operations) = number("BOREALIS_CHAOS_OPERATIONS")? else { return Ok(()) };
    let lasts = Duration::from_millis(1_500);
    for replicas in [3, 5] {
        run(replicas, Plan { seed: seed()?, rounds: 3, operations, keys: 500, clients: 32, lasts })?;
    }
    Ok(())
}

/// The same clients and the same checker, and replicas that answer reads from whatever they have.
#[test]
fn replicas_that_read_without_asking_a_quorum_are_caught() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let _turn = cluster::turn().await;
        let setup = Setup { arguments: vec!["--stale-reads".into()], ..Setup::default() };
        let mut cluster = Registers::start(&setup, None).await?;
        let load = Load::start(&cluster, 10, 8, 1);
        wait::until("some operations", PATIENCE, async || {
            let operations = load.operations();
            ensure!(operations >= 3_000, "{operations}");
            Ok(())
        })
        .await?;
        let history = load.finish().await?;
        let report = judge(&history, 1_000_000);
        println!("{report}");
        ensure!(!report.passed(), "reads that ask nobody passed as linearizable: {report}");
        cluster.stop()
    })
}
