//! The API over TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use api::Tls;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::web::Web;
use crate::world::World;

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    der: CertificateDer<'static>,
}

/// A certificate for `localhost` that vouches for itself.
fn files(world: &World, name: &str) -> Files {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = |end: &str| world.dir.join(format!("{name}.{end}"));
    std::fs::write(file("pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key"), made.signing_key.serialize_pem()).unwrap();
    Files { certificate: file("pem"), key: file("key"), der: made.cert.der().clone() }
}

fn ask(web: &Web, trusted: CertificateDer<'static>, token: &str, path: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(session, TcpStream::connect(web.address)?);
    let port = web.address.port();
    let shown = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n{shown}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_served_encrypted() {
    let world = World::new().await;
    let (mine, other) = (files(&world, "mine"), files(&world, "other"));
    let web = Web::open_with(&world, Some(Tls::read(&mine.certificate, &mine.key).unwrap())).await;
    let config = ask(&web, mine.der.clone(), "", "/.well-known/databricks-config").unwrap();
    assert!(config.contains(&format!("\"https://localhost:{}/oidc\"", web.address.port())), "{config}");
    assert!(ask(&web, other.der.clone(), "", "/health").is_err(), "an impostor would be noticed");
    let token = world.token(serde_json::json!({})).await;
    let status = ask(&web, mine.der.clone(), &token, "/api/anabranch/v1/status").unwrap();
    assert!(status.contains("\"http_scheme\":\"https\""), "{status}");
    let plain = std::thread::spawn({
        let address = web.address;
        move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        }
    });
    let plain = plain.join().unwrap();
    assert!(!plain.contains("HTTP/1.1"), "unencrypted: {plain}");

    let refused = |certificate: &PathBuf, key: &PathBuf| Tls::read(certificate, key).err().unwrap();
    assert!(refused(&mine.certificate, &other.key).contains("does not fit"));
    assert!(refused(&mine.key, &mine.key).contains("mine.key"));
    assert!(refused(&mine.certificate, &world.dir.join("none")).contains("none"));
}
