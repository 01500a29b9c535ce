//! What ends a run early.

use std::fmt::Display;

/// One line for a person: what was being done and why it failed.
#[derive(Debug)]
pub struct Failure(pub String);

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Failure>;

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<compute::engine::Error> for Failure {
    fn from(error: compute::engine::Error) -> Failure {
        Failure(error.to_string())
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure(error.to_string())
    }
}

/// Attaches what was being done to any error.
pub trait Context<T> {
    /// `what`, then the error.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: std::error::Error> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| {
            // The driver keeps what the server said one level down.
            let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Failure(format!("{what}: {error}{cause}"))
        })
    }
}
