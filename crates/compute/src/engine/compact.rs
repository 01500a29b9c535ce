//! Keeping stacks short: layers that only one branch uses are merged in the background.
//!
//! Work that takes long happens with no lock held; what is short, a new manifest, under the branch's lock.
//! The sizes of what is merged are alike, so a byte is copied a few times in all, however often a branch is cut.

use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use store::layer::{Layer, LayerId, group_of};
use store::merge::{Merged, merge, weight};
use store::{Errno, sys};

use super::home::{Context, Engine};
use super::scrub::is_summed;
use super::{BranchKey, Error};

/// Fewer neighbours are not worth it.
const FEWEST: usize = 4;
/// Layers below this size count as that large, bytes: merging them costs next to nothing.
const SMALL: u64 = 1 << 20;
/// How often all branches are looked over: what a deleted branch shared may be its only child's now.
const LOOK_OVER: Duration = Duration::from_secs(600);
/// Bytes copied a second at most: computes need the disk, too.
const RATE: u64 = 64 << 20;

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// How many layers became one.
    pub layers: usize,
    /// What that took.
    pub merged: Merged,
}

impl Engine {
    /// Notes that the branch may have layers to merge.
    pub(super) fn may_compact(&self, key: &BranchKey) {
        self.uncompacted.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
    }

    /// Leaves the layers of a branch as they are until it is removed: somebody reads them.
    pub(super) fn hold_layers(&self, key: &BranchKey) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
    }

    /// Ends a merge in progress, and all later ones: the daemon is about to end.
    pub fn give_up_compaction(&self) {
        self.compaction_ends.store(true, Ordering::Release);
    }

    /// Merges layers of one of the branches that may have some. Whether there is more to do.
    ///
    /// # Errors
    /// As [`Engine::compact`]; the next call goes on with another branch.
    pub fn compact_next(&self) -> Result<bool, Error> {
        let next = self.uncompacted.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
        let Some(key) = next else {
            self.look_over();
            return Ok(false);
        };
        if let Some(done) = self.compact(&key)? {
            let Merged { linked, combined, copied } = done.merged;
            tracing::debug!(branch = %key, layers = done.layers, linked, combined, copied, "merged layers");
            self.may_compact(&key);
        }
        Ok(true)
    }

    fn look_over(&self) {
        let mut last = self.looked_over.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LOOK_OVER {
            *last = Instant::now();
            self.keys().unwrap_or_default().iter().for_each(|key| self.may_compact(key));
        }
    }

    /// Merges some neighbouring layers of a branch that no other branch uses. None where there are not
    /// enough of them.
    ///
    /// # Errors
    /// When a layer cannot be read or written; the branch is as it was before.
    pub fn compact(&self, key: &BranchKey) -> Result<Option<Compaction>, Error> {
        let manifest = match self.home.manifest(key.as_str()) {
            Ok(manifest) => manifest,
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => {
                return Err(errno).context(|| format!("could not read the manifest of branch {key}"));
            }
        };
        if self.held.lock().unwrap_or_else(PoisonError::into_inner).contains(key) {
            return Ok(None);
        }
        // What is damaged stays as it is: merged it would look sound.
        match self.check(key) {
            Err(Error::NotFound(_)) => return Ok(None),
            checked => checked?,
        }
        let layers: Vec<LayerId> = manifest.entries.iter().map(|entry| entry.layer).collect();
        let sealed = &layers[..layers.len().saturating_sub(1)];
        if sealed.len() < FEWEST {
            return Ok(None);
        }
        let what = || format!("branch {key}: could not look at its layers");
        let counts = self.home.reference_counts();
        let weights = sealed.iter().map(|layer| {
            let unshared = counts.get(layer) == Some(&1);
            if unshared { self.weight(*layer) } else { Ok(None) }
        });
        let weights = weights.collect::<store::Result<Vec<_>>>().context(what)?;
        let Some(range) = choose(&weights) else { return Ok(None) };
        let sources = &sealed[range.clone()];
        if !self.home.lease_unshared(sources) {
            return Ok(None);
        }
        let merged = self.merge_leased(key, sources, group_of(manifest.top().layer), range.start == 0);
        match merged {
            Ok(Some(merged)) => {
                self.home
                    .remove_merged(sources)
                    .context(|| format!("branch {key}: could not remove layers that were merged"))?;
                Ok(Some(Compaction { layers: sources.len(), merged }))
            }
            other => {
                self.home
                    .end_leases(sources)
                    .context(|| format!("branch {key}: could not give its layers back"))?;
                other.map(|_| None)
            }
        }
    }

    /// Size of a layer that may be merged: none without an index.
    fn weight(&self, layer: LayerId) -> store::Result<Option<u64>> {
        if !self.home.layer_path(layer).join("index").exists() {
            return Ok(None);
        }
        let layer = Layer::open(self.home.layers(), layer)?;
        layer.index().map(weight).transpose()
    }

    fn merge_leased(
        &self,
        key: &BranchKey,
        sources: &[LayerId],
        group: u32,
        bottom: bool,
    ) -> Result<Option<Merged>, Error> {
        let target = self.home.reserve_layer(group);
        let mut pace = Pace::new();
        let done = merge(self.home.layers(), sources, target, bottom, &is_summed, &mut |bytes| {
            pace.spend(bytes);
            let ends = self.compaction_ends.load(Ordering::Acquire);
            if ends { Err(Errno(libc::EINTR)) } else { Ok(()) }
        })
        .context(|| format!("branch {key}: could not merge {} layers", sources.len()))
        .and_then(|merged| Ok(self.put_in_place(key, sources, target)?.then_some(merged)));
        // Where its name is in the manifest and perhaps not durable, both it and its parts stay.
        let named = || match self.manifest(key) {
            Ok(now) => now.entries.iter().any(|entry| entry.layer == target),
            // Who knows.
            Err(_) => self.directory(key).exists(),
        };
        if !matches!(done, Ok(Some(_))) && !named() {
            self.home
                .end_lease(target)
                .context(|| format!("branch {key}: could not remove a layer that was given up"))?;
        }
        done
    }

    fn put_in_place(&self, key: &BranchKey, sources: &[LayerId], merged: LayerId) -> Result<bool, Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.exists(key) {
            return Ok(false);
        }
        let name = || self.home.name_merged(key.as_str(), sources, merged);
        // The gate of a compute that has ended is there, too, and does no harm.
        let named = match self.gate(key) {
            Ok(gate) => gate.merging(name),
            Err(error) if self.directory(key).join("gate").exists() => return Err(error),
            Err(_) => name(),
        };
        named.context(|| format!("branch {key}: could not replace its manifest"))
    }
}

/// The newest neighbours that are worth merging. Each layer has its size in bytes, none where it must stay.
fn choose(weights: &[Option<u64>]) -> Option<Range<usize>> {
    let at = |place: usize| weights[place].map(|weight| weight.max(SMALL));
    for last in (0..weights.len()).rev() {
        let Some(mut total) = at(last) else { continue };
        let mut first = last;
        // One that is much larger is left alone: copying it for so little would cost too much.
        while let Some(next) = first.checked_sub(1).and_then(at).filter(|next| *next <= 2 * total) {
            total += next;
            first -= 1;
        }
        if last + 1 - first >= FEWEST {
            return Some(first..last + 1);
        }
    }
    None
}

/// Spends bytes at no more than [`RATE`].
struct Pace {
    since: Instant,
    spent: u64,
}

impl Pace {
    fn new() -> Pace {
        Pace { since: Instant::now(), spent: 0 }
    }

    fn spend(&mut self, bytes: u64) {
        self.spent += bytes;
        let due = Duration::from_secs_f64(self.spent as f64 / RATE as f64);
        let ahead = due.saturating_sub(self.since.elapsed());
        if ahead > Duration::from_millis(20) {
            sys::sleep(ahead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn small_neighbours_are_merged_and_large_ones_left_alone() {
        let some = |weights: &[u64]| weights.iter().map(|weight| Some(*weight)).collect::<Vec<_>>();
        assert_eq!(choose(&some(&[0, 0, 0])), None);
        assert_eq!(choose(&some(&[0, 0, 0, 0])), Some(0..4));
        assert_eq!(choose(&some(&[1000 * MB, 0, 0, 0, 0, 0])), Some(1..6));
        assert_eq!(choose(&some(&[1000 * MB, 100 * MB, 10 * MB, 0, 0, 0])), None);
        assert_eq!(choose(&some(&[1000 * MB, 8 * MB, 6 * MB, 0, 0, 0])), Some(1..6));
    }

    #[test]
    fn what_others_use_is_not_touched() {
        let (yes, no) = (Some(0), None);
        assert_eq!(choose(&[yes, yes, no, yes, yes, yes]), None);
        assert_eq!(choose(&[yes, yes, yes, yes, no, yes]), Some(0..4));
    }

    #[test]
    fn a_stack_stays_short_and_bytes_are_copied_seldom() {
        let mut stack = vec![Some(5000 * MB)];
        let (mut copied, mut deepest) = (0, 0);
        for _ in 0..2000 {
            stack.push(Some(2 * MB));
            while let Some(range) = choose(&stack) {
                let sum = stack[range.clone()].iter().flatten().sum::<u64>();
                copied += sum;
                stack.splice(range, [Some(sum)]);
            }
            deepest = deepest.max(stack.len());
        }
        assert!(deepest <= 20, "{deepest} layers");
        assert!(copied <= 10 * (5000 + 2 * 2000) * MB, "{} MB copied", copied / MB);
    }
}
