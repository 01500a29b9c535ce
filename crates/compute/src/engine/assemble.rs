//! `assemble`: the WAL of a branch that begins at a cut and ends exactly at an LSN.
//!
//! Complete segments are immutable (`wal_recycle=off`) and shared ([`super::segments`]). The last one is
//! made anew: its pages up to the target, the rest of it zeros. Ordinary crash recovery then ends at the
//! target: no recovery settings, no new timeline.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use pgdata::Lsn;
use pgdata::wal::{PAGE, Page, segment_name};

use super::Error;
use super::durable::Batch;
use super::home::Context;
use super::segments::{SHARED, Segments, make_shared, share};
use crate::fault::{Fault, planted};

/// Where WAL comes from and which part of it is wanted.
pub(super) struct Source<'a> {
    /// Those of the branch that wrote it.
    pub segments: &'a Segments,
    pub timeline: u32,
    pub segment_size: u64,
    /// Replay begins here: the redo location of the cut.
    pub redo: Lsn,
    /// The page that was being filled at the cut, as it was then, and its position. Later records
    /// land on the same page of the parent's file.
    pub tail: Option<(Lsn, Box<Page>)>,
}

/// Fills the empty `pg_wal` of the branch in the directory `branch` so that its WAL ends at `end`, which lies
/// at or after the end of the cut. Durable once `batch` is.
pub(super) fn assemble(source: &Source<'_>, end: Lsn, branch: &Path, batch: &mut Batch) -> Result<(), Error> {
    make_shared(branch).context(|| format!("could not make {}", branch.join(SHARED).display()))?;
    let target = branch.join("pgdata/pg_wal");
    let size = source.segment_size;
    let (first, last) = (source.redo.0 / size, end.0.saturating_sub(1).max(source.redo.0) / size);
    for segment in first..last {
        link(source, segment, branch, batch)?;
    }
    if planted(Fault::TailShared) {
        link(source, last, branch, batch)?;
    } else {
        copy_last(source, last, end, &target, batch)?;
    }
    batch.directory(&branch.join(SHARED));
    batch.directory(&target);
    Ok(())
}

/// The bytes of a linked segment are durable: PostgreSQL syncs a segment when it is full, before it
/// writes into the next one (`XLogWrite`), and a cut's WAL ends in the last one.
fn link(source: &Source<'_>, segment: u64, branch: &Path, batch: &mut Batch) -> Result<(), Error> {
    let name = segment_name(source.timeline, segment, source.segment_size);
    let from = source.segments.path(&name);
    let shared = share(&from, &name, branch).context(|| format!("could not link WAL segment {name}"))?;
    if !shared {
        let to = branch.join("pgdata/pg_wal").join(&name);
        let copied = source.segments.open(&name).and_then(|mut from| {
            let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
            std::io::copy(&mut from, &mut copy)
        });
        copied.context(|| format!("could not copy WAL segment {name}"))?;
        batch.file_at(&to)?;
    }
    Ok(())
}

fn copy_last(
    source: &Source<'_>,
    segment: u64,
    end: Lsn,
    target: &Path,
    batch: &mut Batch,
) -> Result<(), Error> {
    let size = source.segment_size;
    let name = segment_name(source.timeline, segment, size);
    let what = || format!("could not copy WAL segment {name}");
    let from = source.segments.open(&name).context(what)?;
    let to =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(target.join(&name)).context(what)?;
    to.set_len(size).context(what)?;
    let start = segment * size;
    // The first page carries the segment's header; from there to redo nothing is ever read.
    copy_pages(&from, &to, start, start, (start + PAGE).min(end.0), source).context(what)?;
    let begin = (source.redo.0 / PAGE * PAGE).max(start + PAGE);
    copy_pages(&from, &to, start, begin, end.0, source).context(what)?;
    batch.file(&target.join(&name), to);
    Ok(())
}

fn copy_pages(
    from: &File,
    to: &File,
    start: u64,
    begin: u64,
    end: u64,
    source: &Source<'_>,
) -> std::io::Result<()> {
    let mut at = begin;
    while at < end {
        let mut page = [0u8; PAGE as usize];
        match &source.tail {
            Some((position, tail)) if position.0 == at => page.copy_from_slice(&tail[..]),
            _ => from.read_exact_at(&mut page, at - start)?,
        }
        let keep = (end - at).min(PAGE) as usize;
        to.write_all_at(&page[..keep], at - start)?;
        at += PAGE;
    }
    Ok(())
}
