//! Data goes to stdout, talk to stderr.

use std::io::{IsTerminal, Write};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Writes a line of data. A reader that has gone away (`| head`) ends the program quietly.
pub fn data(line: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a line of talk. Nobody listening is no reason to fail.
pub fn talk(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", line.as_ref());
}

/// Writes a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))?;
    data(text);
    Ok(())
}

/// A line on stderr that is written over and over, where there is a terminal to do so.
pub struct Progress {
    live: bool,
    shown: bool,
}

impl Progress {
    /// Nothing shown yet.
    pub fn new() -> Progress {
        Progress { live: std::io::stderr().is_terminal(), shown: false }
    }

    /// Shows `text` in place of what was shown before.
    pub fn show(&mut self, text: &str) {
        if self.live {
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
            self.shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Writes rows in columns as wide as needed.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    for line in columns(header, rows) {
        data(line);
    }
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let heads: Vec<String> = header.iter().map(|head| (*head).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heads).chain(rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

/// Bytes in binary units: `512 B`, `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span as people say it, to the nearest of its largest unit: `7 days`, `1 hour`, `45 seconds`.
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs_f64().max(0.0).round() as i64;
    let nearest = |unit: i64| (seconds + unit / 2) / unit;
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7199 => (nearest(60), "minute"),
        7200..=172_799 => (nearest(3600), "hour"),
        _ => (nearest(86_400), "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// How long something took: `38 ms`, `1.2 s`.
pub fn took(duration: std::time::Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    match milliseconds {
        0.0..10.0 => format!("{milliseconds:.1} ms"),
        10.0..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// How long ago an RFC 3339 time was, or in how long it will be: `3 hours ago`, `in 7 days`.
pub fn relative(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) if time > now => format!("in {}", span(time.duration_since(now))),
        Ok(time) => format!("{} ago", span(now.duration_since(time))),
        Err(_) => time.to_owned(),
    }
}

/// The same, now; a dash for no time.
pub fn relative_or_none(time: Option<&str>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| relative(time, Timestamp::now()))
}

/// An RFC 3339 time to the second.
pub fn absolute(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => Timestamp::from_second(time.as_second()).unwrap_or(time).to_string(),
        Err(_) => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn times() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(relative("2030-01-07T23:59:59.5Z", now), "in 7 days");
        assert_eq!(relative("2029-12-31T21:00:00Z", now), "3 hours ago");
        assert_eq!(relative("2029-12-31T23:59:59Z", now), "1 second ago");
        assert_eq!(relative("2030-01-01T00:00:04.9Z", now), "in 5 seconds");
        assert_eq!(relative("later", now), "later");
        assert_eq!(absolute("2030-01-01T00:00:00.123456Z"), "2030-01-01T00:00:00Z");
        assert_eq!(took(std::time::Duration::from_millis(38)), "38 ms");
        assert_eq!(took(std::time::Duration::from_millis(1234)), "1.2 s");
    }

    #[test]
    fn tables() {
        let rows = [vec!["dev".to_owned(), "1".to_owned()], vec!["x".to_owned(), String::new()]];
        assert_eq!(columns(&["NAME", "N"], &rows), ["NAME  N", "dev   1", "x"]);
    }
}
