//! The address of each endpoint: a listener that hands what comes to the front.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
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

/// The process, or the machine, has as many open files as it may (errno(3)).
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Clients that may wait to be let in at one address.
const QUEUE: u32 = 1024;

/// Open listeners.
#[derive(Default)]
pub(crate) struct Listeners {
    /// By endpoint.
    open: Mutex<HashMap<String, JoinHandle<()>>>,
    /// Branches for which listening failed, to be tried again.
    missing: Mutex<HashSet<String>>,
    /// Held while listeners are opened or closed, so that none is opened twice, or for a branch
    /// that was just deleted.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Listeners {
    fn close(&self, endpoint: &str) {
        if let Some(task) = self.lock().remove(endpoint) {
            task.abort();
        }
    }

    pub fn close_all(&self) {
        for (_, task) in self.lock().drain() {
            task.abort();
        }
    }

    /// Whether all endpoints of a branch are listened for.
    fn note(&self, branch: &str, complete: bool) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if complete {
            missing.remove(branch);
        } else {
            missing.insert(branch.to_owned());
        }
    }

    fn missing(&self) -> Vec<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, JoinHandle<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Listens for every endpoint of a branch that is not listened for yet. Where that fails it is tried again
    /// by [`Control::open_missing_endpoints`].
    pub(crate) async fn open_endpoints(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        let turn = Arc::clone(&self.listeners.turn).lock_owned().await;
        let uid = branch.to_owned();
        let outcome = self
            .blocking(move |control| {
                let _turn = turn;
                let rows = control.db.read(|c| match branches::by_uid(c, &uid)? {
                    Some(branch) if branch.state != State::Deleted => endpoints::list(c, &uid),
                    _ => Ok(Vec::new()),
                })?;
                rows.into_iter().try_for_each(|endpoint| control.open_endpoint(endpoint))
            })
            .await;
        self.listeners.note(branch, outcome.is_ok());
        outcome
    }

    /// Listens for every endpoint of every branch that can be used.
    pub(crate) async fn open_all_endpoints(self: &Arc<Self>) -> Result<(), Error> {
        let turn = Arc::clone(&self.listeners.turn).lock_owned().await;
        self.blocking(move |control| {
            let _turn = turn;
            let mut failures = Vec::new();
            for endpoint in control.db.read(endpoints::of_ready_branches)? {
                let branch = endpoint.branch.clone();
                let outcome = control.open_endpoint(endpoint);
                control.listeners.note(&branch, outcome.is_ok());
                failures.extend(outcome.err().map(|error| (branch, error)));
            }
            tell_failures(&failures);
            Ok(())
        })
        .await
    }

    /// Tries again where listening failed.
    pub(crate) async fn open_missing_endpoints(self: &Arc<Self>) -> Result<(), Error> {
        let mut failures = Vec::new();
        for branch in self.listeners.missing() {
            if self.watch.is_stopped() {
                break;
            }
            if let Err(error) = self.open_endpoints(&branch).await {
                failures.push((branch, error));
            }
        }
        tell_failures(&failures);
        Ok(())
    }

    /// For the holder of the turn, where blocking is allowed.
    fn open_endpoint(self: &Arc<Self>, mut endpoint: Endpoint) -> Result<(), Error> {
        if self.listeners.lock().contains_key(&endpoint.uid) {
            return Ok(());
        }
        let (listener, address) = self.bind(&endpoint)?;
        if endpoint.address != Some(address) {
            if let Some(before) = endpoint.address {
                tracing::warn!(endpoint = endpoint.uid, %before.host, before.port, %address.host, address.port,
                    "the endpoint's address was taken; it has a new one");
            }
            endpoint.address = Some(address);
            // Lost with the power, it would only mean another address.
            self.db.write_soon(|tx| endpoints::update(tx, &endpoint))?;
        }
        let task = tokio::spawn(accept(Arc::clone(self), listener, endpoint.uid.clone()));
        self.listeners.lock().insert(endpoint.uid, task);
        Ok(())
    }

    fn bind(&self, endpoint: &Endpoint) -> Result<(TcpListener, Address), Error> {
        let mut last = None;
        for (host, port) in
            candidates(&self.settings.home, &endpoint.uid, self.settings.pg_port, endpoint.address)
        {
            let is_kept = endpoint.address == Some(Address { host, port });
            // Not one that another endpoint keeps, which may be not listened for just now.
            if !is_kept && self.db.read(|c| endpoints::is_taken(c, host, port))? {
                continue;
            }
            let bound = listen(SocketAddr::new(host, port))
                .and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
            match bound {
                Ok((port, listener)) => return Ok((listener, Address { host, port })),
                Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                    // No other address helps.
                    let what = "cannot listen for PostgreSQL: each endpoint needs a file descriptor; raise the \
                                daemon's limit (LimitNOFILE of its service, or ulimit -n), then start it again";
                    return Err(Error::io(what, error));
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
        self.listeners.note(branch, true);
        Ok(())
    }
}

/// Of many failures, the first tells what is wrong with all.
fn tell_failures(failures: &[(String, Error)]) {
    if let Some((branch, error)) = failures.first() {
        tracing::error!(branch, branches = failures.len(), %error, "nobody can connect to some branches");
    }
}

/// As [`TcpListener::bind`], which is asynchronous only for names.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// Addresses to try, best first: the kept one, then new ones from an offset that differs by home and endpoint,
/// so that endpoints seldom meet, neither those of one daemon nor those of several.
fn candidates(
    home: &Path,
    endpoint: &str,
    port: u16,
    kept: Option<Address>,
) -> impl Iterator<Item = (IpAddr, u16)> {
    let offset = short_hash(&[home.as_os_str().as_bytes(), b"\n", endpoint.as_bytes()].concat());
    let ports = if port == 0 { 0..=0 } else { port..=port.saturating_add(PORTS) };
    let fresh = ports.flat_map(move |port| {
        let usable =
            (0u32..).map(move |step| offset.wrapping_add(step) % (1 << ADDRESS_BITS)).filter(is_usable);
        usable
            .map(move |place| (IpAddr::V4(Ipv4Addr::from(FIRST_ADDRESS + place)), port))
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

    #[test]
    fn every_candidate_is_in_the_block_and_new() {
        let home = Path::new("/home/ana");
        let all: Vec<_> = candidates(home, "ep-1", 5432, None).collect();
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
    fn the_kept_address_comes_first() {
        let kept = Address { host: "127.99.1.1".parse().unwrap(), port: 5433 };
        let mut all = candidates(Path::new("/home/ana"), "ep-1", 5432, Some(kept));
        assert_eq!(all.next(), Some((kept.host, kept.port)));
        assert_eq!(all.next(), candidates(Path::new("/home/ana"), "ep-1", 5432, None).next());
    }

    #[test]
    fn homes_and_endpoints_begin_at_different_places() {
        let first = |home: &str, endpoint: &str| candidates(Path::new(home), endpoint, 5432, None).next();
        assert_ne!(first("/a", "ep-1"), first("/b", "ep-1"));
        // So many that looking for a free one hardly ever takes a second look.
        let places: HashSet<_> = (0..1000).map(|number| first("/a", &format!("ep-{number}"))).collect();
        assert!(places.len() > 990, "{}", places.len());
    }
}
