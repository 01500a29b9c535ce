//! Who gets through the front door, and what the others are told.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use compute::engine::StopMode;
use e2e::door::{ANA, APP, APP_PASSWORD, DOMAIN, Door};
use e2e::lab::{key, run, text};
use proxy::ConnectError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};

fn failed(user: &str) -> (String, String) {
    ("28P01".to_owned(), format!("password authentication failed for user \"{user}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_the_door() {
    let door = Door::new().await;
    let client = door.connect(&door.config()).await.unwrap();
    assert_eq!(text(&client, "SELECT session_user").await, ANA);
    assert_eq!(text(&client, "SHOW is_superuser").await, "off");
    // Without end: statements, transactions, errors.
    let rows = client.query("SELECT g FROM generate_series(1, $1::int4) g", &[&1000]).await.unwrap();
    assert_eq!(rows.len(), 1000);
    assert!(client.simple_query("SELECT 1/0").await.is_err());
    assert_eq!(text(&client, "SELECT 7").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failed_login_gets_the_same_answer() {
    let door = Door::new().await;
    door.lab.branch("main", "other");
    let good = door.config();
    door.token("for another endpoint", ANA, Some("ep-other"));
    door.token("of somebody else", "ben@example.org", Some("ep-main"));
    door.token("of somebody without the right", "ben@example.org", None);
    for password in ["wrong", "", "for another endpoint", "of somebody else", "of somebody without the right"]
    {
        assert_eq!(door.refusal(good.clone().password(password)).await, failed(ANA), "{password}");
    }
    for user in ["nobody@example.org", "nobody", "idle", APP, "anabranch", "ghost@example.org"] {
        assert_eq!(door.refusal(good.clone().user(user)).await, failed(user), "{user}");
        assert_eq!(door.refusal(good.clone().user(user).password("wrong")).await, failed(user), "{user}");
    }
    door.connect(&good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_are_answered_late_and_keep_no_holder_of_a_token_out() {
    let door = Door::new().await;
    let good = door.config();
    let mut bad = good.clone();
    bad.password("wrong");
    let tries = (0..12).map(|_| {
        let (bad, tls) = (bad.clone(), door.tls());
        tokio::spawn(async move { bad.connect(tls).await.err().unwrap() })
    });
    for attempt in tries.collect::<Vec<_>>() {
        assert_eq!(attempt.await.unwrap().code().unwrap().code(), "28P01");
    }
    let error = door.connect(&bad).await.err().unwrap();
    let hint = error.as_db_error().unwrap().hint().unwrap_or_default().to_owned();
    assert!(hint.contains("too many logins failed"), "{hint}");
    door.connect(&good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_checked_against_the_certificate() {
    let door = Door::new().await;
    let good = door.config();
    // By address, by `localhost`, below the domain: all of them names that the certificate has.
    door.connect(&good).await.unwrap();
    let called = |host: &str| {
        let mut config = Config::new();
        config.host(host).hostaddr(door.anywhere.ip()).port(door.anywhere.port());
        config.user(ANA).password("good").dbname("postgres");
        config
    };
    door.connect(&called("localhost")).await.unwrap();
    door.connect(&called(&format!("ep-main.{DOMAIN}"))).await.unwrap();
    let error = door.connect(&called("db.example.com")).await.err().unwrap();
    assert!(format!("{error:?}").contains("NotValidForName"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_refused_with_what_to_do() {
    let door = Door::new().await;
    let mut config = door.config();
    config.ssl_mode(SslMode::Disable);
    let error = config.connect(NoTls).await.err().unwrap();
    let db = error.as_db_error().unwrap();
    assert_eq!(db.code().code(), "28000");
    assert!(db.hint().unwrap().contains("sslmode=require"), "{db:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_apart() {
    let door = Door::new().await;
    door.lab.branch("main", "dev");
    run(&door.lab.connect("dev").await, "CREATE TABLE only_dev ()").await;
    let on_dev = "SELECT count(*) FROM pg_class WHERE relname = 'only_dev'";
    door.token("dev", ANA, Some("ep-dev"));
    door.token("all", ANA, None);
    let at = |host: &str, options: &str, token: &str| {
        let mut config = Config::new();
        config.host(host).hostaddr(door.anywhere.ip()).port(door.anywhere.port());
        config.user(ANA).password(token).dbname("postgres");
        if !options.is_empty() {
            config.options(options);
        }
        config
    };
    let dev_name = format!("ep-dev.{DOMAIN}");
    for config in [
        at("localhost", "", "dev"),
        at("localhost", "endpoint=ep-dev", "all"),
        at("localhost", "-c endpoint=shop/dev -c geqo=off", "all"),
        at("localhost", "endpoint=projects/shop/branches/dev", "dev"),
        at(&dev_name, "", "all"),
        at(&dev_name, "endpoint=shop/dev", "dev"),
    ] {
        let client = door.connect(&config).await.unwrap_or_else(|error| panic!("{config:?}: {error:?}"));
        assert_eq!(text(&client, on_dev).await, "1", "{config:?}");
    }
    let client = door.connect(&at("localhost", "-c endpoint=shop/dev -c geqo=off", "all")).await.unwrap();
    assert_eq!(text(&client, "SHOW geqo").await, "off");

    let refusal = |config: Config| {
        let door = &door;
        async move { door.refusal(&config).await }
    };
    assert_eq!(refusal(at("localhost", "", "all")).await.0, "08004");
    assert_eq!(refusal(at(&dev_name, "endpoint=shop/main", "all")).await.0, "08004");
    assert_eq!(refusal(at("localhost", "endpoint=a -c endpoint=b", "all")).await.0, "08004");
    let (code, message) = refusal(at("localhost", "endpoint=shop/gone", "all")).await;
    assert_eq!((code.as_str(), message.as_str()), ("3D000", "endpoint \"shop/gone\" does not exist"));
    assert_eq!(refusal(at(&format!("ep-gone.{DOMAIN}"), "", "all")).await.0, "3D000");
    // Who is nobody is not told which endpoints there are.
    assert_eq!(refusal(at("localhost", "endpoint=shop/gone", "wrong")).await, failed(ANA));
    assert_eq!(refusal(at(&dev_name, "endpoint=shop/main", "wrong")).await, failed(ANA));
    // An address of an endpoint's own is as good as a name.
    let mut crossed = door.config();
    crossed.options("endpoint=shop/dev").password("all");
    assert_eq!(door.refusal(&crossed).await.0, "08004");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_known_wakes_a_compute() {
    let door = Door::new().await;
    let good = door.config();
    door.lab.stop("main");
    for password in ["wrong", ""] {
        assert_eq!(door.refusal(good.clone().password(password)).await, failed(ANA));
    }
    assert_eq!(door.gate().connects.load(Ordering::SeqCst), 0);
    let client = door.connect(&good).await.unwrap();
    assert_eq!(text(&client, "SELECT 1").await, "1");
    assert_eq!(door.gate().connects.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_compute_from_waking_is_told() {
    let door = Door::new().await;
    let good = door.config();
    for (refusal, code, part) in [
        (ConnectError::Disabled, "55000", "is disabled"),
        (ConnectError::Gone, "57P01", "was deleted"),
        (ConnectError::TooManyWaiting, "57P03", "no room for it"),
        (ConnectError::CannotStart("it is broken".to_owned()), "57P03", "it is broken"),
    ] {
        *door.gate().refusal.lock().unwrap() = Some(refusal);
        let (found, message) = door.refusal(&good).await;
        assert_eq!(found, code);
        assert!(message.contains(part), "{message}");
    }
    *door.gate().refusal.lock().unwrap() = None;
    // What the server itself says comes through as it is.
    let (code, message) = door.refusal(good.clone().dbname("nowhere")).await;
    assert_eq!((code.as_str(), message.as_str()), ("3D000", "database \"nowhere\" does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_somebody_changed_is_repaired_once() {
    let door = Door::new().await;
    let good = door.config();
    run(&door.lab.connect("main").await, &format!("ALTER ROLE \"{ANA}\" PASSWORD 'mine'")).await;
    for _ in 0..2 {
        let client = door.connect(&good).await.unwrap();
        assert_eq!(text(&client, "SELECT session_user").await, ANA);
    }
    assert_eq!(door.gate().repairs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_postgres_work_where_they_are_enabled() {
    let door = Door::new().await;
    let mut app = door.config();
    app.user(APP).password(APP_PASSWORD);
    assert_eq!(door.refusal(&app).await, failed(APP));
    *door.gate().native_login.lock().unwrap() = true;
    let client = door.connect(&app).await.unwrap();
    assert_eq!(text(&client, "SELECT session_user").await, APP);
    assert_eq!(door.refusal(app.clone().password("wrong")).await, failed(APP));
    // Roles that are not there, or may not log in, go through the same motions.
    for user in ["nobody", "idle", "anabranch"] {
        assert_eq!(door.refusal(app.clone().user(user)).await, failed(user));
    }
    // Tokens go on to work.
    let client = door.connect(&door.config()).await.unwrap();
    assert_eq!(text(&client, "SELECT session_user").await, ANA);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_is_not_let_in_whatever_it_knows() {
    let door = Door::new().await;
    *door.gate().native_login.lock().unwrap() = true;
    let admin = door.lab.connect("main").await;
    run(&admin, &format!("ALTER ROLE {APP} SUPERUSER; ALTER ROLE \"{ANA}\" SUPERUSER")).await;
    let mut app = door.config();
    app.user(APP).password(APP_PASSWORD);
    assert_eq!(door.refusal(&app).await, failed(APP));
    assert_eq!(door.refusal(&door.config()).await, failed(ANA));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_has_as_many_connections_as_its_size_allows() {
    let door = Door::new().await;
    let good = door.config();
    door.gate().max_connections.store(2, Ordering::SeqCst);
    let one = door.connect(&good).await.unwrap();
    let _two = door.connect(&good).await.unwrap();
    let (code, message) = door.refusal(&good).await;
    assert_eq!((code.as_str(), message.as_str()), ("53300", "sorry, too many clients already"));
    drop(one);
    // The slot comes back when both ends are closed, which takes a moment.
    while door.proxy.sessions() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    door.connect(&good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_versions_of_the_protocol_are_negotiated_down() {
    let door = Door::new().await;
    door.config();
    let config = std::sync::Arc::new(door.client_config());
    let tcp = TcpStream::connect(door.main).await.unwrap();
    let mut tls = direct(config, tcp).await;
    let mut body = ((3u32 << 16) + 2).to_be_bytes().to_vec();
    body.extend(format!("user\0{ANA}\0database\0postgres\0_pq_.test\0on\0\0").bytes());
    let length = u32::try_from(body.len() + 4).unwrap();
    tls.write_all(&[length.to_be_bytes().as_slice(), &body].concat()).await.unwrap();
    assert_eq!(tls.read_u8().await.unwrap(), b'v');
    let mut answer = vec![0; tls.read_u32().await.unwrap() as usize - 4];
    tls.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [&[0, 3, 0, 0, 0, 0, 0, 1], b"_pq_.test\0".as_slice()].concat());
    tls.write_all(b"p\0\0\0\x09good\0").await.unwrap();
    let mut next = [0; 9];
    tls.read_exact(&mut next).await.unwrap();
    assert_eq!(&next, b"R\0\0\0\x08\0\0\0\x03");
    tls.read_exact(&mut next).await.unwrap();
    assert_eq!(&next, b"R\0\0\0\x08\0\0\0\0");
}

/// TLS at once, as newer clients begin where they are told to.
async fn direct(
    config: std::sync::Arc<rustls::ClientConfig>,
    tcp: TcpStream,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_compute_ends_its_connections_with_postgres_own_words() {
    let door = Door::new().await;
    let (client, connection) = door.config().connect(door.tls()).await.unwrap();
    let session = tokio::spawn(connection);
    assert_eq!(text(&client, "SELECT 1").await, "1");
    door.lab.engine.stop(&key("main"), StopMode::Fast).unwrap();
    let error = session.await.unwrap().unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P01"), "{error:?}");
}
