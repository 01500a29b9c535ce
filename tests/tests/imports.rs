//! What real builds of PostgreSQL call, against what the embedded preload library interposes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use compute::imports::{HANDLED, check_library, check_postgres, exported_symbols};
use e2e::lab::server;

/// File functions that are not interposed, in libraries where that does no harm. Anything else that
/// shows up has to be looked at: hook it, or explain it here.
const EXPLAINED: &[(&str, &[&str], &str)] = &[
    (
        "libcrypto.so",
        &["__fprintf_chk", "__vfprintf_chk", "fdopen", "setbuf", "ioctl", "syscall"],
        "streams that the caller opened, random numbers, devices; a server hands it buffers and sockets, \
         and certificates to read",
    ),
    ("libicuuc.so", &["rewind"], "compares files of the system's time zones, opened for reading"),
    ("libossp-uuid.so", &["ioctl"], "asks a socket for the hardware address of the network card"),
    ("libpq.so", &["ioctl"], "asks a terminal for its width, in PQprint"),
    (
        "libxml2.so",
        &["__fprintf_chk", "__vfprintf_chk", "fprintf"],
        "messages and dumps into streams of the caller; the server parses and writes in memory",
    ),
    ("libxslt.so", &["__fprintf_chk", "__vfprintf_chk"], "messages into streams of the caller"),
];

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn embedded_library() -> Scratch {
    let path = std::env::temp_dir().join(format!("ana-shim-image-{}.so", std::process::id()));
    std::fs::write(&path, shim_image::BYTES).unwrap();
    Scratch(path)
}

fn set<T: AsRef<str>>(names: &[T]) -> BTreeSet<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

#[test]
fn the_embedded_library_exports_what_is_listed_as_handled_and_nothing_else() {
    let library = embedded_library();
    let exported = exported_symbols(&library.0).unwrap();
    let (handled, exported) = (set(HANDLED), set(&exported));
    let missing: Vec<_> = handled.difference(&exported).collect();
    let unlisted: Vec<_> = exported.difference(&handled).collect();
    assert!(missing.is_empty(), "listed as handled, but not exported: {missing:?}");
    assert!(unlisted.is_empty(), "exported, but not listed as handled: {unlisted:?}");
}

/// Directories of the builds at hand: the one that tests use, and Debian's of any version.
fn builds() -> Vec<PathBuf> {
    let mut found = vec![server().bin_dir.parent().unwrap().to_owned()];
    if let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") {
        found.extend(
            entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("bin/postgres").exists()),
        );
    }
    // One more that is not where it was made for, e.g. an unpacked package.
    found.extend(std::env::var_os("ANABRANCH_TEST_POSTGRES").map(PathBuf::from));
    found
}

fn libraries(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            libraries(&entry.path(), found);
        } else if name.ends_with(".so") || name.contains(".so.") {
            found.push(entry.path());
        }
    }
}

#[test]
fn every_build_passes_and_every_unknown_function_of_its_libraries_is_explained() {
    let mut unexplained: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for build in builds() {
        check_postgres(&build.join("bin/postgres")).unwrap_or_else(|error| panic!("{error}"));
        let mut found = Vec::new();
        libraries(&build.join("lib"), &mut found);
        assert!(found.len() > 20, "{}: only {} libraries", build.display(), found.len());
        for library in &found {
            // A linker script or a link to nowhere is no library.
            if !std::fs::read(library).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")) {
                continue;
            }
            let name = library.file_name().unwrap().to_string_lossy().into_owned();
            let unknown =
                check_library(library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
            for function in unknown {
                let known = |(stem, functions, _): &(&str, &[&str], &str)| {
                    name.starts_with(stem) && functions.contains(&function.as_str())
                };
                if !EXPLAINED.iter().any(known) {
                    unexplained.entry(name.clone()).or_default().insert(function);
                }
            }
        }
        println!("{}: {} libraries", build.display(), found.len());
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
}
