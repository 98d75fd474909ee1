//! `borealis cluster` as its users run it, against replicas that say what each test wants. Real ones are in `tests`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use futures::stream::BoxStream;
use proto::wire::raft::{BackupManifest, SnapshotMeta};
use proto::wire::{
    AdmitReply, AdmitRequest, BackupPart, BackupRequest, ChangeMemberReply, ChangeMemberRequest,
    ClusterStatusReply, ClusterStatusRequest, FingerprintReply, FingerprintRequest, Held, InitReply,
    InitRequest, JoinReply, JoinRequest, MemberView, RelayDown, RelayUp, SetClockReply, SetClockRequest,
    TakeSnapshotReply, TakeSnapshotRequest, TransferLeadershipReply, TransferLeadershipRequest, backup_part,
};
use rpc::cluster_server::{Cluster, ClusterServer};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// What a replica says.
#[derive(Default)]
struct Says {
    status: ClusterStatusReply,
    /// To changes of members, one after the other; then that they are done.
    changes: Mutex<VecDeque<Status>>,
    /// Nothing: it has none to give.
    backup: Option<BackupManifest>,
}

type Parts<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Cluster for Says {
    async fn status(&self, _: Request<ClusterStatusRequest>) -> Result<Response<ClusterStatusReply>, Status> {
        Ok(Response::new(self.status.clone()))
    }
    async fn change_member(
        &self,
        _: Request<ChangeMemberRequest>,
    ) -> Result<Response<ChangeMemberReply>, Status> {
        let next = self.changes.lock().unwrap().pop_front();
        next.map_or_else(|| Ok(Response::new(ChangeMemberReply::default())), Err)
    }
    type BackupStream = Parts<BackupPart>;
    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let manifest = self.backup.clone().ok_or_else(|| Status::unavailable("belongs to no cluster yet"))?;
        let part = BackupPart { part: Some(backup_part::Part::Manifest(manifest)) };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(part)]))))
    }
    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Ok(Response::new(JoinReply::default()))
    }
    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn admit(&self, _: Request<AdmitRequest>) -> Result<Response<AdmitReply>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn fingerprint(
        &self,
        _: Request<FingerprintRequest>,
    ) -> Result<Response<FingerprintReply>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn transfer_leadership(
        &self,
        _: Request<TransferLeadershipRequest>,
    ) -> Result<Response<TransferLeadershipReply>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn set_clock(&self, _: Request<SetClockRequest>) -> Result<Response<SetClockReply>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn take_snapshot(
        &self,
        _: Request<TakeSnapshotRequest>,
    ) -> Result<Response<TakeSnapshotReply>, Status> {
        Err(Status::internal("not asked"))
    }
    type RelayStream = Parts<RelayDown>;
    async fn relay(&self, _: Request<Streaming<RelayUp>>) -> Result<Response<Self::RelayStream>, Status> {
        Err(Status::internal("not asked"))
    }
}

/// Replicas, until the test ends.
struct Replicas(tokio::runtime::Runtime);

impl Replicas {
    fn new() -> Self {
        Replicas(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }

    fn start(&self, says: Says) -> SocketAddr {
        let listener = self.0.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(ClusterServer::new(says));
        self.0.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }
}

fn run(line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_borealis"));
    command.args(line.split_whitespace()).env_remove("BOREALIS_ADDR").env("XDG_CONFIG_HOME", "/nonexistent");
    let ended = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code().unwrap_or(-1), text(ended.stdout), text(ended.stderr))
}

/// The status of a leader of three, which hears nobody.
fn alone() -> ClusterStatusReply {
    let member = |node_id| MemberView {
        node_id,
        api_address: format!("127.0.0.1:{node_id}"),
        voter: true,
        ..MemberView::default()
    };
    ClusterStatusReply {
        cluster: "west".into(),
        cluster_id: "c".into(),
        node_id: 1,
        leader: 1,
        members: [1, 2, 3].map(member).into(),
        ..ClusterStatusReply::default()
    }
}

#[test]
fn a_lost_answer_to_an_operator_is_an_unknown_fate() {
    let lost = || Status::deadline_exceeded("the leader changed before it answered");
    let waits = || Status::unavailable("no leader is known; nothing was done");
    for (changes, want, words) in [
        (vec![lost(), Status::failed_precondition("node 3 is no member")], 9, "node 3 is no member"),
        (vec![lost(); 100], 9, "may or may not have happened"),
        (vec![waits(); 100], 7, "nothing was done"),
        (vec![waits(), Status::failed_precondition("it is needed")], 10, "it is needed"),
        (vec![lost()], 0, ""),
    ] {
        let replicas = Replicas::new();
        let address = replicas.start(Says { changes: Mutex::new(changes.into()), ..Says::default() });
        let (code, _, err) = run(&format!("cluster remove node-3 --addr {address} --timeout 1s"));
        assert_eq!(code, want, "{err}");
        assert!(err.contains(words) && !err.contains("request id"), "{err}");
        assert_eq!(err.contains("look with `borealis cluster status`"), want == 9, "{err}");
    }
}

#[test]
fn a_backup_comes_from_the_first_replica_that_can_send_one() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("c.part")).unwrap();
    let manifest = BackupManifest {
        level: 1,
        cluster: "west".into(),
        snapshot: Some(SnapshotMeta::default()),
        ..BackupManifest::default()
    };
    let replicas = Replicas::new();
    let unborn = replicas.start(Says::default());
    let member = replicas.start(Says { backup: Some(manifest), ..Says::default() });
    let to = home.path().join("c.1").display().to_string();
    let (code, _, err) = run(&format!("cluster backup --to {to} --addr {unborn}"));
    assert!(code == 4 && err.contains("belongs to no cluster yet"), "{code} {err}");
    let (code, _, err) = run(&format!("cluster backup --to {to} --addr {unborn},{member} --cluster east"));
    assert!(code == 6 && err.contains("`west`, not `east`"), "{code} {err}");
    let (code, _, err) = run(&format!("cluster backup --to {to} --addr {unborn},{member} --cluster west"));
    assert_eq!(code, 0, "{err}");
    let mut left: Vec<_> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["c.1", "c.part"], "what was there stays, and nothing else is left");
}

#[test]
fn status_shows_everything_and_fails_where_nothing_can_be_changed() {
    let replicas = Replicas::new();
    let (leader, other) = (
        replicas.start(Says { status: alone(), ..Says::default() }),
        replicas.start(Says {
            status: ClusterStatusReply { cluster: "east".into(), cluster_id: "d".into(), ..alone() },
            ..Says::default()
        }),
    );
    let (code, out, err) = run(&format!("cluster status --addr {leader}"));
    assert!(code == 7 && err.contains("1 of 3 voters can take part"), "{code} {err}");
    assert!(out.contains("node-3") && out.contains("not yet"), "{out}");
    let (code, out, err) = run(&format!("cluster status --addr {leader},{other}"));
    assert!(code == 6 && err.contains("more than one cluster"), "{code} {err}");
    assert!(out.contains("led by node-1"), "{out}");
}

#[test]
fn a_cluster_is_not_let_go_on_without_its_hosts() {
    let replicas = Replicas::new();
    let status = ClusterStatusReply { held: Some(Held { hosts_back: 2, hosts: 5 }), ..alone() };
    let held = replicas.start(Says { status, ..Says::default() });
    let (code, _, err) = run(&format!("cluster resume --addr {held}"));
    assert!(
        code == 10 && err.contains("2 of 5 hosts have come back") && err.contains("--yes"),
        "{code} {err}"
    );
    let (_, _, err) = run(&format!("cluster resume --yes --addr {held}"));
    assert!(!err.contains("hosts have come back"), "{err}");
}

#[test]
fn the_replica_that_via_names_is_named() {
    let replicas = Replicas::new();
    let (joiner, member) =
        (replicas.start(Says::default()), replicas.start(Says { status: alone(), ..Says::default() }));
    let unborn = replicas.start(Says::default());
    let (code, _, err) = run(&format!("cluster join --addr {joiner} --via {unborn}"));
    assert!(
        code == 6 && err.contains(&format!("the replica at {unborn}, which --via names")),
        "{code} {err}"
    );
    assert_eq!(run(&format!("cluster join --addr {joiner} --via {member}")).0, 0);
}
