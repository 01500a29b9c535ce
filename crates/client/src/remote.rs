//! A daemon at an address.

use std::fmt;

use tokio::net::TcpStream;

use crate::error::Error;

/// Address and token of a daemon.
#[derive(Clone)]
pub struct Remote {
    host: String,
    port: u16,
    token: String,
}

/// An address or token that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Not of the form `http://HOST[:PORT]`.
    #[error("\"{0}\" is not an address such as http://127.0.0.1:8432")]
    Address(String),
    /// The token would go over the network for everybody to read.
    #[error("\"{0}\" would carry the token unencrypted over the network")]
    Unencrypted(String),
    /// No token.
    #[error("a token is needed for {0}")]
    NoToken(String),
}

/// Does not show the token.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.authority())
    }
}

impl Remote {
    /// Reads an address (`http://HOST[:PORT]`, or `HOST[:PORT]` for short).
    ///
    /// # Errors
    /// It cannot be used, or there is no token.
    pub fn new(address: &str, token: Option<String>) -> Result<Remote, RemoteError> {
        let wrong = || RemoteError::Address(address.to_owned());
        let rest = address.trim_end_matches('/');
        let rest = match rest.split_once("://") {
            None => rest,
            Some(("http", rest)) => rest,
            Some(_) => return Err(wrong()),
        };
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 address without a port are inside its brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, 80),
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(wrong());
        }
        if !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            return Err(RemoteError::Unencrypted(address.to_owned()));
        }
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| RemoteError::NoToken(address.to_owned()))?;
        Ok(Remote { host: host.to_owned(), port, token })
    }

    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) async fn connect(&self) -> Result<TcpStream, Error> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        TcpStream::connect((host, self.port))
            .await
            .map_err(|source| Error::Unreachable { host: self.authority(), source })
    }
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
