//! What the daemon says of libraries that call what branches do not know.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::daemon::{Daemon, Home, PATIENCE};
use e2e::lab::server;
use e2e::processes::wait_until;

/// A copy of a directory tree; files by hard links where the disk and its rules allow.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), &to).unwrap();
        } else if fs::hard_link(entry.path(), &to).is_err() {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// An extension's library that calls `function`.
fn build(library: &Path, function: &str) {
    let source = library.with_extension("c");
    fs::write(&source, format!("extern int {function}(); void offered(void) {{ {function}(); }}")).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(&source).status();
    assert!(built.unwrap().success());
}

fn lines(daemon: &Daemon, library: &str) -> Vec<String> {
    daemon.said().into_iter().filter(|line| line.contains(library)).collect()
}

#[test]
fn a_library_with_unknown_calls_is_told_in_the_log_once() {
    let mut home = Home::new(Path::new(env!("CARGO_BIN_EXE_ana")));
    let own = home.path.join("server");
    copy(server().bin_dir.parent().unwrap(), &own);
    home.bin_dir = own.join("bin");
    let libraries =
        compute::libraries::directory_of(&compute::server::Server::at(&home.bin_dir).unwrap()).unwrap();
    assert!(libraries.starts_with(own.canonicalize().unwrap()));
    build(&libraries.join("walker.so"), "scandir");
    let mut daemon = home.start(None);
    wait_until("the library is told", PATIENCE, || !lines(&daemon, "walker.so").is_empty());
    daemon.kill();
    let told = lines(&daemon, "walker.so");
    assert_eq!(told.len(), 1, "{told:?}");
    for part in ["WARN", "this library calls file functions", "functions=\"scandir\""] {
        assert!(told[0].contains(part), "{part}: {told:?}");
    }
    let others = lines(&daemon, "this library calls");
    assert_eq!(others, told, "the server's own libraries are told as well");

    // The next daemon has nothing to say of it, only of what is new.
    build(&libraries.join("later.so"), "splice");
    let mut daemon = home.start(None);
    wait_until("the new library is told", PATIENCE, || !lines(&daemon, "later.so").is_empty());
    daemon.kill();
    assert_eq!(lines(&daemon, "this library calls").len(), 1, "{:#?}", daemon.said());
}
