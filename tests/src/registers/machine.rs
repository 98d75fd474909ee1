//! The map itself: keys, values, and a number for each write.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use replication::{Changes, Corrupt, Machine, Row, Rows};

use super::wire::{CasReply, CasRequest, Command, PutReply, PutRequest, Register, command::Kind};

/// Registers by key; a row each.
#[derive(Debug, Default)]
pub struct Registers {
    registers: BTreeMap<Bytes, Arc<Stored>>,
    /// Of the newest write.
    revision: u64,
}

/// A register that can be shared with the writer of rows.
#[derive(Debug)]
struct Stored(Register);

impl Row for Stored {
    fn encode(&self, into: &mut Vec<u8>) {
        self.0.encode(into).expect("a vector takes any message");
    }
}

/// What a command's proposer is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Of a put.
    Put(PutReply),
    /// Of a compare-and-set.
    Cas(CasReply),
}

impl Registers {
    /// A register as it stands here; one that was never written has revision 0.
    pub fn get(&self, key: &[u8]) -> Register {
        self.registers.get(key).map(|stored| stored.0.clone()).unwrap_or_default()
    }

    fn write(&mut self, key: Bytes, value: Bytes, request: u64, changed: &mut Changes) -> u64 {
        self.revision += 1;
        let stored = Arc::new(Stored(Register { value, revision: self.revision, request }));
        changed.put(key.to_vec(), Arc::clone(&stored) as Arc<dyn Row>);
        self.registers.insert(key, stored);
        self.revision
    }

    fn put(&mut self, put: PutRequest, changed: &mut Changes) -> PutReply {
        let previous = put.previous.then(|| self.get(&put.key));
        PutReply { revision: self.write(put.key, put.value, put.request, changed), previous }
    }

    fn cas(&mut self, cas: CasRequest, changed: &mut Changes) -> CasReply {
        let previous = self.get(&cas.key);
        let stands = (previous.revision > 0).then(|| previous.value.clone());
        let swapped = stands == cas.expected;
        let revision = if swapped { self.write(cas.key, cas.new, cas.request, changed) } else { 0 };
        CasReply { swapped, previous: Some(previous), revision }
    }
}

impl Machine for Registers {
    type Command = Kind;
    type Reply = Reply;

    fn decode(bytes: &[u8]) -> Result<Kind, Corrupt> {
        let command = Command::decode(bytes).map_err(|e| Corrupt::new("command", e.to_string()))?;
        command.kind.ok_or_else(|| Corrupt::new("command", "is of no known kind"))
    }

    fn apply(&mut self, command: Kind, changed: &mut Changes) -> Reply {
        match command {
            Kind::Put(put) => Reply::Put(self.put(put, changed)),
            Kind::Cas(cas) => Reply::Cas(self.cas(cas, changed)),
        }
    }

    fn load(rows: &mut Rows<'_>) -> Result<Self, Corrupt> {
        let mut map = Registers::default();
        for row in rows {
            let (key, value) = row?;
            let register = Register::decode(&value[..])
                .map_err(|e| Corrupt::new(String::from_utf8_lossy(&key), e.to_string()))?;
            map.revision = map.revision.max(register.revision);
            map.registers.insert(Bytes::from(key), Arc::new(Stored(register)));
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_changes_only_if_what_was_expected_stands_there() {
        let (mut map, mut changed) = (Registers::default(), Changes::default());
        let mut cas = |expected: Option<&'static str>, new: &'static str| {
            let (expected, new) = (expected.map(Bytes::from), Bytes::from(new));
            map.cas(CasRequest { key: "k".into(), expected, new, request: 7 }, &mut changed)
        };
        assert!(!cas(Some("a"), "b").swapped, "nothing stands there");
        assert!(cas(None, "a").swapped);
        assert!(!cas(None, "b").swapped);
        let done = cas(Some("a"), "");
        assert!(done.swapped && done.revision == 2 && done.previous.unwrap().revision == 1);
        assert!(cas(Some(""), "c").swapped, "an empty value is one");
        let put = PutRequest { key: "k".into(), value: "d".into(), request: 9, previous: true };
        let put = map.put(put, &mut changed);
        assert_eq!((put.revision, put.previous.unwrap().value), (4, Bytes::from("c")));

        let rows: Vec<_> = changed
            .iter()
            .map(|(key, row)| {
                let mut bytes = Vec::new();
                row.unwrap().encode(&mut bytes);
                Ok((key.into(), bytes.into()))
            })
            .collect();
        let loaded = Registers::load(&mut rows.into_iter()).unwrap();
        assert_eq!((loaded.get(b"k"), loaded.revision), (map.get(b"k"), 4));
    }
}
