//! Waking and suspending by hand: ours, the contract lacks it.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use control::app::EndpointId;
use control::model::Principal;
use serde_json::{Value, json};

use super::OWN;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;

pub(super) fn routes() -> Routes {
    let endpoint = format!("{OWN}/projects/{{project}}/branches/{{branch}}/endpoints/{{endpoint}}");
    Routes::new()
        .post(
            call(
                "suspend_endpoint",
                format!("{endpoint}/suspend"),
                "End an endpoint's compute now; the next connection wakes it",
            ),
            suspend,
        )
        .post(
            call(
                "wake_endpoint",
                format!("{endpoint}/wake"),
                "Start an endpoint's compute and wait until it answers",
            )
            .answers("Wake"),
            wake,
        )
}

type Names = Path<(String, String, String)>;

fn name(Path((project, branch, id)): Names) -> EndpointId {
    EndpointId { project, branch, id }
}

async fn suspend(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    names: Names,
) -> Result<Json<Value>, ApiError> {
    local.control.suspend_endpoint(principal, name(names)).await?;
    Ok(Json(json!({})))
}

async fn wake(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    names: Names,
) -> Result<Json<Value>, ApiError> {
    let wake = local.control.wake_endpoint(principal, name(names)).await?;
    Ok(Json(json!({"duration_ms": wake.took.as_secs_f64() * 1000.0})))
}
