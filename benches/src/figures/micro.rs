//! Cost of single calls: raw, through the library's core, and through the library as preloaded.
//!
//! Everything stays in the page cache, so what differs is work of the processor only.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use compute::initdb::WAL_SEGMENT_MIB;
use shim_core::{Settings, Tracker};
use store::Errno;
use store::gate::Gate;
use store::manifest::Manifest;
use store::sys::{self, Fd};

use super::distinct;
use crate::bench::Bench;
use crate::clock;
use crate::failure::{Context, Failure, Result};
use crate::ground;
use crate::home::{Home, PASSWORD, key};
use crate::options::Access;
use crate::plan::rotated;
use crate::raw::{Call, Line};
use crate::site::Site;
use crate::statistics::{Summary, median, summary};
use crate::table::Table;

const BLOCK: usize = 8192;
/// 64 MiB: more than the processor's caches, much less than memory.
const BLOCKS: u64 = 8192;
/// A relation that PostgreSQL did not make, in a database that it did.
const NAME: &str = "base/5/900000";
/// Bytes that one vectored read of PostgreSQL covers at most.
const VECTOR: u64 = 128 << 10;

/// Calls that are timed together.
const BATCH: u32 = 500;

/// Size of the files that stand for WAL segments, and their pages synced in a round.
const SEGMENT: u64 = 4 << 20;
const COMMITS: u32 = SEGMENT as u32 / BLOCK as u32;

const RAW: &str = "raw system call";
const LIBC: &str = "libc";
const COMMIT: &str = "pwrite and fdatasync";

/// One thing that is measured: makes so many calls, tells nanoseconds for each.
struct Way<'a> {
    call: &'static str,
    way: &'static str,
    run: Box<dyn Fn(u32) -> Result<f64> + 'a>,
}

/// Measures.
pub fn measure(bench: &Bench) -> Result<()> {
    eprintln!("micro: making branches");
    let place = Place::make(bench)?;
    let raw = place.raw_file()?;
    let whole = place.attach("whole", 0..0)?;
    let below = place.attach("below", 0..0)?;
    let half = place.attach("half", 0..BLOCKS / 2)?;
    let above = place.attach("above", 0..BLOCKS)?;
    let mut ways = core_ways(&raw, &whole, &below, &half, &above);
    ways.extend(part_ways(&whole, &below));
    ways.extend(preloaded_ways(&place, &raw));
    for round in 0..bench.plan.rounds {
        commits(bench, &place, round)?;
        for at in rotated(ways.len(), round) {
            ground::check()?;
            let way = &ways[at];
            let nanoseconds = (way.run)(bench.plan.calls)?;
            let (call, way) = (way.call.to_owned(), way.way.to_owned());
            bench.keep(Line::Call(Call { round, call, way, nanoseconds }))?;
        }
    }
    Ok(())
}

fn core_ways<'a>(
    raw: &'a RawFile,
    whole: &'a Branch,
    below: &'a Branch,
    half: &'a Branch,
    above: &'a Branch,
) -> Vec<Way<'a>> {
    let read = |way, branch: &'a Branch| Way {
        call: "pread",
        way,
        run: Box::new(move |calls| timed(calls, |block| branch.read(block))),
    };
    let write = |way, branch: &'a Branch| Way {
        call: "pwrite",
        way,
        run: Box::new(move |calls| timed(calls, |block| branch.write(block))),
    };
    vec![
        Way { call: "pread", way: RAW, run: Box::new(move |calls| timed(calls, |block| raw.read(block))) },
        read("core, file of the open layer", whole),
        read("core, all in a lower layer", below),
        read("core, half in a lower layer", half),
        read("core, all rewritten above", above),
        Way { call: "pwrite", way: RAW, run: Box::new(move |calls| timed(calls, |block| raw.write(block))) },
        Way {
            call: "pwrite",
            way: "raw system call inside the gate",
            run: Box::new(move |calls| timed(calls, |block| whole.gated(|| raw.write(block)))),
        },
        write("core, file of the open layer", whole),
        write("core, block rewritten before", above),
    ]
}

/// The parts that every call through the library is made of.
fn part_ways<'a>(whole: &'a Branch, below: &'a Branch) -> Vec<Way<'a>> {
    let look = |_| {
        black_box(whole.tracker.tracked(whole.fd));
        Ok(())
    };
    let current = |_| whole.tracker.make_current(whole.fd).unwrap_or(Ok(()));
    let source = |block: u64| {
        let at = (block * BLOCK as u64).min(BLOCKS * BLOCK as u64 - VECTOR);
        black_box(below.tracker.single_source(below.fd, at, VECTOR)).map_or(Ok(()), |source| source.map(drop))
    };
    let gate = |_| whole.gated(|| Ok(()));
    let errno = |_| {
        sys::set_errno(black_box(sys::errno()));
        Ok(())
    };
    let part = |way, run| Way { call: "part", way, run };
    vec![
        part("descriptor is tracked", Box::new(move |calls| timed(calls, look))),
        part("descriptor is up to date", Box::new(move |calls| timed(calls, current))),
        part("source of 16 blocks", Box::new(move |calls| timed(calls, source))),
        part("gate, in and out", Box::new(move |calls| timed(calls, gate))),
        part("errno, saved and put back", Box::new(move |calls| timed(calls, errno))),
    ]
}

fn preloaded_ways<'a>(place: &'a Place, raw: &'a RawFile) -> Vec<Way<'a>> {
    let mut ways = Vec::new();
    for (call, access) in [("pread", Access::Read), ("pwrite", Access::Write)] {
        let plain = move |calls| run_calls(Command::new(PROGRAM).current_dir("/"), access, &raw.path, calls);
        ways.push(Way { call, way: LIBC, run: Box::new(plain) });
        let branches = match access {
            Access::Read => {
                [("preloaded, file of the open layer", "whole"), ("preloaded, lower layer", "below")]
            }
            Access::Write => {
                [("preloaded, file of the open layer", "whole"), ("preloaded, rewritten", "above")]
            }
        };
        for (way, branch) in branches {
            let run = move |calls| run_calls(&mut place.preloaded(branch), access, Path::new(NAME), calls);
            ways.push(Way { call, way, run: Box::new(run) });
        }
    }
    ways
}

/// What a commit waits for: a page of WAL written and synced. Whether the page has its place on the
/// disk already is what recycling and zeroing of segments decide. One page of each in turn, on the
/// clock of the wall; shown is the median.
fn commits(bench: &Bench, place: &Place, round: u32) -> Result<()> {
    let segments = [
        ("page without place on disk", place.segment("sparse", false)?),
        ("page written before", place.segment("zeroed", true)?),
    ];
    let mut samples = [Vec::new(), Vec::new()];
    let pages = COMMITS.min(bench.plan.calls / 100);
    for page in 0..pages {
        ground::check()?;
        for at in rotated(segments.len(), page) {
            let begin = Instant::now();
            segments[at].1.write(u64::from(page)).context("writing a page")?;
            sys::fdatasync(segments[at].1.fd).context("syncing a page")?;
            samples[at].push(begin.elapsed().as_nanos() as f64);
        }
    }
    for ((way, segment), samples) in segments.iter().zip(samples) {
        std::fs::remove_file(&segment.path).context("removing a segment")?;
        let (call, way, nanoseconds) = (COMMIT.to_owned(), (*way).to_owned(), median(samples));
        bench.keep(Line::Call(Call { round, call, way, nanoseconds }))?;
    }
    Ok(())
}

/// This very program, also where its path is closed to the user that we have become.
const PROGRAM: &str = "/proc/self/exe";

fn run_calls(command: &mut Command, access: Access, file: &Path, calls: u32) -> Result<f64> {
    let command = command.arg("micro-calls").arg(access.name()).arg(file).arg(calls.to_string());
    let output = command.output().context("starting a process for calls")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(Failure(format!("calls failed: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    text.trim().parse().context("reading what the calls cost")
}

/// The process that [`run_calls`] starts: prints nanoseconds for each call.
pub fn calls(access: Access, path: &Path, calls: u32) -> Result<()> {
    let what = || format!("calls on {}", path.display());
    let file = File::options().read(true).write(true).open(path).context(what())?;
    let mut buffer = vec![1u8; BLOCK];
    let nanoseconds = timed(calls, |block| {
        let at = block * BLOCK as u64;
        let done = match access {
            Access::Read => file.read_at(&mut buffer, at),
            Access::Write => file.write_at(&buffer, at),
        };
        whole_block(done.map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO))))
    })?;
    println!("{nanoseconds}");
    Ok(())
}

/// Nanoseconds of processor time for each of `calls` calls on blocks in no order: the best of the
/// batches, since whatever else runs on the machine only ever adds to one.
fn timed(calls: u32, mut call: impl FnMut(u64) -> store::Result<()>) -> Result<f64> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    // Page faults and lookups of a first time are not what is measured.
    for block in 0..BLOCKS {
        call(block).context("a call")?;
    }
    let mut best = u64::MAX;
    for _ in 0..calls.div_ceil(BATCH) {
        let begin = clock::thread_ns();
        for _ in 0..BATCH {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            call(random % BLOCKS).context("a call")?;
        }
        best = best.min(clock::thread_ns() - begin);
    }
    Ok(best as f64 / f64::from(BATCH))
}

fn whole_block(done: store::Result<usize>) -> store::Result<()> {
    match done {
        Ok(BLOCK) => Ok(()),
        Ok(_) => Err(Errno(libc::EIO)),
        Err(errno) => Err(errno),
    }
}

/// Branches that no server runs on.
struct Place {
    home: Home,
    shim: PathBuf,
    layers: PathBuf,
}

impl Place {
    fn make(bench: &Bench) -> Result<Place> {
        let home = bench.home()?;
        for name in ["whole", "parent"] {
            home.engine().create_root(&key(name)?, &bench.server, PASSWORD)?;
        }
        let base = home.directory("parent");
        let layers = base.ancestors().nth(2).unwrap_or(&base).join("layers");
        let shim =
            shim_image::install(&bench.ground.make("run")?).context("unpacking the preload library")?;
        let place = Place { home, shim, layers };
        drop(place.attach("parent", 0..BLOCKS)?);
        for child in ["below", "half", "above"] {
            place.home.create("parent", child)?;
        }
        drop(place.attach("whole", 0..BLOCKS)?);
        Ok(place)
    }

    /// Attaches to a branch as its first process would, and writes some blocks of the file.
    fn attach(&self, branch: &str, blocks: std::ops::Range<u64>) -> Result<Branch> {
        let directory = self.home.directory(branch);
        let what = || format!("attaching to {branch}");
        let top = manifest(&directory).context(what())?.top().slot;
        make_gate(&directory, top).context(what())?;
        let settings = Settings {
            data_directory: bytes(&directory.join("pgdata")),
            branch_directory: bytes(&directory),
            layers_directory: bytes(&self.layers),
            cache_directory: None,
            extension_directory: None,
            wal_segment_size: u64::from(WAL_SEGMENT_MIB) << 20,
        };
        let tracker = Tracker::attach(settings).context(what())?;
        tracker.set_inside(true);
        let opened = tracker.open(NAME.as_bytes(), sys::O_RDWR | sys::O_CREAT, 0o600);
        let fd = opened.unwrap_or(Err(Errno::NOENT)).context(what())?;
        let slot = tracker.gate().claim().context(what())?;
        let branch = Branch { tracker, fd, slot };
        blocks.into_iter().try_for_each(|block| branch.write(block)).context(what())?;
        Ok(branch)
    }

    /// The file of branch `whole` as the kernel knows it: the same pages in memory, so that only the
    /// way to them differs.
    fn raw_file(&self) -> Result<RawFile> {
        let manifest = manifest(&self.home.directory("whole")).context("finding a file")?;
        let layer = store::layer::directory_name(manifest.top().layer);
        let path = self.layers.join(layer.to_string_lossy().as_ref()).join("f").join(NAME);
        let fd = sys::openat(sys::AT_FDCWD, &c_path(&path), sys::O_RDWR | sys::O_CLOEXEC, 0);
        Ok(RawFile { fd: fd.context(format!("opening {}", path.display()))?, path })
    }

    /// A file of a WAL segment's size, durable: all zeros on the disk, or a hole but for its end.
    fn segment(&self, name: &str, zeroed: bool) -> Result<RawFile> {
        let path = self.layers.with_file_name(name);
        let what = || format!("making {}", path.display());
        let flags = sys::O_RDWR | sys::O_CREAT | sys::O_CLOEXEC;
        let fd = sys::openat(sys::AT_FDCWD, &c_path(&path), flags, 0o600).context(what())?;
        let file = RawFile { fd, path: path.clone() };
        let zeros = [0u8; BLOCK];
        let first = if zeroed { 0 } else { SEGMENT - BLOCK as u64 };
        for at in (first..SEGMENT).step_by(BLOCK) {
            sys::pwrite_full(fd, &zeros, at).context(what())?;
        }
        sys::fsync(fd).context(what())?;
        Ok(file)
    }

    /// This program as a process of a branch.
    fn preloaded(&self, branch: &str) -> Command {
        let directory = self.home.directory(branch);
        let mut command = Command::new(PROGRAM);
        command
            .current_dir(directory.join("pgdata"))
            .env("LD_PRELOAD", &self.shim)
            .env("ANABRANCH_SHIM_BRANCH", directory)
            .env("ANABRANCH_SHIM_LAYERS", &self.layers)
            .env("ANABRANCH_SHIM_WAL_SEGMENT", (u64::from(WAL_SEGMENT_MIB) << 20).to_string());
        command
    }
}

fn manifest(branch: &Path) -> store::Result<Manifest> {
    let fd = open_directory(branch)?;
    let manifest = Manifest::load(fd);
    sys::close(fd);
    manifest
}

fn make_gate(directory: &Path, top: u32) -> store::Result<()> {
    let branch = open_directory(directory)?;
    let gate = sys::openat(branch, c"gate", sys::O_RDWR | sys::O_CREAT | sys::O_CLOEXEC, 0o600);
    sys::close(branch);
    let gate = gate?;
    let made = Gate::create(gate, top, 0).map(drop);
    sys::close(gate);
    made
}

fn open_directory(path: &Path) -> store::Result<Fd> {
    sys::openat(sys::AT_FDCWD, &c_path(path), sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC, 0)
}

fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(bytes(path)).unwrap_or_default()
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

/// The library's core on a branch, with a file open.
struct Branch {
    tracker: Tracker,
    fd: Fd,
    /// A place of its own in the gate.
    slot: u32,
}

impl Branch {
    /// Makes a call between entering and leaving the gate, as every write does.
    fn gated(&self, call: impl FnOnce() -> store::Result<()>) -> store::Result<()> {
        let gate = self.tracker.gate();
        black_box(gate.enter(self.slot));
        let done = call();
        gate.leave(self.slot);
        done
    }

    fn read(&self, block: u64) -> store::Result<()> {
        let mut buffer = [0u8; BLOCK];
        let at = block * BLOCK as u64;
        let done = self.tracker.pread(self.fd, &mut buffer, at);
        whole_block(done.unwrap_or_else(|| sys::pread(self.fd, &mut buffer, at)))
    }

    fn write(&self, block: u64) -> store::Result<()> {
        let (buffer, at) = ([1u8; BLOCK], block * BLOCK as u64);
        let done = self.tracker.pwrite(self.fd, &buffer, at);
        whole_block(done.unwrap_or_else(|| sys::pwrite(self.fd, &buffer, at)))
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.tracker.closed(self.fd);
        sys::close(self.fd);
        self.tracker.gate().release(self.slot);
        self.tracker.release();
    }
}

/// A file without the library.
struct RawFile {
    fd: Fd,
    path: PathBuf,
}

impl RawFile {
    fn read(&self, block: u64) -> store::Result<()> {
        let mut buffer = [0u8; BLOCK];
        whole_block(sys::pread(self.fd, &mut buffer, block * BLOCK as u64))
    }

    fn write(&self, block: u64) -> store::Result<()> {
        whole_block(sys::pwrite(self.fd, &[1u8; BLOCK], block * BLOCK as u64))
    }
}

impl Drop for RawFile {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

/// One table; each way is compared with the plain one of its kind.
pub fn tables(lines: &[Line]) -> Vec<Table> {
    let all: Vec<&Call> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Call(call) => Some(call),
            _ => None,
        })
        .collect();
    let find = |call: &str, way: &str| {
        summary(all.iter().filter(|one| one.call == call && one.way == way).map(|one| one.nanoseconds))
    };
    let columns = ["call, 8 KiB cached", "way", "median, ns", "min–max, ns", "more than plain, ns"];
    let mut table = Table::new("Single calls", &columns);
    for (call, way) in distinct(all.iter().map(|one| (one.call.as_str(), one.way.as_str()))) {
        let Some(cost) = find(call, way) else { continue };
        let base = if way.starts_with("preloaded") { LIBC } else { RAW };
        let plain = find(call, base).filter(|_| way != base && way != LIBC);
        table.row(row(call, way, &cost, plain.as_ref()));
    }
    table.note(
        "Processor time, best batch of a round; what syncs: median of a round by the wall clock. A part \
         is not a system call: its cost stands alone. \"More\" is the difference of medians.",
    );
    vec![table]
}

fn row(call: &str, way: &str, cost: &Summary, plain: Option<&Summary>) -> [String; 5] {
    [
        call.to_owned(),
        way.to_owned(),
        format!("{:.1}", cost.median),
        format!("{:.1}–{:.1}", cost.min, cost.max),
        plain.map_or("–".to_owned(), |plain| format!("{:+.0}", cost.median - plain.median)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_compared_with_its_own_plain_one() {
        let line = |call: &str, way: &str, nanoseconds| {
            Line::Call(Call { round: 0, call: call.to_owned(), way: way.to_owned(), nanoseconds })
        };
        let lines = [
            line("pread", RAW, 1000.0),
            line("pread", "core, x", 1100.0),
            line("pread", LIBC, 1200.0),
            line("pread", "preloaded, x", 1250.0),
            line("part", "gate", 9.0),
        ];
        let text = tables(&lines)[0].to_string();
        assert!(text.contains("| pread | core, x | 1100.0 | 1100.0–1100.0 | +100 |"), "{text}");
        assert!(text.contains("| pread | preloaded, x | 1250.0 | 1250.0–1250.0 | +50 |"), "{text}");
        assert!(text.contains("| pread | libc | 1200.0 | 1200.0–1200.0 | – |"), "{text}");
        assert!(text.contains("| part | gate | 9.0 | 9.0–9.0 | – |"), "{text}");
    }
}
