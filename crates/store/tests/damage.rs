//! What is wrong in a layer is found and named; what nobody can read is never taken for something else.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use store::layer::arena::{self, BLOCK};
use store::layer::entry::{Entry, Kind};
use store::layer::index::{self, Index};
use store::layer::{Layer, directory_name, seal};
use store::verify::{self, Defect, Grade, Judge, Seen};
use store::{Errno, RelPath, sys};

struct Layers {
    path: PathBuf,
    directory: fs::File,
}

/// Blocks of files below `base` are filled with one more than their number.
#[derive(Default)]
struct Test {
    defects: Vec<Defect>,
    bytes: u64,
}

impl Judge for Test {
    fn judges(&mut self, path: &RelPath) -> bool {
        path.as_bytes().starts_with(b"base/")
    }

    fn judge(&mut self, _: &RelPath, block: u32, bytes: &[u8; BLOCK as usize]) -> Result<(), String> {
        let wanted = block as u8 + 1;
        if bytes.iter().all(|byte| *byte == wanted) { Ok(()) } else { Err("is not as it was".to_owned()) }
    }

    fn found(&mut self, defect: Defect) {
        self.defects.push(defect);
    }

    fn read(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        true
    }
}

fn summed(path: &RelPath) -> bool {
    !path.as_bytes().starts_with(b"base/")
}

fn content(blocks: std::ops::Range<u32>) -> Vec<u8> {
    blocks.flat_map(|block| vec![block as u8 + 1; BLOCK as usize]).collect()
}

impl Layers {
    fn new(name: &str) -> Layers {
        let path = std::env::temp_dir().join(format!("ana-damage-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let directory = fs::File::open(&path).unwrap();
        Layers { path, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(directory_name(1).to_str().unwrap()).join(name)
    }

    /// An open layer with a complete file `base/1`, an overlay `base/2` that holds blocks 1, 2 and all
    /// from 8 on, a small file and a whiteout.
    fn open(&self) -> Layer {
        let layer = Layer::create(self.directory.as_raw_fd(), 1).unwrap();
        fs::create_dir(self.file("f/base")).unwrap();
        self.add(&layer, "base/1", Kind::Complete, 0, &content(0..3));
        let mut bytes = content(0..10);
        for hole in [0..1, 3..8] {
            bytes[hole.start * BLOCK as usize..hole.end * BLOCK as usize].fill(0);
        }
        let overlay = self.add(&layer, "base/2", Kind::Overlay, 8 * BLOCK, &bytes);
        let arena = layer.arena().unwrap();
        arena.reserve(overlay, 1..3).unwrap();
        (1..3).for_each(|block| arena.set_present(overlay, block));
        self.add(&layer, "small", Kind::Complete, 0, b"a few bytes");
        fs::write(self.file("f/base/.wh.3"), b"").unwrap();
        arena.header().whiteouts.store(1, std::sync::atomic::Ordering::Release);
        layer
    }

    fn add(&self, layer: &Layer, name: &str, kind: Kind, floor: u64, bytes: &[u8]) -> u32 {
        let path = RelPath::new(name.as_bytes()).unwrap();
        let flags = if kind == Kind::Overlay { arena::OVERLAY } else { 0 };
        let record = layer.arena().unwrap().add(&path, flags | arena::DIRTY, floor).unwrap();
        let file = self.file("f").join(name);
        fs::write(&file, bytes).unwrap();
        Entry { kind, record, floor }.store(fs::File::open(file).unwrap().as_raw_fd()).unwrap();
        record
    }

    fn sealed(name: &str) -> Layers {
        let layers = Layers::new(name);
        let layer = layers.open();
        seal::sync_layer(&layer, None).unwrap();
        seal::build_index(&layer, &summed).unwrap();
        layers
    }

    fn verify(&self) -> (Seen, Test) {
        let mut test = Test::default();
        (verify::layer(self.directory.as_raw_fd(), 1, &mut test), test)
    }

    fn usable(&self) -> Result<(), Defect> {
        verify::usable(self.directory.as_raw_fd(), 1)
    }

    fn change(&self, name: &str, at: usize) {
        let path = self.file(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x10;
        write_over(&path, &bytes);
    }
}

/// Sealed files are read-only.
fn write_over(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

impl Drop for Layers {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn a_whole_layer_has_no_defect() {
    let layers = Layers::new("open");
    drop(layers.open());
    let (seen, test) = layers.verify();
    assert_eq!((seen, test.defects), (Seen::Open, vec![]));
    assert_eq!(layers.usable(), Ok(()));

    let layers = Layers::sealed("sealed");
    let (seen, test) = layers.verify();
    assert_eq!((seen, test.defects), (Seen::Sealed, vec![]));
    // What falls through was not read: 3 blocks, 4 blocks, 11 bytes.
    assert_eq!(test.bytes, 7 * BLOCK + 11);
    assert_eq!(verify::size(layers.directory.as_raw_fd(), 1), test.bytes);
    assert_eq!(layers.usable(), Ok(()));
}

/// What was done to a layer, and which file, block and words tell of it.
type Case = (&'static str, fn(&Layers), Grade, &'static str, Option<u32>, &'static str);

#[test]
fn each_damage_of_a_sealed_layer_is_named() {
    use Grade::{Damage, Leftover};
    let other = "is damaged or of another version";
    let cases: [Case; 17] = [
        ("page", |l| l.change("f/base/1", 8192), Damage, "base/1", Some(1), "is not as it was"),
        ("held", |l| l.change("f/base/2", 2 * 8192 + 5), Damage, "base/2", Some(2), "is not as it was"),
        ("above the floor", |l| l.change("f/base/2", 81_919), Damage, "base/2", Some(9), "is not as it was"),
        ("sum", |l| l.change("f/small", 3), Damage, "small", None, "does not have the content"),
        (
            "short",
            |l| write_over(&l.file("f/base/1"), &[1; 8192]),
            Damage,
            "base/1",
            None,
            "has 8192 bytes, its index says 24576",
        ),
        ("long", |l| write_over(&l.file("f/small"), b"more than a few bytes"), Damage, "small", None, "21"),
        ("gone", |l| fs::remove_file(l.file("f/base/1")).unwrap(), Damage, "base/1", None, "is missing"),
        (
            "no whiteout",
            |l| fs::remove_file(l.file("f/base/.wh.3")).unwrap(),
            Damage,
            "base/.wh.3",
            None,
            "is missing",
        ),
        (
            "directory",
            |l| {
                fs::remove_file(l.file("f/small")).unwrap();
                fs::create_dir(l.file("f/small")).unwrap();
            },
            Damage,
            "small",
            None,
            "is no ordinary file",
        ),
        (
            "entry",
            |l| {
                let file = fs::File::open(l.file("f/base/2")).unwrap();
                Entry { kind: Kind::Complete, record: 1, floor: 0 }.store(file.as_raw_fd()).unwrap();
            },
            Damage,
            "base/2",
            None,
            "has an entry that does not fit",
        ),
        ("stranger", |l| fs::write(l.file("f/base/9"), "x").unwrap(), Leftover, "base/9", None, "not in"),
        ("beside", |l| fs::write(l.file("core"), "x").unwrap(), Leftover, "core", None, "belongs to nothing"),
        ("index", |l| l.change("index", 70), Damage, "index", None, other),
        ("index version", |l| l.change("index", 8), Damage, "index", None, other),
        ("index cut", |l| write_over(&l.file("index"), b"ANAINDX1"), Damage, "index", None, other),
        ("no index", |l| fs::remove_file(l.file("index")).unwrap(), Damage, "", None, "has lost its index"),
        ("no layer", |l| fs::remove_dir_all(l.file("")).unwrap(), Damage, "", None, "is missing"),
    ];
    for (name, damage, grade, file, block, what) in cases {
        let layers = Layers::sealed(&name.replace(' ', "-"));
        damage(&layers);
        let (_, test) = layers.verify();
        let [defect] = &test.defects[..] else { panic!("{name}: {:?}", test.defects) };
        assert_eq!((defect.grade, defect.file.as_deref().unwrap_or_default()), (grade, file), "{name}");
        assert_eq!(defect.block, block, "{name}");
        assert!(defect.what.contains(what), "{name}: {defect:?}");
        // What keeps a branch from being read at all is seen without reading its content.
        let structural = matches!(file, "" | "index");
        assert_eq!(layers.usable().is_err(), structural, "{name}");
    }
}

#[cfg(debug_assertions)]
#[test]
fn planted_blindness_for_pages() {
    let test = "each_damage_of_a_sealed_layer_is_named";
    store::fault::must_be_noticed(store::fault::Fault::PagesUnjudged, test, "page: []");
}

#[test]
fn what_is_beside_what_a_layer_holds_is_no_damage() {
    let layers = Layers::sealed("beside-held");
    layers.change("f/base/2", 4 * 8192);
    assert_eq!(layers.verify().1.defects, vec![]);
}

#[test]
fn a_file_full_of_damage_is_told_in_few_words() {
    let layers = Layers::sealed("full");
    let mut bytes = content(0..3);
    bytes.fill(99);
    write_over(&layers.file("f/base/1"), &bytes);
    assert_eq!(layers.verify().1.defects.len(), 3);

    let layers = Layers::new("fuller");
    let layer = layers.open();
    layers.add(&layer, "base/4", Kind::Complete, 0, &[99; 40 * 8192]);
    seal::sync_layer(&layer, None).unwrap();
    seal::build_index(&layer, &summed).unwrap();
    let defects = layers.verify().1.defects;
    assert_eq!(defects.len(), 17);
    assert_eq!(defects[16].what, "has 24 more damaged blocks");
}

type OpenCase = (&'static str, fn(&Layers), &'static str, &'static str);

#[test]
fn each_damage_of_an_open_layer_is_named() {
    let cases: [OpenCase; 5] = [
        ("log", |l| fs::remove_file(l.file("log")).unwrap(), "", "has lost its index, or its log"),
        ("version", |l| l.change("arena", 8), "arena", "is damaged or of another version"),
        (
            "cut",
            |l| fs::File::options().write(true).open(l.file("arena")).unwrap().set_len(8192).unwrap(),
            "arena",
            "is damaged or of another version",
        ),
        (
            "entry",
            |l| set_attribute(&l.file("f/small"), b"ENTRY OF ANOTHER AGE"),
            "small",
            "has a damaged entry",
        ),
        ("no entry", |l| fs::write(l.file("f/base/9"), "x").unwrap(), "base/9", "has no entry"),
    ];
    for (name, damage, file, what) in cases {
        let layers = Layers::new(&format!("open-{}", name.replace(' ', "-")));
        drop(layers.open());
        damage(&layers);
        let (_, test) = layers.verify();
        let [defect] = &test.defects[..] else { panic!("{name}: {:?}", test.defects) };
        assert_eq!(defect.file.as_deref().unwrap_or_default(), file, "{name}");
        assert!(defect.what.contains(what), "{name}: {defect:?}");
        assert_eq!(defect.grade, Grade::Damage, "{name}");
    }
}

/// A crash may leave such; whether it did nobody can tell.
#[test]
fn a_log_with_bytes_of_no_record_is_told_of() {
    let layers = Layers::new("torn-log");
    drop(layers.open());
    fs::write(layers.file("log"), b"ALG1 torn").unwrap();
    let defects = layers.verify().1.defects;
    assert_eq!((defects.len(), defects[0].grade), (1, Grade::Leftover), "{defects:?}");
    assert!(defects[0].what.starts_with("has 9 bytes that are no whole record"), "{defects:?}");
    assert_eq!(layers.usable(), Ok(()));
}

fn set_attribute(path: &Path, value: &[u8]) {
    let file = fs::File::open(path).unwrap();
    sys::fsetxattr(file.as_raw_fd(), c"user.anabranch", value).unwrap();
}

/// A layer whose index is lost looks like an open one to whoever does not look for the log; its files
/// have no entries and would be taken for half-made ones.
#[test]
fn a_layer_that_lost_its_index_is_not_made_again_from_its_files() {
    let layers = Layers::new("lost-index");
    fs::create_dir_all(layers.file("f/base")).unwrap();
    fs::write(layers.file("f/base/1"), content(0..2)).unwrap();
    let rebuilt = seal::rebuild(layers.directory.as_raw_fd(), 1);
    assert_eq!(rebuilt, Err(Errno::DAMAGED));
    assert_eq!(fs::read(layers.file("f/base/1")).unwrap(), content(0..2));
}

#[test]
fn a_file_with_a_damaged_entry_is_not_taken_for_half_made() {
    let layers = Layers::new("bad-entry");
    drop(layers.open());
    fs::remove_file(layers.file("arena")).unwrap();
    set_attribute(&layers.file("f/small"), b"no entry at all");
    assert_eq!(seal::rebuild(layers.directory.as_raw_fd(), 1), Err(Errno::DAMAGED));
    assert_eq!(fs::read(layers.file("f/small")).unwrap(), b"a few bytes");
}

/// As the first version wrote it, which knew no sums: a directory, a complete file of 10
/// bytes, an overlay with one run, a whiteout.
const FIRST_INDEX: &[u8] = include_bytes!("../fixtures/index.1");

#[test]
fn an_index_without_sums_is_read_and_nothing_is_held_against_it() {
    let layers = Layers::new("first-index");
    fs::create_dir_all(layers.file("f/base/5")).unwrap();
    fs::write(layers.file("f/base/5/1"), [1; 8192]).unwrap();
    fs::write(layers.file("f/small"), b"any 10 byt").unwrap();
    fs::write(layers.file("f/base/.wh.9"), b"").unwrap();
    let overlay = fs::File::create(layers.file("f/base/5/2")).unwrap();
    overlay.set_len(16384).unwrap();
    Entry { kind: Kind::Overlay, record: 0, floor: 16384 }.store(overlay.as_raw_fd()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&overlay, &[2; 8192], 8192).unwrap();
    fs::write(layers.file("index"), FIRST_INDEX).unwrap();

    let index = open_index(&layers.file("index"), true).unwrap();
    let mut sums = Vec::new();
    index
        .for_each(&mut |_, found: &index::Found| {
            sums.push(found.sum);
            Ok(())
        })
        .unwrap();
    assert_eq!(sums, [0; 6]);
    assert_eq!(layers.verify().1.defects, vec![]);
    let layer = Layer::open(layers.directory.as_raw_fd(), 1).unwrap();
    assert_eq!(layer.find(&RelPath::new(b"small").unwrap()).unwrap().unwrap().length, 10);
}

fn open_index(path: &Path, verify: bool) -> store::Result<Index> {
    let file = fs::File::open(path).unwrap();
    Index::open(file.as_raw_fd(), verify)
}
