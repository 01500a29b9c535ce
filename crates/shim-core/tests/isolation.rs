//! Copy-on-write, one promise per test: what a parent and its child see of each other. The model test
//! has all of it at random; here a failure says which promise was broken.
#![allow(clippy::unwrap_used)]

mod support;

use shim_core::Errno;
use store::sys::Fd;
use support::{Place, Process, RDWR};

const BLOCK: usize = 8192;
const FILE: &str = "base/5/1";

fn blocks(of: &[u8]) -> Vec<u8> {
    of.iter().flat_map(|&byte| [byte; BLOCK]).collect()
}

/// The first byte of each block of a file.
fn seen(process: &Process) -> Vec<u8> {
    process.content(FILE).unwrap().chunks(BLOCK).map(|block| block[0]).collect()
}

fn write(process: &Process, fd: Fd, block: usize, byte: u8) {
    process.pwrite(fd, &[byte; BLOCK], (block * BLOCK) as u64).unwrap();
}

/// A running parent whose file has blocks 1 to 4.
fn parent() -> (Place, Process) {
    let place = Place::new();
    place.root("parent", &[(FILE, blocks(&[1, 2, 3, 4]))]);
    let parent = place.attach("parent");
    (place, parent)
}

impl Place {
    fn child(&self, parent: &Process) -> Process {
        self.cut("parent", Some(parent.tracker.gate()), "child");
        self.attach("child")
    }
}

#[test]
fn what_a_parent_writes_after_a_cut_is_its_own() {
    let (place, parent) = parent();
    let fd = parent.open(FILE, RDWR).unwrap();
    write(&parent, fd, 1, 20);
    let child = place.child(&parent);
    // By a descriptor that was written through before.
    write(&parent, fd, 1, 99);
    assert_eq!(seen(&child), [1, 20, 3, 4], "the child sees a write that came after the cut");
    assert_eq!(seen(&parent), [1, 99, 3, 4]);
}

#[test]
fn what_a_child_writes_is_its_own() {
    let (place, parent) = parent();
    let child = place.child(&parent);
    let fd = child.open(FILE, RDWR).unwrap();
    write(&child, fd, 1, 99);
    assert_eq!(seen(&parent), [1, 2, 3, 4], "the parent sees its child's write");
    assert_eq!(seen(&child), [1, 99, 3, 4]);
}

#[test]
fn a_block_is_read_from_the_newest_layer_that_has_it() {
    let (place, parent) = parent();
    let fd = parent.open(FILE, RDWR).unwrap();
    write(&parent, fd, 1, 20);
    let child = place.child(&parent);
    let fd = child.open(FILE, RDWR).unwrap();
    write(&child, fd, 2, 30);
    assert_eq!(seen(&child), [1, 20, 30, 4], "an older version of a block was read");
}

#[test]
fn a_file_that_a_child_removed_stays_removed() {
    let (place, parent) = parent();
    let child = place.child(&parent);
    child.unlink(FILE).unwrap();
    for child in [child, place.attach("child")] {
        assert_eq!(child.content(FILE), Err(Errno::NOENT), "the parent's file is back");
        assert!(!child.exists(FILE));
        assert_eq!(child.list("base/5").unwrap(), [""; 0]);
    }
    assert_eq!(seen(&parent), [1, 2, 3, 4]);
}

#[test]
fn what_a_child_cut_off_stays_off() {
    let (place, parent) = parent();
    let child = place.child(&parent);
    let fd = child.open(FILE, RDWR).unwrap();
    child.ftruncate(fd, BLOCK as u64).unwrap();
    child.ftruncate(fd, 4 * BLOCK as u64).unwrap();
    for child in [child, place.attach("child")] {
        assert_eq!(seen(&child), [1, 0, 0, 0], "blocks beyond the end are back");
    }
    assert_eq!(seen(&parent), [1, 2, 3, 4]);
}

/// Each of these faults makes one of the tests above fail.
#[cfg(debug_assertions)]
mod planted {
    use store::fault::{Fault, must_be_noticed};

    #[test]
    fn a_switch_that_a_process_does_not_see() {
        let why = "the child sees a write that came after the cut";
        must_be_noticed(Fault::SwitchUnseen, "what_a_parent_writes_after_a_cut_is_its_own", why);
    }

    #[test]
    fn writes_that_go_to_a_sealed_layer() {
        let why = "the parent sees its child's write";
        must_be_noticed(Fault::WriteBelow, "what_a_child_writes_is_its_own", why);
    }

    #[test]
    fn reads_that_pass_over_the_newest_layer() {
        let why = "an older version of a block was read";
        must_be_noticed(Fault::NewestUnread, "a_block_is_read_from_the_newest_layer_that_has_it", why);
    }

    #[test]
    fn removed_files_that_come_back() {
        let why = "the parent's file is back";
        must_be_noticed(Fault::WhiteoutIgnored, "a_file_that_a_child_removed_stays_removed", why);
    }

    #[test]
    fn blocks_that_come_back_after_a_truncate() {
        let why = "blocks beyond the end are back";
        must_be_noticed(Fault::FloorForgotten, "what_a_child_cut_off_stays_off", why);
    }
}
