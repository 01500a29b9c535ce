//! What is measured: one module for each figure, and how its raw lines become a table.

pub mod create;
pub mod crowd;
pub mod first_row;
pub mod gate;
pub mod micro;
pub mod sizes;
pub mod space;
pub mod throughput;

use crate::raw::Line;
use crate::statistics::Summary;
use crate::table::Table;

/// Clients of the load under which branches are made.
pub const LOAD_CLIENTS: u32 = 4;

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
        crowd::tables(lines),
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
