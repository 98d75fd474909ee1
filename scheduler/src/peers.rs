//! Connections to the other replicas' API ports, made once per address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Addresses are those of members, so there are few; a cluster never has more than this.
const PEERS_MAX: usize = 64;

/// Channels by address. They connect when first used, and again after a failure.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<BTreeMap<String, Channel>>>);

impl Peers {
    /// The channel to `address` (HOST:PORT). An address that is no address gives a channel that fails when used.
    pub fn channel(&self, address: &str) -> Channel {
        let mut channels = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(channel) = channels.get(address) {
            return channel.clone();
        }
        if channels.len() >= PEERS_MAX {
            channels.clear();
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid:1"))
            .connect_timeout(Duration::from_millis(500))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        channel
    }
}
