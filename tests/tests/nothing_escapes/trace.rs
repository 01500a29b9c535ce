//! Reading what `strace -ff -ttt -y -s 0` wrote: which paths and descriptors each call named.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use pgdata::class::{Class, classify};

/// What is traced: every call that takes a path, and those that change what a descriptor stands for.
pub const CALLS: &str = "%file,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,fchmod,fchown,\
    fsetxattr,fremovexattr,copy_file_range,sendfile,splice,ioctl,mmap,fchdir";

/// Options for `strace` besides `-o`.
pub fn options() -> Vec<String> {
    let filter = format!("trace={CALLS}");
    // Strings that are no paths are cut to nothing; paths always stand whole. The tracer is nobody's
    // parent, so the server keeps the process id it was started with.
    ["-D", "-ff", "--seccomp-bpf", "-ttt", "-y", "-s", "0", "-e", &filter].map(str::to_owned).to_vec()
}

/// Whether the system lets nobody be traced; then a line that begins with `SKIPPED:` tells why. It goes
/// around the test harness, which would keep it to itself.
///
/// # Panics
/// Where there is no `strace`.
pub fn is_forbidden() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stdin(Stdio::null()).output();
    let tried = tried.unwrap_or_else(|error| panic!("strace: {error}; install it: apt-get install strace"));
    if tried.status.success() {
        return false;
    }
    let complaint = String::from_utf8_lossy(&tried.stderr).trim().replace('\n', "; ");
    let line = format!("SKIPPED: nothing_escapes: no process may be traced here: {complaint}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    true
}

/// One system call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// When it began, seconds since 1970.
    pub time: f64,
    pub name: String,
    pub arguments: Vec<String>,
}

/// One line of a trace. `None` for what is no call: signals, the process's end.
pub fn parse(line: &str) -> Option<Call> {
    let (time, rest) = line.split_once(' ')?;
    let time = time.parse().ok()?;
    let (name, rest) = rest.trim_start().split_once('(')?;
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain.then(|| Call { time, name: name.to_owned(), arguments: split(rest) })
}

/// Splits at the commas outside of brackets and strings, up to the closing parenthesis.
fn split(text: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        let arrow = c == '>' && matches!(text.as_bytes().get(at.wrapping_sub(1)), Some(b'-' | b'='));
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            ')' if depth == 0 => break,
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if !arrow => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(argument) = arguments.last_mut() {
            argument.push(c);
        }
    }
    arguments.into_iter().map(|argument| argument.trim().to_owned()).collect()
}

/// Where a call's arguments name files.
struct Shape {
    /// Positions of paths, each with that of its directory's descriptor.
    paths: &'static [(usize, Option<usize>)],
    /// Positions of descriptors that the call writes to.
    written: &'static [usize],
    /// Whether it changes what its paths name.
    changes_names: bool,
}

const fn shape(
    paths: &'static [(usize, Option<usize>)],
    written: &'static [usize],
    changes_names: bool,
) -> Option<Shape> {
    Some(Shape { paths, written, changes_names })
}

fn shape_of(call: &Call) -> Option<Shape> {
    const AT: &[(usize, Option<usize>)] = &[(1, Some(0))];
    const PLAIN: &[(usize, Option<usize>)] = &[(0, None)];
    match call.name.as_str() {
        "open" | "stat" | "lstat" | "access" | "readlink" | "execve" | "statfs" | "chdir" | "getxattr"
        | "lgetxattr" | "listxattr" | "llistxattr" => shape(PLAIN, &[], false),
        "creat" | "unlink" | "rmdir" | "mkdir" | "mknod" | "chmod" | "chown" | "lchown" | "truncate"
        | "utime" | "utimes" | "setxattr" | "lsetxattr" | "removexattr" | "lremovexattr" => {
            shape(PLAIN, &[], true)
        }
        "rename" | "link" => shape(&[(0, None), (1, None)], &[], true),
        "symlink" => shape(&[(1, None)], &[], true),
        // Opening for writing shows by the writes; opening with a change of the file is one itself.
        "openat" => {
            let flags = call.arguments.get(2).map_or("", String::as_str);
            shape(AT, &[], flags.contains("O_CREAT") || flags.contains("O_TRUNC"))
        }
        "newfstatat" | "statx" | "faccessat" | "faccessat2" | "readlinkat" | "openat2" => {
            shape(AT, &[], false)
        }
        "unlinkat" | "mkdirat" | "mknodat" | "fchmodat" | "fchownat" | "utimensat" | "futimesat" => {
            shape(AT, &[], true)
        }
        "renameat" | "renameat2" | "linkat" => shape(&[(1, Some(0)), (3, Some(2))], &[], true),
        "symlinkat" => shape(&[(2, Some(1))], &[], true),
        "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" | "fchmod"
        | "fchown" | "fsetxattr" | "fremovexattr" | "sendfile" => shape(&[], &[0], false),
        "copy_file_range" | "splice" => shape(&[], &[2], false),
        "ioctl" => {
            let clones = call.arguments.get(1).is_some_and(|what| what.contains("FICLONE"));
            shape(&[], if clones { &[0] } else { &[] }, false)
        }
        "mmap" => {
            let has = |at: usize, flag| call.arguments.get(at).is_some_and(|text| text.contains(flag));
            let writes = has(2, "PROT_WRITE") && has(3, "MAP_SHARED");
            shape(&[], if writes { &[4] } else { &[] }, false)
        }
        "fchdir" => shape(&[], &[], false),
        "getcwd" => shape(&[], &[], false),
        _ => None,
    }
}

/// A branch as the checks see it.
pub struct Place {
    /// The data directory, absolute, as are the others.
    pub data_directory: PathBuf,
    /// Where everything else of it is: layers, and the branch's private directory.
    pub layers: PathBuf,
    pub private: PathBuf,
    /// Layers that were sealed while the trace ran or before: `layers/<id>/f`, and since when.
    pub sealed: Vec<(PathBuf, f64)>,
}

/// What was wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It named a layered path of the data directory.
    Escaped,
    /// It wrote into a sealed layer.
    Sealed,
    /// The checks do not know this call.
    Unknown,
}

/// What the calls of one trace add up to.
#[derive(Debug, Default)]
pub struct Summary {
    pub faults: Vec<(Fault, String)>,
    /// Calls in all.
    pub calls: usize,
    /// Those that named a file of a layer or of the private directory.
    pub redirected: usize,
    /// Those that named a real file of the data directory.
    pub native: usize,
    /// Directories of layers whose files were written to.
    pub written: BTreeSet<PathBuf>,
    /// Whether the process's end is in the trace.
    pub ended: bool,
}

impl Summary {
    pub fn add(&mut self, other: Summary) {
        self.faults.extend(other.faults);
        self.calls += other.calls;
        self.redirected += other.redirected;
        self.native += other.native;
        self.written.extend(other.written);
        self.ended &= other.ended;
    }
}

impl Place {
    /// Checks all lines of one process's trace.
    pub fn check(&self, text: &str) -> Summary {
        let mut summary = Summary::default();
        for line in text.lines() {
            summary.ended |= line.contains("+++ exited") || line.contains("+++ killed");
            if let Some(call) = parse(line) {
                self.check_call(&call, line, &mut summary);
            }
        }
        summary
    }

    fn check_call(&self, call: &Call, line: &str, summary: &mut Summary) {
        summary.calls += 1;
        let Some(shape) = shape_of(call) else {
            summary.faults.push((Fault::Unknown, line.to_owned()));
            return;
        };
        let argument = |at: usize| call.arguments.get(at).map_or("", String::as_str);
        let named = shape.paths.iter().filter_map(|&(at, directory)| {
            let path = unquoted(argument(at))?;
            let base = match directory {
                Some(at) => annotation(argument(at)).unwrap_or(&self.data_directory),
                None => &self.data_directory,
            };
            Some((normal(&base.join(path)), shape.changes_names))
        });
        let descriptors = call
            .arguments
            .iter()
            .enumerate()
            .filter_map(|(at, text)| Some((normal(annotation(text)?), shape.written.contains(&at))));
        // The working directory is the data directory all the time.
        if matches!(call.name.as_str(), "chdir" | "fchdir") && !self.is_data_directory(call) {
            summary.faults.push((Fault::Unknown, line.to_owned()));
        }
        let (mut redirected, mut native) = (false, false);
        for (path, changes) in named.chain(descriptors) {
            if let Ok(relative) = path.strip_prefix(&self.data_directory) {
                match classify(relative.as_os_str().as_encoded_bytes()) {
                    Class::Block | Class::Whole | Class::Scratch => {
                        summary.faults.push((Fault::Escaped, line.to_owned()));
                    }
                    Class::Native | Class::Root => native = true,
                }
            }
            redirected |= path.starts_with(&self.layers) || path.starts_with(&self.private);
            if changes && let Ok(inside) = path.strip_prefix(&self.layers) {
                // Groups have eight digits; the layer comes next.
                summary.written.extend(inside.iter().find(|part| part.len() != 8).map(PathBuf::from));
            }
            let is_sealed = |(layer, since): &(PathBuf, f64)| path.starts_with(layer) && call.time > *since;
            if changes && self.sealed.iter().any(is_sealed) {
                summary.faults.push((Fault::Sealed, line.to_owned()));
            }
        }
        summary.redirected += usize::from(redirected);
        summary.native += usize::from(native);
    }

    fn is_data_directory(&self, call: &Call) -> bool {
        let argument = call.arguments.first().map_or("", String::as_str);
        let path = unquoted(argument).map(Path::new).or_else(|| annotation(argument));
        path.is_some_and(|path| normal(&self.data_directory.join(path)) == self.data_directory)
    }
}

/// The text of a string argument that is not empty.
fn unquoted(argument: &str) -> Option<&str> {
    argument.strip_prefix('"')?.strip_suffix('"').filter(|text| !text.is_empty())
}

/// The path beside a descriptor, e.g. `5</tmp/x>` or `AT_FDCWD</tmp>`.
fn annotation(argument: &str) -> Option<&Path> {
    let (number, path) = argument.split_once("</")?;
    let plain = number == "AT_FDCWD" || number.bytes().all(|b| b.is_ascii_digit());
    let end = path.rfind('>')?;
    let start = argument.len() - path.len() - 1;
    plain.then(|| Path::new(&argument[start..start + 1 + end]))
}

/// Without `.` and `..`; no links lead out of a data directory.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, component| {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
        path
    })
}

#[test]
fn a_traced_line_is_read() {
    let place = Place {
        data_directory: "/h/branches/b/pgdata".into(),
        layers: "/h/layers".into(),
        private: "/h/branches/b/private".into(),
        sealed: vec![("/h/layers/1/f".into(), 100.0)],
    };
    let faults = |line: &str| {
        let summary = place.check(line);
        assert_eq!(summary.calls, 1, "{line}");
        summary.faults.into_iter().map(|(fault, _)| fault).collect::<Vec<_>>()
    };
    for good in [
        r#"101.5 openat(AT_FDCWD</h/branches/b/pgdata>, "pg_wal/000000010000000000000001", O_RDWR) = 5</x>"#,
        r#"101.5 openat(7</h/layers/2/f>, "base/5/1259", O_RDWR|O_CREAT) = 5</h/layers/2/f/base/5/1259>"#,
        r#"101.5 openat(6</h/layers/1/f>, "base/5/1259", O_RDONLY) = 5</h/layers/1/f/base/5/1259>"#,
        r#"101.5 unlink("postmaster.pid") = 0"#,
        r#"101.5 execve("/usr/bin/x", [...], 0x7ffc /* 35 vars */) = 0"#,
        r#"101.5 stat("/h/branches/b/pgdata", {st_mode=S_IFDIR|0700, ...}) = 0"#,
        r#"99.5 pwrite64(5</h/layers/1/f/base/5/1259>, ""..., 8192, 0) = 8192"#,
        r#"101.5 write(5<socket:[77->78]>, ""..., 9) = 9"#,
        r#"101.5 mmap(NULL, 9, PROT_READ, MAP_SHARED, 5</h/layers/1/index>, 0) = 0x7f"#,
    ] {
        assert_eq!(faults(good), [], "{good}");
    }
    for escaped in [
        r#"101.5 openat(AT_FDCWD</h/branches/b/pgdata>, "base/5/1259", O_RDONLY) = -1 ENOENT (No such file)"#,
        r#"101.5 rename("pg_stat/pgstat.tmp", "pg_stat/pgstat.stat") = 0"#,
        r#"101.5 rename("/tmp/x", "/h/branches/b/pgdata/./global/pg_control") = 0"#,
        r#"101.5 unlinkat(4</h/branches/b/pgdata/pg_wal>, "../base/pgsql_tmp/x", 0) = 0"#,
        r#"101.5 ftruncate(4</h/branches/b/pgdata/PG_VERSION>, 0) = 0"#,
    ] {
        assert!(faults(escaped).contains(&Fault::Escaped), "{escaped}");
    }
    for sealed in [
        r#"101.5 pwrite64(5</h/layers/1/f/base/5/1259>, ""..., 8192, 0) = 8192"#,
        r#"101.5 renameat(6</h/layers/1/f>, "a", 7</h/layers/2/f>, "a") = 0"#,
        r#"101.5 openat(6</h/layers/1/f>, "base/5/1259", O_RDWR|O_TRUNC) = 5</h/layers/1/f/base/5/1259>"#,
        r#"101.5 mmap(NULL, 9, PROT_READ|PROT_WRITE, MAP_SHARED, 5</h/layers/1/f/a>, 0) = 0x7f"#,
        r#"101.5 copy_file_range(5</h/layers/2/f/a>, NULL, 6</h/layers/1/f/a>, NULL, 9, 0) = 9"#,
    ] {
        assert_eq!(faults(sealed), [Fault::Sealed], "{sealed}");
    }
    assert_eq!(faults("101.5 swapon(\"/x\") = 0"), [Fault::Unknown]);
    assert_eq!(faults("101.5 chdir(\"/\") = 0"), [Fault::Unknown]);
}
