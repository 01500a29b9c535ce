//! Clients that are slow, mute, or speak something else.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use e2e::door::{ANA, APP, Door};
use e2e::lab::text;
use proxy::Patience;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

/// Reads until the other side hangs up.
async fn rest(mut stream: impl AsyncReadExt + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Hanging up hard is as good as saying good-bye.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

async fn encrypted(door: &Door, protocols: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut tcp = TcpStream::connect(door.main).await?;
    if protocols.is_empty() {
        tcp.write_all(&SSL_REQUEST).await?;
        assert_eq!(tcp.read_u8().await?, b'S');
    }
    finish(door, protocols, tcp).await
}

async fn finish(door: &Door, protocols: &[&[u8]], tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = door.client_config();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), body].concat()
}

fn startup(parameters: &[u8]) -> Vec<u8> {
    packet(&[&[0, 3, 0, 0], parameters].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_is_hung_up_on() {
    let patience = Patience { hello: Duration::from_secs(1), login: Duration::from_secs(2) };
    let door = Door::with(patience).await;
    // Mute at every step: before anything, half a packet, after the request, half a handshake.
    let mut mute = Vec::new();
    for beginning in [&[][..], &SSL_REQUEST[..3], &SSL_REQUEST, &[0x16, 3, 1], &GSS_REQUEST] {
        let mut tcp = TcpStream::connect(door.main).await.unwrap();
        tcp.write_all(beginning).await.unwrap();
        mute.push(tcp);
    }
    for tcp in mute {
        let answer = rest(tcp).await;
        assert!(answer.len() <= 1, "{answer:?}");
    }
    // One byte at a time, for as long as it takes.
    let mut slow = encrypted(&door, &[]).await.unwrap();
    let sent = async {
        for byte in startup(&b"a\0".repeat(2000)) {
            if slow.write_all(&[byte]).await.is_err() || slow.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    sent.await;
    assert!(rest(slow).await.is_empty());
    // No password.
    let mut silent = encrypted(&door, &[]).await.unwrap();
    silent.write_all(&startup(format!("user\0{ANA}\0\0").as_bytes())).await.unwrap();
    let answer = rest(silent).await;
    assert!(String::from_utf8_lossy(&answer).contains("57014"), "{answer:?}");
    assert_eq!(text(&door.connect(&door.config()).await.unwrap(), "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_hung_up_on_and_harms_nobody() {
    let door = Door::new().await;
    let long = packet(&vec![0; 10_001]);
    let twice = [GSS_REQUEST, GSS_REQUEST, GSS_REQUEST, GSS_REQUEST].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        &long,
        &twice,
        b"\x16\x03\x01\x00\x05hello",
    ] {
        let mut tcp = TcpStream::connect(door.main).await.unwrap();
        let _ = tcp.write_all(bytes).await;
        let answer = rest(tcp).await;
        assert!(answer.iter().all(|byte| *byte == b'N') || answer.first() == Some(&0x15), "{answer:?}");
    }
    // Behind the encryption: told, where the client speaks the protocol at all.
    for (bytes, sqlstate) in [
        (startup(b"user"), "08P01"),
        (packet(&[0, 2, 0, 0]), "0A000"),
        (SSL_REQUEST.to_vec(), "08P01"),
        (startup(b"database\0x\0\0"), "28000"),
        (startup(b"user\0a\0options\0endpoint=\0\0"), "08004"),
    ] {
        let mut tls = encrypted(&door, &[]).await.unwrap();
        tls.write_all(&bytes).await.unwrap();
        let answer = String::from_utf8_lossy(&rest(tls).await).into_owned();
        assert!(answer.starts_with('E') && answer.contains(&format!("C{sqlstate}")), "{answer:?}");
    }
    // What stands behind the request for encryption is no part of what is encrypted.
    let mut tcp = TcpStream::connect(door.main).await.unwrap();
    tcp.write_all(&[&SSL_REQUEST[..], &startup(b"user\0mallory\0\0")].concat()).await.unwrap();
    let answer = rest(tcp).await;
    assert_eq!((answer[0], answer.get(1)), (b'S', Some(&0x15)), "{answer:?}");
    // A query where the password should be.
    let mut tls = encrypted(&door, &[]).await.unwrap();
    tls.write_all(&startup(format!("user\0{ANA}\0\0").as_bytes())).await.unwrap();
    tls.write_all(b"Q\0\0\0\x0dSELECT 1\0").await.unwrap();
    assert!(String::from_utf8_lossy(&rest(tls).await).contains("C08P01"));
    // A password without end.
    let mut tls = encrypted(&door, &[]).await.unwrap();
    tls.write_all(&startup(format!("user\0{ANA}\0\0").as_bytes())).await.unwrap();
    tls.write_all(b"p\x7f\xff\xff\xff").await.unwrap();
    assert_eq!(rest(tls).await, b"R\0\0\0\x08\0\0\0\x03");
    assert_eq!(text(&door.connect(&door.config()).await.unwrap(), "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_knock_do_not_fill_the_house() {
    let door = Door::new().await;
    door.gate().max_connections.store(8, std::sync::atomic::Ordering::SeqCst);
    *door.gate().native_login.lock().unwrap() = true;
    // Asked to prove who they are, they say nothing.
    let (said, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let user = startup(format!("user\0{APP}\0database\0postgres\0\0").as_bytes());
    let mut strangers = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (said, mut stranger) = (said.clone(), encrypted(&door, &[]).await.unwrap());
        stranger.write_all(&user).await.unwrap();
        strangers.spawn(async move {
            said.send(stranger.read_u8().await).unwrap();
            rest(stranger).await;
        });
    }
    // Two are asked; the others wait for their turn.
    for _ in 0..2 {
        let asked = tokio::time::timeout(Duration::from_secs(20), asked.recv());
        assert_eq!(asked.await.unwrap().unwrap().unwrap(), b'R');
    }
    let third = tokio::time::timeout(Duration::from_millis(500), asked.recv()).await;
    assert!(third.is_err(), "strangers took the places of others");
    assert_eq!(text(&door.connect(&door.config()).await.unwrap(), "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_tls_is_only_for_postgresql() {
    let door = Door::new().await;
    door.config();
    for protocols in [[b"h2".as_slice()].as_slice(), &[b"http/1.1"]] {
        assert!(encrypted(&door, protocols).await.is_err());
    }
    let tcp = TcpStream::connect(door.main).await.unwrap();
    let mut nameless = finish(&door, &[], tcp).await.unwrap();
    let _ = nameless.write_all(&startup(format!("user\0{ANA}\0\0").as_bytes())).await;
    assert!(rest(nameless).await.is_empty());
    let mut direct = encrypted(&door, &[b"postgresql"]).await.unwrap();
    direct.write_all(&startup(format!("user\0{ANA}\0database\0postgres\0\0").as_bytes())).await.unwrap();
    direct.write_all(b"p\0\0\0\x09good\0").await.unwrap();
    direct.write_all(b"X\0\0\0\x04").await.unwrap();
    let answer = rest(direct).await;
    assert!(answer.ends_with(b"Z\0\0\0\x05I"), "{answer:?}");
}

/// A client that waits for its compute and hangs up must not be waited for, nor be let in later.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_end() {
    let door = Door::new().await;
    door.config();
    let mut tls = encrypted(&door, &[]).await.unwrap();
    tls.write_all(&startup(format!("user\0{ANA}\0database\0postgres\0\0").as_bytes())).await.unwrap();
    tls.write_all(b"p\0\0\0\x09good\0").await.unwrap();
    // Its last word, and half of the connection is closed: the answer still comes.
    tls.write_all(b"Q\0\0\0\x0dSELECT 7\0X\0\0\0\x04").await.unwrap();
    tls.shutdown().await.unwrap();
    let answer = rest(tls).await;
    assert!(answer.windows(5).any(|part| part == b"\0\0\0\x017"), "{answer:?}");
    while door.proxy.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
