//! Verifies everything that lies in a home: layers against their indexes and PostgreSQL's own checksums,
//! manifests against the layers, and whether there is something that nobody names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use pgdata::control_file::ControlFile;
use pgdata::page;
use store::RelPath;
use store::layer::arena::BLOCK;
use store::layer::{LayerId, directory_name, hidden_name};
use store::manifest::Manifest;
use store::stack::Stack;
use store::sys;
use store::verify::{self, Defect, Judge, Seen};

use super::home::{Context, Engine};
use super::{BranchKey, Error};

pub use store::verify::Grade;

const CONTROL: &[u8] = b"global/pg_control";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubFinding {
    /// How bad it is.
    pub grade: Grade,
    /// The layer, as it is called below `layers/`; none for what concerns no single layer.
    pub layer: Option<String>,
    /// Path of the file or directory on this host.
    pub path: PathBuf,
    /// Path in the data directory, for PostgreSQL's own files.
    pub file: Option<String>,
    /// Block of the file, of 8,192 bytes.
    pub block: Option<u32>,
    /// What is wrong, to be read after the path.
    pub what: String,
    /// The branches that read it.
    pub branches: Vec<BranchKey>,
}

/// What a scrub tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubEvent {
    /// How far it is, in bytes of content.
    Progress {
        /// Bytes verified.
        done: u64,
        /// Bytes in all, as far as known at the begin.
        total: u64,
    },
    /// Something was found.
    Found(ScrubFinding),
}

/// What a scrub looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubTotals {
    /// Branches whose manifests were read.
    pub branches: u64,
    /// Layers looked at.
    pub layers: u64,
    /// Layers of these whose content was verified: the others are written to.
    pub sealed: u64,
    /// Bytes of content verified.
    pub bytes: u64,
}

/// Hears of events; whether to go on.
type Listener<'a> = &'a mut dyn FnMut(ScrubEvent) -> bool;

/// Files that need a sum of their content: no page of theirs has one.
pub(super) fn is_summed(path: &RelPath) -> bool {
    page::segment(path.as_bytes()).is_none()
}

/// One scrub.
struct Scrub<'a> {
    engine: &'a Engine,
    manifests: BTreeMap<BranchKey, Manifest>,
    totals: ScrubTotals,
    total: u64,
    stopped: bool,
    listener: Listener<'a>,
}

impl Engine {
    /// Verifies the home while branches are in use: reads every byte that sealed layers hold. `listener`
    /// says whether to go on; it is asked after each piece.
    ///
    /// # Errors
    /// The directories of the home cannot be listed at all. Everything else is a finding.
    pub fn scrub(&self, listener: Listener<'_>) -> Result<ScrubTotals, Error> {
        let what = || "could not list the layers".to_owned();
        // In this order: a layer that was there before has its name in a manifest or a lease by now.
        let there = self.home.layers_there().context(what)?;
        let mut scrub = Scrub {
            engine: self,
            manifests: BTreeMap::new(),
            totals: ScrubTotals::default(),
            total: 0,
            stopped: false,
            listener,
        };
        scrub.read_manifests()?;
        let named: BTreeSet<LayerId> = scrub
            .manifests
            .values()
            .flat_map(|manifest| &manifest.entries)
            .map(|entry| entry.layer)
            .collect();
        scrub.find_strangers(&there, &named);
        scrub.total = named.iter().map(|layer| verify::size(self.home.layers(), *layer)).sum();
        for layer in named {
            if scrub.stopped {
                break;
            }
            scrub.verify(layer);
        }
        Ok(scrub.totals)
    }
}

impl Scrub<'_> {
    fn tell(&mut self, finding: ScrubFinding) {
        self.stopped |= !(self.listener)(ScrubEvent::Found(finding));
    }

    /// Reads the manifests of all branches, and tells of what cannot be used.
    fn read_manifests(&mut self) -> Result<(), Error> {
        for key in self.engine.keys()? {
            self.totals.branches += 1;
            let path = self.engine.directory(&key).join("manifest");
            let read = self.engine.manifest(&key).and_then(|manifest| {
                super::record::CutRecord::decode(key.as_str(), &manifest.note).map(|_| manifest)
            });
            match read {
                Ok(manifest) => {
                    self.manifests.insert(key, manifest);
                }
                // Removed since it was listed.
                Err(_) if !self.engine.directory(&key).exists() => {}
                Err(error) => self.tell(ScrubFinding {
                    grade: Grade::Damage,
                    layer: None,
                    path,
                    file: None,
                    block: None,
                    what: error.to_string(),
                    branches: vec![key],
                }),
            }
        }
        Ok(())
    }

    /// What nobody names.
    fn find_strangers(&mut self, there: &[LayerId], named: &BTreeSet<LayerId>) {
        let home = &self.engine.home;
        let leases = home.reference_counts();
        let unreadable = (self.manifests.len() as u64) < self.totals.branches;
        let mut strangers: Vec<(PathBuf, &str)> = there
            .iter()
            // A manifest that does not read back may name any of them: nobody may take them for garbage.
            .filter(|_| !unreadable)
            .filter(|layer| !named.contains(layer) && !leases.contains_key(layer))
            .map(|layer| (home.layer_path(*layer), "is a layer that no branch names"))
            .collect();
        let digits = |name: &str, count: usize| {
            name.len() == count && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let mut look = |directory: PathBuf, known: &dyn Fn(&str) -> bool| {
            let mut below = Vec::new();
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if known(&name) {
                    below.push(entry.path());
                } else {
                    strangers.push((entry.path(), "belongs to nothing"));
                }
            }
            below
        };
        let layer = |name: &str| digits(name, 16);
        for group in look(home.layers_path(), &|name| digits(name, 8) || layer(name)) {
            if group.file_name().is_some_and(|name| name.len() == 8) {
                look(group, &layer);
            }
        }
        look(home.path().join("branches"), &|name| {
            let name = name.trim_end_matches(store::home::NEW).trim_end_matches(store::home::GONE);
            BranchKey::new(name).is_ok()
        });
        for (path, what) in strangers.into_iter().filter(|(path, _)| path.symlink_metadata().is_ok()) {
            let (layer, file, block, branches) = (None, None, None, Vec::new());
            let what = what.to_owned();
            self.tell(ScrubFinding { grade: Grade::Leftover, layer, path, file, block, what, branches });
        }
    }

    fn verify(&mut self, layer: LayerId) {
        let naming: Vec<BranchKey> = self
            .manifests
            .iter()
            .filter(|(_, manifest)| manifest.entries.iter().any(|entry| entry.layer == layer))
            .map(|(key, _)| key.clone())
            .collect();
        let mut judge = Pages { checksums: self.has_checksums(&naming), scrub: self, defects: Vec::new() };
        let seen = verify::layer(judge.scrub.engine.home.layers(), layer, &mut judge);
        let defects = judge.defects;
        match seen {
            Seen::Gone => return,
            Seen::Sealed => self.totals.sealed += 1,
            Seen::Open | Seen::Stopped => {}
        }
        self.totals.layers += 1;
        for defect in defects {
            // A layer may have gone, with all that named it or merged into another one, before it was opened.
            let still = |key: &&BranchKey| match self.engine.manifest(key) {
                Ok(now) => now.entries.iter().any(|entry| entry.layer == layer),
                Err(_) => self.engine.directory(key).exists(),
            };
            let naming: Vec<BranchKey> = naming.iter().filter(still).cloned().collect();
            if naming.is_empty() {
                return;
            }
            self.report(layer, defect, &naming);
        }
    }

    fn report(&mut self, layer: LayerId, defect: Defect, naming: &[BranchKey]) {
        let path = self.engine.defect_path(layer, &defect);
        let (mut grade, mut what) = (defect.grade, defect.what.clone());
        let mut branches = Vec::new();
        if grade == Grade::Damage {
            branches = naming.iter().filter(|key| self.reads(key, layer, &defect)).cloned().collect();
            if branches.is_empty() {
                // As a power cut leaves pages that recovery has written again above.
                grade = Grade::Leftover;
                what = format!("{what}; no branch reads it any more");
            }
        }
        let layer = Some(directory_name(layer).to_string_lossy().into_owned());
        let file = defect.file.filter(|_| defect.of_data);
        self.tell(ScrubFinding { grade, layer, path, file, block: defect.block, what, branches });
    }

    /// Whether what is wrong can be seen from the branch. In doubt it can.
    fn reads(&self, key: &BranchKey, layer: LayerId, defect: &Defect) -> bool {
        let Some(file) = defect.file.as_ref().filter(|_| defect.of_data) else { return true };
        let Ok(path) = RelPath::new(file.as_bytes()) else { return true };
        hidden_name(path.name()).is_some()
            || self.reads_block(key, layer, &path, defect.block).unwrap_or(true)
    }

    fn reads_block(
        &self,
        key: &BranchKey,
        layer: LayerId,
        path: &RelPath,
        block: Option<u32>,
    ) -> store::Result<bool> {
        let branch = self.engine.home.open_branch(key.as_str())?;
        let stack = Stack::load(self.engine.home.layers(), branch);
        sys::close(branch);
        let stack = stack?;
        let chain = stack.chain_below(u32::MAX, path)?;
        let at = block.map(|block| u64::from(block) * BLOCK);
        for located in &chain {
            if located.layer.id == layer {
                return Ok(true);
            }
            let held = located.layer.held(&located.found)?;
            if at.is_some_and(|at| held.iter().any(|range| range.contains(&at)) || at >= located.found.length)
            {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Whether the cluster has page checksums. Ours have; where nobody can tell, pages are verified.
    fn has_checksums(&self, naming: &[BranchKey]) -> bool {
        let control = naming.iter().find_map(|key| self.engine.control_file(key).ok());
        control.is_none_or(|control| control.data_checksum_version != 0)
    }
}

/// Knows PostgreSQL's own checksums.
struct Pages<'a, 'b> {
    scrub: &'a mut Scrub<'b>,
    checksums: bool,
    defects: Vec<Defect>,
}

impl Judge for Pages<'_, '_> {
    fn judges(&mut self, path: &RelPath) -> bool {
        path.as_bytes() == CONTROL || self.checksums && page::segment(path.as_bytes()).is_some()
    }

    fn judge(&mut self, path: &RelPath, block: u32, bytes: &[u8; BLOCK as usize]) -> Result<(), String> {
        if path.as_bytes() == CONTROL {
            return ControlFile::parse(bytes).map(drop).map_err(|error| error.to_string());
        }
        let segment = page::segment(path.as_bytes()).unwrap_or(0);
        let number = segment.wrapping_mul(page::PAGES_PER_SEGMENT).wrapping_add(block);
        page::verify(bytes, number).map_err(|fault| fault.to_string())
    }

    fn found(&mut self, defect: Defect) {
        self.defects.push(defect);
    }

    fn read(&mut self, bytes: u64) -> bool {
        let scrub = &mut *self.scrub;
        scrub.totals.bytes += bytes;
        let (done, total) = (scrub.totals.bytes, scrub.total.max(scrub.totals.bytes));
        scrub.stopped |= !(scrub.listener)(ScrubEvent::Progress { done, total });
        !scrub.stopped
    }
}
