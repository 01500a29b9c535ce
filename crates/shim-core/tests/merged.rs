//! Layers are merged while the processes of a compute use them.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use shim_core::Errno;
use store::sys::Fd;
use support::{CREATE, Place, Process, RDWR};

const BLOCK: usize = 8192;

fn page(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK]
}

fn write(process: &Process, file: &str, block: u64, byte: u8) {
    let fd = process.open(file, RDWR).unwrap();
    process.pwrite(fd, &page(byte), block * BLOCK as u64).unwrap();
    process.close(fd);
}

fn first_bytes(process: &Process, fd: Fd, blocks: u64) -> Vec<u8> {
    (0..blocks).map(|block| process.pread(fd, 1, block * BLOCK as u64).unwrap()[0]).collect()
}

/// A branch whose file 1 has block 1 of its first and block 2 of its second layer; file 2 in both.
fn place() -> (Place, Process) {
    let place = Place::new();
    place.root("main", &[("base/5/1", page(1).repeat(4)), ("base/5/2", page(1).repeat(2))]);
    let writer = place.attach("main");
    for (block, byte) in [(1, 2), (2, 3)] {
        write(&writer, "base/5/1", block, byte);
        write(&writer, "base/5/2", 0, byte);
        place.cut_for_nothing("main", writer.tracker.gate());
    }
    writer.tracker.release();
    let reader = place.attach("main");
    (place, reader)
}

/// The two layers above the base.
fn upper(place: &Place) -> Vec<u64> {
    place.home.manifest("main").unwrap().entries[1..3].iter().map(|entry| entry.layer).collect()
}

#[test]
fn what_one_process_finds_in_a_merged_layer_another_reads_there() {
    let (place, old) = place();
    // Both layers are open in the old process; the other file is not known to anybody.
    let fd = old.open("base/5/2", RDWR).unwrap();
    assert_eq!(first_bytes(&old, fd, 2), [3, 1]);
    let layers = upper(&place);
    place.name_merged("main", &layers, false, old.tracker.gate());
    assert_eq!(place.home.manifest("main").unwrap().entries.len(), 3);

    let new = Process { tracker: old.tracker.sibling().unwrap() };
    let found = new.open("base/5/1", RDWR).unwrap();
    assert_eq!(first_bytes(&new, found, 4), [1, 2, 3, 1]);
    let told = old.open("base/5/1", RDWR).unwrap();
    assert_eq!(first_bytes(&old, told, 4), [1, 2, 3, 1], "as the new process found it");
    place.home.remove_merged(&layers).unwrap();
    for (process, fd) in [(&new, found), (&old, told)] {
        assert_eq!(first_bytes(process, fd, 4), [1, 2, 3, 1]);
        assert_eq!(process.content("base/5/2").unwrap(), [page(3), page(1)].concat());
        process.close(fd);
    }
    old.close(fd);
}

#[test]
fn descriptors_and_old_findings_outlive_a_merge() {
    let (place, process) = place();
    let before = process.open("base/5/1", RDWR).unwrap();
    assert_eq!(first_bytes(&process, before, 1), [1], "only the base is read so far");
    let layers = upper(&place);
    place.name_merged("main", &layers, false, process.tracker.gate());
    place.home.remove_merged(&layers).unwrap();

    assert_eq!(first_bytes(&process, before, 4), [1, 2, 3, 1], "by what was found before");
    let again = process.open("base/5/1", RDWR).unwrap();
    assert_eq!(first_bytes(&process, again, 4), [1, 2, 3, 1]);
    process.pwrite(again, &page(9), 0).unwrap();
    process.fsync(again).unwrap();
    assert_eq!(first_bytes(&process, before, 4), [9, 2, 3, 1]);
    assert_eq!(process.size(before).unwrap(), 4 * BLOCK as u64);
    assert!(process.exists("base/5/2"));
    assert_eq!(process.list("base/5").unwrap(), ["1", "2"]);
    process.unlink("base/5/2").unwrap();
    assert!(!process.exists("base/5/2"));
    let made = process.open("base/5/2", CREATE).unwrap();
    for fd in [before, again, made] {
        process.close(fd);
    }
}

#[test]
fn a_layer_that_somebody_else_needs_is_not_replaced() {
    let (place, process) = place();
    let layers = upper(&place);
    assert!(place.home.lease_unshared(&layers));
    assert!(!place.home.lease_unshared(&layers), "somebody is at it");
    place.cut("main", Some(process.tracker.gate()), "child");
    let target = place.home.reserve_layer(store::layer::group_of(layers[0]));
    store::merge::merge(place.home.layers(), &layers, target, false, &|_| true, &mut |_| Ok(())).unwrap();
    assert!(!place.home.name_merged("main", &layers, target).unwrap(), "a child needs them by now");
    place.home.end_lease(target).unwrap();
    place.home.end_leases(&layers).unwrap();
    let there = place.home.layers_there().unwrap();
    assert!(layers.iter().all(|layer| there.contains(layer)) && !there.contains(&target));
    let child = place.attach("child");
    assert_eq!(child.content("base/5/1").unwrap(), process.content("base/5/1").unwrap());
}

/// Merged, rot would look sound: it would get a sum of its own.
#[test]
fn what_is_damaged_is_not_merged() {
    let (place, process) = place();
    let layers = upper(&place);
    let target = || place.home.reserve_layer(store::layer::group_of(layers[0]));
    let merge =
        |target| store::merge::merge(place.home.layers(), &layers, target, false, &|_| true, &mut |_| Ok(()));
    let path = place.home.layer_path(layers[0]).join("f/base/5/1");
    let good = std::fs::read(&path).unwrap();
    let rotten = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let writable =
        || std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // In the block that the layer holds, and shorter than it was.
    for bad in [rotten(BLOCK + 5), good[..BLOCK].to_vec()] {
        writable();
        std::fs::write(&path, &bad).unwrap();
        let target = target();
        assert_eq!(merge(target).err(), Some(Errno::DAMAGED));
        place.home.end_lease(target).unwrap();
    }
    // A program of the branch may have put a pipe there: nobody waits for it.
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let pipe = target();
    assert_eq!(merge(pipe).err(), Some(Errno::DAMAGED));
    place.home.end_lease(pipe).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &good).unwrap();
    let sound = target();
    assert!(merge(sound).is_ok());
    place.home.end_lease(sound).unwrap();
    drop(process);
}

/// A removal that was cut short after its whiteout: for readers the file is there, with what lies below it.
#[test]
fn a_removal_that_went_no_further_than_its_whiteout_removes_nothing() {
    let place = Place::new();
    place.root("main", &[("base/5/1", page(1).repeat(4))]);
    let writer = place.attach("main");
    write(&writer, "base/5/1", 1, 2);
    place.cut_for_nothing("main", writer.tracker.gate());
    write(&writer, "base/5/1", 2, 3);
    let top = place.home.manifest("main").unwrap().top().layer;
    std::fs::write(place.home.layer_path(top).join("f/base/5/.wh.1"), b"").unwrap();
    place.cut_for_nothing("main", writer.tracker.gate());
    let expected = [page(1), page(2), page(3), page(1)].concat();
    writer.tracker.release();
    let before = place.attach("main");
    assert_eq!(before.content("base/5/1").unwrap(), expected);
    before.tracker.release();
    let after = place.attach("main");
    let layers = upper(&place);
    place.name_merged("main", &layers, false, after.tracker.gate());
    place.home.remove_merged(&layers).unwrap();
    assert_eq!(after.content("base/5/1").unwrap(), expected);
}

/// A stack is short again after many cuts, and descriptors and mappings of a process that saw all of them are few.
#[test]
fn a_process_holds_on_to_nothing_that_was_merged() {
    let place = Place::new();
    place.root("main", &[("base/5/1", page(1).repeat(4))]);
    let process = place.attach("main");
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for round in 0..200 {
        write(&process, "base/5/1", round % 4, round as u8);
        place.cut_for_nothing("main", process.tracker.gate());
        let layers = upper(&place);
        if round % 2 == 1 {
            place.name_merged("main", &layers, false, process.tracker.gate());
            place.home.remove_merged(&layers).unwrap();
        }
    }
    assert_eq!(process.content("base/5/1").unwrap().len(), 4 * BLOCK);
    assert!(open() < before + 400, "{} descriptors, {before} before", open());
    let bytes: Vec<u8> = process.content("base/5/1").unwrap().into_iter().step_by(BLOCK).collect();
    assert_eq!(bytes, [196, 197, 198, 199]);
}

#[cfg(debug_assertions)]
mod planted {
    use store::fault::{Fault, must_be_noticed};

    #[test]
    fn a_process_that_does_not_hear_of_a_merge() {
        let test = "what_one_process_finds_in_a_merged_layer_another_reads_there";
        must_be_noticed(Fault::MergeUnseen, test, "as the new process found it");
    }
}
