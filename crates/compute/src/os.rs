//! The operating system's calls that `std` does not offer.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use libc::c_int;

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Home directory; need not exist.
    pub home: PathBuf,
}

fn check(value: c_int) -> Result<c_int> {
    if value == -1 { Err(Error::last_os_error()) } else { Ok(value) }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::from(ErrorKind::InvalidInput))
}

/// Sends a signal; `false` when there is no such process.
///
/// # Errors
/// Not permitted.
pub fn kill(pid: i32, signal: c_int) -> Result<bool> {
    // SAFETY: kill takes no pointers.
    match check(unsafe { libc::kill(pid, signal) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The effective user id.
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Makes everything written to the file system that holds `file` durable.
///
/// # Errors
/// A write failed.
pub fn sync_file_system(file: &impl AsFd) -> Result<()> {
    // SAFETY: the descriptor is borrowed and so open.
    check(unsafe { libc::syncfs(file.as_fd().as_raw_fd()) }).map(drop)
}

/// Type of the file system that holds `path` (`f_type` of `statfs`).
///
/// # Errors
/// The path cannot be reached.
pub fn file_system_type(path: &Path) -> Result<u32> {
    Ok(file_system(path)?.f_type as u32)
}

fn file_system(path: &Path) -> Result<libc::statfs> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid `statfs`; the kernel fills it.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut facts) })?;
    Ok(facts)
}

/// Bytes free for users and bytes in all of the file system that holds `path`.
///
/// # Errors
/// The path cannot be reached.
pub fn file_system_space(path: &Path) -> Result<(u64, u64)> {
    let facts = file_system(path)?;
    let unit = facts.f_frsize.max(1) as u64;
    Ok((facts.f_bavail * unit, facts.f_blocks * unit))
}

/// Sets an extended attribute.
///
/// # Errors
/// The file system has none, or refuses.
pub fn set_attribute(file: &impl AsFd, name: &CStr, value: &[u8]) -> Result<()> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: name and value are valid for the call, with the value's own length.
    check(unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }).map(drop)
}

/// Version of the C library this program runs on, e.g. `2.36`; `None` where it is not glibc.
#[cfg(target_env = "gnu")]
pub fn glibc_version() -> Option<String> {
    // SAFETY: glibc returns a static NUL-terminated text.
    let text = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    Some(text.to_string_lossy().into_owned())
}

/// Version of the C library this program runs on, e.g. `2.36`; `None` where it is not glibc.
#[cfg(not(target_env = "gnu"))]
pub fn glibc_version() -> Option<String> {
    None
}

/// The account of this name, if there is one.
///
/// # Errors
/// The account database cannot be read.
pub fn user_by_name(name: &str) -> Result<Option<User>> {
    let Ok(c_name) = CString::new(name) else { return Ok(None) };
    lookup_user(|entry, buffer, length, found| {
        // SAFETY: all pointers are valid for the call, the buffer with its own length.
        unsafe { libc::getpwnam_r(c_name.as_ptr(), entry, buffer, length, found) }
    })
}

/// The account of this id, if there is one.
///
/// # Errors
/// The account database cannot be read.
pub fn user_by_id(uid: u32) -> Result<Option<User>> {
    lookup_user(|entry, buffer, length, found| {
        // SAFETY: all pointers are valid for the call, the buffer with its own length.
        unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) }
    })
}

fn lookup_user(
    call: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> Result<Option<User>> {
    let mut buffer = vec![0 as libc::c_char; 4096];
    loop {
        // SAFETY: all-zero is a valid `passwd`.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        match call(&raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: on success the texts are NUL-terminated and lie in `buffer`.
            0 => return Ok(Some(unsafe { copy_user(&entry) })),
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            libc::ENOENT | libc::ESRCH => return Ok(None),
            errno => return Err(Error::from_raw_os_error(errno)),
        }
    }
}

/// # Safety
/// The texts of `entry` must be valid and NUL-terminated.
unsafe fn copy_user(entry: &libc::passwd) -> User {
    // SAFETY: the caller's promise.
    let text = |pointer| unsafe { CStr::from_ptr(pointer) }.to_bytes().to_vec();
    User {
        name: String::from_utf8_lossy(&text(entry.pw_name)).into_owned(),
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        home: PathBuf::from(OsString::from_vec(text(entry.pw_dir))),
    }
}

/// Becomes `user` in every thread, with its groups and nothing of root's, for good.
///
/// # Errors
/// Not permitted, or root could still be had back.
pub fn become_user(user: &User) -> Result<()> {
    let name = CString::new(user.name.as_str())?;
    // SAFETY: the name is valid for the call; the others take no pointers.
    unsafe {
        check(libc::initgroups(name.as_ptr(), user.gid))?;
        check(libc::setresgid(user.gid, user.gid, user.gid))?;
        check(libc::setresuid(user.uid, user.uid, user.uid))?;
        if libc::setuid(0) == 0 || libc::seteuid(0) == 0 || libc::setgid(0) == 0 {
            return Err(Error::other("root could be had back after giving it up"));
        }
    }
    Ok(())
}

/// Runs `action` in a thread of its own that reaches files as `user` would. Everything else of the
/// process keeps its rights. For root only.
///
/// # Errors
/// Not permitted.
pub fn as_user<T: Send>(user: &User, action: impl FnOnce() -> T + Send) -> Result<T> {
    let name = CString::new(user.name.as_str())?;
    let mut groups = vec![0 as libc::gid_t; 1 << 16];
    let mut count = groups.len() as c_int;
    // SAFETY: the list is valid for the call, `count` is its length.
    check(unsafe { libc::getgrouplist(name.as_ptr(), user.gid, groups.as_mut_ptr(), &raw mut count) })?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let none = -1 as libc::c_long;
            // SAFETY: the list is valid for the call. By number, these calls change the calling
            // thread alone (glibc's functions would change all); the thread ends right after.
            let results = unsafe {
                [
                    libc::syscall(libc::SYS_setgroups, count as libc::c_long, groups.as_ptr()),
                    libc::syscall(libc::SYS_setresgid, none, libc::c_long::from(user.gid), none),
                    libc::syscall(libc::SYS_setresuid, none, libc::c_long::from(user.uid), none),
                ]
            };
            if results.contains(&-1) { Err(Error::last_os_error()) } else { Ok(action()) }
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Lets the command start in a session of its own, with default signal handling and as many open
/// files as allowed, at most `open_files`.
pub fn detach(command: &mut Command, open_files: u64) {
    let setup = move || {
        const SIGNALS: [c_int; 8] = [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGCHLD,
            libc::SIGPIPE,
        ];
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: all of these are async-signal-safe and get valid pointers.
        unsafe {
            check(libc::setsid())?;
            for signal in SIGNALS {
                libc::signal(signal, libc::SIG_DFL);
            }
            check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
            limit.rlim_cur = limit.rlim_cur.max(limit.rlim_max.min(open_files));
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only the calls above and allocates nothing
    // (an error is a bare errno).
    unsafe { command.pre_exec(setup) };
}

/// Version of the kernel's Landlock interface; none where it has none or it is switched off
/// (landlock_create_ruleset(2)).
pub fn landlock_version() -> Option<i32> {
    const VERSION: libc::c_uint = 1;
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag the call takes neither pointer nor size.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    i32::try_from(version).ok().filter(|version| *version > 0)
}

/// Lets the command put on the confinement that a descriptor of Landlock rules stands for, which must
/// stay open until it is started. Programs with more rights than their caller lose these.
pub fn confine(command: &mut Command, rules: c_int) {
    let setup = move || {
        // SAFETY: both calls are async-signal-safe and take no pointers.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) as c_int)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only the calls above and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Lets what the command starts join control groups (files `cgroup.procs`) and take a niceness before
/// its first instruction. Whatever fails is left out.
pub fn place(command: &mut Command, groups: Arc<Vec<File>>, niceness: Option<i32>) {
    let setup = move || {
        for group in groups.iter() {
            // SAFETY: an open descriptor and a buffer of the given length. "0" is the writer itself.
            unsafe { libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        }
        if let Some(niceness) = niceness {
            // SAFETY: takes no pointers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only the calls above and allocates nothing.
    unsafe { command.pre_exec(setup) };
}

/// Sets the niceness of a process. An ordinary user may only raise it.
///
/// # Errors
/// Not permitted, or there is no such process.
pub fn set_niceness(pid: i32, niceness: i32) -> Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid.cast_unsigned(), niceness) }).map(drop)
}

/// Sets the disk priority of a process within the usual class: 0 comes first, 7 last.
///
/// # Errors
/// Not permitted, or there is no such process.
pub fn set_disk_level(pid: i32, level: i32) -> Result<()> {
    const WHO_PROCESS: c_int = 1;
    const BEST_EFFORT: c_int = 2 << 13;
    // SAFETY: takes no pointers.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, pid, BEST_EFFORT | level) };
    check(done as c_int).map(drop)
}

/// An extended attribute of a file; none where it has none, or may not be asked.
pub fn attribute(path: &Path, name: &CStr) -> Option<Vec<u8>> {
    let path = c_path(path).ok()?;
    let mut value = vec![0u8; 256];
    // SAFETY: path and name are NUL-terminated, the buffer is given with its own length.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

/// Lets the command be killed when this process dies, or the thread that started it. For work that is
/// of no use to anybody else.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let setup = move || {
        // SAFETY: both calls are async-signal-safe and take no pointers.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // It may have died before the call above.
            if libc::getppid().cast_unsigned() != parent {
                return Err(Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only the calls above and allocates nothing
    // (an error is a bare errno).
    unsafe { command.pre_exec(setup) };
}

/// Connects to a listening socket, or fails with [`ErrorKind::WouldBlock`] where its queue is full: `std`
/// would wait there, for ever if nobody takes from the queue.
///
/// # Errors
/// Nobody listens, the queue is full, the path is longer than a socket's may be.
pub fn connect_at_once(path: &Path) -> Result<UnixStream> {
    // SAFETY: all-zero is a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // The last byte stays zero.
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: it was just opened and is nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = std::mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is valid for the call and as long as said.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A System V shared memory segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMemory {
    /// The key it was made under.
    pub key: i32,
    /// How many processes have it attached.
    pub attached: u64,
}

/// The segment of this id, if there is one that we may look at.
pub fn shared_memory(id: i32) -> Option<SharedMemory> {
    // SAFETY: all-zero is a valid `shmid_ds`; the kernel fills it.
    let mut facts: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call.
    check(unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut facts) }).ok()?;
    Some(SharedMemory { key: facts.shm_perm.__key, attached: facts.shm_nattch as u64 })
}

/// Removes a segment once nobody has it attached.
///
/// # Errors
/// Not permitted.
pub fn remove_shared_memory(id: i32) -> Result<()> {
    // SAFETY: IPC_RMID takes no structure.
    check(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// Sets `HOME`, `USER` and `LOGNAME`.
///
/// # Errors
/// The process has more than one thread: another could be reading the environment.
pub fn set_identity_variables(user: &User) -> Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(Error::other("threads are running already"));
    }
    // SAFETY: there is no other thread.
    unsafe {
        std::env::set_var("HOME", &user.home);
        std::env::set_var("USER", &user.name);
        std::env::set_var("LOGNAME", &user.name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_id() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_by_id(0).unwrap(), Some(root));
        assert_eq!(user_by_name("no-such-user-here").unwrap(), None);
        assert_eq!(user_by_name("a\0b").unwrap(), None);
    }

    #[test]
    fn root_given_up_is_gone_with_its_groups() {
        if effective_uid() != 0 {
            let root = user_by_name("root").unwrap().unwrap();
            let errno = become_user(&root).unwrap_err().raw_os_error();
            assert_eq!(errno, Some(libc::EPERM));
            return;
        }
        let nobody = user_by_name("nobody").unwrap().unwrap();
        let mut command = Command::new("grep");
        command.args(["-E", "^(Uid|Gid|Groups|CapEff):", "/proc/self/status"]).env_clear();
        let user = nobody.clone();
        // SAFETY: the closure makes system calls only, apart from one small allocation, which
        // glibc allows after fork.
        unsafe { command.pre_exec(move || become_user(&user)) };
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
        assert_eq!(lines[0], ["Uid:", &uid, &uid, &uid, &uid]);
        assert_eq!(lines[1], ["Gid:", &gid, &gid, &gid, &gid]);
        assert_eq!(lines[2], ["Groups:", &gid]);
        assert_eq!(lines[3], ["CapEff:", "0000000000000000"]);
    }

    #[test]
    fn the_environment_is_not_changed_under_other_threads() {
        let root = user_by_id(0).unwrap().unwrap();
        // The test runner itself is a second thread.
        assert!(set_identity_variables(&root).is_err());
    }
}
