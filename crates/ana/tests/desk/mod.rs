//! A machine for one user, as the command line sees it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use compute::os;
use serde_json::Value;

/// A machine for one user: a home that goes away with the test, and its daemon.
pub struct Desk {
    /// Where all of it lies.
    pub path: PathBuf,
    user: Option<os::User>,
}

impl Desk {
    /// One for a user, or for the one who runs the tests.
    pub fn new(name: &str, user: Option<os::User>) -> Desk {
        let path = std::env::temp_dir().join(format!("ana-desk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("home")).unwrap();
        if let Some(user) = &user {
            for place in [path.clone(), path.join("home")] {
                std::os::unix::fs::chown(place, Some(user.uid), Some(user.gid)).unwrap();
            }
        }
        // The build directory may lie where an ordinary user cannot go. Another process copies: while this
        // one had the file open, a test that starts a program meanwhile would hand that on, and a file
        // open for writing cannot be run.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ana")).arg(path.join("ana")).status();
        assert!(copied.unwrap().success());
        Desk { path, user }
    }

    /// Runs a command.
    pub fn ana(&self, arguments: &[&str]) -> Output {
        self.command(self.path.join("ana")).args(arguments).output().unwrap()
    }

    /// A program of the user's, in this machine's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.path).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path.join("home")).env("ANABRANCH_HOME", self.path.join("data"));
        command.env("ANABRANCH_PG_PORT", "0").env("ANABRANCH_HTTP_PORT", "0");
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Runs a command that must succeed; gives the JSON that it printed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ana(arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ana {arguments:?}: {}\n{talk}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command that must be refused, with exit code 2; gives what it said.
    pub fn refused(&self, arguments: &[&str]) -> String {
        refusal(&self.ana(arguments), arguments)
    }

    /// Runs a command that must succeed; gives what it printed.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.ana(arguments);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "ana {arguments:?}: {}\n{text}", output.status);
        text
    }
}

/// What a command said that must have been refused.
pub fn refusal(output: &Output, arguments: &[&str]) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "ana {arguments:?}: {text}");
    assert!(text.contains("error: "), "{text}");
    text
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.ana(&["down"]);
        kill_computes(&self.path.join("data/branches"));
        compute::engine::remove_caches(&self.path.join("data"));
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn kill_computes(branches: &Path) {
    for entry in std::fs::read_dir(branches).into_iter().flatten().flatten() {
        let _ = compute::process::kill_all(&entry.path().join("pgdata"));
    }
}
