//! Messages of the login, in both directions.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::startup::{self, PROTOCOL_3_0, Packet};

/// Longest password message: signed tokens have a few kilobytes.
pub const MAX_PASSWORD: usize = 16 * 1024;

/// Longest message that a server sends during a login. Notices may be long.
const MAX_SERVER_MESSAGE: usize = 1 << 20;

/// The last method of authentication, SASL.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

/// A message: its kind, its length, its body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(kind);
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Kinds of authentication messages, as the server numbers them.
pub mod authentication {
    /// All is well.
    pub const OK: u32 = 0;
    /// Asks for the password itself.
    pub const CLEARTEXT: u32 = 3;
    /// Offers mechanisms.
    pub const SASL: u32 = 10;
    /// The next step of one.
    pub const SASL_CONTINUE: u32 = 11;
    /// Its last step.
    pub const SASL_FINAL: u32 = 12;
}

/// An authentication message.
pub fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), rest].concat())
}

/// Tells the client that it gets version 3.0, and which extensions it does not get.
pub fn negotiate(refused: &[Vec<u8>]) -> Vec<u8> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    body.extend(u32::try_from(refused.len()).unwrap_or_default().to_be_bytes());
    for name in refused {
        body.extend(name);
        body.push(0);
    }
    message(b'v', &body)
}

/// Reads one packet of the beginning. The error of a packet that is none holds the reason.
pub async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> Result<Packet> {
    let mut word = [0; 4];
    stream.read_exact(&mut word).await?;
    let length = startup::body_length(word).map_err(invalid)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    startup::parse(&body).map_err(invalid)
}

/// Reads one message of the client, of at most `limit` bytes.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let length = length_of(&head, limit)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((head[0], body))
}

fn length_of(head: &[u8; 5], limit: usize) -> Result<usize> {
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if (4..=limit).contains(&length) {
        Ok(length - 4)
    } else {
        Err(invalid("a message of an impossible length"))
    }
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}

/// Reads messages of a server with few system calls; what was read too far is given back at the end.
pub struct ServerReader<S> {
    stream: S,
    buffer: Vec<u8>,
    place: usize,
}

impl<S: AsyncRead + Unpin> ServerReader<S> {
    /// Nothing has been read from `stream` yet.
    pub fn new(stream: S) -> ServerReader<S> {
        ServerReader { stream, buffer: Vec::new(), place: 0 }
    }

    /// The next message: its kind and body.
    pub async fn next(&mut self) -> Result<(u8, &[u8])> {
        let mut head = [0; 5];
        self.fill(5).await?;
        head.copy_from_slice(&self.buffer[self.place..self.place + 5]);
        let length = length_of(&head, MAX_SERVER_MESSAGE)?;
        self.fill(5 + length).await?;
        let begin = self.place + 5;
        self.place = begin + length;
        Ok((head[0], &self.buffer[begin..self.place]))
    }

    /// Reads until `wanted` bytes stand behind the place.
    async fn fill(&mut self, wanted: usize) -> Result<()> {
        while self.buffer.len() - self.place < wanted {
            if self.place > 0 {
                self.buffer.drain(..self.place);
                self.place = 0;
            }
            self.buffer.reserve(wanted.max(4096));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The stream, to write to.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream, and what was read from it beyond the last message.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        let rest = self.buffer.split_off(self.place);
        (self.stream, rest)
    }
}

/// The code of an authentication message and what follows it.
pub fn split_authentication(body: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = body.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

/// One field of an error or notice of the server.
pub fn error_field(body: &[u8], field: u8) -> Option<&str> {
    let mut parts = body.split(|byte| *byte == 0);
    let part = parts.find(|part| part.first() == Some(&field))?;
    std::str::from_utf8(&part[1..]).ok()
}

/// The texts in a body of texts that end with zero bytes.
pub fn texts(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == 0).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_of_a_server_are_read_in_pieces() {
        let mut bytes = authentication(authentication::OK, b"");
        bytes.extend(message(b'S', b"a\0b\0"));
        bytes.extend(b"rest");
        for cut in 0..bytes.len() {
            let (one, two) = bytes.split_at(cut);
            let mut reader = ServerReader::new(tokio::io::AsyncReadExt::chain(one, two));
            assert_eq!(reader.next().await.unwrap(), (b'R', [0; 4].as_slice()));
            assert_eq!(reader.next().await.unwrap(), (b'S', b"a\0b\0".as_slice()));
            let (mut stream, mut rest) = reader.into_parts();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"rest");
        }
    }

    #[tokio::test]
    async fn lengths_are_bounded() {
        let mut reader = ServerReader::new(b"R\xff\xff\xff\xff".as_slice());
        assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::InvalidData);
        let long = message(b'p', &[b'x'; 100]);
        assert!(read_message(&mut long.as_slice(), 104).await.is_ok());
        assert!(read_message(&mut long.as_slice(), 103).await.is_err());
        assert!(read_message(&mut b"p\0\0\0\x03".as_slice(), 103).await.is_err());
        assert!(read_packet(&mut b"GET / HTTP/1.1\r\n\r\n".as_slice()).await.is_err());
    }

    #[test]
    fn fields_of_an_error() {
        let body = b"SFATAL\0C28P01\0Mno\0\0";
        assert_eq!(error_field(body, b'C'), Some("28P01"));
        assert_eq!(error_field(body, b'H'), None);
        assert_eq!(error_field(b"", b'C'), None);
    }
}
