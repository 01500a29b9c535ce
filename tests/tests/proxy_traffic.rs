//! What passes through the front door once it is open.
#![allow(clippy::unwrap_used)]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use e2e::door::{ANA, Door};
use e2e::lab::{run, text};
use futures_util::{SinkExt, TryStreamExt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Passed in each direction by COPY.
const COPIED: usize = 200 << 20;

/// One value.
const LARGE: usize = 100 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn copy_in_and_out_of_much() {
    let door = Door::new().await;
    let client = door.connect(&door.config()).await.unwrap();
    run(&client, "CREATE TEMP TABLE t (line text)").await;
    let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
    let chunk = Bytes::from(line.repeat(1024));
    let mut sink = pin!(client.copy_in("COPY t FROM STDIN").await.unwrap());
    for _ in 0..COPIED / chunk.len() {
        sink.send(chunk.clone()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), (COPIED / line.len()) as u64);
    let stream = client.copy_out("COPY t TO STDOUT").await.unwrap();
    let copied = stream.try_fold(0, async |sum, bytes| Ok(sum + bytes.len())).await.unwrap();
    assert_eq!(copied, COPIED);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_very_large_row() {
    let door = Door::new().await;
    let client = door.connect(&door.config()).await.unwrap();
    let row = client.query_one(&format!("SELECT repeat('0123456789', {})", LARGE / 10), &[]).await.unwrap();
    let large: String = row.get(0);
    assert_eq!(large.len(), LARGE);
    let sql = "SELECT md5($1::text) = md5(repeat('0123456789', $2))";
    let back = client.query_one(sql, &[&large, &((LARGE / 10) as i32)]).await.unwrap();
    assert!(back.get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_and_only_by_its_own_key() {
    let door = Door::new().await;
    let config = door.config();
    let (one, two) = (door.connect(&config).await.unwrap(), door.connect(&config).await.unwrap());
    let (token, other) = (one.cancel_token(), two.cancel_token());
    let sleeping = tokio::spawn(async move { (one.simple_query("SELECT pg_sleep(600)").await, one) });
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(600)' \
                  AND pid <> pg_backend_pid()";
    let admin = door.lab.connect("main").await;
    while text(&admin, active).await != "1" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The key of another session of the same server, over TLS.
    other.cancel_query(door.tls()).await.unwrap();
    // It may reach the other session late, and then ends what that is doing.
    let _ = two.simple_query("SELECT pg_sleep(0.1)").await;
    assert_eq!(text(&admin, active).await, "1");
    token.cancel_query(door.tls()).await.unwrap();
    let (outcome, one) = sleeping.await.unwrap();
    assert_eq!(outcome.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));

    // The same in the clear, as clients before libpq 17 do it.
    let token = one.cancel_token();
    let sleeping = tokio::spawn(async move { one.simple_query("SELECT pg_sleep(600)").await });
    while text(&admin, active).await != "1" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    token.cancel_query(NoTls).await.unwrap();
    assert_eq!(sleeping.await.unwrap().unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_at_once() {
    let door = Door::new().await;
    door.lab.stop("main");
    door.lab.start_with("main", &[("max_connections", "520")]);
    let config = door.config();
    let clients = (0..500).map(|_| {
        let (config, tls) = (config.clone(), door.tls());
        tokio::spawn(async move {
            let (client, connection) = config.connect(tls).await.unwrap();
            tokio::spawn(connection);
            client
        })
    });
    let mut open = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        open.push(client.await.unwrap());
    }
    assert_eq!(door.proxy.sessions(), 500);
    assert_eq!(door.gate().open.load(Ordering::SeqCst), 500);
    for (place, client) in open.iter().enumerate() {
        assert_eq!(text(client, &format!("SELECT {place}")).await, place.to_string());
    }
    drop(open);
    while door.proxy.sessions() > 0 || door.gate().open.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let admin = door.lab.connect("main").await;
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ANA}'");
    while text(&admin, &left).await != "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_and_notifications_come_unasked() {
    let door = Door::new().await;
    let config = door.config();
    let (listener, mut connection) = config.connect(door.tls()).await.unwrap();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            let _ = sender.send(message);
        }
    });
    run(&listener, "LISTEN shop").await;
    let other = door.connect(&config).await.unwrap();
    run(&other, "NOTIFY shop, 'hello'").await;
    let message = heard.recv().await.unwrap();
    assert!(format!("{message:?}").contains("hello"), "{message:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_leaves_nothing_behind() {
    let door = Door::new().await;
    let (client, connection) = door.config().connect(door.tls()).await.unwrap();
    let session = tokio::spawn(connection);
    run(&client, "BEGIN").await;
    session.abort();
    let admin = door.lab.connect("main").await;
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ANA}'");
    while text(&admin, &left).await != "0" || door.proxy.sessions() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the answer to a command of the replication protocol.
const READY: &[u8] = b"Z\0\0\0\x05I";

#[tokio::test(flavor = "multi_thread")]
async fn backups_and_the_log_by_the_replication_protocol() {
    let door = Door::new().await;
    door.config();
    let mut session = Raw::log_in(&door, "replication\x001\0").await;
    assert!(find(&session.ask("IDENTIFY_SYSTEM").await, b"systemid"));
    let backup = session.ask("BASE_BACKUP ( LABEL 'test', CHECKPOINT 'fast', WAL, MANIFEST 'yes' )").await;
    for file in
        [b"backup_label".as_slice(), b"global/pg_control", b"pg_wal/00000001", b"\"Manifest-Checksum\""]
    {
        assert!(find(&backup, file), "{:?} is missing", String::from_utf8_lossy(file));
    }
    // The log, through a slot of this branch.
    let slot = session.ask("CREATE_REPLICATION_SLOT s TEMPORARY PHYSICAL RESERVE_WAL").await;
    assert!(find(&slot, b"consistent_point"), "{}", String::from_utf8_lossy(&slot));
    let at = text(&door.lab.connect("main").await, "SELECT restart_lsn FROM pg_replication_slots").await;
    session.send("Q", &format!("START_REPLICATION SLOT s PHYSICAL {at}\0")).await;
    session.read_until(|answer| answer.first() == Some(&b'W') && find(answer, b"d\0")).await;
    // Without one it might be the log of another branch.
    let mut session = Raw::log_in(&door, "replication\0on\0").await;
    session.send("Q", &format!("START_REPLICATION PHYSICAL {at}\0")).await;
    let answer = session.read_until(|_| false).await;
    assert!(find(&answer, b"C55000") && find(&answer, b"FATAL"), "{}", String::from_utf8_lossy(&answer));
    // In a database, SQL and slots for changes.
    let mut session = Raw::log_in(&door, "replication\0database\0").await;
    assert!(find(&session.ask("SELECT 'found'").await, b"found"));
}

fn find(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A session of bytes.
struct Raw(TlsStream<TcpStream>);

impl Raw {
    async fn log_in(door: &Door, parameters: &str) -> Raw {
        let mut config = door.client_config();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        let tcp = TcpStream::connect(door.main).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = Raw(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap());
        session.send("", &format!("\0\x03\0\0user\0{ANA}\0database\0postgres\0{parameters}\0")).await;
        session.send("p", "good\0").await;
        let answer = session.read_until(|answer| answer.ends_with(READY)).await;
        assert!(answer.ends_with(READY), "{}", String::from_utf8_lossy(&answer));
        session
    }

    async fn send(&mut self, kind: &str, body: &str) {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.0.write_all(&[kind.as_bytes(), &length, body.as_bytes()].concat()).await.unwrap();
    }

    async fn ask(&mut self, command: &str) -> Vec<u8> {
        self.send("Q", &format!("{command}\0")).await;
        self.read_until(|answer| answer.ends_with(READY)).await
    }

    /// Reads until there is enough, or the other side hangs up.
    async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut answer = Vec::new();
        while !enough(&answer) && self.0.read_buf(&mut answer).await.is_ok_and(|length| length > 0) {}
        answer
    }
}
