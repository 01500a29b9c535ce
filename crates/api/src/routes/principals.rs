//! Principals, tokens, foreign issuers and signing keys: our own calls, the vendor has these elsewhere.

use auth::Scope;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use control::app::{
    Caller, FederationView, Life, NewFederation, NewPrincipal, NewToken, PrincipalView, TokenView,
};
use control::identity::{IdentityKind, TokenKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::OWN;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::resources::{object, time};
use crate::wire::{parse_body, parse_duration};

pub(super) fn routes() -> Routes {
    let principals = format!("{OWN}/principals");
    let member = format!("{OWN}/groups/{{group}}/members/{{principal}}");
    Routes::new()
        .get(
            call("list_principals", &principals, "All principals, oldest first").answers("PrincipalList"),
            list,
        )
        .post(
            call("create_principal", &principals, "Make a principal")
                .body("NewPrincipal")
                .answers("Principal"),
            create,
        )
        .delete(
            call(
                "delete_principal",
                format!("{principals}/{{principal}}"),
                "Delete a principal with its tokens and rights",
            )
            .query(
                "reassign_to",
                "string",
                "Principal that gets its projects; absent: it must own none",
            ),
            remove,
        )
        .put(call("join_group", &member, "Make a principal a member of a group"), join)
        .delete(call("leave_group", &member, "End a membership of a group"), leave)
        .merge(token_routes())
        .merge(federation_routes())
        .post(
            call(
                "rotate_signing_key",
                format!("{OWN}/signing-keys/rotate"),
                "Sign new tokens with a new key; those signed before stay good",
            )
            .answers("SigningKey"),
            rotate,
        )
}

fn token_routes() -> Routes {
    let tokens = format!("{OWN}/tokens");
    Routes::new()
        .get(
            call("list_tokens", &tokens, "Personal tokens and client secrets, without their text")
                .query("all", "boolean", "Everybody's, for the owner of the home")
                .answers("TokenList"),
            list_tokens,
        )
        .post(
            call("create_token", &tokens, "Make a personal token or client secret, shown once")
                .body("NewToken")
                .answers("Token"),
            create_token,
        )
        .delete(
            call("revoke_token", format!("{tokens}/{{token}}"), "End a token, by its id, at once"),
            revoke_token,
        )
}

fn federation_routes() -> Routes {
    let federations = format!("{OWN}/federations");
    Routes::new()
        .get(
            call("list_federations", &federations, "Issuers whose tokens are taken")
                .answers("FederationList"),
            list_federations,
        )
        .post(
            call("create_federation", &federations, "Take an issuer's tokens for a principal")
                .body("NewFederation")
                .answers("Federation"),
            create_federation,
        )
        .delete(
            call(
                "delete_federation",
                format!("{federations}/{{federation}}"),
                "Take tokens of an issuer no longer",
            ),
            remove_federation,
        )
}

#[derive(Deserialize)]
struct PrincipalBody {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
    display_name: Option<String>,
}

async fn create(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: PrincipalBody = parse_body(&body)?;
    let kind = IdentityKind::parse(&body.kind).ok_or_else(|| {
        ApiError::invalid(format!(
            "Field 'kind' must be user, service_principal or group, got '{}'.",
            body.kind
        ))
    })?;
    let new = NewPrincipal { kind, name: body.name, display_name: body.display_name };
    Ok(Json(principal(&local.control.create_principal(caller, new).await?)))
}

async fn list(State(local): State<Local>) -> Json<Value> {
    let all: Vec<Value> = local.control.principals().iter().map(principal).collect();
    Json(json!({"principals": all}))
}

#[derive(Deserialize)]
struct RemoveQuery {
    reassign_to: Option<String>,
}

async fn remove(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<Json<Value>, ApiError> {
    local.control.delete_principal(caller, name, query.reassign_to).await?;
    Ok(Json(json!({})))
}

async fn join(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((group, member)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    local.control.set_member(caller, group, member, true).await?;
    Ok(Json(json!({})))
}

async fn leave(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((group, member)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    local.control.set_member(caller, group, member, false).await?;
    Ok(Json(json!({})))
}

fn principal(view: &PrincipalView) -> Value {
    let identity = &view.identity;
    json!({
        "name": identity.name,
        "kind": identity.kind.as_str(),
        "display_name": identity.display_name,
        "is_owner": identity.is_owner,
        "groups": view.groups,
        "create_time": time(identity.create_time),
    })
}

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default = "personal")]
    kind: String,
    #[serde(default)]
    name: String,
    principal: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    projects: Option<Vec<String>>,
    ttl: Option<String>,
    no_expiry: Option<bool>,
}

fn personal() -> String {
    TokenKind::Personal.as_str().to_owned()
}

async fn create_token(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: TokenBody = parse_body(&body)?;
    let kind = TokenKind::parse(&body.kind)
        .ok_or_else(|| ApiError::invalid("Field 'kind' must be personal or client_secret."))?;
    let scope = |word: &String| {
        Scope::parse(word).ok_or_else(|| {
            let known = Scope::ALL.map(Scope::as_str).join(", ");
            ApiError::invalid(format!("Field 'scopes' may hold {known}, got '{word}'."))
        })
    };
    let scopes = body.scopes.iter().map(scope).collect::<Result<_, _>>()?;
    let life = match (body.ttl, body.no_expiry.unwrap_or(false)) {
        (Some(_), true) => return Err(ApiError::invalid("only one of 'ttl' and 'no_expiry' can be set")),
        (Some(ttl), false) => Life::For(parse_duration("ttl", &ttl)?),
        (None, true) => Life::UntilRevoked,
        (None, false) => Life::Usual,
    };
    let new =
        NewToken { kind, name: body.name, principal: body.principal, scopes, projects: body.projects, life };
    let made = local.control.create_token(caller, new).await?;
    let mut shown = token(&local, &made.view).await?;
    shown["token"] = json!(made.secret.expose());
    Ok(Json(shown))
}

#[derive(Deserialize)]
struct TokensQuery {
    #[serde(default)]
    all: bool,
}

async fn list_tokens(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<TokensQuery>,
) -> Result<Json<Value>, ApiError> {
    let mut shown = Vec::new();
    for view in local.control.tokens(&caller, query.all)? {
        shown.push(token(&local, &view).await?);
    }
    Ok(Json(json!({"tokens": shown})))
}

async fn revoke_token(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    local.control.revoke_token(caller, id).await?;
    Ok(Json(json!({})))
}

async fn token(local: &Local, view: &TokenView) -> Result<Value, ApiError> {
    let token = &view.token;
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let projects = match token.projects.clone() {
        Some(uids) => Some(local.control.project_ids(uids).await?),
        None => None,
    };
    Ok(object([
        ("id", Some(json!(token.id))),
        ("kind", Some(json!(token.kind.as_str()))),
        ("name", Some(json!(token.name))),
        ("principal", Some(json!(view.principal.name))),
        ("scopes", Some(json!(scopes))),
        ("projects", projects.map(Value::from)),
        ("create_time", Some(time(token.create_time))),
        ("expire_time", token.expire_time.map(time)),
    ]))
}

#[derive(Deserialize)]
struct FederationBody {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    audience: String,
    #[serde(default)]
    algorithms: Vec<String>,
    jwks_uri: Option<String>,
    #[serde(default)]
    conditions: Vec<String>,
    #[serde(default)]
    principal: String,
}

async fn create_federation(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: FederationBody = parse_body(&body)?;
    let new = NewFederation {
        issuer: body.issuer,
        audience: body.audience,
        algorithms: body.algorithms,
        jwks_uri: body.jwks_uri,
        conditions: body.conditions,
        principal: body.principal,
    };
    Ok(Json(federation(&local.control.create_federation(caller, new).await?)))
}

async fn list_federations(State(local): State<Local>) -> Json<Value> {
    let all: Vec<Value> = local.control.federations().iter().map(federation).collect();
    Json(json!({"federations": all}))
}

async fn remove_federation(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    local.control.delete_federation(caller, id).await?;
    Ok(Json(json!({})))
}

fn federation(view: &FederationView) -> Value {
    let row = &view.federation;
    let conditions: Vec<String> =
        row.conditions.iter().map(|condition| format!("{}={}", condition.claim, condition.value)).collect();
    object([
        ("id", Some(json!(row.id))),
        ("issuer", Some(json!(row.issuer))),
        ("audience", Some(json!(row.audience))),
        ("algorithms", Some(row.algorithms.iter().map(|alg| alg.as_str()).collect())),
        ("jwks_uri", row.jwks_uri.clone().map(Value::from)),
        ("conditions", Some(json!(conditions))),
        ("principal", Some(json!(view.principal.name))),
        ("create_time", Some(time(row.create_time))),
    ])
}

async fn rotate(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"kid": local.control.rotate_signing_key(caller).await?})))
}
