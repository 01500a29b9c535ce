use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Extension, Json, Router};
use control::app::{Caller, NewProject, UpdateCompute};
use control::model::Principal;
use serde::Deserialize;
use serde_json::Value;

use super::PG;
use crate::error::ApiError;
use crate::local::Local;
use crate::page::{PageQuery, page};
use crate::resources;
use crate::wire::{parse_body, parse_duration};

pub(super) fn routes() -> Router<Local> {
    Router::new()
        .route(&format!("{PG}/projects"), get(list).post(create))
        .route(&format!("{PG}/projects/{{project}}"), get(show).delete(delete))
}

#[derive(Deserialize)]
struct CreateQuery {
    #[serde(default)]
    project_id: String,
}

#[derive(Deserialize)]
struct ProjectBody {
    spec: Option<ProjectSpec>,
    initial_branch_spec: Option<InitialBranch>,
}

#[derive(Default, Deserialize)]
struct ProjectSpec {
    display_name: Option<String>,
    pg_version: Option<u32>,
    history_retention_duration: Option<String>,
    default_endpoint_settings: Option<ComputeSpec>,
}

#[derive(Deserialize)]
struct InitialBranch {
    is_protected: Option<bool>,
}

/// Compute settings as they stand in several specs.
#[derive(Default, Deserialize)]
pub(super) struct ComputeSpec {
    autoscaling_limit_min_cu: Option<f64>,
    autoscaling_limit_max_cu: Option<f64>,
    suspend_timeout_duration: Option<String>,
    no_suspension: Option<bool>,
}

impl ComputeSpec {
    pub fn parse(self) -> Result<UpdateCompute, ApiError> {
        let suspend_seconds = match (self.suspend_timeout_duration, self.no_suspension) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(
                    "only one of 'suspend_timeout_duration' and 'no_suspension' can be set",
                ));
            }
            (Some(text), None) => {
                Some(Some(parse_duration("suspend_timeout_duration", &text)?.as_secs_f64()))
            }
            (None, Some(true)) => Some(None),
            (None, Some(false)) => return Err(ApiError::invalid("Field 'no_suspension' can only be true.")),
            (None, None) => None,
        };
        Ok(UpdateCompute {
            min_cu: self.autoscaling_limit_min_cu,
            max_cu: self.autoscaling_limit_max_cu,
            suspend_seconds,
        })
    }
}

async fn create(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: ProjectBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let history = spec
        .history_retention_duration
        .map(|text| parse_duration("history_retention_duration", &text))
        .transpose()?;
    let request = NewProject {
        id: query.project_id,
        display_name: spec.display_name,
        pg_version: spec.pg_version,
        history_seconds: history.map(|duration| duration.as_secs_f64()),
        compute: spec.default_endpoint_settings.unwrap_or_default().parse()?,
        protect_root: body.initial_branch_spec.and_then(|branch| branch.is_protected).unwrap_or(false),
    };
    let operation = local.control.create_project(principal, request).await?;
    super::operations::answer(&local, operation).await
}

async fn show(State(local): State<Local>, Path(project): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::project(&local.control.project(project).await?)))
}

async fn list(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Value>, ApiError> {
    let mut all = local.control.projects(query.show_deleted).await?;
    all.retain(|view| local.control.may_see(&caller, &view.project.uid, &view.project.owner));
    let place = |view: &control::app::ProjectView| (view.project.create_time, view.project.uid.clone());
    Ok(Json(page("projects", all, &query, place, resources::project)?))
}

#[derive(Deserialize)]
struct DeleteQuery {
    #[serde(default)]
    purge: bool,
}

async fn delete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path(project): Path<String>,
    Query(query): Query<DeleteQuery>,
) -> Result<Json<Value>, ApiError> {
    let operation = local.control.delete_project(principal, project, query.purge).await?;
    super::operations::answer(&local, operation).await
}
