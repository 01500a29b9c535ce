//! Verifying all data of the home.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use control::app::{Grade, ScrubFinding, ScrubNews};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::OWN;
use super::own::Lines;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::resources::object;

/// Progress is told each time so many bytes more were verified.
const STEP: u64 = 8 << 20;

pub(super) fn routes() -> Routes {
    Routes::new().post(
        call("scrub", format!("{OWN}/scrub"), "Verify all data of the home, while it is in use")
            .answers("ScrubLine")
            .media("application/x-ndjson"),
        scrub,
    )
}

/// Answers with one JSON object a line: `{"done", "total"}` and `{"found": …}` while it goes on, then
/// `{"finished": true, …}` or `{"error": …}`. Ends when the caller goes away.
async fn scrub(State(local): State<Local>) -> Result<Response, ApiError> {
    let turn = local.control.scrub_turn()?;
    let (lines, reader) = mpsc::channel(16);
    let news = lines.clone();
    tokio::spawn(async move {
        let mut told = 0;
        let listener = move |event| match event {
            ScrubNews::Progress { done, .. } if done < told + STEP => !news.is_closed(),
            ScrubNews::Progress { done, total } => {
                told = done;
                // A reader that is slow misses steps.
                let sent = news.try_send(json!({"done": done, "total": total}));
                !matches!(sent, Err(TrySendError::Closed(_)))
            }
            ScrubNews::Found(finding, branches) => {
                news.blocking_send(json!({"found": found(finding, branches)})).is_ok()
            }
        };
        let last = match local.control.scrub(turn, listener).await {
            Ok(totals) => json!({
                "finished": true,
                "branches": totals.branches,
                "layers": totals.layers,
                "sealed": totals.sealed,
                "bytes": totals.bytes,
            }),
            Err(error) => json!({"error": error.to_string()}),
        };
        let _ = lines.send(last).await;
    });
    Ok(([("content-type", "application/x-ndjson")], Body::new(Lines { reader })).into_response())
}

fn found(finding: ScrubFinding, branches: Vec<String>) -> Value {
    let grade = match finding.grade {
        Grade::Damage => "damage",
        Grade::Leftover => "leftover",
    };
    object([
        ("grade", Some(json!(grade))),
        ("layer", finding.layer.map(Value::from)),
        ("path", Some(json!(finding.path.to_string_lossy()))),
        ("file", finding.file.map(Value::from)),
        ("block", finding.block.map(Value::from)),
        ("what", Some(json!(finding.what))),
        ("branches", Some(json!(branches))),
    ])
}
