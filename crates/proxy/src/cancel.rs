//! Cancel requests: clients get keys of our own, since those of different servers may be equal.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::startup::CancelKey;

/// A server that does not answer a cancel request within this time gets no more of ours.
const PATIENCE: Duration = Duration::from_secs(10);

/// The keys of running sessions.
#[derive(Default)]
pub struct CancelKeys {
    live: Mutex<HashMap<CancelKey, Target>>,
}

/// Where a session runs, and what its server knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The server's socket.
    pub socket: PathBuf,
    /// The server's own key.
    pub key: CancelKey,
}

/// A key that is good for as long as this lives.
pub struct Registered {
    keys: Arc<CancelKeys>,
    /// What the client gets.
    pub key: CancelKey,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

impl CancelKeys {
    /// Gives a session a key of its own; none where the system has no random bytes.
    pub fn register(self: &Arc<Self>, target: Target) -> Option<Registered> {
        let random = SystemRandom::new();
        loop {
            let mut bytes = [0u8; 8];
            random.fill(&mut bytes).ok()?;
            let [a, b, c, d, e, f, g, h] = bytes;
            // Some drivers read the process as a signed number, and none expects a negative one.
            let process = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
            let key = CancelKey { process, secret: u32::from_be_bytes([e, f, g, h]) };
            let mut live = self.lock();
            if let Entry::Vacant(free) = live.entry(key) {
                free.insert(target);
                return Some(Registered { keys: Arc::clone(self), key });
            }
        }
    }

    /// Passes a cancel request on, and returns when the server has dealt with it. A key that is not
    /// known does nothing, and takes no longer than one that is known to an idle server.
    pub async fn cancel(&self, key: CancelKey) {
        let Some(target) = self.lock().get(&key).cloned() else { return };
        let pass_on = async {
            let mut server = UnixStream::connect(&target.socket).await?;
            server.write_all(&target.key.encode()).await?;
            // The server says nothing, and hangs up once the signal is on its way.
            server.read_u8().await
        };
        let _ = tokio::time::timeout(PATIENCE, pass_on).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CancelKey, Target>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_live_as_long_as_their_session() {
        let keys = Arc::new(CancelKeys::default());
        let target = Target { socket: "/nowhere".into(), key: CancelKey { process: 1, secret: 2 } };
        let one = keys.register(target.clone()).unwrap();
        let two = keys.register(target.clone()).unwrap();
        assert_ne!(one.key, two.key);
        assert!(i32::try_from(one.key.process).is_ok());
        assert_eq!(keys.lock().get(&one.key), Some(&target));
        drop(one);
        assert_eq!(keys.lock().len(), 1);
    }
}
