//! The API over TCP: the same routes, for whoever shows a token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use auth::Refusal;
use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use crate::count::count;
use crate::error::ApiError;
use crate::gate::{self, header_value, rule_of};
use crate::listen::{self, Tls};
use crate::local::{Local, agent_of};
use crate::rules::Rule;
use crate::throttle::{Throttle, Verdict};

/// Ports tried after a busy one.
const PORTS: u16 = 100;

/// What every answer carries: it is data for programs, and nothing that a browser should show, keep
/// or embed.
const HEADERS: [(&str, &str); 6] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

const STRANGE_NAME: &str = "this server is not known by that host name; ana serve --http-url names more";

/// How the API is served over TCP.
#[derive(Clone)]
pub struct Public {
    /// What the handlers work with.
    pub local: Local,
    /// Addresses by which people know this server, beside those of the loopback address.
    pub urls: Vec<PublicUrl>,
    /// Certificate and key; without, the API is spoken unencrypted.
    pub tls: Option<Tls>,
}

/// An address such as `https://ana.example.org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    base: String,
}

impl std::fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

impl PublicUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// It is none, with a sentence for whoever wrote it.
    pub fn parse(text: &str) -> Result<PublicUrl, String> {
        let wrong = || format!("\"{text}\" is not an address such as https://ana.example.org");
        let base = text.trim_end_matches('/').to_ascii_lowercase();
        let (scheme, authority) = base.split_once("://").ok_or_else(wrong)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if !matches!(scheme, "http" | "https") || authority.is_empty() || !authority.bytes().all(plain) {
            return Err(wrong());
        }
        Ok(PublicUrl { base })
    }

    fn authority(&self) -> &str {
        self.base.split_once("://").map_or("", |(_, authority)| authority)
    }
}

/// Where this server is reached, as the client wrote it: `http://127.0.0.1:8432`.
#[derive(Clone)]
pub(crate) struct Base(pub String);

/// Marks an answer to a login that failed without being a 401.
#[derive(Clone, Copy)]
pub(crate) struct FailedLogin;

struct Front {
    public: Public,
    throttle: Throttle,
}

/// Binds `port` of an address, or the next free one; 0 lets the kernel choose.
///
/// # Errors
/// None of them is free.
pub async fn bind_public(address: IpAddr, port: u16) -> std::io::Result<TcpListener> {
    let mut last = None;
    for port in port..=port.saturating_add(if port == 0 { 0 } else { PORTS }) {
        match TcpListener::bind(SocketAddr::from((address, port))).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

/// Serves on a listener until `end` resolves and running calls are answered.
pub async fn serve_public(
    listener: TcpListener,
    public: Public,
    end: impl Future<Output = ()> + Send + 'static,
) {
    let (local, tls) = (public.local.clone(), public.tls.clone());
    let front = Arc::new(Front { public, throttle: Throttle::default() });
    let router = gate::guarded(local.clone())
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&front), authenticate))
        .layer(axum::middleware::from_fn_with_state(front, screen))
        .layer(axum::middleware::map_response(add_headers))
        .layer(axum::middleware::from_fn_with_state(local, count));
    listen::serve(listener, tls, router, end).await;
}

async fn add_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Turns away what a browser sends on behalf of a foreign page. A page can make a browser send
/// requests here under a name of its own (DNS rebinding), which then stands in `Host`; and across
/// origins, which then stand in `Origin`.
async fn screen(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    match screened(request.headers(), &front.public.urls, front.public.tls.is_some()) {
        Ok(base) => {
            request.extensions_mut().insert(Base(base));
            next.run(request).await
        }
        Err(text) => ApiError::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", text).into_response(),
    }
}

/// Where the client believes itself to be, if that is here.
fn screened(headers: &HeaderMap, urls: &[PublicUrl], tls: bool) -> Result<String, &'static str> {
    let host = single(headers, header::HOST).ok_or(STRANGE_NAME)?.to_ascii_lowercase();
    let base = match urls.iter().find(|url| url.authority() == host) {
        Some(url) => url.base.clone(),
        None if is_loopback_name(&host) => format!("{}://{host}", if tls { "https" } else { "http" }),
        None => return Err(STRANGE_NAME),
    };
    if headers.contains_key(header::ORIGIN)
        && single(headers, header::ORIGIN).is_none_or(|origin| !origin.eq_ignore_ascii_case(&base))
    {
        return Err("requests of foreign pages are not served");
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return Err("requests of foreign pages are not served");
    }
    Ok(base)
}

fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// Finds out who calls, for all routes but the open ones.
async fn authenticate(
    State(front): State<Arc<Front>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    if rule_of(&request) == Some(Rule::Open) {
        let response = next.run(request).await;
        let failed = response.status() == StatusCode::UNAUTHORIZED
            || response.extensions().get::<FailedLogin>().is_some();
        return if failed { slow_down(&front, address.ip(), response).await } else { response };
    }
    let Some(token) = bearer(request.headers()) else {
        return challenge(ApiError::unauthenticated(), "Bearer realm=\"anabranch\"");
    };
    let agent = agent_of(request.headers());
    match front.public.local.control.authenticate(token, agent.as_deref()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller.principal.clone());
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => {
            tracing::warn!(address = %address.ip(), reason = %refusal, "a token was refused");
            slow_down(&front, address.ip(), refused(&refusal)).await
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let error = ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", refusal.to_string());
    challenge(error, "Bearer realm=\"anabranch\", error=\"invalid_token\"")
}

fn challenge(error: ApiError, how: &str) -> Response {
    let mut response = error.into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header_value(how));
    response
}

/// The token of an `Authorization` header. One that is there but of another form counts as a token
/// that nobody was given.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?;
    let value = single(headers, header::AUTHORIZATION).unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
        _ => Some(""),
    }
}

async fn slow_down(front: &Front, address: IpAddr, response: Response) -> Response {
    match front.throttle.failed(address, Instant::now()) {
        Verdict::After(wait) => {
            tokio::time::sleep(wait).await;
            response
        }
        Verdict::Busy(wait) => {
            let text = "too many failed logins at once from this address";
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "REQUEST_LIMIT_EXCEEDED", text);
            let mut response = error.into_response();
            let seconds = wait.as_secs_f64().ceil().to_string();
            response.headers_mut().insert(header::RETRY_AFTER, header_value(&seconds));
            response
        }
    }
}

/// What handlers use to say where they are.
pub(crate) fn base_of(base: Option<Extension<Base>>, local: &Local) -> String {
    match (base, local.http) {
        (Some(Extension(Base(base))), _) => base,
        (None, Some(address)) => format!("{}://{address}", local.scheme()),
        (None, None) => "http://localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn foreign_host_names_are_refused() {
        let urls = [PublicUrl::parse("https://ana.example.org").unwrap()];
        let ask = |host| screened(&headers(&[("host", host)]), &urls, false).ok();
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8432",
            "",
            ":80",
            "ana.example.org.evil.example",
            "ana.example.org:81",
            "xana.example.org",
        ] {
            assert_eq!(ask(host), None, "{host}");
        }
        for (host, base) in [
            ("localhost", "http://localhost"),
            ("LOCALHOST:1", "http://localhost:1"),
            ("127.0.0.1:8432", "http://127.0.0.1:8432"),
            ("[::1]:8432", "http://[::1]:8432"),
            ("ana.example.org", "https://ana.example.org"),
        ] {
            assert_eq!(ask(host).as_deref(), Some(base), "{host}");
        }
        let encrypted = screened(&headers(&[("host", "localhost:1")]), &[], true);
        assert_eq!(encrypted.as_deref(), Ok("https://localhost:1"));
        assert!(screened(&headers(&[]), &urls, false).is_err(), "no host");
        let twice = headers(&[("host", "localhost"), ("host", "localhost")]);
        assert!(screened(&twice, &urls, false).is_err());
    }

    #[test]
    fn foreign_pages_are_refused() {
        let ask = |pairs: &[(&'static str, &str)]| {
            let mut headers = headers(pairs);
            headers.insert("host", "localhost:8432".parse().unwrap());
            screened(&headers, &[], false).is_ok()
        };
        assert!(ask(&[]));
        assert!(ask(&[("origin", "http://localhost:8432")]));
        assert!(ask(&[("sec-fetch-site", "same-origin")]));
        for origin in [
            "http://evil.example",
            "https://localhost:8432",
            "http://localhost:1",
            "http://localhost",
            "null",
            "",
        ] {
            assert!(!ask(&[("origin", origin)]), "{origin}");
        }
        assert!(!ask(&[("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn public_addresses() {
        assert!(PublicUrl::parse("HTTPS://ana.example.org:8443/").is_ok());
        for wrong in
            ["", "ana.example.org", "https://", "ftp://x", "https://x/y", "https://a b", "https://u@x"]
        {
            assert!(PublicUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bearers() {
        let ask = |value: &str| bearer(&headers(&[("authorization", value)])).map(str::to_owned);
        assert_eq!(ask("Bearer x").as_deref(), Some("x"));
        assert_eq!(ask("bearer  x").as_deref(), Some("x"));
        assert_eq!(ask("Basic eDp5").as_deref(), Some(""));
        assert_eq!(ask("x").as_deref(), Some(""));
        assert_eq!(bearer(&headers(&[])), None);
        let twice = headers(&[("authorization", "Bearer x"), ("authorization", "Bearer y")]);
        assert_eq!(bearer(&twice), Some(""));
    }

    #[tokio::test]
    async fn a_busy_port_moves() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let first = bind_public(here, 0).await.unwrap().local_addr().unwrap().port();
        let held = bind_public(here, first).await.unwrap();
        assert_eq!(held.local_addr().unwrap().port(), first);
        assert!(bind_public(here, first).await.unwrap().local_addr().unwrap().port() > first);
    }
}
