//! openraft's types with ours filled in, and the way between them and the messages. Generics stop here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Mutex;

use bytes::Bytes;
use openraft::alias::{LogIdOf, StoredMembershipOf};
use proto::wire::raft as wire;

use crate::error::StoreError;
use crate::machine::Corrupt;
use crate::membership::Member;

openraft::declare_raft_types!(
    /// What openraft is parameterised with.
    pub(crate) Types:
        D = Data,
        R = Answer,
        NodeId = u64,
        Node = Node,
        AsyncRuntime = crate::ground::Runtime,
);

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = StoredMembershipOf<Types>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type Payload = openraft::EntryPayload<Data, u64, Node>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// Commands as they stand in the log and in messages: a `wire::Batch`, whole and encoded. Nothing of it is encoded or
/// copied again on its way, and commands are looked at where they lie.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch(Bytes);

/// Of `wire::Batch`'s one field.
const COMMANDS: u32 = 1;

impl<C: AsRef<[Bytes]>> From<C> for Batch {
    fn from(commands: C) -> Self {
        let size = |command: &Bytes| prost::encoding::bytes::encoded_len(COMMANDS, command);
        let mut encoded = Vec::with_capacity(commands.as_ref().iter().map(size).sum());
        for command in commands.as_ref() {
            prost::encoding::bytes::encode(COMMANDS, command, &mut encoded);
        }
        Batch(encoded.into())
    }
}

impl Batch {
    /// Takes what was read, if it is a batch.
    fn read(encoded: Bytes) -> Option<Self> {
        let mut left = &encoded[..];
        while !left.is_empty() {
            first_command(&mut left)?;
        }
        Some(Batch(encoded))
    }

    /// In their order.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = &self.0[..];
        std::iter::from_fn(move || first_command(&mut left))
    }

    /// Of all of it.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// Takes the first command off, if there is one.
fn first_command<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    // What else a newer program puts there must not be passed over: it would not be applied.
    let (tag, kind) = decode_key(left).ok()?;
    if tag != COMMANDS || kind != WireType::LengthDelimited {
        return None;
    }
    let length = usize::try_from(decode_varint(left).ok()?).ok()?;
    let (command, rest) = left.split_at_checked(length)?;
    *left = rest;
    Some(command)
}

/// What an entry may carry beside openraft's own kinds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// Commands that were proposed together.
    Batch(Batch),
    /// All replicas sum their rows here.
    Check(u64),
    /// A node id for this store uuid.
    Reserve(String),
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Batch(batch) => write!(f, "batch of {}", batch.commands().count()),
            Data::Check(id) => write!(f, "check {id}"),
            Data::Reserve(uuid) => write!(f, "node id for {uuid}"),
        }
    }
}

/// What apply answered, for the proposer on this replica.
pub(crate) enum Answer {
    /// To an entry without commands.
    Nothing,
    /// The machine's replies, one per command: a `Vec` of its reply type. The lock only makes it shareable.
    Replies(Mutex<Box<dyn std::any::Any + Send>>),
    /// The node id that was given, or why none.
    Reserved(Result<u64, String>),
}

/// A replica as membership records it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Node {
    pub(crate) raft_address: String,
    pub(crate) api_address: String,
    pub(crate) store_uuid: String,
    /// Shall not be made a voter.
    pub(crate) learner: bool,
}

impl Node {
    pub(crate) fn to_wire(&self, id: u64) -> wire::Node {
        wire::Node {
            id,
            raft_address: self.raft_address.clone(),
            api_address: self.api_address.clone(),
            store_uuid: self.store_uuid.clone(),
            learner: self.learner,
        }
    }

    pub(crate) fn from_wire(node: &wire::Node) -> Self {
        Node {
            raft_address: node.raft_address.clone(),
            api_address: node.api_address.clone(),
            store_uuid: node.store_uuid.clone(),
            learner: node.learner,
        }
    }

    pub(crate) fn of(member: &Member) -> Self {
        Node {
            raft_address: member.raft_address.clone(),
            api_address: member.api_address.clone(),
            store_uuid: member.store_uuid.clone(),
            learner: member.learner,
        }
    }

    /// As the outside sees it; when it was heard, and how far it is, is not known.
    pub(crate) fn member(&self, node_id: u64, voter: bool) -> Member {
        Member {
            node_id,
            raft_address: self.raft_address.clone(),
            api_address: self.api_address.clone(),
            store_uuid: self.store_uuid.clone(),
            voter,
            learner: self.learner,
            lag: None,
            heard: None,
            acts_at: None,
            full: false,
        }
    }
}

/// The newest level of the messages on disk that this program writes and reads.
pub(crate) const LEVEL: u32 = 1;

/// Refuses what a newer program wrote. Looked at before anything else of a message is believed.
pub(crate) fn check_level(what: impl Into<String>, found: u32) -> Result<(), StoreError> {
    if found > LEVEL {
        return Err(StoreError::Level { what: what.into(), found, known: LEVEL });
    }
    Ok(())
}

/// Reads a message whose bytes were checked: if it cannot be read, another program wrote it.
pub(crate) fn decode_whole<T: prost::Message + Default>(
    what: impl Into<String>,
    bytes: impl prost::bytes::Buf,
) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|error| StoreError::Foreign(Corrupt::new(what, error.to_string())))
}

pub(crate) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId {
        leader: Some(wire::LeaderId { term: id.leader_id.term, node: id.leader_id.node_id }),
        index: id.index,
    }
}

pub(crate) fn log_id_from_wire(id: &wire::LogId) -> LogId {
    let leader = id.leader.unwrap_or_default();
    LogId { leader_id: LeaderId { term: leader.term, node_id: leader.node }, index: id.index }
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote {
        leader: Some(wire::LeaderId { term: vote.leader_id.term, node: vote.leader_id.node_id }),
        committed: vote.committed,
        level: LEVEL,
    }
}

pub(crate) fn vote_from_wire(vote: &wire::Vote) -> Vote {
    let leader = vote.leader.unwrap_or_default();
    Vote { leader_id: LeaderId { term: leader.term, node_id: leader.node }, committed: vote.committed }
}

pub(crate) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    wire::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| wire::VoterSet { voters: voters.iter().copied().collect() })
            .collect(),
        nodes: membership.nodes().map(|(id, node)| node.to_wire(*id)).collect(),
    }
}

pub(crate) fn membership_from_wire(membership: &wire::Membership) -> Result<Membership, Corrupt> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|set| set.voters.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, Node> =
        membership.nodes.iter().map(|node| (node.id, Node::from_wire(node))).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| Corrupt::new("membership", e.to_string()))
}

pub(crate) fn entry_to_wire(entry: &Entry) -> wire::Entry {
    use wire::entry::Payload as Wire;
    let payload = match &entry.payload {
        Payload::Blank => Wire::Blank(wire::Blank {}),
        Payload::Membership(m) => Wire::Membership(membership_to_wire(m)),
        Payload::Normal(Data::Batch(batch)) => Wire::Batch(batch.0.clone()),
        Payload::Normal(Data::Check(id)) => Wire::Check(wire::Check { id: *id }),
        Payload::Normal(Data::Reserve(uuid)) => Wire::Reserve(wire::Reserve { store_uuid: uuid.clone() }),
    };
    wire::Entry { id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

/// An entry of a kind that this program does not know is refused: the replica stops and says so.
pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, StoreError> {
    use wire::entry::Payload as Wire;
    let id = entry.id.as_ref().map(log_id_from_wire).ok_or_else(|| Corrupt::new("entry", "has no log id"))?;
    let payload = match entry.payload {
        Some(Wire::Blank(_)) => Payload::Blank,
        Some(Wire::Membership(m)) => Payload::Membership(membership_from_wire(&m)?),
        Some(Wire::Batch(encoded)) => {
            let batch = Batch::read(encoded).ok_or_else(|| {
                StoreError::Foreign(Corrupt::new(
                    format!("entry {}", id.index),
                    "it is not a row of commands",
                ))
            })?;
            Payload::Normal(Data::Batch(batch))
        }
        Some(Wire::Check(check)) => Payload::Normal(Data::Check(check.id)),
        Some(Wire::Reserve(reserve)) => Payload::Normal(Data::Reserve(reserve.store_uuid)),
        None => {
            return Err(StoreError::Foreign(Corrupt::new(
                format!("entry {}", id.index),
                "it is of a kind that this program does not know",
            )));
        }
    };
    Ok(Entry { log_id: id, payload })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_batch_is_the_message_that_its_name_says_and_nothing_else_is_taken_for_one() {
        let commands = [
            "a",
            "",
            "a longer one that needs more than a byte of length ................................................................................................",
        ];
        let commands: Vec<Bytes> = commands.map(Bytes::from).into();
        let batch = Batch::from(&commands);
        let message = wire::Batch { commands: commands.clone() };
        assert_eq!(batch.0, message.encode_to_vec());
        let read = Batch::read(batch.0.clone()).unwrap();
        assert!(read.commands().eq(commands.iter().map(|command| &command[..])));
        for end in 1..batch.bytes() {
            let whole = Batch::read(batch.0.slice(..end));
            // A shorter one is one only where a command ends.
            assert!(whole.is_none() || [3, 5].contains(&end), "{end}");
        }
        // Another field, another kind of the field, a length that no memory has.
        for bytes in [&[0x12, 0][..], &[0x08, 1], &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]] {
            assert!(Batch::read(Bytes::copy_from_slice(bytes)).is_none(), "{bytes:?}");
        }
        assert_eq!(Batch::from([]).commands().count(), 0);
    }
}
