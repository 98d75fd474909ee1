//! The journal: what is written is read again, after a crash in the middle of a record and after a rewrite.

use std::os::unix::fs::FileExt as _;

use super::*;

fn intent(task: u64, generation: u64) -> Body {
    let fence = Some(Fence { epoch: 1, term: 2, leader: 3 }.into());
    Body::Intent(wire::LaunchIntent {
        task_id: task,
        generation,
        fence,
        job: "c/r/e/j/0".into(),
        pretence: None,
    })
}

fn report(task: u64, status: Status, sequence: u64) -> Body {
    let report = wire::TaskReport { task_id: task, status: status.into(), message: "m".into(), sequence };
    Body::Report(wire::ReportMade { report: Some(report) })
}

fn obeyed(epoch: u64, term: u64, host_id: u64) -> Body {
    Body::Obeyed(wire::Obeyed {
        cluster_id: "c".into(),
        lineage_id: "l".into(),
        fence: Some(Fence { epoch, term, leader: 1 }.into()),
        host_id,
    })
}

fn filled(dir: &Path) -> Journal {
    let (mut journal, fresh) = Journal::open(dir, || "j".into()).unwrap();
    assert!(fresh);
    let executor = Some(wire::ProcessIdentity { pid: 9, start_ticks: 8, boot_id: "b".into() });
    for body in [
        obeyed(1, 2, 7),
        intent(1, 5),
        Body::Launched(wire::Launched { task_id: 1, executor }),
        report(1, Status::Running, 1),
        intent(2, 6),
        report(2, Status::Finished, 2),
        Body::Forgotten(wire::TaskForgotten { task_id: 2 }),
        report(3, Status::Lost, 3),
    ] {
        journal.append(body).unwrap();
    }
    assert!(journal.sync().unwrap());
    assert!(!journal.sync().unwrap(), "nothing more to sync");
    journal
}

#[test]
fn what_was_written_is_read() {
    let temp = tempfile::tempdir().unwrap();
    let written = filled(temp.path()).book().clone();
    let (journal, fresh) = Journal::open(temp.path(), || panic!("not a new one")).unwrap();
    assert!(!fresh);
    let book = journal.book();
    assert_eq!(*book, written);
    assert_eq!(
        (book.identity.journal_id.as_str(), book.host_id, book.sequence, book.generation),
        ("j", 7, 3, 6)
    );
    assert_eq!(book.fence, Fence { epoch: 1, term: 2, leader: 1 });
    assert_eq!(book.tasks.keys().copied().collect::<Vec<_>>(), [TaskId(1), TaskId(3)]);
    assert!(book.is_burned(TaskId(2)) && book.knows(TaskId(1)) && !book.knows(TaskId(4)));
    assert!(!book.tasks[&TaskId(1)].ended() && book.tasks[&TaskId(3)].ended());
    assert_eq!(launches(temp.path()).unwrap().iter().map(|i| i.task.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_torn_tail_is_cut_at_every_byte() {
    let temp = tempfile::tempdir().unwrap();
    let mut journal = filled(temp.path());
    let (whole, before) = (journal.length(), journal.book().clone());
    journal.append(intent(5, 9)).unwrap();
    let after = journal.length();
    drop(journal);
    let bytes = std::fs::read(Journal::path(temp.path())).unwrap();
    for cut in whole..after {
        std::fs::write(Journal::path(temp.path()), &bytes[..cut as usize]).unwrap();
        let (mut journal, _) = Journal::open(temp.path(), || panic!("not a new one")).unwrap();
        assert_eq!(*journal.book(), before, "cut at byte {cut}");
        journal.append(intent(6, 9)).unwrap();
        drop(journal);
        let (journal, _) = Journal::open(temp.path(), || panic!("not a new one")).unwrap();
        assert!(journal.book().knows(TaskId(6)) && !journal.book().knows(TaskId(5)));
    }
}

#[test]
fn damage_in_the_middle_is_not_guessed_about() {
    let temp = tempfile::tempdir().unwrap();
    drop(filled(temp.path()));
    let file = std::fs::OpenOptions::new().write(true).open(Journal::path(temp.path())).unwrap();
    file.write_all_at(b"?", 30).unwrap();
    let error = Journal::open(temp.path(), || "j".into()).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("move it away"), "{error}");
}

#[test]
fn a_record_of_a_newer_agent_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    drop(filled(temp.path()));
    let (mut writer, _) = Writer::open_append(&Journal::path(temp.path())).unwrap();
    let record = JournalRecord { level: LEVEL + 1, ..Default::default() };
    writer.append(&record.encode_to_vec()).unwrap();
    let error = Journal::open(temp.path(), || "j".into()).unwrap_err().to_string();
    assert!(error.contains("newer agent"), "{error}");
}

#[test]
fn a_rewrite_keeps_each_launch_once_and_says_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let mut journal = filled(temp.path());
    for sequence in 4..5_000 {
        journal.append(report(1, Status::Running, sequence)).unwrap();
    }
    let (before, large) = (journal.book().clone(), journal.length());
    let launched = launches(temp.path()).unwrap();
    journal.compact().unwrap();
    assert!(journal.length() * 10 < large, "{} of {large} bytes", journal.length());
    let mut rewritten = launches(temp.path()).unwrap();
    rewritten.sort_by_key(|intent| intent.task);
    assert_eq!(rewritten, launched, "with their first times");
    journal.append(report(3, Status::Lost, before.sequence + 1)).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let (journal, _) = Journal::open(temp.path(), || panic!("not a new one")).unwrap();
    assert_eq!(journal.book().sequence, before.sequence + 1);
    assert_eq!(journal.book().burned, before.burned);
    assert_eq!(journal.book().tasks[&TaskId(1)], before.tasks[&TaskId(1)]);
    assert_eq!(journal.book().obeyed(), before.obeyed());
    assert_eq!(journal.book().generation, before.generation);
}

#[test]
fn a_new_host_id_or_epoch_counts_generations_anew() {
    let mut book = Book::default();
    let mut add = |body| {
        book.add(JournalRecord { level: LEVEL, body: Some(body), ..Default::default() });
        book.generation
    };
    assert_eq!(add(obeyed(1, 2, 7)), 0);
    assert_eq!(add(intent(1, 50)), 50);
    assert_eq!(add(obeyed(1, 3, 7)), 50, "another leader of the same history");
    assert_eq!(add(obeyed(2, 1, 7)), 0, "another history");
    assert_eq!(add(intent(2, 3)), 3);
    assert_eq!(add(obeyed(2, 1, 8)), 0, "another host");
}
