//! Which file a path means.

use pgdata::class::{Class, classify};
use store::errno::Result;
use store::path::RelPath;

use crate::tracker::Tracker;

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Not in the data directory, or a real file of it: pass the call on as it is.
    Bypass,
    /// The data directory itself.
    Root,
    /// A layered path and whether it is of class *whole*.
    Layered(RelPath, bool),
    /// A private file kept outside the layers: this path below the branch's private directory.
    Scratch(RelPath),
}

impl Tracker {
    /// Where `path`, as given to a libc call, leads.
    ///
    /// # Errors
    /// `ENAMETOOLONG` for a layered path beyond 127 bytes.
    pub fn resolve(&self, path: &[u8]) -> Result<Target> {
        let relative = match self.relative(path) {
            Some(relative) => relative?,
            None => return Ok(Target::Bypass),
        };
        Ok(match classify(relative.as_bytes()) {
            Class::Root => Target::Root,
            Class::Block => Target::Layered(relative, false),
            Class::Whole => Target::Layered(relative, true),
            Class::Native => Target::Bypass,
            Class::Scratch => Target::Scratch(relative),
        })
    }

    fn relative(&self, path: &[u8]) -> Option<Result<RelPath>> {
        if path.first() == Some(&b'/') {
            let rest = path.strip_prefix(&self.settings.data_directory[..])?;
            return match rest.first() {
                None => Some(Ok(RelPath::ROOT)),
                Some(b'/') => keep_native(rest),
                Some(_) => None,
            };
        }
        if path.is_empty() || !self.inside() {
            return None;
        }
        keep_native(path)
    }
}

/// A path too long for us may still be a native one (a long file name under `log`, say).
fn keep_native(path: &[u8]) -> Option<Result<RelPath>> {
    let normal = RelPath::normalize(path)?;
    let trimmed: &[u8] = path.strip_prefix(b"./").unwrap_or(path);
    let trimmed = trimmed.strip_prefix(b"/").unwrap_or(trimmed);
    (normal.is_ok() || classify(trimmed) != Class::Native).then_some(normal)
}
