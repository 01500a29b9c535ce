//! What happens to a layer after it was sealed: sync, index, and rebuild after a crash of the machine.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::layer::arena::{self, Arena, MAX_BLOCKS, SyncState};
use crate::layer::entry::{self, Entry};
use crate::layer::index::Builder;
use crate::layer::{Kind, Layer, LayerId, blocks, directory_name, held, hidden_name, list_native, log};
use crate::manifest::{create_beside, replace_file};
use crate::moment::{Moment, reached};
use crate::path::RelPath;
use crate::sys::{self, Fd, O_APPEND, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR};

/// Bits of one file, taken before its data is synced.
pub type Snapshot = [u64; (MAX_BLOCKS / 64) as usize];

/// Syncs one file of a layer and then records in the map log which blocks that made durable.
///
/// The order is the rule: bits are taken first, data synced next, the log last; so the log never
/// names a block whose data might be lost. `fd` may be any descriptor of the file. Until the end the
/// file counts as being synced: who seals the layer meanwhile must not take its bytes for durable.
pub fn sync_file(layer: &Layer, arena: &Arena, record: u32, fd: Fd, whole_inode: bool) -> Result<()> {
    let state = arena.record(record);
    state.syncing.fetch_add(1, Ordering::AcqRel);
    state.flags.fetch_and(!arena::DIRTY, Ordering::AcqRel);
    let synced = sync_counted(layer, arena, record, fd, whole_inode);
    if synced.is_err() {
        state.flags.fetch_or(arena::DIRTY, Ordering::AcqRel);
    }
    state.syncing.fetch_sub(1, Ordering::AcqRel);
    synced
}

fn sync_counted(layer: &Layer, arena: &Arena, record: u32, fd: Fd, whole_inode: bool) -> Result<()> {
    let flags = arena.record(record).flags.load(Ordering::Acquire);
    let mut snapshot: Box<Snapshot> = Box::new([0; (MAX_BLOCKS / 64) as usize]);
    let floor = arena.record(record).floor.load(Ordering::Acquire);
    let news = flags & arena::OVERLAY != 0
        && (arena.unlogged(record, &mut snapshot) || arena.floor_unlogged(record));
    // A new file's entry is an attribute, which `fdatasync` does not cover.
    let whole_inode = whole_inode || flags & arena::NAMED == 0;
    let sync = || lost_by(arena, if whole_inode { sys::fsync(fd) } else { sys::fdatasync(fd) });
    if news && planted(Fault::LogBeforeData) {
        log_blocks(layer, arena, record, floor, &snapshot)?;
        return sync();
    }
    sync()?;
    if news { log_blocks(layer, arena, record, floor, &snapshot) } else { Ok(()) }
}

/// A sync that failed may have lost what it was to keep, and the next one would not say so. Other calls that
/// fail lose nothing: what they belong to is done again.
fn lost_by(arena: &Arena, synced: Result<()>) -> Result<()> {
    if let Err(errno) = synced {
        arena.poison(errno);
    }
    synced
}

fn log_blocks(layer: &Layer, arena: &Arena, record: u32, floor: u64, snapshot: &Snapshot) -> Result<()> {
    let log = match sys::openat(layer.dir, c"log", O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0) {
        Ok(log) => log,
        // Sealed meanwhile: the index has what the log would say.
        Err(Errno::NOENT) if sys::fstatat(layer.dir, c"index", 0).is_ok() => return Ok(()),
        // And merged into another one: it had its index by then.
        Err(Errno::NOENT) if sys::fstat(layer.dir)?.st_nlink == 0 => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let logged = log::append(log, record, floor, snapshot).and_then(|()| lost_by(arena, sys::fdatasync(log)));
    sys::close(log);
    logged?;
    arena.set_logged(record, snapshot);
    arena.set_logged_floor(record, floor);
    Ok(())
}

/// Makes the names of a file's directories durable, from its own up to the layer's root.
pub fn sync_directories(layer: &Layer, path: &RelPath) -> Result<()> {
    let mut directory = *path;
    while !directory.is_root() {
        directory = directory.parent();
        sync_directory(layer, &directory)?;
    }
    Ok(())
}

/// Makes the name of a record's file durable, and with it the names that its directory held already:
/// a checkpoint syncs many new files of one directory.
pub fn sync_name(layer: &Layer, arena: &Arena, record: u32) -> Result<()> {
    let path = arena.path(record)?;
    let directory = path.parent();
    let mut along = Vec::new();
    for other in 0..arena.records() {
        let flags = arena.record(other).flags.load(Ordering::Acquire);
        let wanted = flags & (arena::LIVE | arena::LINKED | arena::LISTED) == arena::LIVE | arena::LINKED;
        if wanted && arena.path(other)?.parent() == directory {
            along.push(other);
        }
    }
    sync_directories(layer, &path)?;
    for other in along {
        arena.record(other).flags.fetch_or(arena::LISTED, Ordering::AcqRel);
    }
    Ok(())
}

fn sync_directory(layer: &Layer, directory: &RelPath) -> Result<()> {
    if planted(Fault::DirectoriesUnsynced) {
        return Ok(());
    }
    match sys::openat(layer.files, directory.as_cstr(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0) {
        Ok(fd) => {
            let synced = sys::fsync(fd);
            sys::close(fd);
            layer.arena().map_or(synced, |arena| lost_by(arena, synced))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// After so many looks, half a millisecond apart, a syncer that never said who it is has died.
const UNCLEAR_ROUNDS: u32 = 2000;

/// Makes a sealed layer durable, or waits for whoever is doing so, and reports how it ended.
///
/// A failure is sticky: the kernel reports a lost write once, so a second sync would lie. `witness`
/// is a descriptor on the same file system that was open before the layer was written; where the
/// process that synced died in the middle, it may have been told of an error and taken it to its
/// grave, and `syncfs` on the witness is what still knows.
pub fn sync_layer(layer: &Layer, witness: Option<Fd>) -> Result<()> {
    let Some(arena) = layer.arena() else { return Ok(()) };
    let mut unclear_rounds = 0;
    loop {
        match arena.sync_state() {
            SyncState::Durable => return Ok(()),
            SyncState::Failed(errno) => return Err(errno),
            SyncState::Dirty => {
                if claim(arena, 0) {
                    let lost = arena.poisoned().map_or(Ok(()), Err);
                    return finish(arena, lost.and_then(|()| sync_everything(layer, arena)));
                }
            }
            SyncState::Syncing => {
                let header = arena.header();
                let pid = header.syncer_pid.load(Ordering::Acquire);
                let start = header.syncer_start.load(Ordering::Acquire);
                // Somebody who has just claimed the sync writes down who it is one step later.
                let unclear = pid == 0 || sys::process_start(pid).is_some_and(|now| now != start);
                unclear_rounds = if unclear { unclear_rounds + 1 } else { 0 };
                let gone = pid != 0 && sys::process_start(pid).is_none();
                let me = sys::getpid();
                if (gone || unclear_rounds > UNCLEAR_ROUNDS)
                    && header
                        .syncer_pid
                        .compare_exchange(pid, me, Ordering::AcqRel, Ordering::Acquire)
                        .is_ok()
                {
                    store_syncer(arena);
                    let seen = lost_by(arena, witness.map_or(Ok(()), sys::syncfs));
                    return finish(arena, seen.and_then(|()| sync_everything(layer, arena)));
                }
                sys::sleep(Duration::from_micros(500));
            }
        }
    }
}

fn claim(arena: &Arena, from: u32) -> bool {
    let state = &arena.header().sync_state;
    let claimed = state.compare_exchange(from, 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if claimed {
        store_syncer(arena);
    }
    claimed
}

fn store_syncer(arena: &Arena) {
    let pid = sys::getpid();
    arena.header().syncer_start.store(sys::process_start(pid).unwrap_or(0), Ordering::Release);
    arena.header().syncer_pid.store(pid, Ordering::Release);
}

/// Where nothing was lost the next one to ask tries again.
fn finish(arena: &Arena, result: Result<()>) -> Result<()> {
    let state = match (result, arena.poisoned()) {
        (Ok(()), _) => 2,
        (Err(_), Some(_)) => 3,
        (Err(_), None) => 0,
    };
    arena.header().sync_state.store(state, Ordering::Release);
    result
}

fn sync_everything(layer: &Layer, arena: &Arena) -> Result<()> {
    if planted(Fault::SealedUnsynced) {
        return Ok(());
    }
    let mut directories: BTreeSet<Vec<u8>> = BTreeSet::new();
    for record in 0..arena.records() {
        let flags = arena.record(record).flags.load(Ordering::Acquire);
        let path = arena.path(record)?;
        if flags & arena::LIVE == 0 {
            continue;
        }
        if flags & arena::NAMED == 0 {
            let mut directory = path;
            while !directory.is_root() {
                directory = directory.parent();
                directories.insert(directory.as_bytes().to_vec());
            }
        }
        if arena.is_unsynced(record) {
            sync_record(layer, arena, record, &path)?;
        }
    }
    let header = arena.header();
    if header.whiteouts.load(Ordering::Acquire) > 0 || header.removals.load(Ordering::Acquire) > 0 {
        add_all_directories(layer.files, &RelPath::ROOT, &mut directories)?;
    }
    for directory in &directories {
        sync_directory(layer, &RelPath::new(directory)?)?;
    }
    lost_by(arena, sys::fsync(layer.files).and_then(|()| sys::fsync(layer.dir)))
}

fn sync_record(layer: &Layer, arena: &Arena, record: u32, path: &RelPath) -> Result<()> {
    match sys::openat(layer.files, path.as_cstr(), O_RDONLY | O_CLOEXEC, 0) {
        Ok(fd) => {
            // The name may have passed to another file since; that one has its own record.
            let same = Entry::load(fd).map(|entry| entry.is_some_and(|entry| entry.record == record));
            let synced =
                same.and_then(|same| if same { sync_file(layer, arena, record, fd, true) } else { Ok(()) });
            sys::close(fd);
            synced
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn add_all_directories(files: Fd, at: &RelPath, into: &mut BTreeSet<Vec<u8>>) -> Result<()> {
    into.insert(at.as_bytes().to_vec());
    let mut below = Vec::new();
    list_native(files, at, &mut |name, kind| {
        if kind == Kind::Directory {
            below.push(at.join(name)?);
        }
        Ok(())
    })?;
    below.iter().try_for_each(|directory| add_all_directories(files, directory, into))
}

/// Which files get the CRC-32C of what the layer holds of them into the index: those whose own format
/// has no checksum for each block.
pub type Summed<'a> = &'a dyn Fn(&RelPath) -> bool;

/// CRC-32C of these ranges of a file. Never 0, which in an index means that none was recorded.
pub fn content_sum(fd: Fd, ranges: &[Range<u64>]) -> Result<u32> {
    let mut buffer = vec![0; 256 * 1024];
    let mut sum = 0;
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let part = buffer.len().min((range.end - at) as usize);
            if sys::pread_full(fd, &mut buffer[..part], at)? < part {
                return Err(Errno::DAMAGED);
            }
            sum = crc32c::crc32c_append(sum, &buffer[..part]);
            at += part as u64;
        }
    }
    Ok(recorded(sum))
}

/// How a sum stands in an index.
pub(crate) fn recorded(sum: u32) -> u32 {
    sum.max(1)
}

/// The sum of one file; none where it is larger than a tracked file may be, or sealing could take for ever.
fn sum_at(files: Fd, path: &RelPath, ranges: &[Range<u64>]) -> Result<u32> {
    if ranges.last().is_some_and(|range| range.end > u64::from(MAX_BLOCKS) * arena::BLOCK) {
        return Ok(0);
    }
    let flags = O_RDONLY | O_NOFOLLOW | libc::O_NONBLOCK | O_CLOEXEC;
    let fd = sys::openat(files, path.as_cstr(), flags, 0)?;
    let sum = content_sum(fd, ranges);
    sys::close(fd);
    sum
}

/// Writes the index of a sealed, durable layer and drops what it replaces. Safe to repeat.
pub fn build_index(layer: &Layer, summed: Summed<'_>) -> Result<()> {
    let Some(arena) = layer.arena() else { return Ok(()) };
    if arena.sync_state() != SyncState::Durable {
        return Err(Errno(libc::EBUSY));
    }
    reached(Moment::LayerSynced);
    let mut builder = Builder::default();
    index_directory(layer, &RelPath::ROOT, &mut builder, summed)?;
    replace_file(layer.dir, c"index", c"index.new", &builder.encode())?;
    reached(Moment::LayerIndexed);
    // Mapped arenas stay valid for those who have them.
    for name in [c"arena", c"log"] {
        match sys::unlinkat(layer.dir, name, 0) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Indexes a directory tree of complete files (a new cluster, an import) as a sealed layer.
pub fn index_tree(dir: Fd, files: Fd, summed: Summed<'_>) -> Result<()> {
    let mut builder = Builder::default();
    index_plain(files, &RelPath::ROOT, &mut builder, summed)?;
    replace_file(dir, c"index", c"index.new", &builder.encode())
}

fn index_plain(files: Fd, at: &RelPath, builder: &mut Builder, summed: Summed<'_>) -> Result<()> {
    let mut names = Vec::new();
    list_native(files, at, &mut |name, kind| {
        names.push((at.join(name)?, kind));
        Ok(())
    })?;
    for (path, kind) in names {
        if kind == Kind::Directory {
            builder.add_name(path.as_bytes(), Kind::Directory);
            index_plain(files, &path, builder, summed)?;
        } else {
            let length = sys::fstatat(files, path.as_cstr(), 0)?.st_size as u64;
            let sum =
                if summed(&path) { sum_at(files, &path, &held(Kind::Complete, length, 0, &[]))? } else { 0 };
            builder.add(path.as_bytes(), Kind::Complete, length, 0, &[], sum);
            sys::chmodat(files, path.as_cstr(), 0o400)?;
        }
    }
    Ok(())
}

fn index_directory(layer: &Layer, at: &RelPath, builder: &mut Builder, summed: Summed<'_>) -> Result<()> {
    let mut names = Vec::new();
    list_native(layer.files, at, &mut |name, kind| {
        names.push((at.join(name)?, kind));
        Ok(())
    })?;
    for (path, kind) in names {
        match kind {
            Kind::Directory => {
                builder.add_name(path.as_bytes(), Kind::Directory);
                index_directory(layer, &path, builder, summed)?;
            }
            Kind::Whiteout => builder.add_name(path.as_bytes(), Kind::Whiteout),
            _ => index_file(layer, &path, builder, summed)?,
        }
    }
    Ok(())
}

fn index_file(layer: &Layer, path: &RelPath, builder: &mut Builder, summed: Summed<'_>) -> Result<()> {
    let Some(found) = layer.find(path)? else { return Ok(()) };
    let mut runs = Vec::new();
    layer.runs(&found, &mut |start, count| {
        runs.push((start, count));
        Ok(())
    })?;
    let ranges = held(found.kind, found.length, found.floor, &runs);
    let sum = if summed(path) { sum_at(layer.files, path, &ranges)? } else { 0 };
    builder.add(path.as_bytes(), found.kind, found.length, found.floor, &runs, sum);
    sys::chmodat(layer.files, path.as_cstr(), 0o400)
}

/// After a restart of the machine: makes the arena of a layer again from the entries of its files
/// and the map log, and removes files whose creation was cut short. Does nothing to a layer that
/// has an index or an arena of this boot.
///
/// # Errors
/// `EUCLEAN` when it has no map log (then it had an index that is lost, and nothing of it may be
/// touched), or when the entry of a file is damaged.
pub fn rebuild(layers: Fd, id: LayerId) -> Result<()> {
    let dir = sys::openat(layers, &directory_name(id), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0)?;
    // Relatives that start at the same time share the layer.
    let rebuilt = sys::flock(dir, libc::LOCK_EX).and_then(|()| rebuild_in(dir));
    sys::close(dir);
    rebuilt
}

fn rebuild_in(dir: Fd) -> Result<()> {
    if sys::fstatat(dir, c"index", 0).is_ok() {
        return Ok(());
    }
    if let Ok(fd) = sys::openat(dir, c"arena", O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0)
        && Arena::open(fd)?.is_some()
    {
        return Ok(());
    }
    // Every open layer has one from its first moment.
    if matches!(sys::fstatat(dir, c"log", 0), Err(Errno::NOENT)) {
        return Err(Errno::DAMAGED);
    }
    let files = sys::openat(dir, c"f", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
    let fd = create_beside(dir, c"arena.new", O_RDWR)?;
    let arena = Arena::create(fd)?;
    let mut lengths = Vec::new();
    let restored =
        restore_directory(files, &arena, &RelPath::ROOT, &mut lengths).and_then(|()| replay(dir, &arena));
    sys::close(files);
    restored?;
    // A file that is shorter than its floor was cut, and only that reached the disk. What was cut off
    // must not show should the file grow back; the log has yet to say so.
    for (record, length) in lengths {
        arena.record(record).floor.fetch_min(length, Ordering::AcqRel);
    }
    sys::renameat(dir, c"arena.new", dir, c"arena")
}

fn restore_directory(files: Fd, arena: &Arena, at: &RelPath, lengths: &mut Vec<(u32, u64)>) -> Result<()> {
    let mut names = Vec::new();
    list_native(files, at, &mut |name, kind| {
        names.push((at.join(name)?, kind));
        Ok(())
    })?;
    for (path, kind) in names {
        match kind {
            Kind::Directory => restore_directory(files, arena, &path, lengths)?,
            Kind::Whiteout => {
                if hidden_name(path.name()).is_some() {
                    arena.header().whiteouts.fetch_add(1, Ordering::AcqRel);
                }
            }
            _ => restore_file(files, arena, &path, lengths)?,
        }
    }
    Ok(())
}

fn restore_file(files: Fd, arena: &Arena, path: &RelPath, lengths: &mut Vec<(u32, u64)>) -> Result<()> {
    let fd = sys::openat(files, path.as_cstr(), O_RDONLY | O_CLOEXEC, 0)?;
    let described = Entry::load(fd).and_then(|entry| Ok((entry, sys::size(fd)?)));
    sys::close(fd);
    let (entry, length) = described?;
    match entry {
        None => sys::unlinkat(files, path.as_cstr(), 0),
        Some(Entry { kind: entry::Kind::Complete, record, .. }) => {
            arena.restore(record, path, arena::NAMED, 0)
        }
        Some(Entry { kind: entry::Kind::Overlay, record, floor }) => {
            lengths.push((record, length));
            arena.restore(record, path, arena::OVERLAY | arena::NAMED, floor)
        }
    }
}

fn replay(dir: Fd, arena: &Arena) -> Result<()> {
    let fd = match sys::openat(dir, c"log", O_RDONLY | O_CLOEXEC, 0) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut bytes = vec![0; sys::size(fd)? as usize];
    let filled = sys::pread_full(fd, &mut bytes, 0);
    sys::close(fd);
    for logged in log::read(&bytes[..filled?]) {
        // A later file under this number would be taken for the one that is logged here.
        if logged.file >= arena.records() {
            arena.skip_to(logged.file.saturating_add(1))?;
        }
        let live = logged.file < arena.records()
            && arena.record(logged.file).flags.load(Ordering::Acquire) & arena::OVERLAY != 0;
        if !live {
            continue;
        }
        let record = arena.record(logged.file);
        record.floor.fetch_min(logged.floor, Ordering::AcqRel);
        arena.set_logged_floor(logged.file, record.floor.load(Ordering::Acquire));
        let limit = blocks(u64::MAX);
        for (start, count) in logged.runs {
            if start < limit && count <= limit - start {
                arena.restore_run(logged.file, start, count)?;
            }
        }
    }
    Ok(())
}
