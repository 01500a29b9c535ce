//! Files offered to a server: found in any extension directory, and nowhere else.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use shim_core::Tracker;
use store::sys;
use support::{Place, RDWR};

fn read(tracker: &Tracker, path: &str) -> Option<Vec<u8>> {
    let fd = tracker.open(path.as_bytes(), sys::O_RDONLY, 0)?.unwrap();
    let mut buffer = [0; 100];
    let n = sys::pread(fd, &mut buffer, 0).unwrap();
    sys::close(fd);
    Some(buffer[..n].to_vec())
}

/// Size of the file as `stat` sees it.
fn stat(tracker: &Tracker, path: &str) -> Option<shim_core::Result<i64>> {
    tracker.at(path.as_bytes(), |root, name| Ok(sys::fstatat(root, name.as_cstr(), 0)?.st_size))
}

#[test]
fn offered_files_lie_among_the_servers_own() {
    let place = Place::new();
    std::fs::create_dir(place.path.join("offered")).unwrap();
    std::fs::write(place.path.join("offered/ours.control"), b"ours").unwrap();
    let share = place.path.join("share/extension");
    std::fs::create_dir_all(&share).unwrap();
    std::fs::write(share.join("theirs.control"), b"theirs").unwrap();
    place.root("main", &[]);
    let process = place.attach("main");
    let tracker = &process.tracker;
    let path = |name: &str| share.join(name).display().to_string();

    assert_eq!(read(tracker, &path("ours.control")).as_deref(), Some(&b"ours"[..]));
    assert_eq!(stat(tracker, &path("ours.control")), Some(Ok(4)));
    let listed = tracker.open_listing(share.to_str().unwrap().as_bytes()).unwrap().unwrap();
    let mut names: Vec<String> =
        listed.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect();
    names.sort();
    assert_eq!(names, ["ours.control", "theirs.control"]);

    // Everything else is the file system's: other files, other directories, relative names, writing.
    assert_eq!(read(tracker, &path("theirs.control")), None);
    assert!(stat(tracker, &path("missing.control")).is_none());
    let elsewhere = place.path.join("share/ours.control").display().to_string();
    assert!(stat(tracker, &elsewhere).is_none());
    assert!(tracker.open(path("ours.control").as_bytes(), RDWR, 0).is_none());
    assert!(tracker.unlink(path("ours.control").as_bytes()).is_none());
    assert!(tracker.open_listing(place.path.join("share").to_str().unwrap().as_bytes()).is_none());
    assert!(tracker.open_listing(b"/nowhere/extension").is_none());
    let in_data = place.path.join("branches/main/pgdata/base/extension/ours.control").display().to_string();
    assert!(stat(tracker, &in_data).unwrap().is_err(), "the data directory is the branch's");
}
