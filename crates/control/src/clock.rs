//! Time and chance, as arguments, so that tests can move the one and repeat the other.

use std::io::Read;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Where the control plane takes time from.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment, never set back or forward by hand.
    fn steady(&self) -> Duration;
}

/// The clocks of this machine.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the steady clock at zero.
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn steady(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Where identities and secrets come from.
pub trait Random: Send + Sync {
    /// Fills `bytes` with what nobody can guess.
    ///
    /// # Errors
    /// The source could not be read.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The kernel's random source.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        std::fs::File::open("/dev/urandom")?.read_exact(bytes)
    }
}

/// A new identity such as `br-…`: the prefix and 20 letters and digits.
///
/// # Errors
/// The source of randomness failed.
pub fn new_uid(random: &dyn Random, prefix: &str) -> std::io::Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0u8; 20];
    random.fill(&mut bytes)?;
    let tail: String = bytes.iter().map(|byte| ALPHABET[usize::from(byte & 31)] as char).collect();
    Ok(format!("{prefix}-{tail}"))
}

/// A random (version 4) UUID in its usual text form.
///
/// # Errors
/// The source of randomness failed.
pub fn new_uuid(random: &dyn Random) -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    random.fill(&mut bytes)?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = to_hex(&bytes);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// A secret of 256 random bits, as 64 hexadecimal digits: safe in URIs and SQL without quoting.
///
/// # Errors
/// The source of randomness failed.
pub fn new_secret(random: &dyn Random) -> std::io::Result<String> {
    let mut bytes = [0u8; 32];
    random.fill(&mut bytes)?;
    Ok(to_hex(&bytes))
}

/// Bytes as hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_their_form() {
        let uid = new_uid(&SystemRandom, "br").unwrap();
        assert_eq!(uid.len(), 23);
        assert!(uid.starts_with("br-"));
        let uuid = new_uuid(&SystemRandom).unwrap();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert_ne!(new_secret(&SystemRandom).unwrap(), new_secret(&SystemRandom).unwrap());
    }
}
