//! The libraries that a server can load, and what they call that the preload library does not know.
//!
//! `postgres` itself is refused for such calls (see [`crate::imports`]). An extension is not: most never
//! make the call on a data directory. It is worth a line in the log, once.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::elf;
use crate::imports::{check_library, fingerprint};
use crate::server::Server;

const VERSION: u32 = 1;

/// Where builders put them, from the installation's directory. The one that holds [`ALWAYS_THERE`] is it.
const PLACES: &[&str] = &["lib/postgresql", "lib", "lib64/postgresql", "lib64/pgsql", "lib64", "lib/pgsql"];
/// No cluster is made without it.
const ALWAYS_THERE: &str = "plpgsql.so";
/// Libraries that every role may load.
const PLUGINS: &str = "plugins";

/// A library that calls file functions that are neither interposed nor known to be harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The library.
    pub library: PathBuf,
    /// The functions, sorted.
    pub functions: Vec<String>,
}

/// What has been looked at, so that nothing is read twice and told twice.
#[derive(Serialize, Deserialize)]
struct Memory {
    version: u32,
    /// Of the lists of functions: other lists may say something else.
    lists: u64,
    libraries: BTreeMap<PathBuf, Facts>,
}

/// By these a library that was replaced is told from the one that was looked at.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// What is to be said about the server's libraries that has not been said yet. `memory` is the file that
/// remembers; a lost one means that all is said once more.
///
/// # Errors
/// The directory of libraries is not found or cannot be listed, or the memory cannot be written.
pub fn news(server: &Server, memory: &Path) -> std::io::Result<Vec<Finding>> {
    let directory = directory_of(server)?;
    let mut known = recall(memory);
    let mut found = Vec::new();
    let mut seen = list(&directory)?;
    seen.extend(list(&directory.join(PLUGINS)).unwrap_or_default());
    let before = known.libraries.len();
    let ours = |path: &Path| path.starts_with(&directory);
    known.libraries.retain(|path, _| !ours(path) || seen.contains_key(path));
    let mut changed = known.libraries.len() != before;
    for (library, facts) in seen {
        if known.libraries.get(&library) == Some(&facts) {
            continue;
        }
        match check_library(&library) {
            Ok(functions) if functions.is_empty() => {}
            Ok(functions) => found.push(Finding { library: library.clone(), functions }),
            // Replaced just now, perhaps: to be looked at in the next round.
            Err(elf::Error::Io(_)) => continue,
            // A linker script, or what the dynamic linker refuses as well.
            Err(_) => {}
        }
        known.libraries.insert(library, facts);
        changed = true;
    }
    if changed {
        remember(memory, &known)?;
    }
    Ok(found)
}

/// The directory that a server loads libraries from, when nothing else is said.
///
/// # Errors
/// It is nowhere near the server's programs.
pub fn directory_of(server: &Server) -> std::io::Result<PathBuf> {
    // The server, too, looks from where its program really lies.
    let program = server.program("postgres").canonicalize()?;
    let root = program.ancestors().nth(2).unwrap_or(&program);
    let mut places = PLACES.iter().map(|place| root.join(place));
    places.find(|place| place.join(ALWAYS_THERE).is_file()).ok_or_else(|| {
        let what = format!("no directory near {} holds {ALWAYS_THERE}", program.display());
        std::io::Error::new(ErrorKind::NotFound, what)
    })
}

fn list(directory: &Path) -> std::io::Result<BTreeMap<PathBuf, Facts>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "so") {
            continue;
        }
        // A link to nowhere is no library.
        let Ok(facts) = fs::metadata(&path) else { continue };
        if facts.is_file() {
            let modified = (facts.mtime(), facts.mtime_nsec());
            found.insert(path, Facts { size: facts.size(), modified });
        }
    }
    Ok(found)
}

fn recall(memory: &Path) -> Memory {
    let empty = Memory { version: VERSION, lists: fingerprint(), libraries: BTreeMap::new() };
    let read = fs::read(memory).ok().and_then(|bytes| serde_json::from_slice::<Memory>(&bytes).ok());
    read.filter(|memory| (memory.version, memory.lists) == (empty.version, empty.lists)).unwrap_or(empty)
}

fn remember(path: &Path, memory: &Memory) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, serde_json::to_vec(memory)?)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;
    use crate::testing;

    /// A server in name: its libraries are real, its program is only looked for.
    fn server_in(root: &Path) -> (Server, PathBuf) {
        let libraries = root.join("lib/postgresql");
        fs::create_dir_all(&libraries).unwrap();
        fs::create_dir_all(root.join("bin")).unwrap();
        let real = testing::server();
        fs::copy(directory_of(&real).unwrap().join(ALWAYS_THERE), libraries.join(ALWAYS_THERE)).unwrap();
        fs::write(root.join("bin/postgres"), "").unwrap();
        (Server { bin_dir: root.join("bin"), ..real }, libraries)
    }

    fn build(library: &Path, functions: &[&str]) {
        let source = library.with_extension("c");
        let calls: String = functions.iter().map(|name| format!("{name}();")).collect();
        let externs: String = functions.iter().map(|name| format!("extern int {name}();")).collect();
        fs::write(&source, format!("{externs} void offered(void) {{ {calls} }}")).unwrap();
        testing::compile(&source, library);
    }

    fn told(server: &Server, memory: &Path) -> Vec<(String, String)> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let findings = news(server, memory).unwrap();
        findings.iter().map(|one| (name(&one.library), one.functions.join(" "))).collect()
    }

    #[test]
    fn the_libraries_of_a_real_server_are_found_and_give_no_reason_to_worry() {
        let home = Directory::new("libraries");
        let server = testing::server();
        let directory = directory_of(&server).unwrap();
        assert!(list(&directory).unwrap().len() > 20, "{}", directory.display());
        assert_eq!(news(&server, &home.path().join("memory")).unwrap(), []);
    }

    #[test]
    fn each_library_is_told_once_until_it_changes() {
        let root = Directory::new("libraries");
        let (server, libraries) = server_in(root.path());
        let memory = root.path().join("memory.json");
        build(&libraries.join("walker.so"), &["scandir", "ftw", "getpid"]);
        build(&libraries.join("calm.so"), &["open", "getpid"]);
        fs::create_dir(libraries.join(PLUGINS)).unwrap();
        build(&libraries.join(PLUGINS).join("odd.so"), &["splice"]);
        fs::write(libraries.join("script.so"), "GROUP ( a.so )").unwrap();
        std::os::unix::fs::symlink("nowhere", libraries.join("dangling.so")).unwrap();
        let tell = |name: &str, functions: &str| (name.to_owned(), functions.to_owned());
        assert_eq!(told(&server, &memory), [tell("odd.so", "splice"), tell("walker.so", "ftw scandir")]);
        let written = fs::metadata(&memory).unwrap();
        assert_eq!(told(&server, &memory), []);
        let again = fs::metadata(&memory).unwrap();
        assert_eq!(written.ino(), again.ino(), "nothing new, and it was written again");

        build(&libraries.join("calm.so"), &["nftw"]);
        assert_eq!(told(&server, &memory), [tell("calm.so", "nftw")]);
        fs::remove_file(libraries.join("calm.so")).unwrap();
        assert_eq!(told(&server, &memory), []);
        assert!(!fs::read_to_string(&memory).unwrap().contains("calm.so"));

        // Told by another version, or not readable: all is said once more.
        let text = fs::read_to_string(&memory).unwrap();
        let other = text.replace(&fingerprint().to_string(), "1");
        assert_ne!(other, text);
        for spoilt in [&other, "{"] {
            fs::write(&memory, spoilt).unwrap();
            assert_eq!(told(&server, &memory).len(), 2, "{spoilt}");
        }
    }

    #[test]
    fn a_server_without_libraries_is_said_to_have_none() {
        let root = Directory::new("libraries");
        let (server, libraries) = server_in(root.path());
        fs::remove_file(libraries.join(ALWAYS_THERE)).unwrap();
        let error = news(&server, &root.path().join("memory")).unwrap_err().to_string();
        let program = root.path().canonicalize().unwrap().join("bin/postgres");
        assert_eq!(error, format!("no directory near {} holds plpgsql.so", program.display()));
    }
}
