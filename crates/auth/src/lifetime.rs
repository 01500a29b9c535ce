//! How long signed tokens live.

use jiff::{SignedDuration, Timestamp};

/// Seconds that a database token lives unless told otherwise.
pub const DATABASE_SECONDS: i64 = 3600;
/// Seconds that an access token lives.
pub const ACCESS_SECONDS: i64 = 3600;

const SHORTEST: SignedDuration = SignedDuration::from_secs(300);
const LONGEST: SignedDuration = SignedDuration::from_secs(3600);

/// A wish for an expiry that cannot be met.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// Both ways to say it were used.
    #[error("only one of 'ttl' and 'expire_time' can be set")]
    Both,
    /// Outside the window.
    #[error("Field '{field}' must be 300s to 3600s ahead.")]
    OutOfRange {
        /// Which of the two.
        field: &'static str,
    },
}

/// When a database token made now expires.
///
/// # Errors
/// Both `ttl` and `expire_time` are given, or they are outside 300 to 3600 seconds.
pub fn database_expiry(
    now: Timestamp,
    ttl: Option<SignedDuration>,
    expire_time: Option<Timestamp>,
) -> Result<Timestamp, LifetimeError> {
    let (wish, field) = match (ttl, expire_time) {
        (Some(_), Some(_)) => return Err(LifetimeError::Both),
        (None, None) => (SignedDuration::from_secs(DATABASE_SECONDS), "ttl"),
        (Some(ttl), None) => (ttl, "ttl"),
        // Tokens count whole seconds, so a moment one hour ahead of the caller's clock passes.
        (None, Some(time)) => (SignedDuration::from_secs(time.as_second() - now.as_second()), "expire_time"),
    };
    if !(SHORTEST..=LONGEST).contains(&wish) {
        return Err(LifetimeError::OutOfRange { field });
    }
    let end = now.as_second() + wish.as_secs();
    Timestamp::from_second(end).map_err(|_| LifetimeError::OutOfRange { field })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn ttl(seconds: i64) -> Result<Timestamp, LifetimeError> {
        database_expiry(at(0), Some(SignedDuration::from_secs(seconds)), None)
    }

    #[test]
    fn an_hour_unless_told_otherwise() {
        assert_eq!(database_expiry(at(0), None, None), Ok(at(3600)));
        assert_eq!(ttl(600), Ok(at(600)));
        assert_eq!(database_expiry(at(0), None, Some(at(301))), Ok(at(301)));
    }

    #[test]
    fn five_minutes_to_an_hour() {
        for good in [300, 3600] {
            assert_eq!(ttl(good), Ok(at(good)));
            assert_eq!(database_expiry(at(0), None, Some(at(good))), Ok(at(good)));
        }
        for bad in [-1, 0, 10, 299, 3601, i64::MAX] {
            assert_eq!(ttl(bad), Err(LifetimeError::OutOfRange { field: "ttl" }), "{bad}");
        }
        for bad in [-10, 299, 3601] {
            let outcome = database_expiry(at(0), None, Some(at(bad)));
            assert_eq!(outcome, Err(LifetimeError::OutOfRange { field: "expire_time" }), "{bad}");
        }
        let both = database_expiry(at(0), Some(SignedDuration::from_secs(600)), Some(at(600)));
        assert_eq!(both, Err(LifetimeError::Both));
    }
}
