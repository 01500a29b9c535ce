//! The list of interposed functions and the preload library are two files; they must say the same.

use std::collections::BTreeSet;
use std::process::Command;

use compute::imports::{HANDLED, exported_symbols};

fn set<T: AsRef<str>>(names: &[T]) -> BTreeSet<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

#[test]
fn every_function_called_handled_is_exported_and_no_other() {
    // Built with the profile of this test: a no-op where the whole workspace is being tested.
    let executable = std::env::current_exe().unwrap();
    let directory = executable.ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", "shim", "--quiet"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.arg("--target-dir").arg(directory.parent().unwrap());
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success());
    let exported = exported_symbols(&directory.join("libanashim.so")).unwrap();
    let (handled, exported) = (set(HANDLED), set(&exported));
    let missing: Vec<_> = handled.difference(&exported).collect();
    let unlisted: Vec<_> = exported.difference(&handled).collect();
    assert!(missing.is_empty(), "listed as handled, but the library does not export: {missing:?}");
    assert!(unlisted.is_empty(), "exported, but not listed as handled: {unlisted:?}");
}
