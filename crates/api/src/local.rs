//! The API over the unix socket, for the people of this host.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use control::Control;
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::count::count;
use crate::error::ApiError;
use crate::gate;

/// Header by which a program says that it acts for the person.
const AGENT_HEADER: &str = "x-anabranch-agent";

/// As much of that name is kept, characters.
const LONGEST_AGENT: usize = 100;

/// What the handlers work with.
#[derive(Clone)]
pub struct Local {
    /// The control plane.
    pub control: Arc<Control>,
    /// The user whose calls are the owner's, beside root: the one that runs the daemon.
    pub owner_uid: u32,
    /// Where the TCP part listens, to be shown in the status.
    pub http: Option<std::net::SocketAddr>,
    /// Told when somebody asks for the shutdown; the value is whether computes are kept.
    pub shutdown: watch::Sender<Option<bool>>,
}

/// User id of the other end of a connection, as the kernel says.
#[derive(Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Peer { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// Serves the API on `socket` until `end` resolves and running calls are answered.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve_local(
    local: Local,
    socket: &Path,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // Only one daemon serves a home, so whatever lies here was left by a dead one.
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let router = gate::guarded(local.clone())
        .layer(axum::middleware::from_fn_with_state(local.clone(), admit))
        .layer(axum::middleware::from_fn_with_state(local, count))
        .into_make_service_with_connect_info::<Peer>();
    let outcome = axum::serve(listener, router).with_graceful_shutdown(end).await;
    let _ = std::fs::remove_file(socket);
    outcome
}

/// Lets in the owner and root, and notes who acts.
async fn admit(
    State(local): State<Local>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    if !peer.uid.is_some_and(|uid| uid == local.owner_uid || uid == 0) {
        return ApiError::new(
            StatusCode::FORBIDDEN,
            "PERMISSION_DENIED",
            "this daemon belongs to another user of this host",
        )
        .into_response();
    }
    let agent = agent_of(request.headers());
    match local.control.local_caller(agent.as_deref()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.principal.clone());
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// The program that says that it acts for the caller. Its name stands in the audit log.
pub(crate) fn agent_of(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(AGENT_HEADER)?.to_str().ok()?.trim();
    (!name.is_empty()).then(|| name.chars().take(LONGEST_AGENT).collect())
}
