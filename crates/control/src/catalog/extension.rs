//! The extension `databricks_auth`: two files that every server finds among its own.
//!
//! The preload library shows them in the server's extension directory, so they are there whoever owns
//! the server and whether or not that directory can be written to.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

const FILES: [(&str, &str); 2] = [
    ("databricks_auth.control", include_str!("extension/databricks_auth.control")),
    ("databricks_auth--1.0.sql", include_str!("extension/databricks_auth--1.0.sql")),
];

/// Writes the files into `directory`, where they are not there already.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn install(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::io(format!("cannot write into {}", directory.display()), source);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    for (name, text) in FILES {
        let path = directory.join(name);
        if std::fs::read(&path).is_ok_and(|bytes| bytes == text.as_bytes()) {
            continue;
        }
        // Beside and renamed: a running server never reads half of one.
        let beside = directory.join(format!("{name}.new"));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&beside, &path));
        written.map_err(failed)?;
    }
    Ok(())
}
