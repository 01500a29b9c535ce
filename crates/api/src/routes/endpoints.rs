use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Extension, Json, Router};
use control::app::{EndpointView, WriteEndpoint};
use control::model::Principal;
use serde::Deserialize;
use serde_json::Value;

use super::PG;
use super::projects::ComputeSpec;
use crate::error::ApiError;
use crate::local::Local;
use crate::page::{PageQuery, page};
use crate::resources;
use crate::wire::parse_body;

pub(super) fn routes() -> Router<Local> {
    let endpoints = format!("{PG}/projects/{{project}}/branches/{{branch}}/endpoints");
    Router::new()
        .route(&endpoints, get(list).post(create))
        .route(&format!("{endpoints}/{{endpoint}}"), get(show).delete(delete))
}

#[derive(Deserialize)]
struct CreateQuery {
    #[serde(default)]
    endpoint_id: String,
    #[serde(default)]
    replace_existing: bool,
}

#[derive(Deserialize)]
struct EndpointBody {
    spec: Option<EndpointSpec>,
}

#[derive(Default, Deserialize)]
struct EndpointSpec {
    endpoint_type: Option<String>,
    #[serde(flatten)]
    compute: ComputeSpec,
}

async fn create(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: EndpointBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let read_write = match spec.endpoint_type.as_deref() {
        Some("ENDPOINT_TYPE_READ_WRITE") => true,
        Some("ENDPOINT_TYPE_READ_ONLY") => false,
        other => {
            return Err(ApiError::invalid(format!(
                "Field 'spec.endpoint_type' must be ENDPOINT_TYPE_READ_WRITE or ENDPOINT_TYPE_READ_ONLY, got '{}'.",
                other.unwrap_or("")
            )));
        }
    };
    let request = WriteEndpoint {
        project,
        branch,
        id: query.endpoint_id,
        read_write,
        compute: spec.compute.parse()?,
        replace_existing: query.replace_existing,
    };
    let operation = local.control.create_endpoint(principal, request).await?;
    super::operations::answer(&local, operation).await
}

async fn show(
    State(local): State<Local>,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::endpoint(&local.control.endpoint(project, branch, endpoint).await?)))
}

async fn list(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Value>, ApiError> {
    let all = local.control.endpoints(project, branch).await?;
    let place = |view: &EndpointView| (view.endpoint.create_time, view.endpoint.uid.clone());
    Ok(Json(page("endpoints", all, &query, place, resources::endpoint)?))
}

async fn delete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let operation = local.control.delete_endpoint(principal, project, branch, endpoint).await?;
    super::operations::answer(&local, operation).await
}
