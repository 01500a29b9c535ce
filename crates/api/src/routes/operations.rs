use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use control::model::Operation;
use serde_json::Value;

use super::PG;
use crate::error::ApiError;
use crate::local::Local;
use crate::resources;

pub(super) fn routes() -> Router<Local> {
    let project = format!("{PG}/projects/{{project}}");
    let branch = format!("{project}/branches/{{branch}}");
    let endpoint = format!("{branch}/endpoints/{{endpoint}}");
    Router::new()
        .route(&format!("{project}/operations/{{operation}}"), get(of_project))
        .route(&format!("{branch}/operations/{{operation}}"), get(of_branch))
        .route(&format!("{endpoint}/operations/{{operation}}"), get(of_endpoint))
        .route(&format!("{branch}/roles/{{role}}/operations/{{operation}}"), get(of_role))
        .route(&format!("{branch}/databases/{{database}}/operations/{{operation}}"), get(of_database))
}

/// The answer to a call that began `operation`.
pub(super) async fn answer(local: &Local, operation: Operation) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::operation(&local.control.view_operation(operation).await?)))
}

async fn find(local: &Local, resource: String, operation: String) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::operation(&local.control.operation(resource, operation).await?)))
}

async fn of_project(
    State(local): State<Local>,
    Path((project, operation)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    find(&local, format!("projects/{project}"), operation).await
}

async fn of_branch(
    State(local): State<Local>,
    Path((project, branch, operation)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    find(&local, format!("projects/{project}/branches/{branch}"), operation).await
}

async fn of_endpoint(
    State(local): State<Local>,
    Path((project, branch, endpoint, operation)): Path<(String, String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    find(&local, format!("projects/{project}/branches/{branch}/endpoints/{endpoint}"), operation).await
}

async fn of_role(
    State(local): State<Local>,
    Path((project, branch, role, operation)): Path<(String, String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    find(&local, format!("projects/{project}/branches/{branch}/roles/{role}"), operation).await
}

async fn of_database(
    State(local): State<Local>,
    Path((project, branch, database, operation)): Path<(String, String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    find(&local, format!("projects/{project}/branches/{branch}/databases/{database}"), operation).await
}
