//! When a branch vanishes by itself, and how long its data is kept after that.

use jiff::{SignedDuration, Timestamp};

use crate::error::Error;

/// Kept this long after a delete.
const GRACE: SignedDuration = SignedDuration::from_hours(24);

/// Kept this long where the branch was meant to live a day or less.
const SHORT_GRACE: SignedDuration = SignedDuration::from_hours(1);

const SHORT_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// Exactly one of three ways to say when a branch vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// At a time.
    At(Timestamp),
    /// So long after now.
    After(SignedDuration),
}

impl Expiry {
    /// The moment meant, or none for never.
    ///
    /// # Errors
    /// It is not in the future, or beyond what a date can say.
    pub fn resolve(self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let time = match self {
            Expiry::Never => return Ok(None),
            Expiry::At(time) => time,
            Expiry::After(ttl) => now
                .checked_add(ttl)
                .map_err(|_| Error::invalid("expiration time exceeds the maximum expiration time"))?,
        };
        if time <= now {
            return Err(Error::invalid(format!("the expiration time {time} is not in the future")));
        }
        Ok(Some(time))
    }
}

/// When the data of a branch deleted at `now` is due to be freed.
pub(crate) fn purge_time(
    now: Timestamp,
    created: Timestamp,
    expires: Option<Timestamp>,
    rule: Option<SignedDuration>,
) -> Timestamp {
    let short = expires.is_some_and(|expires| expires.duration_since(created) <= SHORT_LIFE);
    let grace = rule.unwrap_or(if short { SHORT_GRACE } else { GRACE });
    now.checked_add(grace).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn the_three_ways() {
        let now = at(0);
        assert_eq!(Expiry::Never.resolve(now).unwrap(), None);
        assert_eq!(Expiry::At(at(1)).resolve(now).unwrap(), Some(at(1)));
        assert_eq!(Expiry::After(SignedDuration::from_secs(60)).resolve(now).unwrap(), Some(at(60)));
    }

    #[test]
    fn the_past_and_the_impossible_are_refused() {
        let now = at(0);
        for wrong in [
            Expiry::At(at(0)),
            Expiry::At(at(-1)),
            Expiry::After(SignedDuration::ZERO),
            Expiry::After(SignedDuration::from_secs(-1)),
            Expiry::After(SignedDuration::MAX),
        ] {
            assert!(wrong.resolve(now).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn short_lives_leave_sooner() {
        let hour = 3600;
        assert_eq!(purge_time(at(0), at(-10), None, None), at(24 * hour));
        assert_eq!(purge_time(at(0), at(-10), Some(at(24 * hour - 10)), None), at(hour));
        assert_eq!(purge_time(at(0), at(-10), Some(at(24 * hour)), None), at(24 * hour));
        assert_eq!(purge_time(at(0), at(-10), None, Some(SignedDuration::ZERO)), at(0));
    }
}
