//! Backups of the whole home, into a directory of the daemon's host.

use std::path::PathBuf;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use control::model::Principal;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::OWN;
use super::own::Lines;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::{AtThisHost, Local};
use crate::wire::parse_body;

pub(super) fn routes() -> Routes {
    Routes::new().post(
        call("backup", format!("{OWN}/backup"), "Back up the whole home; for the owner on the daemon's host")
            .body("BackupRequest")
            .answers("BackupLine")
            .media("application/x-ndjson"),
        backup,
    )
}

#[derive(Deserialize)]
struct BackupBody {
    dir: PathBuf,
}

/// Answers with one JSON object a line: `{"done", "total"}` while it goes on, then `{"backup": …}` or
/// `{"error": …}`.
async fn backup(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    here: Option<Extension<AtThisHost>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    if here.is_none() {
        let text = "a backup is only to be made on the daemon's own host";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", text));
    }
    let body: BackupBody = parse_body(&body)?;
    if !body.dir.is_absolute() {
        return Err(ApiError::invalid("Field 'dir' must be an absolute path."));
    }
    // What cannot begin is an ordinary error; only then the answer turns into a stream.
    let begun = local.control.begin_backup(principal, body.dir).await?;
    let (lines, reader) = mpsc::channel(16);
    let progress = lines.clone();
    tokio::spawn(async move {
        // A reader that is slow misses steps, and one that is gone does not stop the backup.
        let report = move |done: u64, total: u64| {
            let _ = progress.try_send(json!({"done": done, "total": total}));
        };
        let last = match local.control.make_backup(begun, report).await {
            Ok(report) => json!({"backup": report}),
            Err(error) => json!({"error": error.to_string()}),
        };
        let _ = lines.send(last).await;
    });
    Ok(([("content-type", "application/x-ndjson")], Body::new(Lines { reader })).into_response())
}
