//! What a size in compute units means for PostgreSQL.

use compute::limits::Limits;

use crate::model::ComputeSettings;

/// `shared_buffers` where nobody set it, bytes.
const SHARED_BUFFERS: u64 = 128 << 20;

/// What the processes of a server take beside that, bytes.
const PROCESSES: u64 = 32 << 20;

/// Connections for each compute unit, as the vendor counts them: 1 is 209, 8 is 1,678.
const CONNECTIONS_PER_CU: f64 = 209.8125;

/// No compute takes more connections, however large.
const MOST_CONNECTIONS: f64 = 4000.0;

/// Memory that a compute is reckoned to take, bytes, before it was measured.
pub(crate) fn cost_of(compute: &ComputeSettings) -> u64 {
    let given = compute.pg_settings.get("shared_buffers").and_then(|text| memory(text));
    given.unwrap_or(SHARED_BUFFERS) + PROCESSES
}

/// Connections that a compute takes: by its largest size, since changing it needs a restart.
pub(crate) fn max_connections(max_cu: f64) -> u32 {
    (max_cu * CONNECTIONS_PER_CU).min(MOST_CONNECTIONS) as u32
}

/// Memory of a compute unit, bytes, as the vendor has it.
const MEMORY_PER_CU: f64 = (2u64 << 30) as f64;

/// What goes before others has this many times their share: four branches that scan leave it 96 % of the
/// processors. With four times the share it kept two thirds.
const FAVOUR: f64 = 100.0;

/// What a compute of `cu` units may take: a processor for each unit. Memory goes by the largest size,
/// since giving memory back costs more than holding it.
pub(super) fn limits_of(cu: f64, compute: &ComputeSettings, favoured: bool) -> Limits {
    let weight = 100.0 * cu * if favoured { FAVOUR } else { 1.0 };
    Limits {
        cpus: cu,
        memory: (compute.max_cu * MEMORY_PER_CU) as u64,
        weight: weight.clamp(1.0, 10_000.0) as u32,
    }
}

/// Settings to start a compute with. What was set by hand counts.
pub(super) fn settings_of(compute: &ComputeSettings) -> Vec<(String, String)> {
    let mut settings = compute.pg_settings.clone();
    settings
        .entry("max_connections".to_owned())
        .or_insert_with(|| max_connections(compute.max_cu).to_string());
    settings.into_iter().collect()
}

/// A size as PostgreSQL reads it: a number with a unit, or of 8 KiB blocks.
fn memory(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let factor: u64 = match text[digits.len()..].trim() {
        "" => 8 << 10,
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    let value = digits.parse::<f64>().ok()?;
    (value >= 0.0 && value.is_finite()).then_some((value * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_the_vendors() {
        let table =
            [(0.5, 104), (1.0, 209), (4.0, 839), (8.0, 1678), (16.0, 3357), (32.0, 4000), (64.0, 4000)];
        for (cu, connections) in table {
            assert_eq!(max_connections(cu), connections, "{cu} CU");
        }
    }

    #[test]
    fn sizes_are_read_as_the_server_reads_them() {
        assert_eq!(memory("128MB"), Some(128 << 20));
        assert_eq!(memory(" 1.5 GB"), Some(3 << 29));
        assert_eq!(memory("16384"), Some(128 << 20));
        assert_eq!(memory("64kB"), Some(64 << 10));
        for wrong in ["", "MB", "12 mb", "-1MB", "1e9999"] {
            assert_eq!(memory(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_unit_is_a_processor() {
        let compute = ComputeSettings { min_cu: 0.5, max_cu: 4.0, ..ComputeSettings::default() };
        let small = limits_of(0.5, &compute, false);
        assert_eq!(small, Limits { cpus: 0.5, memory: 8 << 30, weight: 50 });
        assert_eq!(limits_of(0.5, &compute, true).weight, 5000);
        assert_eq!(limits_of(64.0, &compute, true).weight, 10_000);
    }

    #[test]
    fn what_was_set_by_hand_counts() {
        let mut compute = ComputeSettings { max_cu: 4.0, ..ComputeSettings::default() };
        assert_eq!(cost_of(&compute), (128 << 20) + (32 << 20));
        compute.pg_settings.insert("shared_buffers".to_owned(), "1GB".to_owned());
        assert_eq!(cost_of(&compute), (1 << 30) + (32 << 20));
        let connections = |value: &str| ("max_connections".to_owned(), value.to_owned());
        assert!(settings_of(&compute).contains(&connections("839")));
        compute.pg_settings.insert("max_connections".to_owned(), "17".to_owned());
        assert!(settings_of(&compute).contains(&connections("17")));
        assert_eq!(settings_of(&compute).len(), 2);
    }
}
