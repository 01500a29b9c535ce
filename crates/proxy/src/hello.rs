//! The first words of a connection: encryption, then the start-up packet.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cancel::CancelKeys;
use crate::refusal::{Refusal, sqlstate};
use crate::route::Hints;
use crate::startup::{Malformed, Packet, Startup};
use crate::tls::{Certificates, PROTOCOL};
use crate::wire;

/// First byte of TLS, where a client begins with it at once.
const TLS_HANDSHAKE: u8 = 0x16;

/// Requests for encryption that a client may make before it says what it wants: one of each kind.
const ENCRYPTION_REQUESTS: usize = 2;

/// A peer that is gone without a word is noticed after about two minutes.
const IDLE_BEFORE_PROBES: Duration = Duration::from_secs(60);
const BETWEEN_PROBES: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// A client that takes nothing of what it was sent is given up after this time.
const UNTAKEN: Duration = Duration::from_secs(300);

/// A client that wants a session.
pub struct Hello {
    /// The connection to it.
    pub client: TlsStream<TcpStream>,
    /// What it wants.
    pub startup: Startup,
    /// Which endpoint it may mean, as far as the connection says so.
    pub hints: Hints,
}

/// Speaks with a client until it has said what it wants. None if that was no session; everything
/// else is then done. Errors are of the connection, and of no interest to anybody but a debugger.
///
/// # Errors
/// The client is gone or talks nonsense.
pub async fn hello(
    mut client: TcpStream,
    address: Option<String>,
    certificates: &Certificates,
    keys: &CancelKeys,
) -> Result<Option<Hello>, Error> {
    configure(&client)?;
    let mut first = [0];
    if client.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    let at_once = first == [TLS_HANDSHAKE];
    if !at_once && !ask_for_encryption(&mut client, keys).await? {
        return Ok(None);
    }
    let config = certificates.config(client.local_addr()?.ip()).map_err(Error::other)?;
    let mut client = TlsAcceptor::from(config).accept(client).await?;
    let session = client.get_ref().1;
    if at_once && session.alpn_protocol() != Some(PROTOCOL) {
        return Err(Error::new(ErrorKind::InvalidData, "direct TLS without the protocol name postgresql"));
    }
    let server_name = session.server_name().and_then(|name| certificates.endpoint_of(name));
    let hints = Hints { server_name, address, option: None };
    match wire::read_packet(&mut client).await {
        Ok(Packet::Startup(startup)) => Ok(Some(Hello { client, startup, hints })),
        Ok(Packet::Cancel(key)) => {
            keys.cancel(key).await;
            client.shutdown().await?;
            Ok(None)
        }
        Ok(Packet::Ssl | Packet::Gss) => {
            refuse(&mut client, &Refusal::violation("the connection is encrypted already")).await;
            Ok(None)
        }
        Err(error) => {
            if let Some(refusal) = of_malformed(&error) {
                refuse(&mut client, &refusal).await;
            }
            Err(error)
        }
    }
}

/// Reads what comes in the clear. True if TLS begins now.
async fn ask_for_encryption(client: &mut TcpStream, keys: &CancelKeys) -> Result<bool, Error> {
    for _ in 0..=ENCRYPTION_REQUESTS {
        // Exactly the packet is read: what somebody put behind it is no part of the encrypted stream.
        match wire::read_packet(client).await {
            Ok(Packet::Ssl) => {
                client.write_all(b"S").await?;
                return Ok(true);
            }
            Ok(Packet::Gss) => client.write_all(b"N").await?,
            Ok(Packet::Cancel(key)) => {
                // Clients before libpq 17 send these in the clear; the key is all that counts.
                keys.cancel(key).await;
                return Ok(false);
            }
            Ok(Packet::Startup(_)) => {
                refuse(client, &Refusal::not_encrypted()).await;
                return Ok(false);
            }
            Err(error) => {
                if let Some(refusal) = of_malformed(&error) {
                    refuse(client, &refusal).await;
                }
                return Err(error);
            }
        }
    }
    Err(Error::new(ErrorKind::InvalidData, "one request for encryption after another"))
}

/// What a client that speaks the protocol, if badly, is told. Others are hung up on: an answer would
/// mean nothing to them.
fn of_malformed(error: &Error) -> Option<Refusal> {
    let malformed = error.get_ref()?.downcast_ref::<Malformed>()?;
    match malformed {
        Malformed::Protocol { major: 1 | 2, .. } => {
            Some(Refusal::new(sqlstate::FEATURE_NOT_SUPPORTED, malformed.to_string()))
        }
        Malformed::Layout => Some(Refusal::violation(malformed.to_string())),
        Malformed::Protocol { .. } | Malformed::Length => None,
    }
}

/// Tells a client why it is turned away, and hangs up.
pub async fn refuse(client: &mut (impl AsyncWrite + Unpin), refusal: &Refusal) {
    let farewell = async {
        client.write_all(&refusal.encode()).await?;
        client.shutdown().await
    };
    // If it does not listen, it need not know.
    let _ = tokio::time::timeout(Duration::from_secs(5), farewell).await;
}

fn configure(client: &TcpStream) -> Result<(), Error> {
    client.set_nodelay(true)?;
    let socket = SockRef::from(client);
    let keepalive =
        TcpKeepalive::new().with_time(IDLE_BEFORE_PROBES).with_interval(BETWEEN_PROBES).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNTAKEN))
}
