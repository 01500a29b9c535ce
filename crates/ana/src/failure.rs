//! How a command ends when it does not succeed: one line, maybe a hint, and an exit code.

use std::fmt::Display;

/// Exit codes, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was tried and went wrong.
    Failed = 1,
    /// It was refused, or asked for in a wrong way.
    Refused = 2,
    /// Something outside (the system, the network, the daemon) failed.
    Outside = 3,
    /// It took too long.
    TimedOut = 4,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// One line.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), hint: None }
    }

    /// It was refused, or asked for in a wrong way.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Refused, message)
    }

    /// The operating system said no.
    pub fn io(what: impl Display, error: &std::io::Error) -> Failure {
        Failure::new(Exit::Outside, format!("{what}: {error}"))
    }

    /// The same failure with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// The lines to show.
    pub fn render(&self) -> String {
        match &self.hint {
            Some(hint) => format!("error: {}\nhint: {hint}", self.message),
            None => format!("error: {}", self.message),
        }
    }
}

/// The failure of a call about a branch of a project, with the names that the person knows them by.
pub fn about(error: client::Error, project: &str, branch: &str) -> Failure {
    let missing = if error.is_not_found() { error.to_string() } else { String::new() };
    match missing.split(' ').next() {
        Some("project") => Failure::refused(format!("there is no project \"{project}\""))
            .with_hint("see them with: ana project list"),
        Some("branch") => Failure::refused(format!("there is no branch \"{branch}\" in project {project}"))
            .with_hint(format!("see them with: ana branch list --project {project}")),
        _ => error.into(),
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        let message = error.to_string();
        match error {
            client::Error::NotRunning { .. } => {
                Failure::new(Exit::Outside, message).with_hint("start it with: ana up")
            }
            client::Error::Denied { .. } => {
                Failure::refused(message).with_hint("run this as the user that started the daemon")
            }
            // What TLS objects to.
            client::Error::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => {
                Failure::new(Exit::Outside, message).with_hint(
                    "name the certificate of its authority in SSL_CERT_FILE, and the host as it stands there",
                )
            }
            client::Error::Unreachable { .. } => Failure::new(Exit::Outside, message)
                .with_hint("check ANABRANCH_HOST, and that the daemon runs there"),
            client::Error::Refused { status: 401, .. } => Failure::refused(message)
                .with_hint("check ANABRANCH_TOKEN; make a new one with: ana token create"),
            client::Error::Refused { status, hint, .. } => {
                let exit = if status < 500 { Exit::Refused } else { Exit::Failed };
                Failure { exit, message, hint }
            }
            client::Error::Failed { .. } => Failure::new(Exit::Failed, message),
            client::Error::Transport(_) | client::Error::Protocol(_) => Failure::new(Exit::Outside, message),
        }
    }
}

impl From<control::Error> for Failure {
    fn from(error: control::Error) -> Failure {
        let message = error.to_string();
        match error {
            control::Error::Refused { hint, .. } => Failure { exit: Exit::Refused, message, hint },
            _ => Failure::new(Exit::Failed, message),
        }
    }
}

impl From<compute::engine::Error> for Failure {
    fn from(error: compute::engine::Error) -> Failure {
        Failure::new(Exit::Failed, error.to_string())
    }
}

impl From<compute::run_as::Error> for Failure {
    fn from(error: compute::run_as::Error) -> Failure {
        Failure { exit: Exit::Refused, message: error.to_string(), hint: error.hint() }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        match error.as_db_error() {
            Some(db) => Failure {
                exit: Exit::Failed,
                message: db.message().to_owned(),
                hint: db.hint().map(str::to_owned),
            },
            None => Failure::new(Exit::Outside, error.to_string()),
        }
    }
}
