//! Times of computes.

use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params};

use super::{from_optional_micros, to_micros};
use crate::app::ComputeTimes;
use crate::error::Error;

/// Writes the times of a branch's compute; nothing where the branch is gone.
///
/// # Errors
/// The database failed.
pub fn set(connection: &Connection, branch: &str, times: &ComputeTimes) -> Result<(), Error> {
    let micros = |time: Option<Timestamp>| time.map(to_micros);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO computes (branch, last_active_time, start_time, suspend_time) \
             SELECT uid, :active, :start, :suspend FROM branches WHERE uid = :branch",
        )?
        .execute(named_params! {
            ":branch": branch,
            ":active": micros(times.last_active),
            ":start": micros(times.start),
            ":suspend": micros(times.suspend),
        })?;
    Ok(())
}

/// Every branch whose compute ever ran, with its times.
///
/// # Errors
/// The database failed.
pub fn all(connection: &Connection) -> Result<Vec<(String, ComputeTimes)>, Error> {
    let mut statement = connection
        .prepare_cached("SELECT branch, last_active_time, start_time, suspend_time FROM computes")?;
    let rows = statement.query_map([], read)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

fn read(row: &Row) -> rusqlite::Result<(String, ComputeTimes)> {
    let times = ComputeTimes {
        last_active: from_optional_micros(row.get(1)?)?,
        start: from_optional_micros(row.get(2)?)?,
        suspend: from_optional_micros(row.get(3)?)?,
    };
    Ok((row.get(0)?, times))
}
