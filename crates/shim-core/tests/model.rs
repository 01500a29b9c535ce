//! The store under the shim's rules against a reference model: random operations, cuts, restarts
//! and power cuts on a tree of branches. A failing seed is printed; replay it with
//! `ANA_SEED=… cargo test -p shim-core --test model`.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use shim_core::Errno;
use store::gate::Gate;
use store::sys::Fd;
use support::{CREATE, Place, Process, RDWR, Random};

const BLOCK: u64 = 8192;

type Files = BTreeMap<String, Vec<u8>>;

struct Branch {
    process: Process,
    files: Files,
    /// As of the last time everything was synced.
    durable: Files,
    open: BTreeMap<String, Fd>,
}

struct World {
    place: Place,
    random: Random,
    branches: BTreeMap<String, Branch>,
    /// Branches from which something was cut: their durable state is not compared after a power cut.
    made: u32,
    merged: usize,
}

const NAMES: [&str; 7] = [
    "base/5/1",
    "base/5/2",
    "base/5/2_fsm",
    "base/5/3",
    "base/5/4",
    "pg_xact/0000",
    "base/5/pg_filenode.map",
];

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl World {
    fn new(seed: u64) -> World {
        let place = Place::new();
        let start: Vec<(&str, Vec<u8>)> = vec![
            ("base/5/1", pattern(1, 5 * BLOCK as usize)),
            ("base/5/2", pattern(2, 40 * BLOCK as usize)),
            ("pg_xact/0000", pattern(3, BLOCK as usize)),
            ("base/5/pg_filenode.map", pattern(4, 524)),
        ];
        place.root("root", &start);
        let files: Files = start.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let process = place.attach("root");
        let branch = Branch { process, durable: files.clone(), files, open: BTreeMap::new() };
        let branches = BTreeMap::from([("root".to_owned(), branch)]);
        World {
            place,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            branches,
            made: 0,
            merged: 0,
        }
    }

    fn pick(&mut self) -> String {
        let at = self.random.below(self.branches.len() as u64) as usize;
        self.branches.keys().nth(at).unwrap().clone()
    }

    fn step(&mut self) {
        let name = self.pick();
        self.trace(&name);
        match self.random.below(100) {
            0..=2 => self.cut(&name),
            3 => self.restart(&name),
            4 => self.place.seal_if_possible(&name),
            5 => self.drop_leaf(&name),
            6..=8 => self.cut_for_nothing(&name),
            9 => self.merge(&name),
            _ => self.operate(&name),
        }
    }

    fn trace(&self, what: &str) {
        if std::env::var_os("ANA_TRACE").is_some() {
            eprintln!("{what}");
        }
    }

    fn cut(&mut self, parent: &str) {
        if self.branches.len() > 6 {
            return;
        }
        self.made += 1;
        let child = format!("child-{}", self.made);
        let branch = &self.branches[parent];
        self.place.cut(parent, Some(branch.process.tracker.gate()), &child);
        let process = self.place.attach(&child);
        let files = branch.files.clone();
        self.branches
            .insert(child, Branch { process, durable: BTreeMap::new(), files, open: BTreeMap::new() });
    }

    /// Layers are merged while descriptors are open on what they hold.
    fn merge(&mut self, name: &str) {
        self.place.seal(name);
        let gate = self.branches[name].process.tracker.gate();
        self.merged += self.place.merge(name, gate, &mut self.random);
    }

    /// A cut whose child does not stay: the parent has one more layer to itself.
    fn cut_for_nothing(&mut self, parent: &str) {
        self.place.cut(parent, Some(self.branches[parent].process.tracker.gate()), "nothing");
        self.place.home.remove("nothing").unwrap();
        self.check_layers();
        self.place.seal(parent);
    }

    /// Every process of the branch ends; the next one begins with nothing but the disk.
    fn restart(&mut self, name: &str) {
        let mut branch = self.branches.remove(name).unwrap();
        for fd in branch.open.values() {
            branch.process.close(*fd);
        }
        branch.open.clear();
        branch.process.tracker.release();
        branch.process = self.place.attach(name);
        self.branches.insert(name.to_owned(), branch);
    }

    fn drop_leaf(&mut self, name: &str) {
        if name == "root" || self.random.below(3) > 0 {
            return;
        }
        let branch = self.branches.remove(name).unwrap();
        branch.open.values().for_each(|fd| branch.process.close(*fd));
        drop(branch);
        self.place.home.remove(name).unwrap();
        self.check_layers();
    }

    /// Every layer that a manifest names is there, and no other.
    fn check_layers(&self) {
        let home = &self.place.home;
        let manifests = home.branches().unwrap().into_iter().map(|name| home.manifest(&name).unwrap());
        let named: BTreeSet<u64> =
            manifests.flat_map(|manifest| manifest.entries).map(|entry| entry.layer).collect();
        let there: BTreeSet<u64> = home.layers_there().unwrap().into_iter().collect();
        let gone: Vec<_> = named.difference(&there).collect();
        assert!(gone.is_empty(), "layers {gone:?} are gone, and branches need them");
        let left: Vec<_> = there.difference(&named).collect();
        assert!(left.is_empty(), "layers {left:?} are left, and nobody needs them");
    }

    fn operate(&mut self, name: &str) {
        let random = &mut self.random;
        let branch = self.branches.get_mut(name).unwrap();
        let file = NAMES[random.below(NAMES.len() as u64) as usize];
        let whole = file.ends_with("map");
        let exists = branch.files.contains_key(file);
        match random.below(20) {
            0 if !whole => {
                let result = branch.process.open(file, CREATE);
                assert_eq!(result.is_ok(), !exists, "create {file}: {result:?}");
                if let Ok(fd) = result {
                    branch.process.close(fd);
                    branch.files.insert(file.to_owned(), Vec::new());
                }
            }
            1 if !whole => {
                let result = branch.process.unlink(file);
                assert_eq!(result, if exists { Ok(()) } else { Err(Errno::NOENT) }, "unlink {file}");
                branch.forget(file);
                branch.files.remove(file);
            }
            2 if exists && !whole => branch.truncate(file, random),
            3 => branch.replace_small(random),
            4 => branch.directories(random),
            5..=7 if exists => branch.fsync(file),
            8..=13 if exists && !whole => branch.write(file, random),
            _ if exists => branch.read(file, random),
            _ => assert!(!branch.process.exists(file), "{file} should be gone"),
        }
    }

    /// All branches are synced in full, then the machine loses power.
    fn lose_power(&mut self) {
        let names: Vec<String> = self.branches.keys().cloned().collect();
        for name in &names {
            let branch = self.branches.get_mut(name).unwrap();
            let files: Vec<String> = branch.files.keys().cloned().collect();
            files.iter().for_each(|file| branch.fsync(file));
            branch.durable = branch.files.clone();
            for fd in branch.open.values() {
                branch.process.close(*fd);
            }
            branch.open.clear();
        }
        let durable: Vec<(String, Files)> =
            self.branches.iter().map(|(name, branch)| (name.clone(), branch.durable.clone())).collect();
        self.branches.clear();
        self.place.lose_power();
        for (name, files) in durable {
            let process = self.place.attach(&name);
            let branch = Branch { process, durable: files.clone(), files, open: BTreeMap::new() };
            branch.check(&name);
            self.branches.insert(name, branch);
        }
    }
}

impl Place {
    fn seal_if_possible(&self, name: &str) {
        self.seal(name);
    }
}

impl Branch {
    fn forget(&mut self, file: &str) {
        if let Some(fd) = self.open.remove(file) {
            self.process.close(fd);
        }
    }

    fn fd(&mut self, file: &str) -> Fd {
        if let Some(fd) = self.open.get(file) {
            return *fd;
        }
        let fd = self.process.open(file, RDWR).unwrap_or_else(|errno| panic!("open {file}: {errno}"));
        self.open.insert(file.to_owned(), fd);
        fd
    }

    fn write(&mut self, file: &str, random: &mut Random) {
        let fd = self.fd(file);
        let content = self.files.get_mut(file).unwrap();
        let blocks = content.len() as u64 / BLOCK;
        let (offset, length) = if random.below(4) == 0 {
            (random.below(content.len() as u64 + 100), 1 + random.below(20_000))
        } else {
            (random.below(blocks + 2) * BLOCK, BLOCK * (1 + random.below(3)))
        };
        let bytes = pattern(random.next(), length as usize);
        self.process.pwrite(fd, &bytes, offset).unwrap();
        let end = (offset + length) as usize;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(&bytes);
    }

    fn read(&mut self, file: &str, random: &mut Random) {
        let fd = self.fd(file);
        let content = &self.files[file];
        assert_eq!(self.process.size(fd), Ok(content.len() as u64), "size of {file}");
        let offset = random.below(content.len() as u64 + BLOCK) as usize;
        let length = 1 + random.below(5 * BLOCK) as usize;
        let expected = &content[offset.min(content.len())..(offset + length).min(content.len())];
        let got = self.process.pread(fd, length, offset as u64).unwrap();
        let differs = got.iter().zip(expected).position(|(a, b)| a != b);
        assert!(
            got == expected,
            "{file} at {offset}: {} bytes for {}, first difference at {:?} of a file of {}",
            got.len(),
            expected.len(),
            differs.map(|at| at + offset),
            content.len(),
        );
    }

    fn truncate(&mut self, file: &str, random: &mut Random) {
        let length = random.below(self.files[file].len() as u64 + 2 * BLOCK);
        let length = if random.below(2) == 0 { length / BLOCK * BLOCK } else { length };
        if random.below(2) == 0 {
            let fd = self.fd(file);
            self.process.ftruncate(fd, length).unwrap();
        } else {
            self.process.truncate(file, length).unwrap();
        }
        self.files.get_mut(file).unwrap().resize(length as usize, 0);
    }

    /// A small file written beside and renamed into place, or changed in place.
    fn replace_small(&mut self, random: &mut Random) {
        let (name, temporary) = ("base/5/pg_filenode.map", "base/5/pg_filenode.map.tmp");
        let bytes = pattern(random.next(), 524);
        if random.below(2) == 0 {
            self.process.write_file(temporary, &bytes).unwrap();
            self.process.rename(temporary, name).unwrap();
            self.forget(name);
        } else {
            let fd = self.fd(name);
            self.process.pwrite(fd, &bytes, 0).unwrap();
        }
        self.files.insert(name.to_owned(), bytes);
    }

    fn directories(&mut self, random: &mut Random) {
        let directory = "base/9";
        let inside: BTreeSet<String> =
            self.files.keys().filter_map(|name| name.strip_prefix("base/9/").map(str::to_owned)).collect();
        match random.below(4) {
            0 => {
                let made = self.process.mkdir(directory);
                if made.is_ok() {
                    assert!(inside.is_empty());
                    self.process.write_file("base/9/1", b"one").unwrap();
                    self.files.insert("base/9/1".to_owned(), b"one".to_vec());
                } else {
                    assert_eq!(made, Err(Errno::EXIST));
                }
            }
            1 if !inside.is_empty() => {
                self.forget("base/9/1");
                assert_eq!(self.process.rmdir(directory), Err(Errno(libc::ENOTEMPTY)));
                self.process.unlink("base/9/1").unwrap();
                self.files.remove("base/9/1");
                self.process.rmdir(directory).unwrap();
                assert!(!self.process.exists(directory));
            }
            _ => {
                let listed = self.process.list(directory);
                let expected: Vec<String> = inside.into_iter().collect();
                assert_eq!(listed.unwrap_or_default(), expected);
            }
        }
    }

    fn fsync(&mut self, file: &str) {
        let fd = self.fd(file);
        self.process.fsync(fd).unwrap();
    }

    fn check(&self, name: &str) {
        for (file, content) in &self.files {
            let got = self.process.content(file).unwrap_or_else(|errno| panic!("{name}: {file}: {errno}"));
            assert!(got == *content, "{name}: {file}: {} bytes, expected {}", got.len(), content.len());
        }
        for file in NAMES {
            assert_eq!(self.process.exists(file), self.files.contains_key(file), "{name}: {file}");
        }
        let listed: BTreeSet<String> = self.process.list("base/5").unwrap().into_iter().collect();
        let expected: BTreeSet<String> =
            self.files.keys().filter_map(|file| file.strip_prefix("base/5/").map(str::to_owned)).collect();
        assert_eq!(listed, expected, "{name}: listing of base/5");
    }
}

fn run(seed: u64, steps: u32) {
    let mut world = World::new(seed);
    for step in 0..steps {
        world.step();
        if step % 200 == 199 {
            world.branches.iter().for_each(|(name, branch)| branch.check(name));
        }
        if step % 500 == 499 {
            world.lose_power();
        }
    }
    world.check_layers();
    let counts = world.place.home.reference_counts();
    let mut expected = BTreeMap::new();
    for name in world.place.home.branches().unwrap() {
        for entry in world.place.home.manifest(&name).unwrap().entries {
            *expected.entry(entry.layer).or_insert(0u32) += 1;
        }
    }
    assert_eq!(counts, expected, "reference counts");
    assert!(world.merged > 5, "only {} layers were merged", world.merged);
}

#[test]
fn random_operations_agree_with_the_model() {
    let seeds: Vec<u64> = match std::env::var("ANA_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=12).collect(),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed, 2000));
        if let Err(cause) = result {
            eprintln!("failing seed: ANA_SEED={seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn a_gate_that_is_gone_is_refused() {
    let place = Place::new();
    place.root("root", &[]);
    let path = place.path.join("branches/root/gate");
    std::fs::write(&path, b"not a gate").unwrap();
    let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let fd = store::sys::openat(store::sys::AT_FDCWD, &text, RDWR, 0).unwrap();
    assert_eq!(Gate::open(fd).err(), Some(Errno::DAMAGED));
}

/// Each of these faults makes the model test fail: by an assertion of its own, not by a crash.
#[cfg(debug_assertions)]
mod planted {
    use store::fault::{Fault, must_be_noticed};

    const MODEL: &str = "random_operations_agree_with_the_model";

    #[test]
    fn what_a_branch_reads_is_not_what_it_wrote() {
        for fault in [
            Fault::SwitchUnseen,
            Fault::WriteBelow,
            Fault::NewestUnread,
            Fault::WhiteoutIgnored,
            Fault::FloorForgotten,
        ] {
            must_be_noticed(fault, MODEL, "panicked at crates/shim-core/tests/model.rs");
        }
    }

    #[test]
    fn layers_that_go_although_a_child_needs_them() {
        must_be_noticed(Fault::CollectedWhileShared, MODEL, "are gone, and branches need them");
    }

    #[test]
    fn removals_that_a_merge_forgets() {
        must_be_noticed(Fault::MergeForgetsRemovals, MODEL, "panicked at crates/shim-core/tests/model.rs");
    }

    #[test]
    fn space_that_never_comes_back() {
        must_be_noticed(Fault::NeverCollected, MODEL, "are left, and nobody needs them");
    }
}
