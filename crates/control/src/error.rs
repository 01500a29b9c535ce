//! Why the control plane said no.

use std::sync::Arc;
use std::time::Duration;

/// The kind of a refusal; the HTTP layer turns it into a status and a code in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A value in the request is wrong.
    InvalidParameter,
    /// The request is well formed, but not possible here.
    BadRequest,
    /// The thing lives and dies with its parent.
    ManagedByParent,
    /// There is no such thing.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The thing is being changed by somebody else; try again.
    Busy,
    /// This version does not do it.
    NotImplemented,
    /// The caller has not proved who they are.
    Unauthenticated,
    /// The caller may not do this.
    PermissionDenied,
    /// The thing exists, but must be brought into another state first.
    InvalidState,
    /// The host has no room at the moment; try again.
    Exhausted,
}

/// What stopped a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller can do something about it.
    #[error("{message}")]
    Refused {
        /// What kind.
        refusal: Refusal,
        /// One line: what was wrong, with what.
        message: String,
        /// What to do next.
        hint: Option<String>,
    },
    /// The engine could not do it.
    #[error(transparent)]
    Engine(#[from] compute::engine::Error),
    /// The metadata database failed.
    #[error("metadata: {0}")]
    Database(#[from] rusqlite::Error),
    /// A file or socket of ours failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// PostgreSQL did not do what it was asked to.
    #[error("{what}: {}", describe_postgres(source))]
    Postgres {
        /// What was being done.
        what: String,
        /// The cause.
        source: tokio_postgres::Error,
    },
    /// The cause of several callers' failure at once.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// Something that must not happen; the text says where.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The server's own message where there is one: the driver's text alone only says "db error".
fn describe_postgres(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

impl Error {
    /// A refusal without a hint.
    pub fn refused(refusal: Refusal, message: impl Into<String>) -> Error {
        Error::Refused { refusal, message: message.into(), hint: None }
    }

    /// A value that the request must not have.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::refused(Refusal::InvalidParameter, message)
    }

    /// The same error with a hint, where it is a refusal.
    #[must_use]
    pub fn with_hint(self, text: impl Into<String>) -> Error {
        match self {
            Error::Refused { refusal, message, .. } => {
                Error::Refused { refusal, message, hint: Some(text.into()) }
            }
            other => other,
        }
    }

    /// Whether data on the disk is damaged: nothing but a copy helps.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Engine(compute::engine::Error::Damaged(_)) => true,
            Error::Shared(cause) => cause.is_damage(),
            _ => false,
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Error {
        Error::Io { what: what.into(), source }
    }

    pub(crate) fn postgres(what: impl Into<String>, source: tokio_postgres::Error) -> Error {
        Error::Postgres { what: what.into(), source }
    }
}

/// Why a branch's server cannot be reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// Its endpoint is disabled: only enabling it helps.
    #[error("its endpoint is disabled")]
    Disabled,
    /// Other branches use all that this host can carry.
    #[error("this host has no room for it: other branches were in use for {} s", waited.as_secs())]
    TooManyWaiting {
        /// How long the connection waited.
        waited: Duration,
    },
    /// It does not start.
    #[error(transparent)]
    CannotStart(Arc<Error>),
}

impl ConnectError {
    /// The SQLSTATE that fits best.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            // object_not_in_prerequisite_state: trying again does not help.
            ConnectError::Disabled => "55000",
            // cannot_connect_now: trying again may help.
            ConnectError::TooManyWaiting { .. } | ConnectError::CannotStart(_) => "57P03",
        }
    }

    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            ConnectError::Disabled => "enable the endpoint, then try again",
            ConnectError::TooManyWaiting { .. } => {
                "try again later, close connections of other branches, or give ana serve more --memory"
            }
            ConnectError::CannotStart(_) => "the branch's log (ana logs) and ana status say more",
        }
    }
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> ConnectError {
        ConnectError::CannotStart(Arc::new(error))
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Error {
        let (refusal, text, hint) = (Refusal::InvalidState, error.to_string(), error.hint());
        match error {
            ConnectError::Disabled => Error::refused(refusal, text).with_hint(hint),
            ConnectError::TooManyWaiting { .. } => Error::refused(Refusal::Exhausted, text).with_hint(hint),
            ConnectError::CannotStart(cause) => match &*cause {
                Error::Refused { refusal, message, hint } => {
                    Error::Refused { refusal: *refusal, message: message.clone(), hint: hint.clone() }
                }
                _ => Error::Shared(cause),
            },
        }
    }
}
