//! The cut: an atomic snapshot of a branch, and the child made from it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pgdata::Lsn;
use pgdata::control_file::{ControlFile, State};
use pgdata::wal::{self, PAGE, Page, segment_name};
use store::RelPath;
use store::gate::{Gate, GiveUp};
use store::home::Prepared;
use store::layer::{Layer, arena, seal};
use store::manifest::Manifest;
use store::moment::{Moment, reached};
use store::stack::Stack;
use store::sys::{self, Fd};

use super::assemble::{Source, assemble};
use super::create::{make_skeleton, now_us};
use super::durable::Batch;
use super::home::{Context, Engine, seal_layer};
use super::record::{CutRecord, ServerRecord};
use super::segments::Segments;
use super::{BranchKey, ComputeState, CutInfo, Error, StartOptions, StopMode};
use crate::fault::{Fault, planted};
use crate::server::Server;
use crate::settings::Recorded;

/// How long writers may be held back while running calls finish; then the cut is given up.
const DRAIN_LIMIT: Duration = Duration::from_millis(250);
/// A call that has run this long is waited for with the gate open.
const PATIENCE: Duration = Duration::from_millis(5);
/// Pauses before further attempts: writers matter more than branches.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// What was seen while the gate was closed.
struct Seen {
    control: ControlFile,
    /// Highest WAL byte written, or the end found by reading; and the page it lies on.
    mark: Lsn,
    tail: Option<(Lsn, Box<Page>)>,
    drain: Duration,
    closed: Duration,
    /// Whether the parent goes on in its next layer. Where nothing was written since the last cut the child
    /// has all it needs in the layers below, and the parent keeps its own.
    sealed: bool,
}

impl Engine {
    /// Cuts `parent` (running or stopped) and makes `child` from the cut. Durable on return.
    /// Cost does not depend on the size of the data.
    ///
    /// # Errors
    /// [`Error::Refused`] when the parent's state does not allow it or its writers could not be
    /// held for a moment; [`Error::Damaged`] where it cannot be read. Nothing is left of the child then.
    pub fn create_child(&self, parent: &BranchKey, child: &BranchKey) -> Result<CutInfo, Error> {
        if self.exists(child) {
            return self.cut_info(child);
        }
        let lock = self.lock(parent);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(parent)?;
        self.recover_first(parent)?;
        let new = self.home.branch_path(&format!("{child}{}", store::home::NEW));
        if new.exists() {
            fs::remove_dir_all(&new).context(|| format!("could not remove {}", new.display()))?;
        }
        let made = self.cut_into(parent, child, &new, Some(parent.to_string()));
        // What was sealed is looked after under either name: one of the two may go.
        self.attention.call(parent);
        self.attention.call(child);
        if made.is_err() {
            // Best effort: the next start of the daemon sweeps what is left.
            let _ = fs::remove_dir_all(&new);
        }
        made
    }

    /// How the branch was cut from its parent.
    ///
    /// # Errors
    /// When the branch or its record cannot be read.
    pub fn cut_info(&self, key: &BranchKey) -> Result<CutInfo, Error> {
        self.record(key).map(|record| record.info())
    }

    pub(super) fn record(&self, key: &BranchKey) -> Result<CutRecord, Error> {
        let manifest = self.manifest(key)?;
        CutRecord::decode(key.as_str(), &manifest.note)
    }

    /// A branch that did not stop cleanly is recovered by PostgreSQL before it is cut, and stopped again:
    /// the compute that serves it is started with its own settings. Under the branch's lock.
    pub(super) fn recover_first(&self, parent: &BranchKey) -> Result<(), Error> {
        match self.state(parent)? {
            ComputeState::Running { .. } => Ok(()),
            ComputeState::Orphans { pids } => Err(Error::Refused(
                parent.to_string(),
                format!("its postmaster is gone but processes {pids:?} live on; wait until they end"),
            )),
            ComputeState::Stopped => {
                self.rebuild_layers(parent)?;
                if self.control_file(parent)?.state != State::ShutDown {
                    let server = self.recorded_server(parent)?;
                    // Nobody has prepared a child for work that was never started: as at a first start.
                    let options = StartOptions { first_start: true, ..StartOptions::default() };
                    self.start_locked(parent, &server, &options)?;
                    self.stop_locked(parent, StopMode::Fast)?;
                }
                Ok(())
            }
        }
    }

    pub(super) fn cut_into(
        &self,
        parent: &BranchKey,
        child: &BranchKey,
        new: &Path,
        recorded_parent: Option<String>,
    ) -> Result<CutInfo, Error> {
        let parent_record = self.record(parent)?;
        make_skeleton(new)?;
        reached(Moment::SkeletonMade);
        let branch =
            self.home.open_branch(parent.as_str()).context(|| format!("could not open branch {parent}"))?;
        let cut = self.cut_open(parent, &parent_record, branch);
        sys::close(branch);
        let (prepared, seen) = cut?;
        let segments = self.segments(parent)?;
        let source = Source {
            segments: &segments,
            timeline: seen.control.timeline,
            segment_size: parent_record.wal_segment_size,
            redo: seen.control.redo_lsn,
            tail: seen.tail,
        };
        let end = exact_end(&source, seen.mark);
        let mut batch = Batch::default();
        assemble(&source, end, new, &mut batch)?;
        reached(Moment::LogAssembled);
        let parent_data = self.data_directory(parent);
        copy_settings(&parent_data, &new.join("pgdata"), &mut batch)?;
        if planted(Fault::SlotsInherited) {
            copy_slots(&parent_data, &new.join("pgdata"))?;
        }
        reached(Moment::SettingsCopied);
        let recorded = Recorded::configured(&parent_data)
            .and_then(|configured| Ok(configured.max(&Recorded::last_started(&parent_data)?)))
            .context(|| format!("could not read the configuration of branch {parent}"))?
            .max(&Recorded::of_control_file(&seen.control))
            .max(&parent_record.recorded);
        self.sync_small_files(&prepared)?;
        let record = CutRecord {
            version: 1,
            parent: recorded_parent,
            redo_lsn: seen.control.redo_lsn.0,
            checkpoint_lsn: seen.control.checkpoint_lsn.0,
            end_lsn: end.0,
            timeline: seen.control.timeline,
            time_us: now_us(),
            closed_us: seen.closed.as_micros() as u64,
            drain_us: seen.drain.as_micros() as u64,
            wal_segment_size: parent_record.wal_segment_size,
            recorded,
        };
        let manifest = self
            .home
            .child_manifest(&prepared, record.encode()?)
            .context(|| format!("could not make the layer of branch {child}"))?;
        self.publish_child(child, new, &manifest, &self.recorded_server(parent)?, batch)?;
        self.sync_behind(parent, &prepared);
        Ok(record.info())
    }

    /// Publishes a child whose open layer was just made.
    pub(super) fn publish_child(
        &self,
        child: &BranchKey,
        new: &Path,
        manifest: &Manifest,
        server: &Server,
        mut batch: Batch,
    ) -> Result<(), Error> {
        let layer = self.home.layer_path(manifest.top().layer);
        batch.directory(&layer);
        layer.parent().into_iter().for_each(|group| batch.directory(group));
        batch.directory(&self.home.layers_path());
        self.publish(child, new, manifest, server, batch)
    }

    fn cut_open(
        &self,
        parent: &BranchKey,
        record: &CutRecord,
        branch: Fd,
    ) -> Result<(Prepared, Seen), Error> {
        let stack = Stack::load(self.home.layers(), branch)
            .context(|| format!("could not read the stack of branch {parent}"))?;
        let state = self.state(parent)?;
        if !matches!(state, ComputeState::Running { .. }) {
            // It may have been killed since it was looked at: what outlives a postmaster goes on writing.
            if state != ComputeState::Stopped || self.control_file(parent)?.state != State::ShutDown {
                let why = "its server ended while it was being cut; try again".to_owned();
                return Err(Error::Refused(parent.to_string(), why));
            }
            // Where nothing was written since the last seal, there is nothing to seal.
            let prepared = match self.unused_top(parent)? {
                Some(prepared) => prepared,
                None => self.prepare(parent, None)?,
            };
            let below = prepared.next.slot;
            let control = read_control(&stack, below)?;
            let mark = self.written_end(parent, record, &control)?;
            let (drain, closed) = (Duration::ZERO, Duration::ZERO);
            let seen = Seen { control, mark, tail: None, drain, closed, sealed: true };
            return Ok((prepared, seen));
        }
        let gate = self.gate(parent)?;
        self.refuse_unfit(parent, &gate, &stack)?;
        let mut last = GiveUp::Lost;
        for pause in PAUSES {
            let prepared = self.prepare(parent, Some(gate.top_slot()))?;
            match self.cut_once(parent, record, &gate, &stack)? {
                Ok(seen) if !seen.sealed => return Ok((prepared.without_top(), seen)),
                Ok(seen) => return Ok((prepared, seen)),
                Err(reason) => last = reason,
            }
            std::thread::sleep(pause);
        }
        Err(Error::Refused(
            parent.to_string(),
            match last {
                GiveUp::Busy(pid) => format!("process {pid} stays in one call for too long; try again later"),
                GiveUp::Lost => "its gate was forced open; try again".to_owned(),
            },
        ))
    }

    /// A compute that is itself in recovery, or whose disk refused a sync, is not cut.
    fn refuse_unfit(&self, parent: &BranchKey, gate: &Gate, stack: &Stack) -> Result<(), Error> {
        let refused = |why: String| Err(Error::Refused(parent.to_string(), why));
        let top = gate.top_slot();
        let control = read_control(stack, top + 1)?;
        if control.state != State::InProduction {
            return refused("it is still recovering; try again when it accepts connections".to_owned());
        }
        let layer = stack.layer(top).context(|| format!("could not open the layer of branch {parent}"))?;
        match layer.arena().and_then(arena::Arena::poisoned) {
            Some(errno) => refused(format!("a sync failed ({errno}); restart it, then try again")),
            None => Ok(()),
        }
    }

    fn prepare(&self, parent: &BranchKey, top: Option<u32>) -> Result<Prepared, Error> {
        let prepared = self
            .home
            .prepare_cut(parent.as_str(), top)
            .context(|| format!("could not prepare a cut of branch {parent}"))?;
        reached(Moment::CutPrepared);
        Ok(prepared)
    }

    fn cut_once(
        &self,
        parent: &BranchKey,
        record: &CutRecord,
        gate: &Gate,
        stack: &Stack,
    ) -> Result<Result<Seen, GiveUp>, Error> {
        let top = gate.top_slot();
        let mark = || gate.header().stream_mark.load(std::sync::atomic::Ordering::Acquire);
        // Also opens the layers, which must not happen while writers wait.
        let control = read_control(stack, top + 1)?;
        // Nothing was written since this compute started: its WAL ends where reading it ends.
        let read_before = match mark() {
            0 => Some(self.written_end(parent, record, &control)?),
            _ => None,
        };
        let below_top = stack.entries().iter().any(|entry| entry.slot < top);
        gate.wait_for_quiet(PATIENCE, DRAIN_LIMIT);
        let started = Instant::now();
        let closed = match gate.close(DRAIN_LIMIT) {
            Ok(closed) => closed,
            Err(reason) => return Ok(Err(reason)),
        };
        let drain = started.elapsed();
        reached(Moment::GateClosed);
        // From here to the switch writers wait: two small reads, and a look at a directory.
        let control = read_control(stack, top + 1)?;
        let now = match (mark(), read_before) {
            (0, Some(end)) => end,
            (0, None) => Lsn(0),
            (mark, _) => Lsn(mark),
        };
        let tail = self.tail_page(parent, record, control.timeline, now)?;
        let what = || format!("could not look at the layer of branch {parent}");
        let unused = below_top && stack.layer(top).and_then(|layer| layer.is_unused()).context(what)?;
        let opened = if unused { closed.reopen() } else { closed.switch().map(drop) };
        Ok(opened.map(|()| {
            let closed = started.elapsed();
            reached(Moment::GateSwitched);
            Seen { control, mark: now, tail, drain, closed, sealed: !unused }
        }))
    }

    /// See [`store::home::Home::unused_top`].
    pub(super) fn unused_top(&self, key: &BranchKey) -> Result<Option<Prepared>, Error> {
        let unused = self.home.unused_top(key.as_str());
        unused.context(|| format!("could not look at the layer of branch {key}"))
    }

    /// The page that holds the byte before `end`.
    fn tail_page(
        &self,
        parent: &BranchKey,
        record: &CutRecord,
        timeline: u32,
        end: Lsn,
    ) -> Result<Option<(Lsn, Box<Page>)>, Error> {
        let position = end.0.saturating_sub(1) / PAGE * PAGE;
        let segments = self.segments(parent)?;
        let read = read_page(&segments, timeline, record.wal_segment_size, Lsn(position));
        read.map(|page| page.map(|page| (Lsn(position), page)))
            .context(|| format!("could not read the WAL of branch {parent}"))
    }

    /// End of the WAL of a branch that nobody writes to, by reading it from its last checkpoint.
    fn written_end(&self, key: &BranchKey, record: &CutRecord, control: &ControlFile) -> Result<Lsn, Error> {
        let segments = self.segments(key)?;
        let size = record.wal_segment_size;
        let mut read = |lsn: Lsn| read_page(&segments, control.timeline, size, lsn).ok().flatten();
        wal::end_from(&mut (&mut read as &mut dyn FnMut(Lsn) -> Option<Box<Page>>), control.checkpoint_lsn)
            .ok_or_else(|| {
                Error::Damaged(format!(
                    "branch {key}: no WAL record at its checkpoint {}",
                    control.checkpoint_lsn
                ))
            })
    }

    pub(super) fn segments(&self, key: &BranchKey) -> Result<Segments, Error> {
        Segments::of(&self.directory(key)).context(|| format!("could not open the WAL of branch {key}"))
    }

    /// Age in transactions of what is not frozen in the branch, see [`ControlFile::freeze_age`].
    ///
    /// # Errors
    /// The branch cannot be read.
    pub fn freeze_age(&self, key: &BranchKey) -> Result<u32, Error> {
        self.control_file(key).map(|control| control.freeze_age())
    }

    pub(super) fn control_file(&self, key: &BranchKey) -> Result<ControlFile, Error> {
        let branch =
            self.home.open_branch(key.as_str()).context(|| format!("could not open branch {key}"))?;
        let control = Stack::load(self.home.layers(), branch)
            .context(|| format!("could not read the stack of branch {key}"))
            .and_then(|stack| read_control(&stack, u32::MAX));
        sys::close(branch);
        control
    }

    /// Small files of the sealed layer have no full-page image in the WAL: the child must find them
    /// whole after a power cut.
    fn sync_small_files(&self, prepared: &Prepared) -> Result<(), Error> {
        let Some(sealed) = prepared.sealed.last() else { return Ok(()) };
        let what = || "could not sync the small files of a cut".to_owned();
        let layer = Layer::open(self.home.layers(), sealed.layer).context(what)?;
        let Some(arena) = layer.arena() else { return Ok(()) };
        let mut small = Vec::new();
        for number in 0..arena.records() {
            let flags = arena.record(number).flags.load(std::sync::atomic::Ordering::Acquire);
            let wanted = arena::LIVE | arena::WHOLE;
            if flags & wanted == wanted && arena.is_unsynced(number) {
                small.push(arena.path(number).context(what)?);
            }
        }
        // All are begun before the first is waited for.
        for path in &small {
            with_file(&layer, path, sys::start_writeback).context(what)?;
        }
        for path in &small {
            with_file(&layer, path, sys::fsync).context(what)?;
            seal::sync_directories(&layer, path).context(what)?;
        }
        Ok(())
    }

    /// Syncs and indexes what the cut sealed, while the answer is on its way. Parent and child keep
    /// the fsync duty until then.
    fn sync_behind(&self, parent: &BranchKey, prepared: &Prepared) {
        let Some(sealed) = prepared.sealed.last().copied() else { return };
        let (layers, sealing) = (self.home.layers(), Arc::clone(&self.sealing));
        let (uncompacted, parent) = (Arc::clone(&self.uncompacted), parent.clone());
        let spawned = std::thread::Builder::new().name("seal".to_owned()).spawn(move || {
            let _one = sealing.lock().unwrap_or_else(PoisonError::into_inner);
            match seal_layer(layers, sealed.layer) {
                Ok(()) => drop(uncompacted.lock().unwrap_or_else(PoisonError::into_inner).insert(parent)),
                // Merged or removed already.
                Err(store::Errno::NOENT) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "a sealed layer could not be synced or indexed yet");
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to sync a sealed layer; the next round of maintenance does it");
        }
    }

    /// The server that the branch was made for.
    pub(super) fn recorded_server(&self, key: &BranchKey) -> Result<Server, Error> {
        let path = self.directory(key).join("server");
        let text = fs::read(&path).context(|| format!("could not read {}", path.display()))?;
        let record: ServerRecord = serde_json::from_slice(&text)
            .map_err(|error| Error::Damaged(format!("{}: {error}", path.display())))?;
        let recorded = Server { bin_dir: record.bin_dir, major: record.major, minor: record.minor };
        if recorded.bin_dir.join("postgres").exists() {
            return Ok(recorded);
        }
        // Restored from a backup, or the server was installed elsewhere since.
        self.usual_server.get().filter(|usual| usual.major == recorded.major).cloned().ok_or_else(|| {
            let (major, place) = (recorded.major, recorded.bin_dir.display());
            Error::Postgres(format!(
                "branch {key} needs PostgreSQL {major}, which is not in {place} any more"
            ))
        })
    }
}

/// Does `work` with a file of the layer, unless it is gone.
fn with_file(layer: &Layer, path: &RelPath, work: impl FnOnce(Fd) -> store::Result<()>) -> store::Result<()> {
    let fd = match layer.open_file(path, sys::O_RDONLY) {
        Ok(fd) => fd,
        Err(store::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let done = work(fd);
    sys::close(fd);
    done
}

/// `pg_control` as of the layers below slot `below`.
fn read_control(stack: &Stack, below: u32) -> Result<ControlFile, Error> {
    let what = || "could not read pg_control".to_owned();
    let path = RelPath::new(b"global/pg_control").context(what)?;
    let located = stack
        .find_below(below, &path)
        .context(what)?
        .ok_or_else(|| Error::Damaged("pg_control is missing".to_owned()))?;
    let fd = located.layer.open_file(&path, sys::O_RDONLY).context(what)?;
    let mut bytes = vec![0; 8192];
    let read = sys::pread_full(fd, &mut bytes, 0);
    sys::close(fd);
    bytes.truncate(read.context(what)?);
    ControlFile::parse(&bytes).map_err(|error| Error::Damaged(format!("pg_control: {error}")))
}

fn read_page(
    segments: &Segments,
    timeline: u32,
    segment_size: u64,
    at: Lsn,
) -> std::io::Result<Option<Box<Page>>> {
    let file = match segments.open(&segment_name(timeline, at.0 / segment_size, segment_size)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut page = Box::new([0u8; PAGE as usize]);
    match file.read_exact_at(&mut page[..], at.0 % segment_size) {
        Ok(()) => Ok(Some(page)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// End of the last whole record below `mark`. A record that the mark cut in two is not replayed in
/// any case; leaving it out makes the end exact.
fn exact_end(source: &Source<'_>, mark: Lsn) -> Lsn {
    let mut read = |at: Lsn| match &source.tail {
        Some((position, page)) if *position == at => Some(page.clone()),
        _ if at.0 >= mark.0 => None,
        _ => read_page(source.segments, source.timeline, source.segment_size, at).ok().flatten(),
    };
    let mut read: wal::ReadPage<'_> = &mut read;
    let end = wal::last_end(&mut read, source.redo, mark).unwrap_or(mark);
    if planted(Fault::EndLate) {
        return mark;
    }
    // The last bytes of a commit record are its time: never only padding.
    if planted(Fault::EndEarly) { Lsn(end.0 - 16) } else { end }
}

/// What [`Fault::SlotsInherited`] does.
fn copy_slots(parent: &Path, child: &Path) -> Result<(), Error> {
    let what = || format!("could not copy the replication slots from {}", parent.display());
    for slot in fs::read_dir(parent.join("pg_replslot")).context(what)? {
        let slot = slot.context(what)?;
        let target = child.join("pg_replslot").join(slot.file_name());
        fs::create_dir(&target).context(what)?;
        fs::copy(slot.path().join("state"), target.join("state")).context(what)?;
    }
    Ok(())
}

/// Configuration is not part of a moment in time: the child gets a copy.
pub(super) fn copy_settings(parent: &Path, child: &Path, batch: &mut Batch) -> Result<(), Error> {
    let what = || format!("could not copy the configuration from {}", parent.display());
    for entry in fs::read_dir(parent).context(what)? {
        let entry = entry.context(what)?;
        let name = entry.file_name();
        if entry.file_type().context(what)?.is_file() && name.as_encoded_bytes().ends_with(b".conf") {
            let target = child.join(&name);
            fs::copy(entry.path(), &target).context(what)?;
            batch.file_at(&target)?;
        }
    }
    Ok(())
}
