//! What can go wrong in a call.

use std::path::PathBuf;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket.
    #[error("the daemon is not running")]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("the daemon's socket {} does not let you in", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The address does not answer.
    #[error("cannot reach {host}: {source}")]
    Unreachable {
        /// Name or address, with the port.
        host: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code of the contract, e.g. `NOT_FOUND`.
        code: String,
        /// One line.
        message: String,
        /// What to do next.
        hint: Option<String>,
        /// What the daemon's log calls the request, where the answer's text tells it.
        trace_id: Option<String>,
    },
    /// The daemon tried, and it went wrong.
    #[error("{message}")]
    Failed {
        /// Code of the contract.
        code: String,
        /// One line.
        message: String,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke: {0}")]
    Transport(#[from] hyper::Error),
    /// The daemon answered something unexpected; usually another version.
    #[error("{0}")]
    Protocol(String),
}

impl Error {
    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { status: 404, .. })
    }
}
