//! A layer made again after a restart of the machine: what it may believe and what not.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use store::RelPath;
use store::layer::arena::{self, BLOCK, MAX_BLOCKS};
use store::layer::entry::{Entry, Kind};
use store::layer::{Layer, directory_name, log, seal};

struct Layers {
    path: PathBuf,
    directory: std::fs::File,
}

impl Layers {
    fn new(name: &str) -> Layers {
        let path = std::env::temp_dir().join(format!("ana-rebuild-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        Layers { path, directory }
    }

    fn create(&self) -> Layer {
        Layer::create(self.directory.as_raw_fd(), 1).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(directory_name(1).to_str().unwrap()).join(name)
    }

    /// The machine restarts: what was mapped is not believed.
    fn restart(&self) -> Layer {
        std::fs::remove_file(self.file("arena")).unwrap();
        seal::rebuild(self.directory.as_raw_fd(), 1).unwrap();
        Layer::open(self.directory.as_raw_fd(), 1).unwrap()
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn overlay(layers: &Layers, layer: &Layer, name: &str, length: u64) -> u32 {
    let path = RelPath::new(name.as_bytes()).unwrap();
    let record = layer.arena().unwrap().add(&path, arena::OVERLAY | arena::DIRTY, length).unwrap();
    let file = std::fs::File::create_new(layers.file("f").join(name)).unwrap();
    file.set_len(length).unwrap();
    Entry { kind: Kind::Overlay, record, floor: length }.store(file.as_raw_fd()).unwrap();
    record
}

fn present(layer: &Layer, record: u32) -> Vec<(u32, u32)> {
    let mut runs = Vec::new();
    let mut each = |start, count| {
        runs.push((start, count));
        Ok(())
    };
    layer.arena().unwrap().present_runs(record, MAX_BLOCKS, &mut each).unwrap();
    runs
}

#[test]
fn the_log_of_a_dropped_file_is_not_taken_for_that_of_a_later_one() {
    let layers = Layers::new("number");
    let layer = layers.create();
    let dropped = overlay(&layers, &layer, "dropped", 10 * BLOCK);
    let mut bits = Box::new([0; (MAX_BLOCKS / 64) as usize]);
    bits[0] = 0b111;
    let file = std::fs::File::options().append(true).open(layers.file("log")).unwrap();
    log::append(file.as_raw_fd(), dropped, 10 * BLOCK, &bits).unwrap();
    std::fs::remove_file(layers.file("f/dropped")).unwrap();

    let layer = layers.restart();
    let later = overlay(&layers, &layer, "later", 10 * BLOCK);
    let layer = layers.restart();
    assert_eq!(present(&layer, later), []);
}

#[test]
fn a_cut_whose_length_alone_reached_the_disk_lets_nothing_through_later() {
    let layers = Layers::new("floor");
    let record = overlay(&layers, &layers.create(), "cut", 10 * BLOCK);
    let file = std::fs::File::options().write(true).open(layers.file("f/cut")).unwrap();
    file.set_len(5 * BLOCK).unwrap();

    let layer = layers.restart();
    let arena = layer.arena().unwrap();
    assert_eq!(arena.record(record).floor.load(Ordering::Acquire), 5 * BLOCK);
    // The next sync says so in the log; then it holds although the file has grown back.
    assert!(arena.is_unsynced(record));
    seal::sync_file(&layer, arena, record, file.as_raw_fd(), false).unwrap();
    file.set_len(10 * BLOCK).unwrap();
    let layer = layers.restart();
    assert_eq!(layer.arena().unwrap().record(record).floor.load(Ordering::Acquire), 5 * BLOCK);
}

/// Parent and children start together after the power came back.
#[test]
fn relatives_may_rebuild_a_layer_at_the_same_time() {
    let layers = Layers::new("together");
    let layer = layers.create();
    let records: Vec<u32> =
        (0..200).map(|number| overlay(&layers, &layer, &format!("file{number}"), 10 * BLOCK)).collect();
    drop(layer);
    for _ in 0..20 {
        std::fs::remove_file(layers.file("arena")).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    seal::rebuild(layers.directory.as_raw_fd(), 1).unwrap();
                    let layer = Layer::open(layers.directory.as_raw_fd(), 1).unwrap();
                    let arena = layer.arena().unwrap();
                    for &record in &records {
                        assert_eq!(arena.record(record).floor.load(Ordering::Acquire), 10 * BLOCK);
                    }
                });
            }
        });
    }
}

/// The cut's own thread seals a layer while a checkpointer of the parent is in the middle of a sync.
#[test]
fn a_file_that_is_being_synced_is_not_yet_durable() {
    let layers = Layers::new("syncing");
    let layer = layers.create();
    let record = overlay(&layers, &layer, "busy", 10 * BLOCK);
    let arena = layer.arena().unwrap();
    let file = std::fs::File::open(layers.file("f/busy")).unwrap();
    seal::sync_file(&layer, arena, record, file.as_raw_fd(), false).unwrap();
    assert!(!arena.is_unsynced(record));
    arena.record(record).syncing.fetch_add(1, Ordering::AcqRel);
    assert!(arena.is_unsynced(record));
}

/// A failed sync is remembered: the kernel tells of it once.
#[test]
fn a_failed_sync_poisons_the_layer() {
    let layers = Layers::new("poison");
    let layer = layers.create();
    let record = overlay(&layers, &layer, "bad", 10 * BLOCK);
    let arena = layer.arena().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(seal::sync_file(&layer, arena, record, reader.as_raw_fd(), false).is_err());
    assert!(arena.poisoned().is_some());
    assert!(seal::sync_layer(&layer, None).is_err());
}
