//! The same daemon over TCP, the way strangers come.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use api::{Local, Public, PublicUrl, Tls};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::World;

/// The public listener of a world's daemon.
pub struct Web {
    pub address: SocketAddr,
    end: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
}

/// An answer over TCP.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Reply {
    /// The contract's code.
    pub fn code(&self) -> &str {
        self.body["error_code"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// The value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key.to_lowercase() == name).then_some(value)
        })
    }
}

impl Web {
    pub async fn open(world: &World) -> Web {
        Web::open_with(world, None).await
    }

    pub async fn open_with(world: &World, tls: Option<Tls>) -> Web {
        let listener = api::bind_public([127, 0, 0, 1].into(), 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, _) = watch::channel(None);
        let local = Local {
            control: Arc::clone(&world.control),
            owner_uid: compute::os::effective_uid(),
            http: Some(address),
            https: tls.is_some(),
            front: crate::world::front_of(&world.certificates),
            shutdown,
        };
        let (end, mut ended) = watch::channel(false);
        let server = tokio::spawn(api::serve_public(
            listener,
            Public { local, urls: vec![PublicUrl::parse("https://ana.example.org").unwrap()], tls },
            async move {
                let _ = ended.wait_for(|end| *end).await;
            },
        ));
        Web { address, end, server: Some(server) }
    }

    /// One call; `path` is whole.
    pub async fn call(&self, token: &str, method: &str, path: &str, body: &str) -> Reply {
        let header =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        self.raw(method, path, body, &header).await
    }

    pub async fn get(&self, token: &str, path: &str) -> Reply {
        self.call(token, "GET", path, "").await
    }

    pub async fn post(&self, token: &str, path: &str, body: &str) -> Reply {
        self.call(token, "POST", path, body).await
    }

    /// One call with headers of its own; `Host` is given unless they have one.
    pub async fn raw(&self, method: &str, path: &str, body: &str, headers: &str) -> Reply {
        let host =
            if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.address) };
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let address = self.address;
        let reply = tokio::task::spawn_blocking(move || exchange(address, &request)).await.unwrap();
        if reply.status == 200
            && let Some(why) = crate::schema::misfit(method, path, &reply.body)
        {
            panic!("{method} {path} is not as documented: {why}");
        }
        reply
    }

    /// A form to the token endpoint.
    pub async fn token(&self, form: &str, headers: &str) -> Reply {
        self.form("/oidc/v1/token", form, headers).await
    }

    /// A form.
    pub async fn form(&self, path: &str, form: &str, headers: &str) -> Reply {
        let headers = format!("Content-Type: application/x-www-form-urlencoded\r\n{headers}");
        self.raw("POST", path, form, &headers).await
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

fn exchange(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    // The server may answer and hang up before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.to_lowercase();
    let metrics = request.starts_with("GET /metrics ") && status == 200;
    let text_kinds = ["content-type: text/html", "content-type: application/x-ndjson"];
    let body = if metrics || text_kinds.iter().any(|text| kind.contains(text)) || body.is_empty() {
        Value::String(body.to_owned())
    } else {
        assert!(kind.contains("content-type: application/json"), "{text}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    Reply { status, head: head.to_owned(), body }
}

impl World {
    /// A personal token, made by the owner; `wish` is its body.
    pub async fn token(&self, wish: Value) -> String {
        let answer = self.post("/api/anabranch/v1/tokens", &wish.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// A principal, made by the owner; gives its name.
    pub async fn principal(&self, name: &str, kind: &str) -> String {
        let body = json!({"name": name, "kind": kind}).to_string();
        let answer = self.post("/api/anabranch/v1/principals", &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["name"].as_str().unwrap().to_owned()
    }

    /// A user with a token.
    pub async fn user(&self, name: &str) -> String {
        self.principal(name, "user").await;
        self.token(json!({"principal": name})).await
    }
}
