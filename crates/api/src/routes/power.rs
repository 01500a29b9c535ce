//! Waking and suspending by hand: ours, the contract lacks it.

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Extension, Json, Router};
use control::app::EndpointName;
use control::model::Principal;
use serde_json::{Value, json};

use super::OWN;
use crate::error::ApiError;
use crate::local::Local;

pub(super) fn routes() -> Router<Local> {
    let endpoint = format!("{OWN}/projects/{{project}}/branches/{{branch}}/endpoints/{{endpoint}}");
    Router::new()
        .route(&format!("{endpoint}/suspend"), post(suspend))
        .route(&format!("{endpoint}/wake"), post(wake))
}

type Names = Path<(String, String, String)>;

fn name(Path((project, branch, id)): Names) -> EndpointName {
    EndpointName { project, branch, id }
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
