//! What is measured: a store with puts and gets over gRPC. The same client code speaks to both, but for the messages.

use bytes::Bytes;
use tonic::Status;
use tonic::transport::Channel;

use super::etcd::wire as etcd;
use crate::registers::wire as registers;

/// A connection to one replica.
pub trait Store: Clone + Send + Sync + 'static {
    /// Of a channel.
    fn on(channel: Channel) -> Self;
    /// Returns when the write is committed and applied.
    fn put(&mut self, key: Bytes, value: Bytes) -> impl Future<Output = Result<(), Status>> + Send;
    /// Linearizable.
    fn get(&mut self, key: Bytes) -> impl Future<Output = Result<Option<Bytes>, Status>> + Send;
}

/// A connection to a replica of the register map.
pub type Ours = registers::registers_client::RegistersClient<Channel>;
/// A connection to a member of etcd.
pub type Theirs = etcd::kv_client::KvClient<Channel>;

impl Store for Ours {
    fn on(channel: Channel) -> Self {
        Ours::new(channel)
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        Ours::put(self, registers::PutRequest { key, value, request: 0, previous: false }).await.map(drop)
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<Bytes>, Status> {
        let register = Ours::get(self, registers::GetRequest { key }).await?.into_inner().register;
        Ok(register.filter(|register| register.revision > 0).map(|register| register.value))
    }
}

impl Store for Theirs {
    fn on(channel: Channel) -> Self {
        Theirs::new(channel)
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Status> {
        Theirs::put(self, etcd::PutRequest { key, value }).await.map(drop)
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<Bytes>, Status> {
        let request = etcd::RangeRequest { key, ..Default::default() };
        Ok(self.range(request).await?.into_inner().kvs.into_iter().next().map(|found| found.value))
    }
}
