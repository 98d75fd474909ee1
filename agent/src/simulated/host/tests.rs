//! What one host decides, without a stream: every order that frames and time can come in.

use super::*;

const FENCE: Fence = Fence { epoch: 1, term: 2, leader: 3 };

fn config() -> wire::TaskConfig {
    let process = wire::Process { cmdline: "sleep 5".into(), ..Default::default() };
    let resources = Some(wire::Resources { cpu_milli: 100, ram_mib: 64, ..Default::default() });
    let task = wire::TaskSpec { processes: vec![process], resources, ..Default::default() };
    wire::TaskConfig { task: Some(task), ..Default::default() }
}

struct Bench {
    host: Host,
    configs: Configs,
    hash: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let (config, configs) = (config(), Configs::default());
        let hash = proto::config_hash(&config).to_vec();
        configs.add(&[wire::StoredConfig { hash: hash.clone().into(), config: Some(config) }]);
        let mut host = Host::new(6);
        let machine =
            wire::HostIdentity { journal_id: "j".into(), boot_id: "b".into(), ..Default::default() };
        host.recover(&machine, 0);
        let obeyed = wire::Obeyed {
            cluster_id: "c".into(),
            lineage_id: "l".into(),
            fence: Some(FENCE.into()),
            host_id: 9,
        };
        host.obey(obeyed, &mut Batch::new(6));
        host.registered = true;
        Bench { host, configs, hash }
    }

    fn set(&self, generation: u64, tasks: &[(u64, wire::Want)]) -> wire::WantedSet {
        let task = |(id, want): &(u64, wire::Want)| wire::WantedTask {
            task_id: *id,
            want: (*want).into(),
            config_hash: self.hash.clone().into(),
            ..Default::default()
        };
        wire::WantedSet { generation, tasks: tasks.iter().map(task).collect(), configs: vec![] }
    }

    /// Takes a set and begins what it starts.
    fn want(&mut self, generation: u64, tasks: &[(u64, wire::Want)]) -> Option<Taken> {
        let set = self.set(generation, tasks);
        let taken = self.host.take(set, true, &self.configs, &mut Batch::new(6))?;
        self.host.begin(&taken.starts, true, 0, &mut Batch::new(6));
        Some(taken)
    }

    fn statuses(&self) -> Vec<(u64, Status)> {
        self.host.tasks.iter().map(|task| (task.id.0, task.status)).collect()
    }

    fn acknowledge(&mut self) {
        let sequence = self.host.standing.sequence;
        assert!(self.host.acknowledge(sequence, &mut Batch::new(6)));
    }

    /// The host as its book says.
    fn read_again(&self) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let (journal, keeper) = super::super::journal::Keeper::open(dir.path(), 7).unwrap();
        let mut batch = Batch::new(6);
        self.host.write_book(&mut batch);
        journal.append(&batch, 0);
        journal.close();
        keeper.run().unwrap();
        let (mut host, mut met) = (Host::new(6), Met::new());
        let mut take = |index, record| {
            assert_eq!(index, 6);
            host.restore(record, &mut met);
        };
        super::super::journal::replay(dir.path(), &mut take).unwrap();
        host
    }
}

use proto::wire::Want::{Keep, Kill, Start};

#[test]
fn a_merge_finds_what_is_new_what_stays_and_what_must_go() {
    let mut bench = Bench::new();
    assert!(bench.want(5, &[(10, Start), (30, Start), (20, Start)]).unwrap().whole, "in any order");
    let running = [(10, Status::Running), (20, Status::Running), (30, Status::Running)];
    assert_eq!(bench.statuses(), running);
    assert_eq!(bench.want(4, &[]), None, "a late one");
    assert_eq!(bench.want(5, &[(10, Start), (20, Start), (30, Start)]).unwrap().starts, [], "again");
    let taken =
        bench.want(6, &[(5, Start), (10, Keep), (15, Keep), (20, Kill), (25, Kill), (40, Start)]).unwrap();
    assert_eq!(taken.starts, [TaskId(5), TaskId(40)]);
    let want = [
        (5, Status::Running),
        (10, Status::Running),
        (15, Status::Lost),
        (20, Status::Killed),
        (25, Status::Killed),
        (30, Status::Killed),
        (40, Status::Running),
    ];
    assert_eq!(bench.statuses(), want);
    assert_eq!(bench.host.counts(), Counts { live: 3, ended: 4, waiting: 14 });
    // 30 is not named any more: applied, it is forgotten. The others wait for a set that does not name them.
    bench.acknowledge();
    assert_eq!(bench.host.counts(), Counts { live: 3, ended: 3, waiting: 0 });
    bench.want(7, &[(5, Keep), (10, Keep), (40, Keep), (30, Start)]);
    assert_eq!(bench.statuses()[2], (30, Status::Lost), "never again");
    assert_eq!(bench.host.counts(), Counts { live: 3, ended: 1, waiting: 1 });
}

#[test]
fn nothing_starts_that_is_not_fresh_or_whose_config_is_unknown() {
    let mut bench = Bench::new();
    let set = bench.set(1, &[(1, Start)]);
    let taken = bench.host.take(set.clone(), false, &bench.configs, &mut Batch::new(6)).unwrap();
    assert_eq!(taken, Taken::default());
    let taken = bench.host.take(set.clone(), true, &Configs::default(), &mut Batch::new(6)).unwrap();
    assert_eq!(taken, Taken { missing: true, ..Taken::default() });
    assert_eq!(bench.host.claims(100).1, 0, "not obeyed, nothing agreed");
    let taken = bench.host.take(set, true, &bench.configs, &mut Batch::new(6)).unwrap();
    bench.host.begin(&taken.starts, false, 0, &mut Batch::new(6));
    assert_eq!(bench.statuses(), [(1, Status::Lost)], "the order grew old while the intent was written");
}

#[test]
fn a_book_says_all_of_it_and_a_reading_loses_only_what_had_not_begun() {
    let mut bench = Bench::new();
    bench.want(1, &[(1, Start), (2, Start), (3, Start)]);
    bench.want(2, &[(1, Keep), (2, Kill)]);
    bench.acknowledge();
    let set = bench.set(3, &[(1, Keep), (2, Kill), (4, Start)]);
    bench.host.take(set, true, &bench.configs, &mut Batch::new(6)).unwrap();
    let mut again = bench.read_again();
    assert_eq!(again.standing, bench.host.standing);
    assert_eq!(again.burned, bench.host.burned);
    let pretences = |host: &Host| host.tasks.iter().map(|task| task.pretence.clone()).collect::<Vec<_>>();
    assert_eq!(pretences(&again), pretences(&bench.host));
    let since = |host: &Host| host.tasks.iter().map(|task| (task.since_ns, task.fence)).collect::<Vec<_>>();
    assert_eq!(since(&again), since(&bench.host));
    let machine = wire::HostIdentity { journal_id: "new".into(), boot_id: "b".into(), ..Default::default() };
    again.recover(&machine, 0);
    assert_eq!(again.standing.identity.journal_id, "j");
    let hello = again.hello(wire::HostSpec::default(), true, 0);
    let said: Vec<_> = hello.tasks.iter().map(|report| (report.task_id, report.status())).collect();
    assert_eq!(said, [(1, Status::Running), (2, Status::Killed), (4, Status::Lost)]);
    let mut rebooted = bench.read_again();
    rebooted.recover(&wire::HostIdentity { boot_id: "c".into(), ..machine }, 0);
    let said: Vec<_> = rebooted.tasks.iter().map(|task| (task.id.0, task.status)).collect();
    assert_eq!(said, [(1, Status::Lost), (2, Status::Killed), (4, Status::Lost)]);
}

#[test]
fn a_task_ends_when_its_time_has_come() {
    let mut bench = Bench::new();
    bench.want(1, &[(1, Start), (2, Start)]);
    bench.want(2, &[(1, Keep)]);
    let due_ms = bench.host.due_ms().unwrap();
    let mut batch = Batch::new(6);
    batch.boottime_ns = (due_ms - 1) * 1_000_000;
    bench.host.look(0, &mut batch);
    assert_eq!(bench.statuses(), [(1, Status::Running), (2, Status::Killed)]);
    batch.boottime_ns = (due_ms + 1000) * 1_000_000;
    bench.host.look(0, &mut batch);
    assert_eq!(bench.statuses(), [(1, Status::Finished), (2, Status::Killed)]);
    assert_eq!(bench.host.due_ms(), None);
    let (unused, digest) = bench.host.claims(0);
    assert_eq!((unused.cpu_milli, digest), (0, 0), "nothing lives, and nothing is acknowledged");
    bench.acknowledge();
    assert_eq!(bench.host.claims(0).1, digest::of_host([]));
}

#[test]
fn a_hello_is_brief_where_the_scheduler_knows_all() {
    let mut bench = Bench::new();
    let said = |bench: &mut Bench, may_be_brief| {
        let hello = bench.host.hello(wire::HostSpec::default(), may_be_brief, 0);
        bench.host.registered = true;
        (hello.level, hello.tasks.len(), hello.digest)
    };
    assert_eq!(said(&mut bench, true), (1, 0, 0), "it was told nothing yet");
    bench.want(1, &[(1, Start), (2, Start)]);
    assert_eq!(said(&mut bench, true), (1, 2, 0), "nothing is acknowledged");
    bench.acknowledge();
    assert_eq!(said(&mut bench, true), (1, 2, 0), "what it was told before a whole hello does not count");
    bench.want(2, &[(1, Keep), (2, Keep)]);
    let running = digest::of_host([1, 2].map(|id| (TaskId(id), Status::Running)));
    for _ in 0..2 {
        assert_eq!((said(&mut bench, true), bench.host.obeys()), ((2, 0, running), 2));
    }
    assert_eq!((said(&mut bench, false), bench.host.obeys()), ((1, 2, 0), 0), "it was asked for all");
    bench.want(3, &[(1, Keep), (2, Kill)]);
    assert_eq!(said(&mut bench, true), (1, 2, 0), "the end of one is not acknowledged");
}

#[test]
fn another_history_counts_generations_anew() {
    let mut bench = Bench::new();
    bench.want(50, &[(1, Start)]);
    let fence = Some(Fence { epoch: 2, term: 1, leader: 1 }.into());
    let obeyed = wire::Obeyed { fence, cluster_id: "d".into(), ..bench.host.standing.obeyed() };
    bench.host.obey(obeyed, &mut Batch::new(6));
    assert!(bench.want(1, &[(1, Keep)]).is_some());
    let mut again = bench.read_again();
    again.recover(&wire::HostIdentity { boot_id: "b".into(), ..Default::default() }, 0);
    let set = bench.set(2, &[(1, Keep)]);
    assert!(again.take(set, true, &bench.configs, &mut Batch::new(6)).unwrap().whole);
}
