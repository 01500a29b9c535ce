//! One request on one connection.

use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::error::Error;
use crate::{Client, Target};

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, Error> {
        let mut sender = match &self.target {
            Target::Socket(socket) => handshake(connect(socket).await?).await?,
            Target::Remote(remote) => handshake(remote.connect().await?).await?,
        };
        let request = self.request(method, path, body)?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = Answer { body: response_body(response), buffer: Vec::new() };
        if status == StatusCode::OK { Ok(answer) } else { Err(refusal(status, answer.read_all().await?)) }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder().method(method).uri(path);
        request = match &self.target {
            Target::Socket(socket) => {
                let request = request.header("host", "localhost");
                // What the daemon takes as a proof that its files may be read by the caller.
                match std::fs::read(socket.with_extension("key")).map(|key| HeaderValue::from_bytes(&key)) {
                    Ok(Ok(mut key)) => {
                        key.set_sensitive(true);
                        request.header("x-anabranch-key", key)
                    }
                    _ => request,
                }
            }
            Target::Remote(remote) => {
                let mut token = HeaderValue::from_str(&format!("Bearer {}", remote.token()))
                    .map_err(|_| Error::Protocol("the token has characters that no token has".to_owned()))?;
                token.set_sensitive(true);
                request.header("host", remote.authority()).header("authorization", token)
            }
        };
        if let Some(agent) = &self.agent {
            request = request.header("x-anabranch-agent", agent);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        request
            .body(Full::new(bytes))
            .map_err(|error| Error::Protocol(format!("the request cannot be written: {error}")))
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer; its errors come up in the call itself.
    tokio::spawn(connection);
    Ok(sender)
}

async fn connect(socket: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Error::Denied { socket: socket.to_owned() },
        _ => Error::NotRunning { socket: socket.to_owned() },
    })
}

fn response_body(response: Response<Incoming>) -> Incoming {
    response.into_body()
}

impl Answer {
    /// The whole body as JSON.
    pub async fn read_all(self) -> Result<Value, Error> {
        let bytes = self.body.collect().await?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| Error::Protocol(format!("unexpected answer: {error}")))
    }

    /// The whole body as text.
    pub async fn read_text(self) -> Result<String, Error> {
        let bytes = self.body.collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The next line of the body as JSON; none at its end.
    pub async fn next_line(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| Error::Protocol(format!("unexpected answer: {error}")));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

fn refusal(status: StatusCode, body: Value) -> Error {
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    // The trace id serves those who read the daemon's log; people at a terminal need the sentence.
    let whole = text("message");
    let (message, trace_id) = match whole.split_once(" [TraceId: ") {
        Some((message, rest)) => (message.to_owned(), Some(rest.trim_end_matches(']').to_owned())),
        None => (whole, None),
    };
    let details = body["details"].as_array().into_iter().flatten();
    let hint =
        details.filter_map(|detail| detail["links"][0]["description"].as_str()).map(str::to_owned).next();
    Error::Refused { status: status.as_u16(), code: text("error_code"), message, hint, trace_id }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers one request with fixed bytes; gives back the request.
    async fn exchange(answer: &str, socket: &Path) -> tokio::task::JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        let answer = answer.to_owned();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        })
    }

    fn socket(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("ana-client-{name}-{}.sock", std::process::id()))
    }

    #[tokio::test]
    async fn nobody_there() {
        let socket = socket("nobody");
        let error = Client::new(&socket).status().await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    }

    #[tokio::test]
    async fn refusals_keep_code_and_hint() {
        let socket = socket("refusal");
        let body = r#"{"error_code":"NOT_FOUND","message":"branch id not found [TraceId: x]","details":[{"@type":"t"},{"@type":"h","links":[{"description":"try another","url":""}]}]}"#;
        let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let server = exchange(&answer, &socket).await;
        let error = Client::new(&socket).as_agent("bot").branch("shop", "dev").await.unwrap_err();
        std::fs::remove_file(&socket).unwrap();
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "branch id not found");
        let Error::Refused { hint, trace_id, .. } = error else { panic!("{error}") };
        assert_eq!((hint.as_deref(), trace_id.as_deref()), (Some("try another"), Some("x")));
        let request = server.await.unwrap();
        assert!(
            request.starts_with("GET /api/2.0/postgres/projects/shop/branches/dev HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("x-anabranch-agent: bot\r\n"), "{request}");
    }

    #[tokio::test]
    async fn lines_are_read_as_they_come() {
        let socket = socket("lines");
        let body = "{\"done\":1,\"total\":2}\n{\"done\":2,\"total\":2}\n{\"finished\":true}\n";
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let server = exchange(&answer, &socket).await;
        let mut seen = Vec::new();
        Client::new(&socket)
            .export("shop", "dev", Path::new("/x"), |done, total| seen.push((done, total)))
            .await
            .unwrap();
        std::fs::remove_file(&socket).unwrap();
        server.await.unwrap();
        assert_eq!(seen, [(1, 2), (2, 2)]);
    }
}
