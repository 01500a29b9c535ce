//! Writing a stack out as plain files.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::errno::{Errno, Result};
use crate::layer::{Kind, arena::BLOCK};
use crate::path::RelPath;
use crate::stack::{Located, Stack};
use crate::sys::{self, Fd, O_CLOEXEC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR};

/// What a stack holds.
#[derive(Debug, Default, Clone)]
pub struct Tree {
    /// Directories, parents before children.
    pub directories: Vec<RelPath>,
    /// Files with their logical lengths in bytes.
    pub files: Vec<(RelPath, u64)>,
}

/// Everything in the layers of the stack below slot `below`.
pub fn tree(stack: &Stack, below: u32) -> Result<Tree> {
    let mut tree = Tree::default();
    walk(stack, below, &RelPath::ROOT, &mut tree)?;
    Ok(tree)
}

fn walk(stack: &Stack, below: u32, at: &RelPath, tree: &mut Tree) -> Result<()> {
    let (mut hidden, mut names) = (BTreeSet::new(), BTreeSet::new());
    stack.list_below(below, at, &mut hidden, &mut names)?;
    for (name, is_directory) in names {
        let path = at.join(&name)?;
        if is_directory {
            tree.directories.push(path);
            walk(stack, below, &path, tree)?;
        } else if let Some(located) = stack.find_below(below, &path)? {
            tree.files.push((path, located.found.length));
        }
    }
    Ok(())
}

/// Writes one file as of the layers below slot `below` to `target`, which must not exist.
pub fn copy(stack: &Stack, below: u32, path: &RelPath, target: &Path) -> Result<()> {
    let chain = stack.chain_below(below, path)?;
    let lowest = chain.last().ok_or(Errno::NOENT)?;
    if lowest.found.kind != Kind::Complete {
        return Err(Errno::DAMAGED);
    }
    let target = std::ffi::CString::new(target.as_os_str().as_bytes()).map_err(|_| Errno(libc::EINVAL))?;
    let out = sys::openat(sys::AT_FDCWD, &target, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)?;
    let written = chain.iter().rev().try_for_each(|located| apply(located, path, out));
    sys::close(out);
    written
}

/// Applies one layer's version of the file over those below it.
fn apply(located: &Located, path: &RelPath, out: Fd) -> Result<()> {
    let from = located.layer.open_file(path, O_RDONLY)?;
    let applied = apply_open(located, from, out);
    sys::close(from);
    applied
}

fn apply_open(located: &Located, from: Fd, out: Fd) -> Result<()> {
    let found = &located.found;
    let floor = if found.kind == Kind::Complete { 0 } else { found.floor };
    if sys::size(out)? > floor {
        sys::ftruncate(out, floor)?;
    }
    sys::ftruncate(out, found.length)?;
    located.layer.runs(found, &mut |start, count| {
        let start = u64::from(start) * BLOCK;
        copy_range(from, out, start, (start + u64::from(count) * BLOCK).min(found.length), false)
    })?;
    // From the block that the floor lies in upwards everything is this layer's own, unless a run
    // says so already.
    copy_range(from, out, floor.next_multiple_of(BLOCK), found.length, true)
}

/// Copies a range of bytes. `sparse`: the target is known to be zeros there, so zeros need no writing.
pub(crate) fn copy_range(from: Fd, out: Fd, start: u64, end: u64, sparse: bool) -> Result<()> {
    let mut buffer = vec![0u8; 256 * 1024];
    let mut at = start;
    while at < end {
        let want = buffer.len().min((end - at) as usize);
        let n = sys::pread_full(from, &mut buffer[..want], at)?;
        if n == 0 {
            return Ok(());
        }
        if !sparse || buffer[..n].iter().any(|&byte| byte != 0) {
            sys::pwrite_full(out, &buffer[..n], at)?;
        }
        at += n as u64;
    }
    Ok(())
}
