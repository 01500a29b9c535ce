//! How clients find out where to log in, and the token endpoint.

use auth::{Opaque, Refusal, Scope, Secret};
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use control::app::AccessToken;
use serde::Deserialize;
use serde_json::{Value, json};

use super::table::{Routes, call};
use crate::local::Local;
use crate::public::{Base, FailedLogin, base_of};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const SUBJECT_TYPES: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];

pub(super) fn routes() -> Routes {
    // Clients look in either place.
    let documents = [
        ("oauth_authorization_server", "/oidc/.well-known/oauth-authorization-server"),
        ("openid_configuration", "/oidc/.well-known/openid-configuration"),
    ];
    let routes = Routes::new()
        .get(
            call("databricks_config", "/.well-known/databricks-config", "Where clients log in")
                .answers("DatabricksConfig"),
            databricks_config,
        )
        .get(call("jwks", "/oidc/jwks", "Public keys of signed tokens").answers("Jwks"), jwks)
        .post(
            call("token", "/oidc/v1/token", "An access token for a client secret or a foreign token")
                .form("TokenRequest")
                .answers("TokenResponse"),
            token,
        );
    documents.into_iter().fold(routes, |routes, (id, path)| {
        routes.get(call(id, path, "What the token endpoint can do").answers("AuthorizationServer"), discovery)
    })
}

/// The one call that the vendor's SDK makes before anything else.
async fn databricks_config(State(local): State<Local>, base: Option<Extension<Base>>) -> Json<Value> {
    let base = base_of(base, &local);
    // The workspace id is a string here: clients refuse a number.
    Json(json!({"oidc_endpoint": format!("{base}/oidc"), "workspace_id": local.control.workspace_id()}))
}

async fn discovery(State(local): State<Local>, base: Option<Extension<Base>>) -> Json<Value> {
    let oidc = format!("{}/oidc", base_of(base, &local));
    Json(json!({
        // What our tokens say in `iss`. It is no URL: a home may be reached at several.
        "issuer": local.control.issuer(),
        "authorization_endpoint": format!("{oidc}/v1/authorize"),
        "token_endpoint": format!("{oidc}/v1/token"),
        "jwks_uri": format!("{oidc}/jwks"),
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials", EXCHANGE],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "scopes_supported": Scope::ALL.map(Scope::as_str),
        "response_types_supported": ["code", "token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }))
}

async fn jwks(State(local): State<Local>) -> Json<Value> {
    Json(local.control.jwks())
}

/// Has no `Debug`: there are secrets in it.
#[derive(Deserialize)]
struct TokenForm {
    #[serde(default)]
    grant_type: String,
    scope: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    subject_token: Option<String>,
    subject_token_type: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    refresh_token: Option<String>,
}

/// Why the token endpoint says no, in the form of RFC 6749.
pub(super) struct OauthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    failed_login: bool,
}

impl OauthError {
    fn request(error: &'static str, description: impl Into<String>) -> OauthError {
        OauthError {
            status: StatusCode::BAD_REQUEST,
            error,
            description: description.into(),
            failed_login: false,
        }
    }

    /// The client did not prove who it is.
    fn client(description: impl Into<String>) -> OauthError {
        OauthError {
            status: StatusCode::UNAUTHORIZED,
            error: "invalid_client",
            description: description.into(),
            failed_login: true,
        }
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let body = json!({"error": self.error, "error_description": self.description});
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"anabranch\""));
        }
        if self.failed_login {
            response.extensions_mut().insert(FailedLogin);
        }
        response
    }
}

impl From<control::Error> for OauthError {
    fn from(error: control::Error) -> OauthError {
        tracing::error!(%error, "the token endpoint failed");
        OauthError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: "server_error",
            description: error.to_string(),
            failed_login: false,
        }
    }
}

async fn token(
    State(local): State<Local>,
    headers: HeaderMap,
    form: Result<Form<TokenForm>, FormRejection>,
) -> Result<Response, OauthError> {
    let Form(form) = form.map_err(|_| {
        OauthError::request("invalid_request", "the body must be a form (application/x-www-form-urlencoded)")
    })?;
    let scopes = scopes(form.scope.as_deref())?;
    match form.grant_type.as_str() {
        "client_credentials" => client_credentials(&local, &headers, form, scopes).await,
        EXCHANGE => exchange(&local, form, scopes).await,
        "authorization_code" => authorization_code(&local, form).await,
        "refresh_token" => refresh(&local, form).await,
        "" => Err(OauthError::request("invalid_request", "grant_type is missing")),
        other => Err(OauthError::request(
            "unsupported_grant_type",
            format!("grant_type '{other}' is not supported"),
        )),
    }
}

async fn client_credentials(
    local: &Local,
    headers: &HeaderMap,
    form: TokenForm,
    scopes: Vec<Scope>,
) -> Result<Response, OauthError> {
    let (id, secret) = match (basic(headers)?, form.client_id, form.client_secret) {
        // Some clients put their id into the form as well.
        (Some((id, secret)), other, None) if other.as_ref().is_none_or(|other| *other == id) => (id, secret),
        (Some(_), ..) => {
            return Err(OauthError::request("invalid_request", "the client must log in in one way only"));
        }
        (None, Some(id), Some(secret)) => (id, Secret::new(secret)),
        (None, ..) => return Err(OauthError::client("client id and secret are needed")),
    };
    let wrong = || OauthError::client("the client is unknown, or its secret is wrong, expired or revoked");
    if Opaque::of(secret.expose()) != Some(Opaque::ClientSecret) {
        return Err(wrong());
    }
    match local.control.client_credentials(&id, &secret, scopes.clone()).await? {
        Ok(token) => Ok(answer(&token, &scopes, None, None)),
        Err(refusal) => {
            tracing::warn!(reason = %refusal, "a client secret was refused");
            Err(wrong())
        }
    }
}

fn missing(name: &'static str) -> impl FnOnce() -> OauthError {
    move || OauthError::request("invalid_request", format!("{name} is missing"))
}

/// The code or token that was shown is good for nothing.
fn invalid_grant(refusal: &Refusal) -> OauthError {
    OauthError { failed_login: true, ..OauthError::request("invalid_grant", refusal.to_string()) }
}

/// What a program gets for the code of the page.
async fn authorization_code(local: &Local, form: TokenForm) -> Result<Response, OauthError> {
    let code = Secret::new(form.code.ok_or_else(missing("code"))?);
    let client = form.client_id.ok_or_else(missing("client_id"))?;
    let redirect = form.redirect_uri.ok_or_else(missing("redirect_uri"))?;
    let verifier = Secret::new(form.code_verifier.ok_or_else(missing("code_verifier"))?);
    match local.control.redeem_login(&code, &client, &redirect, &verifier).await? {
        Ok(login) => Ok(answer(&login.access, &login.scopes, None, Some(&login.refresh))),
        Err(refusal) => {
            tracing::warn!(reason = %refusal, "a login code was refused");
            Err(invalid_grant(&refusal))
        }
    }
}

async fn refresh(local: &Local, form: TokenForm) -> Result<Response, OauthError> {
    let token = Secret::new(form.refresh_token.ok_or_else(missing("refresh_token"))?);
    match local.control.renew_login(&token).await? {
        Ok((access, scopes)) => Ok(answer(&access, &scopes, None, Some(&token))),
        Err(refusal) => {
            tracing::warn!(reason = %refusal, "a refresh token was refused");
            Err(invalid_grant(&refusal))
        }
    }
}

async fn exchange(local: &Local, form: TokenForm, scopes: Vec<Scope>) -> Result<Response, OauthError> {
    let subject = form.subject_token.ok_or_else(missing("subject_token"))?;
    let kind = form.subject_token_type.ok_or_else(missing("subject_token_type"))?;
    if !SUBJECT_TYPES.contains(&kind.as_str()) {
        return Err(OauthError::request(
            "invalid_request",
            format!("subject_token_type '{kind}' is not supported"),
        ));
    }
    let client = form.client_id.filter(|id| !id.is_empty());
    match local.control.exchange_token(&subject, client.as_deref(), scopes.clone()).await? {
        Ok(token) => Ok(answer(&token, &scopes, Some(ACCESS_TOKEN_TYPE), None)),
        Err(refusal) => {
            tracing::warn!(reason = %refusal, "a foreign token was refused");
            let error = match refusal {
                Refusal::Malformed => "invalid_request",
                _ => "invalid_grant",
            };
            Err(OauthError { failed_login: true, ..OauthError::request(error, refusal.to_string()) })
        }
    }
}

fn answer(token: &AccessToken, scopes: &[Scope], issued: Option<&str>, refresh: Option<&Secret>) -> Response {
    let words: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let mut body = json!({
        "access_token": token.token.expose(),
        "token_type": "Bearer",
        "expires_in": auth::ACCESS_SECONDS,
        "scope": words.join(" "),
    });
    if let Some(issued) = issued {
        body["issued_token_type"] = json!(issued);
    }
    if let Some(refresh) = refresh {
        body["refresh_token"] = json!(refresh.expose());
    }
    ([(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
}

/// Id and secret of HTTP Basic. Ours consist of characters that need no further decoding.
fn basic(headers: &HeaderMap) -> Result<Option<(String, Secret)>, OauthError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let pair = value.to_str().ok().and_then(|text| {
        let (scheme, encoded) = text.split_once(' ')?;
        let bytes = BASE64.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
        let text = String::from_utf8(bytes).ok()?;
        let (id, secret) = text.split_once(':')?;
        Some((id.to_owned(), Secret::new(secret.to_owned())))
    });
    pair.map(Some).ok_or_else(|| OauthError::client("the Authorization header is not HTTP Basic"))
}

/// The scopes asked for. Words of others (`offline_access`) are passed over, but something that we
/// know must be among them.
pub(super) fn scopes(text: Option<&str>) -> Result<Vec<Scope>, OauthError> {
    let text = text.unwrap_or_default();
    let mut known: Vec<Scope> = text.split_whitespace().filter_map(Scope::parse).collect();
    if text.trim().is_empty() {
        return Ok(vec![Scope::All]);
    }
    if known.is_empty() {
        let words = Scope::ALL.map(Scope::as_str).join(", ");
        return Err(OauthError::request("invalid_scope", format!("scope must be one of {words}")));
    }
    known.sort();
    known.dedup();
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_narrowed_not_widened() {
        let ask = |text| scopes(text).ok();
        assert_eq!(ask(None), Some(vec![Scope::All]));
        assert_eq!(ask(Some(" ")), Some(vec![Scope::All]));
        assert_eq!(ask(Some("all-apis offline_access")), Some(vec![Scope::All]));
        assert_eq!(ask(Some("connect read connect")), Some(vec![Scope::Read, Scope::Connect]));
        assert_eq!(ask(Some("sql")), None);
    }

    #[test]
    fn basic_headers() {
        let ask = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", value.parse().unwrap());
            basic(&headers).ok().flatten().map(|(id, secret)| (id, secret.expose().to_owned()))
        };
        assert_eq!(ask("Basic YTpiOmM="), Some(("a".to_owned(), "b:c".to_owned())));
        assert_eq!(ask("basic YTpi"), Some(("a".to_owned(), "b".to_owned())));
        for wrong in ["Basic", "Basic !", "Basic YQ==", "Bearer YTpi", "Basic /w=="] {
            assert_eq!(ask(wrong), None, "{wrong}");
        }
        assert!(basic(&HeaderMap::new()).is_ok_and(|pair| pair.is_none()));
    }
}
