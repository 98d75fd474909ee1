//! What programs of earlier levels wrote and say: today's read it, come to the same, and speak so that those understand;
//! and, when `BOREALIS_CHAOS_OPERATIONS` is set, both run in one cluster.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use tests::levels::{self, Level, messages};
use tests::programs::source_dir;

#[test]
fn what_every_level_wrote_is_read_and_replayed_to_the_same() -> Result<()> {
    let levels = levels::frozen()?;
    ensure!(!levels.is_empty(), "no level was frozen in {}", levels::home().display());
    for level in levels {
        let work = tempfile::tempdir()?;
        let (expected, found) = (level.expected()?, level.measure(work.path())?);
        for (name, rows) in &expected.histories {
            let now = found.histories.get(name);
            ensure!(now == Some(rows), "level {}, {name}: {rows:?} became {now:?}", level.number);
        }
        ensure!(found == expected, "level {}: {expected:?} became {found:?}", level.number);
    }
    Ok(())
}

#[test]
fn every_levels_messages_are_understood_and_understand_ours() -> Result<()> {
    let today = messages::compile(&source_dir().join("proto"))?;
    for level in levels::frozen()? {
        let breaches = messages::breaches(&messages::compile(&level.dir.join("proto"))?, &today);
        ensure!(breaches.is_empty(), "since level {}:\n{}", level.number, breaches.join("\n"));
    }
    Ok(())
}

/// A golden log that lacks a kind of command would guard nothing of it.
#[test]
fn every_levels_histories_hold_every_command_that_it_had() -> Result<()> {
    for level in levels::frozen()? {
        let files = messages::compile(&level.dir.join("proto"))?;
        let all = files.file.iter().flat_map(|file| &file.message_type);
        let command = all.into_iter().find(|message| message.name() == "Command").context("Command")?;
        let had: BTreeSet<u32> =
            command.field.iter().filter(|f| f.oneof_index.is_some()).map(|f| f.number() as u32).collect();
        let kinds = level.kinds()?;
        let missing: Vec<_> = had.difference(&kinds).collect();
        ensure!(had.len() >= 25 && missing.is_empty(), "level {} lacks {missing:?} of {had:?}", level.number);
    }
    Ok(())
}

/// With the programs of the commit that froze the level before today's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_of_old_and_new_programs_in_one_cluster() -> Result<()> {
    if std::env::var_os("BOREALIS_CHAOS_OPERATIONS").is_none() {
        return Ok(());
    }
    let report = levels::mixed::run(engine::limits::LEVEL - 1).await?;
    println!("old and new programs in one cluster:\n{report}");
    Ok(())
}

/// Does nothing but for `tests/levels/freeze.sh`, which names the level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_is_frozen() -> Result<()> {
    let Ok(number) = std::env::var("BOREALIS_FREEZE") else { return Ok(()) };
    let number = number.parse().context("BOREALIS_FREEZE is the number of a level")?;
    levels::freeze::freeze(&Level { number, dir: levels::home().join(format!("{number}")) }).await
}
