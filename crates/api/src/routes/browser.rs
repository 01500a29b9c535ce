//! The page on which a person lets a program on the same computer log in (`databricks auth login`).

use auth::{Digest, Secret};
use axum::Form;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use control::app::LoginRequest;
use serde::Deserialize;

use super::oidc;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::public::FailedLogin;

const PATH: &str = "/oidc/v1/authorize";

/// The page has one form, which goes back here, and the answer to that leads to the program.
const POLICY: &str = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; \
                      form-action 'self' http://localhost:* http://127.0.0.1:* http://[::1]:*";

pub(super) fn routes() -> Routes {
    Routes::new()
        .get(
            call("authorize", PATH, "A page on which a person lets a program log in")
                .query("response_type", "string", "Only code")
                .query("client_id", "string", "What the program calls itself")
                .query("redirect_uri", "string", "Where it waits, on this computer: http://localhost:PORT")
                .query("code_challenge", "string", "SHA-256 of its secret, base64url (RFC 7636)")
                .query("code_challenge_method", "string", "Only S256")
                .query("scope", "string", "Words of `scopes_supported`, joined by blanks")
                .query("state", "string", "Given back as it is")
                .answers("Page")
                .media("text/html"),
            show,
        )
        .post(
            call("grant_authorization", PATH, "What that page sends; leads to the program with a code")
                .form("AuthorizeForm")
                .answers("Page")
                .media("text/html"),
            grant,
        )
}

/// What a program asks for, as it stands in the address.
#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    response_type: String,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    redirect_uri: String,
    #[serde(default)]
    code_challenge: String,
    #[serde(default)]
    code_challenge_method: String,
    scope: Option<String>,
    #[serde(default)]
    state: String,
}

/// The same with the person's token. Has no `Debug`.
#[derive(Deserialize)]
struct Consent {
    #[serde(flatten)]
    wish: Wish,
    #[serde(default)]
    token: String,
}

impl Wish {
    fn request(&self) -> Result<LoginRequest, ApiError> {
        let wrong = |field: &str, what: &str| Err(ApiError::invalid(format!("Field '{field}' {what}.")));
        if self.response_type != "code" {
            return wrong("response_type", "must be code");
        }
        if self.client_id.is_empty()
            || self.client_id.len() > 64
            || self.client_id.chars().any(char::is_control)
        {
            return wrong("client_id", "must have 1 to 64 bytes");
        }
        if !is_on_this_computer(&self.redirect_uri) {
            return wrong("redirect_uri", "must be of this computer: http://localhost:PORT");
        }
        let challenge = match self.code_challenge_method.as_str() {
            "S256" => digest(&self.code_challenge),
            _ => None,
        };
        let Some(challenge) = challenge else {
            return wrong("code_challenge", "must be a SHA-256 as base64url, of method S256");
        };
        let Ok(scopes) = oidc::scopes(self.scope.as_deref()) else {
            return wrong("scope", "has no word that is known here");
        };
        Ok(LoginRequest {
            client: self.client_id.clone(),
            redirect: self.redirect_uri.clone(),
            challenge,
            scopes,
        })
    }
}

/// Only programs that the person runs can listen there.
fn is_on_this_computer(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("http://") else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "80"),
    };
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
        && port.parse::<u16>().is_ok()
        && path.bytes().all(plain)
}

fn digest(text: &str) -> Option<Digest> {
    let bytes = BASE64URL.decode(text).ok()?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::parse(&hex)
}

async fn show(query: Result<Query<Wish>, QueryRejection>) -> Result<Response, ApiError> {
    let Query(wish) = query.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    wish.request()?;
    Ok(page(&wish, None))
}

async fn grant(
    State(local): State<Local>,
    form: Result<Form<Consent>, FormRejection>,
) -> Result<Response, ApiError> {
    let Form(consent) = form.map_err(|_| ApiError::invalid("the body must be the form of the page"))?;
    let wish = consent.wish;
    let request = wish.request()?;
    let token = Secret::new(consent.token.trim().to_owned());
    match local.control.grant_login(&token, request).await? {
        Ok(code) => {
            let mut address = format!("{}?code={}", wish.redirect_uri, code.expose());
            if !wish.state.is_empty() {
                address += &format!("&state={}", encode(&wish.state));
            }
            let address = HeaderValue::try_from(address)
                .map_err(|_| ApiError::invalid("Field 'redirect_uri' cannot be used."))?;
            Ok((StatusCode::SEE_OTHER, [(header::LOCATION, address)]).into_response())
        }
        Err(refusal) => {
            tracing::warn!(reason = %refusal, "a token was refused");
            let mut response = page(&wish, Some(&refusal.to_string()));
            response.extensions_mut().insert(FailedLogin);
            Ok(response)
        }
    }
}

fn page(wish: &Wish, complaint: Option<&str>) -> Response {
    let complaint = complaint.map(|text| format!("<p><b>Not accepted: {}.</b></p>\n", escape(text)));
    let fields = [
        ("response_type", wish.response_type.as_str()),
        ("client_id", wish.client_id.as_str()),
        ("redirect_uri", wish.redirect_uri.as_str()),
        ("code_challenge", wish.code_challenge.as_str()),
        ("code_challenge_method", wish.code_challenge_method.as_str()),
        ("scope", wish.scope.as_deref().unwrap_or_default()),
        ("state", wish.state.as_str()),
    ];
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">\n", escape(value)))
        .collect();
    let body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Log in to Anabranch</title>\n\
         <h1>Log in</h1>\n\
         <p>The program <b>{client}</b> on this computer wants to act in your name. If you did not start it, \
         close this page.</p>\n\
         {complaint}\
         <form method=\"post\" action=\"{PATH}\">\n{fields}\
         <label>Personal token <input type=\"password\" name=\"token\" autocomplete=\"off\" required \
         autofocus></label>\n<button>Log in</button>\n</form>\n\
         <p><code>ana token create --name browser</code> makes one.</p>\n</html>\n",
        client = escape(&wish.client_id),
        complaint = complaint.unwrap_or_default(),
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Without one the browser would not say that its form comes from here.
        (header::REFERRER_POLICY, "same-origin"),
    ];
    (headers, body).into_response()
}

/// Text as it may stand in a page.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            c => safe.push(c),
        }
    }
    safe
}

/// Text as it may stand in a query.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_to_this_computer_only() {
        for good in
            ["http://localhost:8020", "http://localhost:8020/", "http://127.0.0.1:1/a/b", "http://[::1]:80"]
        {
            assert!(is_on_this_computer(good), "{good}");
        }
        for wrong in [
            "",
            "https://localhost:1",
            "http://localhost.evil.example:1",
            "http://localhost:1@evil.example",
            "http://localhost@evil.example/",
            "http://evil.example/localhost",
            "http://localhost:x",
            "http://localhost:1/?a=b",
            "http://localhost:1/\r\nx: y",
            "http://localhost:1#x",
        ] {
            assert!(!is_on_this_computer(wrong), "{wrong}");
        }
    }

    #[test]
    fn challenges_are_digests() {
        // The example of RFC 7636.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(digest("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), Some(Digest::of(verifier)));
        for wrong in ["", "E9Melhoa", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM", "?"] {
            assert_eq!(digest(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_a_program_says_stays_text() {
        assert_eq!(escape("<a b=\"c\">&'"), "&lt;a b=&quot;c&quot;&gt;&amp;&#39;");
        assert_eq!(encode("a b&c=ä"), "a%20b%26c%3D%C3%A4");
    }
}
