//! The API over the unix socket, for the people of this host.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use auth::{Digest, Secret};
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

/// Header with the content of the file beside the socket. The user id that the kernel names is the same for
/// the daemon's user and for the programs of its computes; but these are confined and cannot read the file.
const KEY_HEADER: &str = "x-anabranch-key";

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
    /// Whether it speaks TLS there.
    pub https: bool,
    /// The front door for clients of PostgreSQL.
    pub front: FrontInfo,
    /// Told when somebody asks for the shutdown; the value is whether computes are kept.
    pub shutdown: watch::Sender<Option<bool>>,
}

impl Local {
    /// What addresses of the TCP part begin with.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

/// What clients of PostgreSQL need to know of the front door.
#[derive(Debug, Clone, Default)]
pub struct FrontInfo {
    /// The home's own certificate authority; none where a certificate was given.
    pub authority: Option<AuthorityInfo>,
    /// Where the listener that stands for no endpoint in particular is.
    pub shared: Option<std::net::SocketAddr>,
}

/// The home's own certificate authority.
#[derive(Debug, Clone)]
pub struct AuthorityInfo {
    /// Its certificate, as PEM.
    pub certificate: String,
    /// Where that lies.
    pub file: std::path::PathBuf,
}

/// Marks requests that came over the unix socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AtThisHost;

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
    let key = write_key(&socket.with_extension("key"))?;
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let router = gate::guarded(local.clone())
        .layer(axum::middleware::from_fn_with_state((local.clone(), key), admit))
        .layer(axum::middleware::from_fn_with_state(local, count))
        .into_make_service_with_connect_info::<Peer>();
    let outcome = axum::serve(listener, router).with_graceful_shutdown(end).await;
    let _ = std::fs::remove_file(socket);
    let _ = std::fs::remove_file(socket.with_extension("key"));
    outcome
}

/// A new key for whoever may read the daemon's files; what is to be remembered of it.
fn write_key(path: &Path) -> std::io::Result<Digest> {
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let key = Secret::new(random.iter().map(|byte| format!("{byte:02x}")).collect());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.expose().as_bytes())?;
    Ok(key.digest())
}

/// Lets in the owner and root, and notes who acts.
async fn admit(
    State((local, key)): State<(Local, Digest)>,
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
    let shown = request.headers_mut().remove(KEY_HEADER);
    if !shown.is_some_and(|shown| shown.to_str().is_ok_and(|shown| Digest::of(shown) == key)) {
        return ApiError::new(
            StatusCode::FORBIDDEN,
            "PERMISSION_DENIED",
            "the call does not show the key in the file api.key beside the daemon's socket",
        )
        .into_response();
    }
    let agent = agent_of(request.headers());
    match local.control.local_caller(agent.as_deref()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.principal.clone());
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(AtThisHost);
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
