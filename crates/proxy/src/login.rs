//! Logging in to a branch's server: with the daemon's own secret, or by passing the client's proof
//! on. SCRAM-SHA-256 and nothing else.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use auth::Secret;
use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::cancel::{CancelKeys, Registered, Target};
use crate::startup::{CancelKey, Startup};
use crate::wire::{self, SCRAM_SHA_256, ServerReader, authentication};

/// Why there is no session on the server.
#[derive(Debug)]
pub enum LoginError {
    /// The server said no; the body of its error message.
    Refused(Vec<u8>),
    /// The server did something that no server of ours does; the text is for the log.
    Server(String),
    /// The client is gone, or broke the protocol.
    Client(Error),
}

impl LoginError {
    /// The server's SQLSTATE.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            LoginError::Refused(body) => wire::error_field(body, b'C'),
            _ => None,
        }
    }

    /// One line for the log.
    pub fn describe(&self) -> String {
        match self {
            LoginError::Refused(body) => {
                let field = |field| wire::error_field(body, field).unwrap_or("?");
                format!("{} (SQLSTATE {})", field(b'M'), field(b'C'))
            }
            LoginError::Server(text) => text.clone(),
            LoginError::Client(error) => error.to_string(),
        }
    }
}

/// A session on a server, before the client knows of it.
pub struct Welcome {
    /// The connection.
    pub server: UnixStream,
    /// What the client is to be told, from "you are in" to "ready".
    pub greeting: Vec<u8>,
    /// Place and value of the cancel key in that.
    key: Option<(usize, CancelKey)>,
    /// Whether the role is a superuser.
    pub is_superuser: bool,
}

impl Welcome {
    /// Replaces the server's cancel key in the greeting by one of ours.
    pub fn register(&mut self, keys: &Arc<CancelKeys>) -> Option<Registered> {
        let (place, key) = self.key?;
        let address = self.server.peer_addr().ok()?;
        let registered = keys.register(Target { socket: address.as_pathname()?.to_owned(), key })?;
        let ours = registered.key;
        self.greeting[place..place + 4].copy_from_slice(&ours.process.to_be_bytes());
        self.greeting[place + 4..place + 8].copy_from_slice(&ours.secret.to_be_bytes());
        Some(registered)
    }
}

/// Logs in with the daemon's secret.
///
/// # Errors
/// The server refuses, or is not the one it should be.
pub async fn log_in(server: UnixStream, startup: &Startup, secret: &Secret) -> Result<Welcome, LoginError> {
    let mut talk = begin(server, startup).await?;
    let mut scram = ScramSha256::new(secret.expose().as_bytes(), ChannelBinding::unsupported());
    let mut buffer = BytesMut::new();
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut buffer).map_err(in_server)?;
    talk.send(&buffer).await?;
    let challenge = talk.expect(authentication::SASL_CONTINUE).await?;
    scram.update(&challenge).map_err(in_server)?;
    buffer.clear();
    frontend::sasl_response(scram.message(), &mut buffer).map_err(in_server)?;
    talk.send(&buffer).await?;
    let proof = talk.expect(authentication::SASL_FINAL).await?;
    // The server, too, has to know the secret.
    scram.finish(&proof).map_err(in_server)?;
    talk.expect(authentication::OK).await?;
    talk.welcome().await
}

/// Lets the client prove itself to the server, and listens until it is done.
///
/// # Errors
/// The server refuses, or one of the two breaks the protocol.
pub async fn relay<C>(server: UnixStream, startup: &Startup, client: &mut C) -> Result<Welcome, LoginError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut talk = begin(server, startup).await?;
    // Of what the server offers, what we know; never channel binding, which would bind to our TLS.
    let offer = [SCRAM_SHA_256.as_bytes(), &[0, 0]].concat();
    tell(client, &wire::authentication(authentication::SASL, &offer)).await?;
    talk.send(&answer(client).await?).await?;
    let challenge = talk.expect(authentication::SASL_CONTINUE).await?;
    tell(client, &wire::authentication(authentication::SASL_CONTINUE, &challenge)).await?;
    talk.send(&answer(client).await?).await?;
    let proof = talk.expect(authentication::SASL_FINAL).await?;
    tell(client, &wire::authentication(authentication::SASL_FINAL, &proof)).await?;
    talk.expect(authentication::OK).await?;
    talk.welcome().await
}

async fn tell(client: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), LoginError> {
    client.write_all(bytes).await.map_err(LoginError::Client)?;
    client.flush().await.map_err(LoginError::Client)
}

/// The client's next step of the proof, as it is passed on.
async fn answer(client: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, LoginError> {
    let (kind, body) = wire::read_message(client, wire::MAX_PASSWORD).await.map_err(LoginError::Client)?;
    if kind == b'p' {
        Ok(wire::message(kind, &body))
    } else {
        Err(LoginError::Client(Error::new(ErrorKind::InvalidData, "expected a password message")))
    }
}

/// A login under way.
struct Talk {
    reader: ServerReader<UnixStream>,
    /// Notices that came early.
    early: Vec<u8>,
}

/// Sends the start-up packet and waits for the offer of SCRAM. A server that lets everybody in, or
/// wants the password itself, is not one of ours.
async fn begin(server: UnixStream, startup: &Startup) -> Result<Talk, LoginError> {
    let mut talk = Talk { reader: ServerReader::new(server), early: Vec::new() };
    talk.send(&startup.encode()).await?;
    let offer = talk.expect(authentication::SASL).await?;
    if wire::texts(&offer).any(|mechanism| mechanism == SCRAM_SHA_256.as_bytes()) {
        Ok(talk)
    } else {
        Err(LoginError::Server("the server does not offer SCRAM-SHA-256".to_owned()))
    }
}

impl Talk {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), LoginError> {
        self.reader.stream().write_all(bytes).await.map_err(in_server)
    }

    /// The next authentication message, which must be of this kind.
    async fn expect(&mut self, code: u32) -> Result<Vec<u8>, LoginError> {
        loop {
            let (kind, body) = self.reader.next().await.map_err(in_server)?;
            match (kind, wire::split_authentication(body)) {
                (b'R', Some((found, rest))) if found == code => return Ok(rest.to_vec()),
                (b'R', Some((found, _))) => {
                    return Err(LoginError::Server(format!(
                        "authentication message {found} where {code} was expected: check the server's pg_hba.conf"
                    )));
                }
                (b'E', _) => return Err(LoginError::Refused(body.to_vec())),
                (b'N', _) => self.early.extend(wire::message(kind, body)),
                _ => return Err(LoginError::Server(format!("unexpected message {:?}", char::from(kind)))),
            }
        }
    }

    /// Collects what comes between the login and the first query.
    async fn welcome(mut self) -> Result<Welcome, LoginError> {
        let mut greeting = wire::authentication(authentication::OK, &[]);
        greeting.append(&mut self.early);
        let (mut key, mut is_superuser) = (None, false);
        loop {
            let (kind, body) = self.reader.next().await.map_err(in_server)?;
            match kind {
                b'S' => is_superuser |= body == b"is_superuser\0on\0",
                b'K' => key = read_key(body).map(|key| (greeting.len() + 5, key)),
                b'N' | b'Z' => {}
                b'E' => return Err(LoginError::Refused(body.to_vec())),
                _ => return Err(LoginError::Server(format!("unexpected message {:?}", char::from(kind)))),
            }
            greeting.extend(wire::message(kind, body));
            if kind == b'Z' {
                break;
            }
        }
        let (server, rest) = self.reader.into_parts();
        greeting.extend(rest);
        Ok(Welcome { server, greeting, key, is_superuser })
    }
}

fn read_key(body: &[u8]) -> Option<CancelKey> {
    let (process, secret) = body.split_first_chunk::<4>()?;
    let secret: [u8; 4] = secret.try_into().ok()?;
    Some(CancelKey { process: u32::from_be_bytes(*process), secret: u32::from_be_bytes(secret) })
}

fn in_server(error: Error) -> LoginError {
    LoginError::Server(error.to_string())
}
