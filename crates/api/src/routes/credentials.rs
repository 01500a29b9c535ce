//! Database tokens.

use axum::body::Bytes;
use axum::extract::State;
use axum::{Extension, Json};
use control::app::Caller;
use serde::Deserialize;
use serde_json::{Value, json};

use super::PG;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::resources::time;
use crate::wire::{parse_body, parse_duration, parse_time};

pub(super) fn routes() -> Routes {
    Routes::new().post(
        call(
            "generate_database_credential",
            format!("{PG}/credentials"),
            "A token that an endpoint takes in place of a password",
        )
        .body("GenerateDatabaseCredentialRequest")
        .answers("DatabaseCredential"),
        generate,
    )
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    endpoint: String,
    ttl: Option<String>,
    expire_time: Option<String>,
    group_name: Option<String>,
    #[serde(default)]
    claims: Vec<Value>,
}

async fn generate(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: Body = parse_body(&body)?;
    if !body.claims.is_empty() {
        // A token that should be narrow and is not would be worse than none.
        return Err(ApiError::new(
            axum::http::StatusCode::NOT_IMPLEMENTED,
            "NOT_IMPLEMENTED",
            "narrowing a database token with 'claims' is not supported yet",
        ));
    }
    let ttl = body.ttl.map(|text| parse_duration("ttl", &text)).transpose()?;
    let expire_time = body.expire_time.map(|text| parse_time("expire_time", &text)).transpose()?;
    let group = body.group_name.filter(|name| !name.is_empty());
    let token = local.control.issue_for(caller, body.endpoint, ttl, expire_time, group).await?;
    Ok(Json(json!({"token": token.token, "expire_time": time(token.expire_time)})))
}
