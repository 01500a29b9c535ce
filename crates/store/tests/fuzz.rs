//! Readers of everything that lies on the disk, fed with damage: an error or the right answer, never a
//! crash and never a look beyond the end. `ANA_SEED` replays a printed seed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use store::layer::arena::{self, Arena, BLOCK, MAX_BLOCKS};
use store::layer::entry::{self, Entry};
use store::layer::index::{Builder, Index, Kind};
use store::layer::{Layer, directory_name, log};
use store::manifest::{Entry as Slot, Manifest};
use store::{Errno, RelPath};

const ROUNDS: u64 = 4000;

struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let given = std::env::var("ANA_SEED").ok().map(|text| text.parse().unwrap());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 | 1
        });
        println!("ANA_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// One to four changes: bytes, words of telling values, an end cut off or grown.
    fn damage(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_slice(&good[..at.min(good.len())]),
                2..=3 if at + 4 <= bytes.len() => {
                    let words = [0, 1, u32::MAX, u32::MAX - 1, 1 << 31, 1 << 18, 131_072, good.len() as u32];
                    bytes[at / 4 * 4..at / 4 * 4 + 4].copy_from_slice(&words[self.below(8)].to_le_bytes());
                }
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
        bytes
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A file that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Scratch(std::env::temp_dir().join(format!("ana-fuzz-{}-{number}", std::process::id())))
    }

    /// The file with this content, afresh: what is mapped of the old one stays as it was.
    fn holding(&self, bytes: &[u8]) -> fs::File {
        let _ = fs::remove_file(&self.0);
        fs::write(&self.0, bytes).unwrap();
        fs::File::options().read(true).write(true).open(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn with_sum(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.len() >= 16 {
        let sum = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

#[test]
fn manifests() {
    let entries = (1..20).map(|slot| Slot { slot, layer: u64::from(slot) << 32 | 7 }).collect();
    let manifest = Manifest { sequence: 9, entries, note: b"{\"version\":1}".to_vec() };
    let good = manifest.encode();
    for at in 0..good.len() {
        assert_eq!(Manifest::decode(&good[..at]), Err(Errno::DAMAGED), "cut at {at}");
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert_eq!(Manifest::decode(&bad), Err(Errno::DAMAGED), "byte {at}");
        }
    }
    let mut random = Random::seeded();
    for _ in 0..ROUNDS {
        let bad = random.damage(&good);
        assert!(bad == good || Manifest::decode(&bad).is_err());
        // A sum that fits lets through to what lies behind it.
        if let Ok(read) = Manifest::decode(&with_sum(bad)) {
            assert!(!read.entries.is_empty() && read.entries.windows(2).all(|two| two[0].slot < two[1].slot));
        }
    }
}

fn sample_index() -> Vec<u8> {
    let mut builder = Builder::default();
    for directory in ["base", "base/5", "base/51", "pg_xact"] {
        builder.add_name(directory.as_bytes(), Kind::Directory);
    }
    for number in 0..30u32 {
        let path = format!("base/5/{}", 16384 + number);
        let runs = [(number, 2), (number + 5, 1)];
        builder.add(path.as_bytes(), Kind::Overlay, 1 << 20, 1 << 19, &runs, 0);
    }
    builder.add(b"pg_xact/0000", Kind::Complete, 8192, 0, &[], 77);
    builder.add_name(b"base/.wh.9", Kind::Whiteout);
    builder.encode()
}

/// Everything that anybody asks of an index.
fn ask(index: &Index) {
    for path in ["base", "base/5/16390", "base/5/nothing", "pg_xact/0000", "z"] {
        let found = index.find(&RelPath::new(path.as_bytes()).unwrap());
        if let Ok(Some(found)) = found {
            let _ = index.runs(&found, &mut |_, _| Ok(()));
        }
    }
    for path in ["", "base", "base/5"] {
        let mut names = 0;
        let _ = index.list(&RelPath::new(path.as_bytes()).unwrap(), &mut |_, _| {
            names += 1;
            assert!(names < 1000, "a list without an end");
            Ok(())
        });
    }
    let _ = index.for_each(&mut |_, found| index.runs(found, &mut |_, _| Ok(())));
}

/// Computes do not check the sum each time: what they read must lead them nowhere either.
#[test]
fn indexes() {
    let good = sample_index();
    let scratch = Scratch::new();
    let open = |bytes: &[u8], verify| Index::open(scratch.holding(bytes).as_raw_fd(), verify);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x81;
        assert!(open(&bad, true).is_err(), "byte {at}");
        open(&bad, false).iter().for_each(ask);
        assert!(open(&good[..at], false).is_err(), "cut at {at}");
    }
    let mut random = Random::seeded();
    for _ in 0..ROUNDS {
        let bad = random.damage(&good);
        assert!(bad == good || open(&bad, true).is_err());
        open(&bad, false).iter().for_each(ask);
        open(&with_sum(bad), true).iter().for_each(ask);
    }
}

#[test]
fn logs() {
    let scratch = Scratch::new();
    let file = scratch.holding(b"");
    let file_appending = fs::File::options().append(true).open(&scratch.0).unwrap();
    let mut written = Vec::new();
    let mut bits = Box::new([0u64; (MAX_BLOCKS / 64) as usize]);
    for number in 0..12u32 {
        bits[number as usize * 100] = 0b1011;
        log::append(file_appending.as_raw_fd(), number, u64::from(number) * BLOCK, &bits).unwrap();
    }
    drop(file);
    let good = fs::read(&scratch.0).unwrap();
    let whole = log::read(&good);
    assert_eq!(whole.len(), 12);
    let mut check = |bytes: &[u8]| {
        let (read, passed_over) = log::read_counting(bytes);
        assert!(passed_over <= bytes.len());
        // Records may be missing; those that are there are true.
        assert!(read.iter().all(|record| whole.contains(record)), "{read:?}");
        written.push(read.len());
    };
    for at in 0..good.len() {
        check(&good[..at]);
        let mut bad = good.clone();
        bad[at] ^= 0x42;
        check(&bad);
    }
    let mut random = Random::seeded();
    (0..ROUNDS).for_each(|_| check(&random.damage(&good)));
    assert!(written.contains(&12) && written.contains(&0));
}

#[test]
fn entries() {
    let entry = Entry { kind: entry::Kind::Overlay, record: 77, floor: 1 << 20 };
    let good = entry.encode();
    let mut random = Random::seeded();
    for _ in 0..ROUNDS {
        let read = Entry::decode(&random.damage(&good));
        assert!(read.is_none() || read == Some(entry));
    }
}

/// Everything that anybody asks of an arena that is not about to be written to.
fn ask_arena(arena: &Arena) {
    let mut snapshot = Box::new([0; (MAX_BLOCKS / 64) as usize]);
    for id in 0..arena.records() {
        let _ = arena.path(id);
        let _ = arena.is_unsynced(id);
        let _ = arena.unlogged(id, &mut snapshot);
        let _ = arena.is_present(id, 70_000);
        let _ = arena.present_runs(id, MAX_BLOCKS, &mut |_, _| Ok(()));
    }
    let _ = (arena.sync_state(), arena.poisoned());
}

/// A mapped file that is shorter than it says kills whoever touches it.
#[test]
fn arenas() {
    let scratch = Scratch::new();
    let arena = Arena::create(scratch.holding(b"").into_raw_fd()).unwrap();
    for number in 0..30u32 {
        let path = RelPath::new(format!("base/5/{number}").as_bytes()).unwrap();
        let id = arena.add(&path, arena::OVERLAY, 1 << 20).unwrap();
        arena.reserve(id, number..number + 1).unwrap();
        arena.set_present(id, number);
    }
    arena.reserve(3, 120_000..120_001).unwrap();
    drop(arena);
    let whole = fs::File::options().read(true).write(true).open(&scratch.0).unwrap();
    let length = whole.metadata().unwrap().len();
    let head = {
        let mut head = vec![0; 4096 + 30 * 192];
        std::os::unix::fs::FileExt::read_exact_at(&whole, &mut head, 0).unwrap();
        head
    };
    // The file is sparse and large: the head is changed in place and put back.
    let with_head = |bytes: &[u8], length: u64| {
        std::os::unix::fs::FileExt::write_all_at(&whole, bytes, 0).unwrap();
        whole.set_len(length).unwrap();
        let opened =
            Arena::open(fs::File::options().read(true).write(true).open(&scratch.0).unwrap().into_raw_fd());
        if let Ok(Some(arena)) = &opened {
            ask_arena(arena);
        }
        opened
    };
    assert!(with_head(&head, length).unwrap().is_some());
    for at in (0..head.len()).filter(|at| *at < 128 || *at >= 4096) {
        let mut bad = head.clone();
        bad[at] ^= 0x91;
        let _ = with_head(&bad, length);
    }
    let mut random = Random::seeded();
    for _ in 0..ROUNDS / 4 {
        let bad = random.damage(&head);
        let _ = with_head(&bad[..bad.len().min(head.len())], length);
    }
    // Shorter and shorter: what was cut off last is missed first.
    for length in [length - 4096, length - 8192, length / 2, 60_000, 9000, 8192, 4097, 4096, 100, 0] {
        let opened = with_head(&head, length.max(head.len() as u64).min(length));
        assert!(!matches!(opened, Ok(Some(_))), "{length}");
    }
}

/// What a lookup in a whole layer makes of damage.
#[test]
fn layers() {
    let path = Scratch::new().0.clone();
    fs::create_dir(&path).unwrap();
    let directory = fs::File::open(&path).unwrap();
    let own = path.join(directory_name(1).to_str().unwrap());
    fs::create_dir_all(own.join("f/base/5")).unwrap();
    let good = sample_index();
    let mut random = Random::seeded();
    for _ in 0..ROUNDS / 4 {
        fs::write(own.join("index"), random.damage(&good)).unwrap();
        let Ok(layer) = Layer::open(directory.as_raw_fd(), 1) else { continue };
        for path in ["base/5/16390", "base/9", "pg_xact/0000", "base/5"] {
            if let Ok(Some(found)) = layer.find(&RelPath::new(path.as_bytes()).unwrap())
                && let Ok(ranges) = layer.held(&found)
            {
                assert!(ranges.iter().all(|range| range.start < range.end && range.end <= found.length));
            }
        }
        drop(layer);
        fs::remove_file(own.join("index")).unwrap();
    }
    fs::remove_dir_all(&path).unwrap();
}
