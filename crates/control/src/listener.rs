//! The address of each endpoint: a listener that hands what comes to the front.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::app::Control;
use crate::db::{branches, endpoints};
use crate::error::Error;
use crate::model::{Address, Endpoint, State};
use crate::names::short_hash;

/// Endpoints get addresses out of 127.64.0.0/10, each its own, so that all can have the usual port.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([127, 64, 0, 0]);
const ADDRESS_BITS: u32 = 22;

/// So many addresses are tried with one port before the next port: where they all are taken,
/// somebody listens on every address.
const ADDRESSES_PER_PORT: usize = 64;
const PORTS: u16 = 64;

/// Open listeners by endpoint.
#[derive(Default)]
pub(crate) struct Listeners {
    open: Mutex<HashMap<String, Listening>>,
    /// Held while listeners are opened or closed, so that none is opened twice, or for a branch
    /// that was just deleted.
    turn: tokio::sync::Mutex<()>,
}

struct Listening {
    address: Address,
    task: JoinHandle<()>,
}

impl Listeners {
    fn address(&self, endpoint: &str) -> Option<Address> {
        self.lock().get(endpoint).map(|listening| listening.address)
    }

    fn close(&self, endpoint: &str) {
        if let Some(listening) = self.lock().remove(endpoint) {
            listening.task.abort();
        }
    }

    pub fn close_all(&self) {
        for (_, listening) in self.lock().drain() {
            listening.task.abort();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Listening>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Listens for every endpoint of a branch that is not listened for yet.
    pub(crate) async fn open_endpoints(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let _turn = self.listeners.turn.lock().await;
        let uid = branch.to_owned();
        let (rows, taken) = self
            .blocking(move |control| {
                control.db.read(|c| match branches::by_uid(c, &uid)? {
                    Some(branch) if branch.state != State::Deleted => {
                        Ok((endpoints::list(c, &uid)?, endpoints::addresses(c)?))
                    }
                    _ => Ok((Vec::new(), Vec::new())),
                })
            })
            .await?;
        for endpoint in rows {
            if self.listeners.address(&endpoint.uid).is_none() {
                self.open_endpoint(endpoint, &taken).await?;
            }
        }
        Ok(())
    }

    async fn open_endpoint(self: &Arc<Self>, mut endpoint: Endpoint, taken: &[Address]) -> Result<(), Error> {
        let (listener, address) = self.bind(endpoint.address, taken).await?;
        if endpoint.address != Some(address) {
            if let Some(before) = endpoint.address {
                tracing::warn!(endpoint = endpoint.uid, %before.host, before.port, %address.host, address.port,
                    "the endpoint's address was taken; it has a new one");
            }
            endpoint.address = Some(address);
            let row = endpoint.clone();
            // Lost with the power, it would only mean another address.
            self.blocking(move |control| control.db.write_soon(|tx| endpoints::update(tx, &row))).await?;
        }
        let task = tokio::spawn(accept(Arc::clone(self), listener, endpoint.uid.clone()));
        let listening = Listening { address, task };
        if let Some(earlier) = self.listeners.lock().insert(endpoint.uid, listening) {
            earlier.task.abort();
        }
        Ok(())
    }

    async fn bind(&self, kept: Option<Address>, taken: &[Address]) -> Result<(TcpListener, Address), Error> {
        let mut last = None;
        for (host, port) in candidates(&self.settings.home, self.settings.pg_port, kept, taken) {
            match TcpListener::bind(SocketAddr::new(host, port)).await {
                Ok(listener) => {
                    let port = listener
                        .local_addr()
                        .map_err(|source| Error::io("cannot read a listener's address", source))?
                        .port();
                    return Ok((listener, Address { host, port }));
                }
                Err(error) => last = Some(error),
            }
        }
        let source = last.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into());
        Err(Error::io("cannot listen on any loopback address for PostgreSQL", source))
    }

    /// Stops listening for a branch. Connections end with its compute.
    pub(crate) async fn close_endpoints(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let _turn = self.listeners.turn.lock().await;
        let uid = branch.to_owned();
        let rows = self.blocking(move |control| control.db.read(|c| endpoints::list(c, &uid))).await?;
        for endpoint in rows {
            self.listeners.close(&endpoint.uid);
        }
        Ok(())
    }
}

/// Addresses to try, best first: the kept one, then new ones from an offset that differs by home,
/// so that daemons of several homes seldom meet.
fn candidates(
    home: &Path,
    port: u16,
    kept: Option<Address>,
    taken: &[Address],
) -> impl Iterator<Item = (IpAddr, u16)> {
    let offset = short_hash(home.as_os_str().as_bytes());
    let ports = if port == 0 { 0..=0 } else { port..=port.saturating_add(PORTS) };
    let fresh = ports.flat_map(move |port| {
        let usable =
            (0u32..).map(move |step| offset.wrapping_add(step) % (1 << ADDRESS_BITS)).filter(is_usable);
        usable
            .map(move |place| (IpAddr::V4(Ipv4Addr::from(FIRST_ADDRESS + place)), port))
            .filter(move |(host, port)| {
                !taken.iter().any(|other| other.host == *host && (other.port == *port || *port == 0))
            })
            .take(ADDRESSES_PER_PORT)
    });
    kept.map(|address| (address.host, address.port)).into_iter().chain(fresh)
}

/// Leaves out what looks like a network's or broadcast address: some programs refuse those.
fn is_usable(place: &u32) -> bool {
    !matches!(place & 0xff, 0 | 0xff)
}

async fn accept(control: Arc<Control>, listener: TcpListener, endpoint: String) {
    loop {
        match listener.accept().await {
            // Without a front the daemon is only beginning, or never lets anybody in.
            Ok((client, _)) => {
                if let Some(front) = control.front.get() {
                    front.serve(client, endpoint.clone());
                }
            }
            Err(error) => {
                // Usually out of descriptors: some will be given back soon.
                tracing::warn!(%error, endpoint, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.parse().unwrap(), port }
    }

    #[test]
    fn every_candidate_is_in_the_block_and_new() {
        let home = Path::new("/home/ana");
        let all: Vec<_> = candidates(home, 5432, None, &[]).collect();
        assert_eq!(all.len(), ADDRESSES_PER_PORT * (usize::from(PORTS) + 1));
        for (host, _) in &all {
            let IpAddr::V4(v4) = host else { panic!("{host}") };
            assert_eq!(v4.octets()[0], 127);
            assert!((64..128).contains(&v4.octets()[1]), "{host}");
            assert!(!matches!(v4.octets()[3], 0 | 255), "{host}");
        }
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all[..ADDRESSES_PER_PORT].iter().all(|(_, port)| *port == 5432));
    }

    #[test]
    fn the_kept_address_comes_first_and_taken_ones_never() {
        let home = Path::new("/home/ana");
        let first: Vec<_> = candidates(home, 5432, None, &[]).take(2).collect();
        let taken = [Address { host: first[0].0, port: 5432 }];
        assert_eq!(candidates(home, 5432, None, &taken).next(), Some(first[1]));
        let kept = address("127.99.1.1", 5433);
        assert_eq!(candidates(home, 5432, Some(kept), &taken).next(), Some((kept.host, 5433)));
    }

    #[test]
    fn homes_begin_at_different_places() {
        let one = candidates(Path::new("/a"), 5432, None, &[]).next();
        let two = candidates(Path::new("/b"), 5432, None, &[]).next();
        assert_ne!(one, two);
    }
}
