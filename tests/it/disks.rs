//! Disks that lie, fail, fill up and slow down, and clocks that jump, under one replica of the register map.
//!
//! Some of it in every run; all of it when `BOREALIS_CHAOS_OPERATIONS` is set. `BOREALIS_SEED` repeats the choices.

use anyhow::Result;
use tests::cluster;
use tests::registers::disks;

use crate::linearizable::seed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_of_one_replicas_disk_loses_nothing() -> Result<()> {
    let _turn = cluster::turn().await;
    let seed = seed()?;
    let table = disks::run_all(seed, std::env::var_os("BOREALIS_CHAOS_OPERATIONS").is_some()).await?;
    println!("3 replicas, BOREALIS_SEED={seed}\n{table}");
    table.verdict()
}
