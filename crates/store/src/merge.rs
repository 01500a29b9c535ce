//! Merging adjacent sealed layers into one that says the same.
//!
//! A stack that was cut a thousand times has a thousand layers. Where nobody else uses them, neighbours can be
//! merged. Sealed layers never change: a merged layer is a new one. Files that only one of the parts
//! has are linked; of the others the newest version of each block is copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::flatten::copy_range;
use crate::layer::arena::BLOCK;
use crate::layer::index::{Builder, Found, Index};
use crate::layer::seal::{Summed, content_sum};
use crate::layer::{self, Kind, Layer, LayerId, blocks, directory_name, held, hidden_name};
use crate::manifest::replace_file;
use crate::moment::{Moment, reached};
use crate::path::RelPath;
use crate::sys::{self, Fd, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_RDONLY, O_RDWR};

/// What merging took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// Files that were taken over as they are.
    pub linked: u64,
    /// Files that were put together from several.
    pub combined: u64,
    /// Bytes read for these.
    pub copied: u64,
}

/// At most so many bytes are copied between two calls of `pace`.
const STEP: u64 = 1 << 20;

/// What a branch's own processes may have put there is neither followed nor waited for.
const READING: i32 = O_RDONLY | sys::O_NOFOLLOW | libc::O_NONBLOCK;

/// Nobody's block: it falls through to the layers below.
const BELOW: u32 = u32::MAX;

/// What a path is in the merged layer.
enum Node {
    Directory,
    Whiteout,
    /// Versions with the numbers of their layers, oldest first; all but the first are overlays.
    File(Vec<(usize, Found)>),
}

type Nodes = BTreeMap<Vec<u8>, Node>;

/// Merges the sealed, indexed layers `sources`, lowest first, into the new layer `target`, whose number is
/// reserved. Durable on return, its name included. `bottom`: nothing lies below them. `pace` is told how many
/// bytes were copied and may wait, or end the merge by an error. `summed` says which files' content gets a sum.
///
/// # Errors
/// `EBUSY` when a source has no index yet, `EUCLEAN` when one is not what its index says. What was written of the target stays behind for the caller to
/// remove.
pub fn merge(
    layers: Fd,
    sources: &[LayerId],
    target: LayerId,
    bottom: bool,
    summed: Summed<'_>,
    pace: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Merged> {
    let open = |id: &LayerId| Layer::open(layers, *id).map(Arc::new);
    let sources = sources.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut nodes = Nodes::new();
    for (number, source) in sources.iter().enumerate() {
        apply(&mut nodes, number, source.index().ok_or(Errno(libc::EBUSY))?, bottom)?;
    }
    layer::make_directory(layers, target)?;
    let dir = sys::openat(layers, &directory_name(target), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
    let made = sys::mkdirat(dir, c"f", 0o700)
        .and_then(|()| sys::openat(dir, c"f", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0))
        .and_then(|files| {
            let mut writer =
                Writer { sources: &sources, files, bottom, summed, pace, merged: Merged::default() };
            let written = writer.write(&nodes, dir);
            sys::close(files);
            written.map(|()| writer.merged)
        });
    sys::close(dir);
    let merged = made?;
    if !planted(Fault::MergeUnsynced) {
        layer::sync_names(layers, target)?;
    }
    reached(Moment::LayerMerged);
    Ok(merged)
}

/// Bytes that a layer holds, by its index.
pub fn weight(index: &Index) -> Result<u64> {
    let mut bytes = 0;
    index.for_each(&mut |_, found| {
        let own = match found.kind {
            Kind::Complete => found.length,
            Kind::Overlay => found.length.saturating_sub(found.floor),
            Kind::Whiteout | Kind::Directory => 0,
        };
        bytes += own;
        if found.kind == Kind::Overlay {
            index.runs(found, &mut |_, count| {
                bytes += u64::from(count) * BLOCK;
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Lays one layer over those below it.
fn apply(nodes: &mut Nodes, number: usize, index: &Index, bottom: bool) -> Result<()> {
    let mut whiteouts = Vec::new();
    index.for_each(&mut |path, found| {
        if found.kind == Kind::Whiteout {
            whiteouts.push(RelPath::new(path)?);
        }
        Ok(())
    })?;
    let mut removals = Vec::new();
    for whiteout in whiteouts {
        let hidden = whiteout.parent().join(hidden_name(whiteout.name()).ok_or(Errno::DAMAGED)?)?;
        // A removal that went no further than its whiteout: readers find the file, with what lies below.
        let goes_on = index.find(&hidden)?.is_some_and(|found| found.kind == Kind::Overlay);
        if !goes_on {
            remove(nodes, hidden.as_bytes());
            removals.push(whiteout);
        }
    }
    // Below the lowest layer is nothing to hide.
    if !bottom && !planted(Fault::MergeForgetsRemovals) {
        nodes.extend(removals.iter().map(|whiteout| (whiteout.as_bytes().to_vec(), Node::Whiteout)));
    }
    index.for_each(&mut |path, found| {
        match found.kind {
            Kind::Whiteout => {}
            Kind::Directory => {
                nodes.insert(path.to_vec(), Node::Directory);
            }
            Kind::Complete => {
                nodes.insert(path.to_vec(), Node::File(vec![(number, *found)]));
            }
            Kind::Overlay => match nodes.get_mut(path) {
                Some(Node::File(versions)) => versions.push((number, *found)),
                Some(_) => return Err(Errno::DAMAGED),
                None => {
                    nodes.insert(path.to_vec(), Node::File(vec![(number, *found)]));
                }
            },
        }
        Ok(())
    })
}

/// Removes a path and all below it.
fn remove(nodes: &mut Nodes, path: &[u8]) {
    nodes.remove(path);
    // '0' follows '/' in ASCII.
    let (first, after) = ([path, b"/"].concat(), [path, b"0"].concat());
    let below: Vec<Vec<u8>> = nodes.range(first..after).map(|(path, _)| path.clone()).collect();
    below.iter().for_each(|path| drop(nodes.remove(path)));
}

struct Writer<'a> {
    sources: &'a [Arc<Layer>],
    files: Fd,
    bottom: bool,
    summed: Summed<'a>,
    pace: &'a mut dyn FnMut(u64) -> Result<()>,
    merged: Merged,
}

/// Where the blocks of a merged file come from.
struct Plan {
    kind: Kind,
    length: u64,
    /// Below it, in bytes, blocks may fall through; 0 for complete files.
    floor: u64,
    /// For each block the number of a layer, or [`BELOW`].
    origins: Vec<u32>,
}

impl Writer<'_> {
    fn write(&mut self, nodes: &Nodes, dir: Fd) -> Result<()> {
        let mut builder = Builder::default();
        let mut directories = vec![RelPath::ROOT];
        for (path, node) in nodes {
            let path = RelPath::new(path)?;
            match node {
                Node::Directory => {
                    sys::mkdirat(self.files, path.as_cstr(), 0o700)?;
                    directories.push(path);
                    builder.add(path.as_bytes(), Kind::Directory, 0, 0, &[], 0);
                }
                Node::Whiteout => {
                    self.create(&path).map(sys::close)?;
                    builder.add(path.as_bytes(), Kind::Whiteout, 0, 0, &[], 0);
                }
                Node::File(versions) => self.file(&path, versions, &mut builder)?,
            }
        }
        if !planted(Fault::MergeUnsynced) {
            for directory in &directories {
                let fd = sys::openat(self.files, directory.as_cstr(), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
                let synced = sys::fsync(fd);
                sys::close(fd);
                synced?;
            }
        }
        replace_file(dir, c"index", c"index.new", &builder.encode())
    }

    fn create(&self, path: &RelPath) -> Result<Fd> {
        sys::openat(self.files, path.as_cstr(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    }

    fn file(&mut self, path: &RelPath, versions: &[(usize, Found)], builder: &mut Builder) -> Result<()> {
        let plan = self.plan(versions)?;
        let runs = plan.runs();
        let mut add = |sum| builder.add(path.as_bytes(), plan.kind, plan.length, plan.floor, &runs, sum);
        if let [(number, found)] = versions {
            let from = self.sources[*number].files;
            match sys::linkat(from, path.as_cstr(), self.files, path.as_cstr(), 0) {
                Ok(()) => {
                    add(found.sum);
                    self.merged.linked += 1;
                    return (self.pace)(0);
                }
                // No more links to this file, or none at all on this file system.
                Err(Errno(libc::EMLINK | libc::EPERM | libc::EOPNOTSUPP)) => {}
                Err(errno) => return Err(errno),
            }
        }
        versions.iter().try_for_each(|(number, found)| self.verify(path, *number, found))?;
        let out = self.create(path)?;
        let written = self.combine(path, &plan, out).and_then(|()| {
            let ranges = held(plan.kind, plan.length, plan.floor, &runs);
            if (self.summed)(path) { content_sum(out, &ranges) } else { Ok(0) }
        });
        sys::close(out);
        add(written?);
        self.merged.combined += 1;
        sys::chmodat(self.files, path.as_cstr(), 0o400)
    }

    /// A version must be what its index says: what is put together of others gets a sum of its own, by which
    /// nobody would notice any more. The branch's own processes could have put something else in its place.
    fn verify(&self, path: &RelPath, number: usize, found: &Found) -> Result<()> {
        let layer = &self.sources[number];
        let fd = layer.open_file(path, READING)?;
        let verified = sys::fstat(fd).and_then(|stat| {
            if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_size as u64 != found.length {
                return Err(Errno::DAMAGED);
            }
            if found.sum == 0 {
                return Ok(());
            }
            let mut runs = Vec::new();
            layer.index().ok_or(Errno::DAMAGED)?.runs(found, &mut |start, count| {
                runs.push((start, count));
                Ok(())
            })?;
            let ranges = held(found.kind, found.length, found.floor, &runs);
            if content_sum(fd, &ranges)? == found.sum { Ok(()) } else { Err(Errno::DAMAGED) }
        });
        sys::close(fd);
        verified
    }

    fn plan(&self, versions: &[(usize, Found)]) -> Result<Plan> {
        let mut plan = Plan { kind: Kind::Overlay, length: 0, floor: u64::MAX, origins: Vec::new() };
        for (number, found) in versions {
            if found.kind == Kind::Complete {
                (plan.kind, plan.floor) = (Kind::Complete, 0);
                plan.origins.clear();
            }
            let (number, length) = (*number as u32, blocks(found.length) as usize);
            let own = if found.kind == Kind::Complete { 0 } else { blocks(found.floor) as usize };
            // What this layer cut off, and then what it holds of its own.
            plan.origins.truncate(own.min(length));
            let missing =
                if plan.kind == Kind::Complete && found.kind == Kind::Overlay { number } else { BELOW };
            plan.origins.resize(own.min(length), missing);
            plan.origins.resize(length, number);
            let index = self.sources[number as usize].index().ok_or(Errno::DAMAGED)?;
            index.runs(found, &mut |start, count| {
                let end = (start as usize + count as usize).min(length);
                if let Some(run) = plan.origins.get_mut(start as usize..end) {
                    run.fill(number);
                }
                Ok(())
            })?;
            plan.length = found.length;
            plan.floor = plan.floor.min(found.floor);
        }
        if self.bottom && plan.kind == Kind::Overlay { Err(Errno::DAMAGED) } else { Ok(plan) }
    }

    fn combine(&mut self, path: &RelPath, plan: &Plan, out: Fd) -> Result<()> {
        sys::ftruncate(out, plan.length)?;
        let mut open: Option<(u32, Fd)> = None;
        let written = plan.each_run(&mut |origin, start, end| {
            if origin == BELOW {
                return Ok(());
            }
            let from = match open {
                Some((number, fd)) if number == origin => fd,
                _ => {
                    open.take().into_iter().for_each(|(_, fd)| sys::close(fd));
                    let fd = self.sources[origin as usize].open_file(path, READING)?;
                    open = Some((origin, fd));
                    fd
                }
            };
            let (mut at, end) = (u64::from(start) * BLOCK, (u64::from(end) * BLOCK).min(plan.length));
            while at < end {
                let next = (at + STEP).min(end);
                copy_range(from, out, at, next, true)?;
                self.merged.copied += next - at;
                (self.pace)(next - at)?;
                at = next;
            }
            Ok(())
        });
        open.into_iter().for_each(|(_, fd)| sys::close(fd));
        written?;
        if planted(Fault::MergeUnsynced) { Ok(()) } else { sys::fsync(out) }
    }
}

impl Plan {
    /// Calls `each` with origin, first block and end of every run of blocks.
    fn each_run(&self, each: &mut dyn FnMut(u32, u32, u32) -> Result<()>) -> Result<()> {
        let mut start = 0;
        while start < self.origins.len() {
            let origin = self.origins[start];
            let length = self.origins[start..].iter().take_while(|other| **other == origin).count();
            each(origin, start as u32, (start + length) as u32)?;
            start += length;
        }
        Ok(())
    }

    /// What an index says of an overlay: the runs that it holds below its floor.
    fn runs(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        if self.kind == Kind::Complete {
            return runs;
        }
        let floor = blocks(self.floor).min(self.origins.len() as u32);
        for block in (0..floor).filter(|block| self.origins[*block as usize] != BELOW) {
            match runs.last_mut() {
                Some((start, count)) if *start + *count == block => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        runs
    }
}
