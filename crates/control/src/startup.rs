//! The first packets of a PostgreSQL connection, as far as needed to answer a client with an error
//! when there is no server to do so.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_ENCRYPTION_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// PostgreSQL's own limit on a start-up packet.
const MAX_STARTUP_LENGTH: u32 = 10_000;

/// How long a client may take to send its start-up packet before it is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the client's start-up packet and answers it with a fatal error. Errors of the connection
/// itself are of no interest: the client is gone.
pub(crate) async fn refuse<S>(stream: &mut S, sqlstate: &str, message: &str, hint: Option<&str>)
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    let _ = tokio::time::timeout(PATIENCE, async {
        if read_startup(stream).await? {
            stream.write_all(&error_response(sqlstate, message, hint)).await?;
            stream.shutdown().await?;
        }
        std::io::Result::Ok(())
    })
    .await;
}

/// Reads packets until the start-up packet proper; encryption is declined. False where the client
/// waits for no answer (a cancel request).
async fn read_startup<S>(stream: &mut S) -> std::io::Result<bool>
where
    S: AsyncReadExt + AsyncWriteExt + Unpin,
{
    loop {
        let length = stream.read_u32().await?;
        if !(8..=MAX_STARTUP_LENGTH).contains(&length) {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let code = stream.read_u32().await?;
        let mut rest = vec![0; length as usize - 8];
        stream.read_exact(&mut rest).await?;
        match code {
            SSL_REQUEST | GSS_ENCRYPTION_REQUEST => stream.write_all(b"N").await?,
            CANCEL_REQUEST => return Ok(false),
            _ => return Ok(true),
        }
    }
}

fn error_response(sqlstate: &str, message: &str, hint: Option<&str>) -> Vec<u8> {
    let mut fields = vec![(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', message)];
    fields.extend(hint.map(|hint| (b'H', hint)));
    let mut body = Vec::new();
    for (tag, text) in fields {
        body.push(tag);
        body.extend(text.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    let mut packet = vec![b'E'];
    packet.extend((body.len() as u32 + 4).to_be_bytes());
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real driver talks to `refuse`; what it reports is what a user sees.
    #[tokio::test]
    async fn a_driver_shows_the_message_and_hint() {
        let (client, mut server) = tokio::io::duplex(4096);
        let refusing = tokio::spawn(async move {
            refuse(&mut server, "57P03", "branch \"dev\" did not start", Some("see the log")).await;
        });
        let config: tokio_postgres::Config = "user=a dbname=b".parse().unwrap();
        let error = match config.connect_raw(client, tokio_postgres::NoTls).await {
            Ok(_) => panic!("connected to nothing"),
            Err(error) => error,
        };
        refusing.await.unwrap();
        let db = error.as_db_error().unwrap();
        assert_eq!(db.code().code(), "57P03");
        assert_eq!(db.message(), "branch \"dev\" did not start");
        assert_eq!(db.hint(), Some("see the log"));
        assert_eq!(db.severity(), "FATAL");
    }

    #[tokio::test]
    async fn encryption_is_declined_first() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let refusing = tokio::spawn(async move { refuse(&mut server, "57P03", "no", None).await });
        for code in [GSS_ENCRYPTION_REQUEST, SSL_REQUEST] {
            client.write_u32(8).await.unwrap();
            client.write_u32(code).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'N');
        }
        client.write_u32(9).await.unwrap();
        client.write_u32(196_608).await.unwrap();
        client.write_u8(0).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'E');
        refusing.await.unwrap();
    }

    #[tokio::test]
    async fn nonsense_is_hung_up_on() {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let refusing = tokio::spawn(async move { refuse(&mut server, "57P03", "no", None).await });
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        refusing.await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty());
    }
}
