//! Tending the WAL of a running branch: PostgreSQL keeps all of it (`wal_keep_size`) and reuses none
//! (`wal_recycle=off`), because only we know what a cut still needs and which segments a child shares.
//!
//! Segments that nothing needs are given new names ahead of the writer when no child has a link to
//! them, as PostgreSQL itself would: a commit into blocks that exist already costs one flush, one into
//! a hole costs a journal commit besides. A branch that begins to write gets a few segments made of
//! zeros. One that rests loses them again.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pgdata::wal::segment_name;

use super::home::{Context, Engine};
use super::segments::SHARED;
use super::{BranchKey, Error};
use crate::guarded::{self, Pinned};

/// Our segments begin this far ahead of the writer, out of the way of a backend that is making the
/// next one at this moment.
const AHEAD: u64 = 3;
/// Most segments kept ahead: a checkpoint's worth.
const MOST: u64 = 64;
/// Segments of zeros made for a branch that has begun to write.
const MADE: u64 = 8;

/// The segments of a branch, by number.
struct Segments {
    directory: PathBuf,
    /// Where those lie that the branch shares with its parent.
    shared: PathBuf,
    timeline: u32,
    size: u64,
    files: BTreeMap<u64, fs::Metadata>,
}

impl Engine {
    /// One round. `mark` is the highest WAL byte written, 0 when nothing was written since the start.
    pub(super) fn tend_wal(&self, key: &BranchKey, mark: u64) -> Result<(), Error> {
        let size = self.record(key)?.wal_segment_size;
        let control = self.control_file(key)?;
        let data = self.data_directory(key);
        let keep =
            slot_positions(&data.join("pg_replslot")).into_iter().fold(control.redo_lsn.0, u64::min) / size;
        // The branch's own processes may write there: no links.
        let pinned = Pinned::open(&data.join("pg_wal"))
            .context(|| format!("could not open the WAL of branch {key}"))?;
        let shared = self.directory(key).join(SHARED);
        let mut segments = Segments::list(pinned.path(), shared, control.timeline, size)?;
        let before = self.wal_marks().insert(key.clone(), mark).unwrap_or(mark);
        let written = (mark / size).saturating_sub(before / size);
        let current = mark / size;
        let wanted = wanted_ahead(written, segments.ahead(current), current.saturating_sub(keep));
        let old: Vec<u64> = segments.files.keys().copied().filter(|segment| *segment < keep).collect();
        for segment in old {
            let room = mark > 0 && segments.ahead(current) < wanted;
            if !(room && segments.reuse(segment, current)?) {
                segments.remove(segment)?;
            }
        }
        segments.remove_unnamed(keep)?;
        if mark == 0 {
            return Ok(());
        }
        while written > 0 && segments.ahead(current) < wanted.min(MADE) {
            segments.make(current)?;
        }
        if written == 0 && segments.ahead(current) > 0 {
            segments.remove_last(current)?;
        }
        Ok(())
    }
}

/// How many segments to have ahead: as many as were written since the last checkpoint and in the last
/// round; a branch that wrote less than a segment gets none.
fn wanted_ahead(written: u64, ahead: u64, since_redo: u64) -> u64 {
    if written == 0 { ahead } else { (written * 4).max(since_redo).clamp(4, MOST) }
}

impl Segments {
    fn list(directory: PathBuf, shared: PathBuf, timeline: u32, size: u64) -> Result<Segments, Error> {
        let what = || format!("could not list {}", directory.display());
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&directory).context(what)? {
            let entry = entry.context(what)?;
            let name = [b"pg_wal/", entry.file_name().as_encoded_bytes()].concat();
            // One that PostgreSQL removed at this moment is none of ours.
            if let (Some(segment), Ok(metadata)) = (pgdata::class::wal_segment(&name, size), entry.metadata())
            {
                files.insert(segment, metadata);
            }
        }
        Ok(Segments { directory, shared, timeline, size, files })
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.directory.join(segment_name(self.timeline, segment, self.size))
    }

    /// Segments beyond the one that is written to.
    fn ahead(&self, current: u64) -> u64 {
        self.files.range(current + 1..).count() as u64
    }

    fn next_free(&self, current: u64) -> u64 {
        let last = self.files.keys().next_back().map_or(0, |last| last + 1);
        last.max(current + AHEAD)
    }

    /// Gives an old segment the next free name. `false` when a child shares it or it is not whole.
    fn reuse(&mut self, segment: u64, current: u64) -> Result<bool, Error> {
        let whole = |metadata: &fs::Metadata| {
            metadata.nlink() == 1 && metadata.len() == self.size && metadata.blocks() * 512 >= self.size
        };
        if !self.files.get(&segment).is_some_and(whole) {
            return Ok(false);
        }
        let next = self.next_free(current);
        rename_new(&self.path(segment), &self.path(next))
            .context(|| format!("could not rename {}", self.path(segment).display()))?;
        if let Some(metadata) = self.files.remove(&segment) {
            self.files.insert(next, metadata);
        }
        Ok(true)
    }

    /// Makes a segment of zeros, durable, under the next free name.
    fn make(&mut self, current: u64) -> Result<(), Error> {
        let next = self.next_free(current);
        let beside = self.directory.join("anabranch.zeros");
        let what = || format!("could not make {}", beside.display());
        // A link or what an earlier try left.
        let _ = fs::remove_file(&beside);
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let mut file = open.context(what)?;
        let zeros = vec![0u8; 1 << 20];
        for _ in 0..self.size.div_ceil(zeros.len() as u64) {
            file.write_all(&zeros).context(what)?;
        }
        file.sync_all().context(what)?;
        rename_new(&beside, &self.path(next)).context(what)?;
        let metadata = file.metadata().context(what)?;
        self.files.insert(next, metadata);
        Ok(())
    }

    fn remove(&mut self, segment: u64) -> Result<(), Error> {
        self.files.remove(&segment);
        let shared = self.shared.join(segment_name(self.timeline, segment, self.size));
        // First what takes the space: a link that leads nowhere is found again.
        for path in [shared, self.path(segment)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(|| format!("could not remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes shared segments below `keep` to which no link leads any more: of the two removals, a power cut
    /// may have kept the wrong one.
    fn remove_unnamed(&mut self, keep: u64) -> Result<(), Error> {
        for entry in fs::read_dir(&self.shared).into_iter().flatten().flatten() {
            let name = [b"pg_wal/", entry.file_name().as_encoded_bytes()].concat();
            if let Some(segment) = pgdata::class::wal_segment(&name, self.size)
                && segment < keep
            {
                self.remove(segment)?;
            }
        }
        Ok(())
    }

    /// A branch that rests gives back what lies ahead, one segment a round, but for those next to the
    /// writer.
    fn remove_last(&mut self, current: u64) -> Result<(), Error> {
        match self.files.keys().next_back().copied() {
            Some(last) if last >= current + AHEAD => self.remove(last),
            _ => Ok(()),
        }
    }
}

/// `rename`, but never over an existing file: a backend may have made that segment meanwhile.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let c_string = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes());
    Ok(store::sys::rename_new(&c_string(from)?, &c_string(to)?)?)
}

/// Restart locations of replication slots, from their state files (`ReplicationSlotOnDisk` in
/// PostgreSQL's `slot.c`: 16 bytes of head, name 64, database, persistency, xmin, catalog xmin 4
/// each, then the location).
fn slot_positions(directory: &Path) -> Vec<u64> {
    let Ok(slots) = fs::read_dir(directory) else { return Vec::new() };
    let position = |slot: fs::DirEntry| {
        let bytes = guarded::read(&slot.path().join("state")).ok()?;
        bytes.get(96..104)?.try_into().ok().map(u64::from_le_bytes)
    };
    // A slot that does not read back keeps everything; one at 0 has not reserved anything.
    let positions =
        slots.flatten().map(|slot| position(slot).map_or(Some(0), |lsn| (lsn > 0).then_some(lsn)));
    positions.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn directory(name: &str, segments: &[u64]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ana-wal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        for segment in segments {
            fs::write(path.join(segment_name(1, *segment, SIZE)), vec![*segment as u8 + 1; SIZE as usize])
                .unwrap();
        }
        path
    }

    #[test]
    fn an_old_segment_goes_ahead_of_the_writer_unless_a_child_shares_it() {
        let path = directory("reuse", &[1, 2, 3]);
        fs::hard_link(path.join(segment_name(1, 1, SIZE)), path.join("shared")).unwrap();
        let mut segments = Segments::list(path.clone(), path.join(SHARED), 1, SIZE).unwrap();
        assert_eq!(segments.files.len(), 3);
        assert!(!segments.reuse(1, 3).unwrap(), "a shared segment was reused");
        assert!(segments.reuse(2, 3).unwrap());
        assert!(path.join(segment_name(1, 3 + AHEAD, SIZE)).exists());
        assert_eq!(segments.ahead(3), 1);
        segments.make(3).unwrap();
        let made = fs::read(path.join(segment_name(1, 4 + AHEAD, SIZE))).unwrap();
        assert!(made.len() as u64 == SIZE && made.iter().all(|&byte| byte == 0));
        segments.remove_last(3).unwrap();
        segments.remove_last(3).unwrap();
        segments.remove_last(3).unwrap();
        assert_eq!(segments.files.keys().copied().collect::<Vec<_>>(), [1, 3]);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn never_renames_over_a_segment() {
        let path = directory("over", &[1, 9]);
        let (from, to) = (path.join(segment_name(1, 1, SIZE)), path.join(segment_name(1, 9, SIZE)));
        assert!(rename_new(&from, &to).is_err());
        assert_eq!(fs::read(&to).unwrap()[0], 10);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_resting_branch_asks_for_nothing() {
        assert_eq!(wanted_ahead(0, 5, 60), 5);
        assert_eq!(wanted_ahead(1, 0, 0), 4);
        assert_eq!(wanted_ahead(30, 0, 50), MOST);
    }
}
