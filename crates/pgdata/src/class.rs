//! Classes of path in a data directory.
//!
//! The class depends on the path alone, never on size or content, so that parent and child, today
//! and after a crash, agree on it. Names are those of PostgreSQL 15 to 18 (manual, "Database File
//! Layout").

/// What happens to a path at a cut, and where it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The data directory itself.
    Root,
    /// Layered, copied by block: relations, SLRUs, and whatever we do not know.
    Block,
    /// Layered, copied as a whole before its first change: small files that are updated in place
    /// or replaced.
    Whole,
    /// A real file of the branch's own directory: WAL, configuration, what a child must not inherit.
    Native,
    /// Belongs in a layered directory but to no moment in time: temporary files, caches. Kept in
    /// the branch's private directory; a child gets nothing.
    Scratch,
}

/// Top names that are real directories or files in a branch's own directory.
const NATIVE: [&[u8]; 12] = [
    b"pg_wal",
    b"pg_subtrans",
    b"pg_notify",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_dynshmem",
    b"pg_stat_tmp",
    b"pg_replslot",
    b"log",
    b"current_logfiles",
    b"backup_label",
    b"tablespace_map",
];

/// Directories that every branch has, empty at its start. A missing one stops PostgreSQL.
pub const PRIVATE_DIRECTORIES: [&str; 12] = [
    "pg_wal",
    "pg_wal/archive_status",
    "pg_wal/summaries",
    "pg_subtrans",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_dynshmem",
    "pg_stat_tmp",
    "pg_replslot",
    "pg_logical/snapshots",
    "pg_logical/mappings",
];

/// Class of a normal relative path.
pub fn classify(path: &[u8]) -> Class {
    let mut parts = path.split(|&b| b == b'/');
    let top = parts.next().unwrap_or_default();
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    if path.is_empty() {
        return Class::Root;
    }
    if NATIVE.contains(&top) || is_native_file(top) {
        return Class::Native;
    }
    match top {
        b"pg_logical" => match parts.next() {
            Some(second) if second.starts_with(b"replorigin_checkpoint") => Class::Whole,
            _ => Class::Native,
        },
        b"pg_twophase" | b"pg_stat" if path.len() > top.len() => Class::Whole,
        b"PG_VERSION" => Class::Whole,
        b"base" | b"global" | b"pg_tblspc" => classify_relation(path, name),
        _ if top.starts_with(b"autoprewarm.blocks") => Class::Scratch,
        _ => Class::Block,
    }
}

fn is_native_file(top: &[u8]) -> bool {
    let holds = |needle: &[u8]| top.windows(needle.len()).any(|window| window == needle);
    top.starts_with(b"postmaster.") || holds(b".conf") || top.ends_with(b".signal")
}

fn classify_relation(path: &[u8], name: &[u8]) -> Class {
    if path.split(|&b| b == b'/').any(|part| part.starts_with(b"pgsql_tmp")) {
        return Class::Scratch;
    }
    if name.starts_with(b"pg_internal.init") {
        return Class::Scratch;
    }
    let whole = [&b"pg_control"[..], b"PG_VERSION", b"pg_filenode.map"];
    if whole.iter().any(|prefix| name.starts_with(prefix)) { Class::Whole } else { Class::Block }
}

/// The number of a WAL segment from its name in `pg_wal`, or `None` for other files. `segment_size`
/// in bytes; see `XLogFromFileName` in PostgreSQL's `xlog_internal.h`.
pub fn wal_segment(path: &[u8], segment_size: u64) -> Option<u64> {
    let name = path.strip_prefix(b"pg_wal/")?;
    if name.len() != 24 || !name.iter().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b)) {
        return None;
    }
    let part =
        |range: std::ops::Range<usize>| u64::from_str_radix(std::str::from_utf8(&name[range]).ok()?, 16).ok();
    Some(part(8..16)? * (0x1_0000_0000 / segment_size) + part(16..24)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_path() {
        let cases: &[(&str, Class)] = &[
            ("", Class::Root),
            ("base", Class::Block),
            ("base/5/16384", Class::Block),
            ("base/5/16384_fsm", Class::Block),
            ("base/5/t3_16400", Class::Block),
            ("base/5/PG_VERSION", Class::Whole),
            ("base/5/pg_filenode.map.tmp", Class::Whole),
            ("base/5/pg_internal.init.123", Class::Scratch),
            ("base/pgsql_tmp", Class::Scratch),
            ("base/pgsql_tmp/pgsql_tmp12.0", Class::Scratch),
            ("pg_tblspc/16385/PG_17_202406281/pgsql_tmp/x", Class::Scratch),
            ("pg_tblspc/16385/PG_17_202406281/5/1", Class::Block),
            ("global/pg_control", Class::Whole),
            ("global/1262", Class::Block),
            ("pg_xact/0000", Class::Block),
            ("pg_multixact/offsets/0000", Class::Block),
            ("pg_twophase", Class::Block),
            ("pg_twophase/000002F1", Class::Whole),
            ("pg_stat/pgstat.stat", Class::Whole),
            ("pg_stat_tmp/x", Class::Native),
            ("pg_logical", Class::Native),
            ("pg_logical/replorigin_checkpoint.tmp", Class::Whole),
            ("pg_logical/snapshots/0-1.snap", Class::Native),
            ("pg_wal/000000010000000000000001", Class::Native),
            ("postgresql.auto.conf.tmp", Class::Native),
            ("postmaster.pid", Class::Native),
            ("standby.signal", Class::Native),
            ("PG_VERSION", Class::Whole),
            ("some_extension/file", Class::Block),
        ];
        for (path, class) in cases {
            assert_eq!(classify(path.as_bytes()), *class, "{path}");
        }
    }

    #[test]
    fn numbers_wal_segments() {
        let number = |name: &str, size: u64| wal_segment(format!("pg_wal/{name}").as_bytes(), size);
        assert_eq!(number("000000010000000000000001", 16 << 20), Some(1));
        assert_eq!(number("0000000200000001000000FF", 16 << 20), Some(256 + 255));
        assert_eq!(number("000000010000000100000002", 4 << 20), Some(1024 + 2));
        for name in ["xlogtemp.1234", "00000001.history", "00000001000000000000000g", "archive_status"] {
            assert_eq!(number(name, 4 << 20), None);
        }
    }
}
