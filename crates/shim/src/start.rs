//! Attaching at load, forking, exiting.

use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use shim_core::{Settings, Tracker};
use store::{recorder, sys};

static TRACKER: OnceLock<Tracker> = OnceLock::new();

/// The tracker, once attached.
#[inline]
pub fn tracker() -> Option<&'static Tracker> {
    TRACKER.get()
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static END: extern "C" fn() = end;

const BRANCH: &str = "ANABRANCH_SHIM_BRANCH";
const LAYERS: &str = "ANABRANCH_SHIM_LAYERS";
const CACHE: &str = "ANABRANCH_SHIM_CACHE";
const EXTENSIONS: &str = "ANABRANCH_SHIM_EXTENSIONS";
const SEGMENT: &str = "ANABRANCH_SHIM_WAL_SEGMENT";

extern "C" fn start() {
    if let Err(errno) = recorder::attach_from_environment() {
        let log = std::env::var_os(recorder::VARIABLE).unwrap_or_default();
        die(&format!("cannot map the record {}: {errno}", log.display()));
    }
    if let Err(errno) = store::failing::attach_from_environment() {
        die(&format!("cannot map the control block of {}: {errno}", store::failing::VARIABLE));
    }
    let Some(branch) = std::env::var_os(BRANCH) else {
        if recorder::is_attached() {
            // Loaded to be recorded and nothing else; programs it starts are told anew.
            // SAFETY: the constructor runs before the program has threads.
            unsafe { std::env::remove_var("LD_PRELOAD") };
        }
        return;
    };
    let Some(layers) = std::env::var_os(LAYERS) else { die(&format!("{LAYERS} is not set")) };
    let segment = std::env::var(SEGMENT).ok().and_then(|text| text.parse().ok());
    // A server that should be on the store and is not would look empty or write to the wrong
    // place: stop here.
    let Some(wal_segment_size) = segment else { die(&format!("{SEGMENT} is not a number of bytes")) };
    let branch_directory = branch.into_vec();
    let settings = Settings {
        data_directory: [&branch_directory[..], b"/pgdata"].concat(),
        branch_directory,
        layers_directory: layers.into_vec(),
        cache_directory: std::env::var_os(CACHE).map(OsStringExt::into_vec),
        extension_directory: std::env::var_os(EXTENSIONS).map(OsStringExt::into_vec),
        wal_segment_size,
    };
    match Tracker::attach(settings) {
        Ok(tracker) => {
            tracker.set_inside(is_inside(&tracker));
            let _ = TRACKER.set(tracker);
        }
        Err(error) => die(&error.to_string()),
    }
    // Programs that the server starts (archive commands, shells) see the real files.
    for name in ["LD_PRELOAD", BRANCH, LAYERS, CACHE, EXTENSIONS, SEGMENT] {
        // SAFETY: the constructor runs before the program has threads.
        unsafe { std::env::remove_var(name) };
    }
    // SAFETY: registering a function of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(None, None, Some(after_fork)) };
}

fn die(why: &str) -> ! {
    let message = format!("anabranch: the storage library could not attach: {why}\n");
    let _ = sys::write(2, message.as_bytes());
    // SAFETY: `abort` is always safe to call.
    unsafe { libc::abort() }
}

unsafe extern "C" fn after_fork() {
    if let Some(tracker) = tracker() {
        tracker.after_fork();
    }
}

extern "C" fn end() {
    if let Some(tracker) = tracker() {
        tracker.release();
    }
}

/// Whether the working directory is the data directory.
pub fn is_inside(tracker: &Tracker) -> bool {
    let Ok(path) = std::ffi::CString::new(&tracker.settings().data_directory[..]) else { return false };
    let here = sys::fstatat(sys::AT_FDCWD, c".", 0);
    let there = sys::fstatat(sys::AT_FDCWD, &path, 0);
    matches!((here, there), (Ok(a), Ok(b)) if a.st_dev == b.st_dev && a.st_ino == b.st_ino)
}
