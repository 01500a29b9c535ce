//! The daemon elsewhere that this user has logged in to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::connection::write_private;
use crate::failure::{Exit, Failure};

/// Address and token of a daemon elsewhere.
#[derive(Serialize, Deserialize)]
pub struct Login {
    /// As for `ANABRANCH_HOST`.
    pub host: String,
    /// As for `ANABRANCH_TOKEN`.
    pub token: String,
}

impl Login {
    /// What was kept; none where nobody has logged in.
    ///
    /// # Errors
    /// The file cannot be read, or is something else.
    pub fn kept() -> Result<Option<Login>, Failure> {
        let Some(path) = file() else { return Ok(None) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|_| {
            Failure::refused(format!("{} holds no login", path.display()))
                .with_hint("remove it with: ana auth logout")
        })
    }

    /// Keeps it in a file that only this user can read.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self) -> Result<PathBuf, Failure> {
        let path = file().ok_or_else(|| {
            Failure::new(Exit::Outside, "HOME is not set, so there is no place to keep a login")
                .with_hint("set HOME, or use ANABRANCH_HOST and ANABRANCH_TOKEN instead")
        })?;
        let text = serde_json::to_string(self)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))?;
        write_private(&path, &text)?;
        Ok(path)
    }
}

/// Forgets the login; whether there was one.
///
/// # Errors
/// It cannot be removed.
pub fn forget() -> Result<bool, Failure> {
    let Some(path) = file() else { return Ok(false) };
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::io(format!("cannot remove {}", path.display()), &error)),
    }
}

fn file() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = variable("XDG_CONFIG_HOME").filter(|dir| dir.is_absolute());
    Some(dir.or_else(|| Some(variable("HOME")?.join(".config")))?.join("anabranch/login.json"))
}
