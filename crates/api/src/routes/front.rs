//! What clients of PostgreSQL need of the front door, and the way around it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use control::model::Principal;
use serde_json::{Value, json};

use super::OWN;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::{AtThisHost, Local};

pub(super) fn routes() -> Routes {
    let superuser_path = format!("{OWN}/projects/{{project}}/branches/{{branch}}/superuser");
    Routes::new()
        .get(
            call("authority", format!("{OWN}/ca"), "The certificate by which clients know the servers")
                .answers("Authority"),
            certificate,
        )
        .post(
            call(
                "superuser",
                superuser_path,
                "The superuser of a branch; for the owner on the daemon's host",
            )
            .answers("Superuser"),
            superuser,
        )
}

/// The certificate by which clients know the servers.
async fn certificate(State(local): State<Local>) -> Result<Json<Value>, ApiError> {
    match &local.front.authority {
        Some(authority) => Ok(Json(json!({"certificate": authority.certificate, "file": authority.file}))),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            "the servers show a certificate that was given with --tls-cert, and have no authority of their own",
        )),
    }
}

/// The superuser of a branch. Never over the network, whoever asks.
async fn superuser(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    here: Option<Extension<AtThisHost>>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    if here.is_none() {
        let text = "a superuser is only to be had on the daemon's own host";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", text));
    }
    let access = local.control.superuser(principal, project, branch).await?;
    Ok(Json(json!({
        "socket_dir": access.socket_dir,
        "role": access.role,
        "database": access.database,
        "password": access.password.expose(),
    })))
}
