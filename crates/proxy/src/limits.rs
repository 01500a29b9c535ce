//! How many sessions an endpoint has, and how often a login may go wrong.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Sessions for one compute unit.
const CONNECTIONS_PER_CU: f64 = 209.82;

/// No size allows more sessions than this.
const MOST_CONNECTIONS: f64 = 4000.0;

/// Of `limit` sessions so many may be clients that have not proved yet who they are: strangers that only
/// knock must not keep those out that belong here.
fn max_unproven(limit: usize) -> usize {
    (limit / 4).max(1)
}

/// Sessions that an endpoint of at most `max_cu` compute units may have at once.
pub fn max_connections(max_cu: f64) -> usize {
    (CONNECTIONS_PER_CU * max_cu).clamp(1.0, MOST_CONNECTIONS) as usize
}

/// Counts the sessions of each endpoint.
#[derive(Default)]
pub struct Slots {
    taken: Mutex<HashMap<String, usize>>,
}

/// The right to one session.
pub struct Slot {
    slots: Arc<Slots>,
    endpoint: String,
}

impl Slots {
    /// Takes one of `limit` slots; none if they are all taken.
    pub fn take(self: &Arc<Self>, endpoint: &str, limit: usize) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(endpoint.to_owned()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Slot { slots: Arc::clone(self), endpoint: endpoint.to_owned() })
    }

    /// Sessions of all endpoints.
    pub fn total(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.endpoint);
            }
        }
    }
}

/// Turns of clients that have not proved yet who they are, by endpoint: first come, first served.
#[derive(Default)]
pub struct Turns {
    endpoints: Mutex<HashMap<String, (usize, Arc<Semaphore>)>>,
}

impl Turns {
    /// A turn at an endpoint of `limit` sessions, as soon as there is one.
    pub async fn wait(&self, endpoint: &str, limit: usize) -> Option<OwnedSemaphorePermit> {
        self.of(endpoint, max_unproven(limit)).acquire_owned().await.ok()
    }

    fn of(&self, endpoint: &str, most: usize) -> Arc<Semaphore> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((size, turns)) = endpoints.get(endpoint)
            && *size == most
        {
            return Arc::clone(turns);
        }
        // Nobody is in, or waits at, those that only stand here.
        endpoints.retain(|_, (_, turns)| Arc::strong_count(turns) > 1);
        let turns = Arc::new(Semaphore::new(most));
        endpoints.insert(endpoint.to_owned(), (most, Arc::clone(&turns)));
        turns
    }
}

/// So many logins may go wrong at once …
const BURST: f64 = 10.0;

/// … and after that one each of these.
const PAUSE: Duration = Duration::from_secs(6);

/// More sources than this are not told apart: the calmest are forgotten.
const MOST_SOURCES: usize = 10_000;

/// Counts logins that went wrong, by address and role. The address of a client on this host is that
/// of all others on it, so a role's holder must be able to get in all the same: who has a good token
/// is never kept out. What is kept out is guessing at passwords.
#[derive(Default)]
pub struct Throttle {
    failures: Mutex<HashMap<(IpAddr, String), Failures>>,
}

struct Failures {
    count: f64,
    seen: Instant,
}

impl Failures {
    fn count_at(&self, now: Instant) -> f64 {
        let healed = now.saturating_duration_since(self.seen).as_secs_f64() / PAUSE.as_secs_f64();
        (self.count - healed).max(0.0)
    }
}

impl Throttle {
    /// How long logins of this source are to wait, in whole seconds; none if they need not.
    pub fn wait(&self, source: IpAddr, role: &str, now: Instant) -> Option<u64> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.get(&(source, role.to_owned()))?.count_at(now);
        let excess = count - (BURST - 1.0);
        (excess > 0.0).then(|| (excess * PAUSE.as_secs_f64()).ceil() as u64)
    }

    /// Notes that a login went wrong.
    pub fn failed(&self, source: IpAddr, role: &str, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MOST_SOURCES {
            failures.retain(|_, entry| entry.count_at(now) >= 1.0);
            if failures.len() >= MOST_SOURCES {
                failures.clear();
            }
        }
        let entry = failures.entry((source, role.to_owned())).or_insert(Failures { count: 0.0, seen: now });
        // No more than the burst, so that whoever stops failing waits one pause and no more.
        *entry = Failures { count: (entry.count_at(now) + 1.0).min(BURST), seen: now };
    }

    /// Notes that a login went well.
    pub fn succeeded(&self, source: IpAddr, role: &str) {
        let key = (source, role.to_owned());
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_allow_what_the_vendor_allows() {
        for (cu, connections) in
            [(0.5, 104), (1.0, 209), (4.0, 839), (8.0, 1678), (16.0, 3357), (32.0, 4000), (64.0, 4000)]
        {
            assert_eq!(max_connections(cu), connections, "{cu} CU");
        }
    }

    #[test]
    fn slots_come_back() {
        let slots = Arc::new(Slots::default());
        let one = slots.take("ep-1", 2).unwrap();
        let _two = slots.take("ep-1", 2).unwrap();
        assert!(slots.take("ep-1", 2).is_none());
        assert!(slots.take("ep-2", 2).is_some());
        drop(one);
        assert!(slots.take("ep-1", 2).is_some());
        assert_eq!(slots.total(), 1);
    }

    #[test]
    fn guessing_gets_slow_and_is_forgiven() {
        let throttle = Throttle::default();
        let (source, start) = (IpAddr::from([127, 0, 0, 1]), Instant::now());
        for _ in 0..10 {
            assert_eq!(throttle.wait(source, "ana", start), None);
            throttle.failed(source, "ana", start);
        }
        assert_eq!(throttle.wait(source, "ana", start), Some(6));
        assert_eq!(throttle.wait(source, "ben", start), None);
        assert_eq!(throttle.wait(IpAddr::from([127, 0, 0, 2]), "ana", start), None);
        for _ in 0..1000 {
            throttle.failed(source, "ana", start);
        }
        assert_eq!(throttle.wait(source, "ana", start), Some(6));
        assert_eq!(throttle.wait(source, "ana", start + PAUSE), None);
        throttle.succeeded(source, "ana");
        assert_eq!(throttle.wait(source, "ana", start), None);
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for place in 0..30_000u32 {
            throttle.failed(IpAddr::from(place.to_be_bytes()), "ana", now);
        }
        assert!(throttle.failures.lock().unwrap().len() <= MOST_SOURCES);
    }
}
