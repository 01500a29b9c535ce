//! The API over TCP: says that the daemon is alive, and nothing else to strangers.

use std::net::{Ipv4Addr, SocketAddr};

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::error::ApiError;

/// Ports tried after a busy one.
const PORTS: u16 = 100;

/// Binds `port` of the loopback address, or the next free one; 0 lets the kernel choose.
///
/// # Errors
/// None of them is free.
pub async fn bind_public(port: u16) -> std::io::Result<TcpListener> {
    let mut last = None;
    for port in port..=port.saturating_add(if port == 0 { 0 } else { PORTS }) {
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

/// Serves on a listener until `end` resolves.
///
/// # Errors
/// The listener failed.
pub async fn serve_public(
    listener: TcpListener,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/health", get(async || Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))))
        .fallback(async || {
            ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "a bearer token is needed here")
        })
        .layer(axum::middleware::from_fn(refuse_foreign_host));
    axum::serve(listener, router).with_graceful_shutdown(end).await
}

/// A page on the web can make a browser send requests here under a name of its own (DNS
/// rebinding); such a request carries that name.
async fn refuse_foreign_host(headers: HeaderMap, request: Request, next: Next) -> Response {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    if host.is_some_and(is_loopback_name) {
        return next.run(request).await;
    }
    ApiError::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", "unknown host name").into_response()
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(request: &str) -> String {
        let listener = bind_public(0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(serve_public(listener, async {
            let _ = stopped.await;
        }));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        drop(stop);
        server.await.unwrap().unwrap();
        answer
    }

    fn get(path: &str, host: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn health_is_all_that_strangers_get() {
        let health = ask(&get("/health", "127.0.0.1:8432")).await;
        assert!(health.starts_with("HTTP/1.1 200"), "{health}");
        assert!(health.contains("\"status\":\"ok\""), "{health}");
        for path in ["/", "/api/2.0/postgres/projects", "/api/anabranch/v1/status"] {
            let answer = ask(&get(path, "localhost")).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
            assert!(answer.contains("UNAUTHENTICATED"), "{path}: {answer}");
        }
    }

    #[tokio::test]
    async fn foreign_host_names_are_refused() {
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8432", ""] {
            let answer = ask(&get("/health", host)).await;
            assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
        }
        for host in ["localhost", "localhost:1", "[::1]:8432", "[::1]"] {
            let answer = ask(&get("/health", host)).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_busy_port_moves() {
        let first = bind_public(0).await.unwrap().local_addr().unwrap().port();
        let held = bind_public(first).await.unwrap();
        assert_eq!(held.local_addr().unwrap().port(), first);
        assert!(bind_public(first).await.unwrap().local_addr().unwrap().port() > first);
    }
}
