//! What is measured: one module for each figure, and how its raw lines become a table.

pub mod connect;
pub mod create;
pub mod crowd;
pub mod first_row;
pub mod gate;
pub mod http_create;
pub mod idle;
pub mod many;
pub mod micro;
pub mod proxy;
pub mod sizes;
pub mod space;
pub mod throughput;
pub mod turns;
pub mod wake;

use std::time::Duration;

use crate::failure::Result;
use crate::load::Kind;
use crate::plan::rotated;
use crate::raw::Line;
use crate::statistics::Summary;
use crate::table::Table;

/// Clients of the load under which branches are made.
pub const LOAD_CLIENTS: u32 = 4;

/// Into how many pieces a run is cut.
const PIECES: u32 = 4;

/// The tables of all lines, in the order of the figures; empty ones are left out.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all = [
        create::tables(lines),
        first_row::tables(lines),
        gate::tables(lines),
        throughput::tables(lines),
        space::tables(lines),
        micro::tables(lines),
        sizes::tables(lines),
        http_create::tables(lines),
        connect::tables(lines),
        wake::tables(lines),
        crowd::tables(lines),
        turns::tables(lines),
        idle::tables(lines),
        proxy::tables(lines),
        many::tables(lines),
    ];
    all.into_iter().flatten().filter(|table| !table.is_empty()).collect()
}

/// Clients of a load, in words.
pub fn state(clients: u32) -> String {
    if clients == 0 { "idle".to_owned() } else { format!("TPC-B, {clients} clients") }
}

/// Cells of a summary in milliseconds: samples, median, p99, min–max.
pub fn cells(summary: &Summary) -> [String; 4] {
    [
        summary.count.to_string(),
        format!("{:.1}", summary.median),
        format!("{:.1}", summary.p99),
        format!("{:.1}–{:.1}", summary.min, summary.max),
    ]
}

/// The distinct values of a column, in the order in which they first appear.
pub fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// One outcome for each of `count` variants, whose runs take turns in short pieces: on a shared machine
/// what is measured a minute apart is measured on two machines. `run` runs a variant for so long, `and`
/// makes two of its runs one.
pub fn in_turns<T>(
    count: usize,
    round: u32,
    length: Duration,
    mut run: impl FnMut(usize, Duration) -> Result<T>,
    and: impl Fn(T, &T) -> T,
) -> Result<Vec<T>> {
    let pieces = u32::try_from(length.as_secs()).unwrap_or(PIECES).clamp(1, PIECES);
    let mut outcomes: Vec<Option<T>> = (0..count).map(|_| None).collect();
    for piece in 0..pieces {
        for place in rotated(count, round + piece) {
            let part = run(place, length / pieces)?;
            outcomes[place] = Some(match outcomes[place].take() {
                Some(before) => and(before, &part),
                None => part,
            });
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// What ran, how often, at which rate, and the rate's ratio to the one it is held against.
fn rate_row(load: &str, clients: u32, variant: &str, rate: &Summary, ratio: Option<&Summary>) -> [String; 7] {
    let load = if load == Kind::Tpcb.name() { "TPC-B" } else { "select-only" };
    let clients = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
    [
        format!("{load}, {clients}"),
        variant.to_owned(),
        rate.count.to_string(),
        format!("{:.0}", rate.median),
        format!("{:.0}–{:.0}", rate.min, rate.max),
        ratio.map_or("–".to_owned(), |ratio| format!("{:.3}", ratio.median)),
        ratio.map_or("–".to_owned(), |ratio| format!("{:.3}–{:.3}", ratio.min, ratio.max)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_take_turns_and_each_run_is_counted_with_its_variant() {
        let mut order = Vec::new();
        let run = |place, length: Duration| {
            order.push(place);
            Ok((place, length))
        };
        let and = |(place, length), other: &(usize, Duration)| {
            assert_eq!(place, other.0);
            (place, length + other.1)
        };
        let length = Duration::from_secs(3);
        assert_eq!(in_turns(2, 1, length, run, and).unwrap(), [(0, length), (1, length)]);
        assert_eq!(order, [1, 0, 0, 1, 1, 0]);
    }
}
