//! Which file functions of the C library a program calls, and whether the preload library knows them.
//!
//! Copy-on-write is right only if no call on the data directory goes around the preload library. So a
//! `postgres` that imports a file function which is neither interposed nor known to be harmless is
//! refused, by the function's name, before it ever runs on a branch.

use std::path::{Path, PathBuf};

use crate::elf;

/// What a function means for a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Does not touch files.
    NotFile,
    /// The preload library interposes it.
    Handled,
    /// Touches files, but needs no hook.
    Harmless,
    /// Touches files, and nothing is known that makes it safe.
    Unknown,
}

/// Functions that the preload library exports: exactly these.
#[rustfmt::skip]
pub const HANDLED: &[&str] = &[
    // Open and close.
    "open", "open64", "openat", "openat64", "creat", "creat64", "__open_2", "__open64_2", "__openat_2",
    "__openat64_2", "close", "dup", "dup2", "dup3", "fcntl", "fcntl64",
    // Read and write.
    "read", "__read_chk", "pread", "pread64", "__pread_chk", "__pread64_chk", "readv", "preadv",
    "preadv64", "write", "pwrite", "pwrite64", "writev", "pwritev", "pwritev64", "copy_file_range",
    "sendfile", "sendfile64", "mmap", "mmap64",
    // Position, size and durability.
    "lseek", "lseek64", "ftruncate", "ftruncate64", "truncate", "truncate64", "fallocate", "fallocate64",
    "posix_fallocate", "posix_fallocate64", "posix_fadvise", "posix_fadvise64", "fsync", "fdatasync",
    "syncfs", "sync_file_range",
    // Facts about files.
    "stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "__xstat", "__xstat64", "__lxstat",
    "__lxstat64", "__fxstat", "__fxstat64", "fstatat", "fstatat64", "__fxstatat", "__fxstatat64", "statx",
    "access", "faccessat", "readlink", "readlinkat", "chmod", "utime", "utimes", "utimensat",
    // Names.
    "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat",
    "mkdir", "mkdirat", "rmdir", "remove", "chdir", "fchdir",
    // Directories.
    "opendir", "readdir", "readdir64", "closedir", "rewinddir", "dirfd", "telldir", "seekdir",
    // Streams: opening, and whatever may write the buffer out.
    "fopen", "fopen64", "freopen", "freopen64", "fclose", "fwrite", "fputs", "fputc", "putc", "_IO_putc",
    "fflush", "fseek", "fseeko", "fseeko64", "setvbuf",
];

/// File functions that cannot do harm without a hook.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    // Read a stream that came from an interposed `fopen`, or look at one.
    "fread", "_IO_fread", "__fread_chk", "fread_unlocked", "__fread_unlocked_chk", "fgets", "__fgets_chk",
    "fgets_unlocked", "__fgets_unlocked_chk", "fgetc", "fgetc_unlocked", "getc", "getc_unlocked",
    "_IO_getc", "getw", "getline", "getdelim", "__getdelim", "ungetc", "_IO_ungetc", "fgetwc",
    "fgetwc_unlocked", "getwc", "getwc_unlocked", "fgetws", "fgetws_unlocked", "ungetwc", "fscanf",
    "__isoc99_fscanf", "__isoc23_fscanf", "vfscanf", "__isoc99_vfscanf", "__isoc23_vfscanf", "fwscanf",
    "ftell", "ftello", "ftello64", "fgetpos", "fgetpos64", "feof", "feof_unlocked", "ferror",
    "ferror_unlocked", "clearerr", "clearerr_unlocked", "fileno", "fileno_unlocked", "__fpending",
    "__freading", "__fwriting", "__fbufsize", "__flbf", "__fsetlocking", "flockfile", "ftrylockfile",
    "funlockfile", "_IO_flockfile", "_IO_ftrylockfile", "_IO_funlockfile", "__uflow", "__underflow",
    // Standard output and standard error are never files of a data directory.
    "puts", "_IO_puts", "printf", "__printf_chk", "vprintf", "__vprintf_chk", "putchar",
    "putchar_unlocked", "perror", "getchar", "getchar_unlocked", "scanf", "__isoc99_scanf",
    "__isoc23_scanf", "gets", "__gets_chk",
    // Names of directories as text. Postgres asks for the directory it is in, which is real.
    "getcwd", "__getcwd_chk", "getwd", "__getwd_chk", "get_current_dir_name", "realpath",
    "__realpath_chk", "canonicalize_file_name",
    // Memory. Mapping a file is handled; what follows acts on the mapping.
    "munmap", "mprotect", "mremap", "msync", "madvise", "posix_madvise", "shm_open", "shm_unlink",
    // The owner of the socket's directory entry; data files are never given away.
    "chown",
    // Facts about the file system, the same for every layer, and wishes to the page cache.
    "statfs", "statfs64", "fstatfs", "fstatfs64", "statvfs", "statvfs64", "fstatvfs", "fstatvfs64",
    "pathconf", "fpathconf", "readahead",
    // Other programs run without the preload library. They find the directory as it is: settings, logs
    // and WAL, which are real, and nothing in place of the layered files.
    "popen", "pclose", "system", "execv", "execve", "execvp", "execl", "execle", "execlp", "execvpe",
    "posix_spawn", "posix_spawnp",
    // A library is checked on its own.
    "dlopen", "dlmopen",
    // No path: a queue that nothing is put into without `inotify_add_watch`.
    "inotify_init", "inotify_init1", "inotify_rm_watch",
];

/// Functions of these families are reached only with `io_method=io_uring`; computes are started with
/// `io_method=worker` and it cannot be changed.
const HARMLESS_PREFIXES: &[&str] = &["io_uring_"];

/// The other file functions of the C library (glibc, and what programs take for part of it).
#[rustfmt::skip]
const UNKNOWN: &[&str] = &[
    // Any system call by number.
    "syscall",
    // Other names of handled functions.
    "__open", "__open64", "__open_nocancel", "__open64_nocancel", "__libc_open", "__libc_open64",
    "__close", "__close_nocancel", "__libc_close", "__read", "__read_nocancel", "__libc_read",
    "__pread64", "__pread64_nocancel", "__libc_pread", "__libc_pread64", "__write", "__write_nocancel",
    "__libc_write", "__pwrite64", "__libc_pwrite", "__libc_pwrite64", "__lseek", "__libc_lseek",
    "__libc_lseek64", "llseek", "__llseek", "__fcntl", "__libc_fcntl", "__libc_fcntl64", "__dup2",
    "__fstat64", "__mmap", "__statfs", "__libc_system", "_IO_fopen", "_IO_fclose", "_IO_fdopen",
    "_IO_fwrite", "_IO_fputs", "_IO_fflush", "_IO_popen", "_IO_setvbuf", "_IO_file_fopen",
    "_IO_file_open", "_IO_file_close", "_IO_file_write", "_IO_file_read", "_IO_file_attach",
    "_IO_file_seek", "_IO_file_sync", "_IO_file_stat", "_IO_flush_all", "_IO_do_write", "__overflow",
    "__woverflow", "__fseeko64",
    // Open and close.
    "openat2", "open_by_handle_at", "name_to_handle_at", "open_tree", "close_range", "closefrom",
    "fcloseall", "pidfd_getfd",
    // Read and write.
    "preadv2", "preadv64v2", "pwritev2", "pwritev64v2", "splice", "tee", "vmsplice", "remap_file_pages",
    "process_vm_writev", "aio_read", "aio_read64", "aio_write", "aio_write64", "aio_fsync", "aio_fsync64",
    "aio_cancel", "aio_cancel64", "aio_return", "aio_return64", "aio_error", "aio_error64", "aio_suspend",
    "aio_suspend64", "aio_init", "lio_listio", "lio_listio64", "io_setup", "io_submit", "io_getevents",
    "io_cancel", "io_destroy", "ioctl", "flock", "lockf", "lockf64", "sync",
    // Facts about files.
    "fchmod", "futimens", "fchmodat", "lchmod", "fchown", "fchownat", "lchown", "chflags", "fchflags",
    "euidaccess", "eaccess", "faccessat2", "futimes", "lutimes", "futimesat", "__readlink_chk",
    "__readlinkat_chk", "getxattr", "lgetxattr", "fgetxattr", "setxattr", "lsetxattr", "fsetxattr",
    "listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr", "fremovexattr", "ustat",
    "ftok", "quotactl", "mincore",
    // Names.
    "mknod", "mknodat", "__xmknod", "__xmknodat", "mkfifo", "mkfifoat", "mktemp", "__mktemp", "mkstemp",
    "mkstemp64", "mkostemp", "mkostemp64", "mkstemps", "mkstemps64", "mkostemps", "mkostemps64",
    "mkdtemp", "tmpfile", "tmpfile64", "tmpnam", "tmpnam_r", "tempnam", "chroot", "pivot_root", "mount",
    "umount", "umount2", "move_mount", "swapon", "acct", "revoke", "inotify_add_watch", "fanotify_init",
    "fanotify_mark",
    // Directories.
    "fdopendir", "readdir_r", "readdir64_r", "getdents", "getdents64", "getdirentries", "getdirentries64",
    "scandir", "scandir64", "scandirat", "scandirat64", "ftw", "ftw64", "nftw", "nftw64", "glob",
    "glob64", "fts_open", "fts64_open", "fts_read", "fts64_read", "fts_children", "fts64_children",
    "fts_close", "fts64_close", "fts_set", "fts64_set", "wordexp",
    // Streams.
    "fdopen", "rewind", "fprintf", "_IO_fprintf", "__fprintf_chk", "vfprintf", "_IO_vfprintf",
    "__vfprintf_chk", "dprintf", "__dprintf_chk", "vdprintf", "__vdprintf_chk", "fwrite_unlocked",
    "fputs_unlocked", "fputc_unlocked", "putc_unlocked", "putw", "fputwc", "fputwc_unlocked", "putwc",
    "putwc_unlocked", "fputws", "fputws_unlocked", "fwprintf", "__fwprintf_chk", "vfwprintf",
    "__vfwprintf_chk", "fflush_unlocked", "_flushlbf", "__fpurge", "fpurge", "fsetpos", "fsetpos64",
    "_IO_fsetpos", "_IO_fsetpos64", "setbuf", "setbuffer", "setlinebuf", "_IO_setbuffer",
    // Other programs.
    "execveat", "fexecve", "pidfd_spawn", "pidfd_spawnp", "posix_spawn_file_actions_addopen",
    "posix_spawn_file_actions_addchdir_np", "posix_spawn_file_actions_addchdir",
    "posix_spawn_file_actions_addfchdir_np", "posix_spawn_file_actions_addfchdir", "uselib",
];

/// Why a `postgres` must not run on a branch.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Its dynamic symbols cannot be told.
    #[error("{binary} {source}")]
    NotReadable {
        /// The file.
        binary: PathBuf,
        /// What is wrong with it.
        source: elf::Error,
    },
    /// It calls file functions that nothing is known about.
    #[error("{binary} calls file functions that branches do not support: {}", names.join(", "))]
    Functions {
        /// The file.
        binary: PathBuf,
        /// The functions.
        names: Vec<String>,
    },
}

/// What the function of this name means for a data directory.
pub fn classify(name: &str) -> Class {
    if HANDLED.contains(&name) {
        Class::Handled
    } else if HARMLESS.contains(&name) || HARMLESS_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        Class::Harmless
    } else if UNKNOWN.contains(&name) {
        Class::Unknown
    } else {
        Class::NotFile
    }
}

/// Checks that every file function a `postgres` binary imports is handled or harmless.
///
/// # Errors
/// Names the binary and each function that is neither; or says why the binary cannot be checked.
pub fn check_postgres(binary: &Path) -> Result<(), Refused> {
    let names =
        check_library(binary).map_err(|source| Refused::NotReadable { binary: binary.to_owned(), source })?;
    if names.is_empty() { Ok(()) } else { Err(Refused::Functions { binary: binary.to_owned(), names }) }
}

/// The file functions a library imports that are neither handled nor harmless, sorted. Worth one
/// line in the log: what the library does with them is not known.
///
/// # Errors
/// Its dynamic symbols cannot be told.
pub fn check_library(library: &Path) -> Result<Vec<String>, elf::Error> {
    let mut names = elf::dynamic_symbols(library)?.imported;
    names.retain(|name| classify(name) == Class::Unknown);
    names.sort();
    names.dedup();
    Ok(names)
}

/// Stands for the lists: what was found with one fingerprint may be something else with another.
pub fn fingerprint() -> u64 {
    let lists = [HANDLED, HARMLESS, HARMLESS_PREFIXES, UNKNOWN];
    store::path::fnv1a(lists.map(|list| list.join(" ")).join("\n").as_bytes())
}

/// The functions that a built library offers, sorted.
///
/// # Errors
/// Its dynamic symbols cannot be told.
pub fn exported_symbols(library: &Path) -> Result<Vec<String>, elf::Error> {
    let mut names = elf::dynamic_symbols(library)?.exported;
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;
    use std::collections::HashSet;

    fn installed() -> Vec<PathBuf> {
        crate::testing::servers().into_iter().map(|server| server.bin_dir.join("postgres")).collect()
    }

    #[test]
    fn no_function_stands_in_two_lists_or_twice() {
        let mut seen = HashSet::new();
        for name in HANDLED.iter().chain(HARMLESS).chain(UNKNOWN) {
            assert!(seen.insert(name), "{name} stands twice");
        }
    }

    #[test]
    fn real_servers_pass() {
        for binary in installed() {
            check_postgres(&binary).unwrap();
            let imported = elf::dynamic_symbols(&binary).unwrap().imported;
            let handled = imported.iter().filter(|name| classify(name) == Class::Handled).count();
            assert!(handled > 40, "{}: only {handled} file functions were recognised", binary.display());
        }
    }

    /// The same binary with the name of one import changed: what a server built otherwise looks like.
    #[test]
    fn an_unknown_file_function_is_refused_by_name() {
        let directory = Directory::new("imports");
        let altered = directory.path().join("postgres");
        let binary = installed().remove(0);
        let mut bytes = std::fs::read(&binary).unwrap();
        let at = bytes.windows(9).position(|window| window == b"\0opendir\0").unwrap();
        bytes[at + 1..at + 8].copy_from_slice(b"scandir");
        std::fs::write(&altered, bytes).unwrap();
        assert_eq!(
            check_postgres(&altered).unwrap_err().to_string(),
            format!("{} calls file functions that branches do not support: scandir", altered.display())
        );
        assert_eq!(check_library(&altered).unwrap(), ["scandir"]);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let directory = Directory::new("imports");
        let script = directory.path().join("postgres");
        std::fs::write(
            &script,
            "#!/bin/sh\nexec /usr/libexec/postgres \"$@\" # a wrapper, not the server itself\n",
        )
        .unwrap();
        assert_eq!(
            check_postgres(&script).unwrap_err().to_string(),
            format!("{} is not a 64-bit little-endian ELF file", script.display())
        );
    }

    /// No file function of this machine's C library is missing from the lists: each exported name
    /// that looks like one stands in a list, or below because it is none.
    #[test]
    fn the_lists_cover_this_c_library() {
        // What looks like a file function: part of the name.
        const STEMS: &[&str] = &[
            "open", "read", "write", "stat", "link", "dir", "sync", "trunc", "falloc", "chmod", "chown",
            "utime", "xattr", "creat", "rename", "seek", "mmap", "dup", "fcntl", "ioctl", "exec", "spawn",
            "temp", "tmp", "ftw", "glob", "fts", "aio_",
        ];
        // Families that have to do with other things.
        const OTHERS: &[&str] = &[
            "thread",
            "clnt",
            "svc",
            "xdr",
            "auth",
            "argz",
            "posix_spawnattr_",
            "posix_spawn_file_actions_",
            "timer",
            "epoll",
            "mq_",
            "sem_",
            "alloc_buffer",
            "eventfd_",
            "state",
            "utmp",
            "wtmp",
            "hcreate",
            "stats",
            "pty",
            "rpc",
            "strdup",
            "strndup",
            "wcsdup",
        ];
        const SINGLE: &[&str] = &[
            "argp_err_exit_status",
            "catopen",
            "create_module",
            "dirname",
            "duplocale",
            "fmemopen",
            "fopencookie",
            "fsopen",
            "glob_pattern_p",
            "globfree",
            "globfree64",
            "iconv_open",
            "memfd_create",
            "posix_openpt",
            "open_memstream",
            "open_wmemstream",
            "openlog",
            "pidfd_open",
            "process_vm_readv",
            "re_exec",
            "regexec",
            "rexec",
            "rexec_af",
            "rexecoptions",
            "thrd_create",
            "tss_create",
        ];
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let library = mapped.find(|path| path.ends_with("/libc.so.6")).unwrap();
        let mut names = exported_symbols(Path::new(library)).unwrap();
        assert!(names.len() > 2000, "{} names in {library}", names.len());
        // A leading underscore is glibc's own, apart from the aliases that stand in the lists.
        names.retain(|name| !name.starts_with('_') && classify(name) == Class::NotFile);
        names.retain(|name| STEMS.iter().any(|stem| name.contains(stem)));
        names.retain(|name| {
            !OTHERS.iter().any(|stem| name.contains(stem)) && !SINGLE.contains(&name.as_str())
        });
        assert_eq!(names, [""; 0]);
    }
}
