//! A daemon at an address.

use std::fmt;
use std::io::Error as IoError;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// Address and token of a daemon.
#[derive(Clone)]
pub struct Remote {
    encrypted: bool,
    host: String,
    port: u16,
    token: String,
}

/// An address or token that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Not of the form `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    #[error("\"{0}\" is not an address such as http://127.0.0.1:8432 or https://ana.example.org")]
    Address(String),
    /// The token would go over the network for everybody to read.
    #[error("\"{0}\" would carry the token unencrypted over the network; use https://")]
    Unencrypted(String),
    /// No token.
    #[error("a token is needed for {0}")]
    NoToken(String),
}

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Does not show the token.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.authority())
    }
}

impl Remote {
    /// Reads an address: `https://HOST[:PORT]`, or on this machine `http://HOST[:PORT]`, `HOST[:PORT]` for
    /// short.
    ///
    /// # Errors
    /// It cannot be used, or there is no token.
    pub fn new(address: &str, token: Option<String>) -> Result<Remote, RemoteError> {
        let wrong = || RemoteError::Address(address.to_owned());
        let rest = address.trim_end_matches('/');
        let (encrypted, rest) = match rest.split_once("://") {
            None => (false, rest),
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
        };
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 address without a port are inside its brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, if encrypted { 443 } else { 80 }),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(wrong());
        }
        if !encrypted && !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            return Err(RemoteError::Unencrypted(address.to_owned()));
        }
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| RemoteError::NoToken(address.to_owned()))?;
        Ok(Remote { encrypted, host: host.to_owned(), port, token })
    }

    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        self.dial().await.map_err(|source| Error::Unreachable { host: self.authority(), source })
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, IoError> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await?;
        if !self.encrypted {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(IoError::other)?;
        let stream = TlsConnector::from(Arc::new(trust()?)).connect(name, stream).await?;
        Ok(Box::new(stream))
    }
}

/// Whoever the machine trusts, or only those in the file that `SSL_CERT_FILE` names.
fn trust() -> Result<ClientConfig, IoError> {
    let mut roots = RootCertStore::empty();
    // What cannot be read is of no use; where nothing is left, the server is not known, and that is said.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(IoError::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(address: &str) -> Result<String, RemoteError> {
        Remote::new(address, Some(" t\n".into())).map(|remote| remote.authority())
    }

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("http://127.0.0.1:8432", "127.0.0.1:8432"),
            ("http://localhost:8432/", "localhost:8432"),
            ("localhost", "localhost:80"),
            ("http://[::1]", "[::1]:80"),
            ("[::1]:8432", "[::1]:8432"),
            ("https://ana.example.org", "ana.example.org:443"),
            ("https://192.0.2.1:8432/", "192.0.2.1:8432"),
        ] {
            assert_eq!(authority(address).as_deref(), Ok(expected), "{address}");
        }
        for wrong in
            ["", "http://", "ftp://localhost", "http://localhost:x", "http://localhost:99999", "http://a b"]
        {
            assert!(matches!(authority(wrong), Err(RemoteError::Address(_))), "{wrong}");
        }
    }

    #[test]
    fn a_token_does_not_go_over_the_network_unencrypted() {
        for far in ["http://192.0.2.1:8432", "db.example.org", "http://localhost.example.org"] {
            assert!(matches!(authority(far), Err(RemoteError::Unencrypted(_))), "{far}");
        }
    }

    #[test]
    fn a_token_is_needed_and_not_shown() {
        for none in [None, Some(String::new()), Some(" \n".to_owned())] {
            assert!(matches!(Remote::new("localhost", none), Err(RemoteError::NoToken(_))));
        }
        let remote = Remote::new("localhost", Some("ana_pat_secret".into())).unwrap();
        assert_eq!(remote.token(), "ana_pat_secret");
        assert!(!format!("{remote:?}").contains("secret"));
    }
}
