//! Passing bytes between a client and its server, with no memory of its own while nothing moves.
//!
//! What a client sends is written to the server straight from where TLS deciphered it. What a server
//! sends is read into a buffer that all connections of a thread share, and handed to TLS at once; no
//! more is read before the client has taken that.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use crate::hello;
use crate::lanes::note_traffic;
use crate::refusal::Refusal;
use crate::replication::Inspector;

/// Read from a server at once. TLS takes twice that without a second thought.
const CHUNK: usize = 32 * 1024;

/// Steps in one direction before other connections get their turn.
const STEPS: usize = 16;

/// A client that does not take the last bytes within this time does not get them.
const FAREWELL: Duration = Duration::from_secs(5);

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Passes bytes in both directions until the server is done, or either side is broken. A client that
/// has said its last word still gets the answer. What the client says is shown to `inspector`, where
/// there is one.
pub async fn pass<C, S>(mut client: C, mut server: S, inspector: Option<Inspector>) -> Result<()>
where
    C: AsyncBufRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut pump = Pump { inspector: inspector.map(Box::new), ..Pump::default() };
    let outcome = poll_fn(|context| pump.poll(context, &mut client, &mut server)).await;
    if let Some(refusal) = pump.refusal {
        drop(server);
        hello::refuse(&mut client, &refusal).await;
        return Ok(());
    }
    outcome?;
    // The server has gone: what it said last is still to reach the client.
    let farewell = poll_fn(|context| pump.poll_farewell(context, &mut client));
    tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
}

#[derive(Default)]
struct Pump {
    up: Up,
    /// What the client's side did not take at once; empty but for a client that is very slow.
    rest: Vec<u8>,
    inspector: Option<Box<Inspector>>,
    /// Bytes at the beginning of what the client sent that were inspected and are not passed on yet.
    inspected: usize,
    /// Why the session is ended from here.
    refusal: Option<Refusal>,
}

#[derive(Default, PartialEq, Eq)]
enum Up {
    #[default]
    Open,
    Ending,
    Ended,
}

impl Pump {
    /// Ready when the server has no more to say.
    fn poll<C, S>(&mut self, context: &mut Context<'_>, client: &mut C, server: &mut S) -> Poll<Result<()>>
    where
        C: AsyncBufRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Poll::Ready(Err(error)) = self.poll_up(context, client, server) {
            return Poll::Ready(Err(error));
        }
        self.poll_down(context, client, server)
    }

    fn poll_up<C, S>(&mut self, context: &mut Context<'_>, client: &mut C, server: &mut S) -> Poll<Result<()>>
    where
        C: AsyncBufRead + Unpin,
        S: AsyncWrite + Unpin,
    {
        for _ in 0..STEPS {
            match self.up {
                Up::Open => {
                    let bytes = match ready!(Pin::new(&mut *client).poll_fill_buf(context)) {
                        Ok(bytes) => bytes,
                        // Many clients hang up without the farewell of TLS.
                        Err(error) if error.kind() == ErrorKind::UnexpectedEof => &[],
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    if bytes.is_empty() {
                        self.up = Up::Ending;
                        continue;
                    }
                    if let Some(inspector) = &mut self.inspector {
                        if let Err(refusal) = inspector.inspect(&bytes[self.inspected..]) {
                            self.refusal = Some(refusal);
                            return Poll::Ready(Err(ErrorKind::PermissionDenied.into()));
                        }
                        self.inspected = bytes.len();
                    }
                    match ready!(Pin::new(&mut *server).poll_write(context, bytes)) {
                        Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                        Ok(written) => {
                            note_traffic();
                            Pin::new(&mut *client).consume(written);
                            self.inspected = self.inspected.saturating_sub(written);
                        }
                        // A server that ends no longer listens, and may still have said why.
                        Err(error) if is_end(error.kind()) => self.up = Up::Ended,
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Up::Ending => {
                    let _ = ready!(Pin::new(&mut *server).poll_shutdown(context));
                    self.up = Up::Ended;
                }
                Up::Ended => return Poll::Ready(Ok(())),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_down<C, S>(
        &mut self,
        context: &mut Context<'_>,
        client: &mut C,
        server: &mut S,
    ) -> Poll<Result<()>>
    where
        C: AsyncWrite + Unpin,
        S: AsyncRead + Unpin,
    {
        for _ in 0..STEPS {
            ready!(self.poll_deliver(context, client))?;
            let done = SHARED.with_borrow_mut(|shared| {
                let mut buffer = ReadBuf::new(shared);
                ready!(Pin::new(&mut *server).poll_read(context, &mut buffer))?;
                let bytes = buffer.filled();
                if bytes.is_empty() {
                    return Poll::Ready(Ok(true));
                }
                note_traffic();
                let written = match Pin::new(&mut *client).poll_write(context, bytes) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                };
                self.rest.extend_from_slice(&bytes[written..]);
                Poll::Ready(Result::Ok(false))
            });
            match ready!(done) {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Ok(())),
                // A server that was killed.
                Err(error) if is_end(error.kind()) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when everything read so far is with the client.
    fn poll_deliver<C>(&mut self, context: &mut Context<'_>, client: &mut C) -> Poll<Result<()>>
    where
        C: AsyncWrite + Unpin,
    {
        while !self.rest.is_empty() {
            match ready!(Pin::new(&mut *client).poll_write(context, &self.rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written if written == self.rest.len() => self.rest = Vec::new(),
                written => drop(self.rest.drain(..written)),
            }
        }
        Pin::new(client).poll_flush(context)
    }

    fn poll_farewell<C>(&mut self, context: &mut Context<'_>, client: &mut C) -> Poll<Result<()>>
    where
        C: AsyncWrite + Unpin,
    {
        ready!(self.poll_deliver(context, client))?;
        Pin::new(client).poll_shutdown(context)
    }
}

/// How the end of a server that was killed shows.
fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

    use super::*;

    /// Client, server, and what passes bytes between them.
    fn lines(size: usize) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Result<()>>) {
        let (client, client_side) = duplex(size);
        let (server, server_side) = duplex(size);
        (client, server, tokio::spawn(pass(BufReader::new(client_side), server_side, None)))
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_through_narrow_pipes() {
        let (client, server, passing) = lines(7);
        let (mut from_server, mut to_server) = tokio::io::split(client);
        let (mut from_client, mut to_client) = tokio::io::split(server);
        let text: Vec<u8> = (0..200_000u32).map(|place| (place % 251) as u8).collect();
        let (up, down) = (text.clone(), text.clone());
        let sending = tokio::spawn(async move {
            to_server.write_all(&up).await.unwrap();
            to_server.shutdown().await.unwrap();
        });
        let answering = tokio::spawn(async move {
            to_client.write_all(&down).await.unwrap();
            to_client
        });
        let (mut at_client, mut at_server) = (vec![0; text.len()], Vec::new());
        let (one, two) =
            tokio::join!(from_server.read_exact(&mut at_client), from_client.read_to_end(&mut at_server));
        one.unwrap();
        two.unwrap();
        assert!(at_client == text && at_server == text);
        sending.await.unwrap();
        // The server answers after the client's last word.
        let mut to_client = answering.await.unwrap();
        to_client.write_all(b"late").await.unwrap();
        to_client.shutdown().await.unwrap();
        let mut late = Vec::new();
        from_server.read_to_end(&mut late).await.unwrap();
        assert_eq!(late, b"late");
        passing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_the_server_ends_it() {
        let (mut client, mut server, passing) = lines(64);
        server.write_all(b"bye").await.unwrap();
        drop(server);
        let mut last = Vec::new();
        client.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, b"bye");
        passing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_gone_reaches_the_server() {
        let (client, mut server, passing) = lines(64);
        drop(client);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        drop(server);
        passing.await.unwrap().unwrap();
    }
}
