//! Slows down those who fail to log in.
//!
//! A right token is always accepted at once, whatever others at the same address do: on one machine
//! many people share an address. A wrong one is always answered 401, only later and later: clients
//! repeat what is answered 429 for minutes, and a wrong token does not get right by waiting. 429 is
//! for those alone who have so many wrong attempts in flight that they no longer wait their turn.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures answered without delay.
const FREE: u32 = 10;
/// Pause between answers after that.
const PAUSE: Duration = Duration::from_millis(500);
/// No answer is held back longer than this.
const LONGEST: Duration = Duration::from_secs(5);
/// Addresses remembered at once.
const MOST: usize = 10_000;

/// Failures of each address.
#[derive(Default)]
pub(crate) struct Throttle {
    /// When the answers promised so far will have been paid for.
    paid: Mutex<HashMap<IpAddr, Instant>>,
}

/// How a failure is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// After this long.
    After(Duration),
    /// Not at all now; again after this long.
    Busy(Duration),
}

impl Throttle {
    /// Counts a failure.
    pub fn failed(&self, address: IpAddr, now: Instant) -> Verdict {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        if paid.len() >= MOST {
            paid.retain(|_, until| *until > now);
        }
        // Too many addresses at once share one account.
        let key = if paid.len() >= MOST { IpAddr::from([0, 0, 0, 0]) } else { network(address) };
        let until = paid.get(&key).copied().unwrap_or(now).max(now) + PAUSE;
        let wait = until.duration_since(now).saturating_sub(PAUSE * FREE);
        if wait > LONGEST {
            return Verdict::Busy(wait);
        }
        paid.insert(key, until);
        Verdict::After(wait)
    }
}

/// One customer of a provider has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let mut segments = v6.segments();
                segments[4..].fill(0);
                IpAddr::from(segments)
            }
        },
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn some_failures_are_free_then_they_take_longer() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let fail = |now| throttle.failed(address("192.0.2.1"), now);
        for _ in 0..FREE {
            assert_eq!(fail(now), Verdict::After(Duration::ZERO));
        }
        for turn in 1..=10 {
            assert_eq!(fail(now), Verdict::After(PAUSE * turn));
        }
        assert!(matches!(fail(now), Verdict::Busy(_)));
        assert!(matches!(fail(now), Verdict::Busy(_)), "refusals cost nothing");
        assert_eq!(throttle.failed(address("192.0.2.2"), now), Verdict::After(Duration::ZERO), "others");
        assert_eq!(fail(now + Duration::from_secs(60)), Verdict::After(Duration::ZERO), "forgiven");
    }

    #[test]
    fn whoever_waits_for_each_answer_is_never_refused() {
        let throttle = Throttle::default();
        let mut now = Instant::now();
        for _ in 0..1000 {
            match throttle.failed(address("192.0.2.1"), now) {
                Verdict::After(wait) => {
                    assert!(wait <= PAUSE);
                    now += wait;
                }
                Verdict::Busy(_) => panic!("refused"),
            }
        }
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        assert_eq!(network(address("2001:db8::1")), network(address("2001:db8::ffff:1")));
        assert_ne!(network(address("2001:db8::1")), network(address("2001:db8:0:1::1")));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..20_000u32 {
            throttle.failed(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(throttle.paid.lock().unwrap().len() <= MOST + 1);
    }
}
