//! What a branch's server wrote into its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::branches::live_branch;
use super::{Control, key_of};
use crate::error::Error;

/// One answer carries no more than this, bytes.
const MOST: u64 = 1 << 20;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFrom {
    /// So many lines before the end.
    Last(usize),
    /// Where an earlier answer ended.
    Offset(u64),
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    /// Whole lines, unless a single one is too long.
    pub text: String,
    /// Where the next piece begins.
    pub next: u64,
}

impl Control {
    /// A piece of the log of a branch's server, from one run to the next. It may carry statements of
    /// those who use the branch.
    ///
    /// # Errors
    /// There is no such branch, or its log cannot be read.
    pub async fn branch_log(
        self: &Arc<Self>,
        project: String,
        branch: String,
        from: LogFrom,
    ) -> Result<LogPiece, Error> {
        self.blocking(move |control| {
            let (_, row) = control.db.read(|c| live_branch(c, &project, &branch))?;
            let path = control.engine.log_path(&key_of(&row.uid)?);
            read(&path, from).map_err(|source| Error::io(format!("cannot read {}", path.display()), source))
        })
        .await
    }
}

fn read(path: &Path, from: LogFrom) -> std::io::Result<LogPiece> {
    let mut file = match File::open(path) {
        // A branch that was never started has said nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(LogPiece { text: String::new(), next: 0 });
        }
        other => other?,
    };
    let size = file.metadata()?.size();
    let begin = match from {
        // A log that was cut short is read from its beginning.
        LogFrom::Offset(offset) => {
            if offset <= size {
                offset
            } else {
                0
            }
        }
        LogFrom::Last(_) => size.saturating_sub(MOST),
    };
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    // A line that is still being written comes with the next piece.
    if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
        bytes.truncate(end + 1);
    } else if (bytes.len() as u64) < MOST {
        bytes.clear();
    }
    let next = begin + bytes.len() as u64;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let text = match from {
        LogFrom::Offset(_) => text,
        LogFrom::Last(lines) => {
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            all[all.len().saturating_sub(lines)..].concat()
        }
    };
    Ok(LogPiece { text, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read_by_whole_lines() {
        let path = std::env::temp_dir().join(format!("ana-log-{}", std::process::id()));
        let piece = |from| read(&path, from).unwrap();
        let is = |text: &str, next| LogPiece { text: text.to_owned(), next };
        assert_eq!(piece(LogFrom::Last(5)), is("", 0));
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        assert_eq!(piece(LogFrom::Last(5)), is("one\ntwo\n", 8));
        assert_eq!(piece(LogFrom::Last(1)), is("two\n", 8));
        assert_eq!(piece(LogFrom::Offset(8)), is("", 8));
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(piece(LogFrom::Offset(8)), is("three\n", 14));
        assert_eq!(piece(LogFrom::Offset(99)), is("one\ntwo\nthree\n", 14));
        std::fs::remove_file(&path).unwrap();
    }
}
