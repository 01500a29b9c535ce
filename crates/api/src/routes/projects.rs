use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use control::app::{Caller, Change, FirstRole, NewProject, UpdateProject};
use control::model::{PRODUCTION, Principal, ProjectOptions, Tag};
use serde::Deserialize;
use serde_json::Value;

use super::PG;
use super::roles::RoleSpec;
use super::specs::{ComputeSpec, GroupSpec, reset_compute};
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::mask::Mask;
use crate::page::{Paged, page};
use crate::resources;
use crate::wire::{parse_body, parse_duration, parse_name};

pub(super) fn routes() -> Routes {
    let projects = format!("{PG}/projects");
    let project = format!("{projects}/{{project}}");
    Routes::new()
        .get(
            call("list_projects", &projects, "Projects, oldest first")
                .paged()
                .query("show_deleted", "boolean", "Also deleted ones whose data is still there")
                .answers("ListProjectsResponse"),
            list,
        )
        .post(
            call(
                "create_project",
                &projects,
                "Make a project with a branch, an endpoint, a role and a database",
            )
            .query("project_id", "string", "Identifier: a lowercase letter, then letters, digits, hyphens")
            .body("Project")
            .answers("Operation"),
            create,
        )
        .get(call("get_project", &project, "One project").answers("Project"), show)
        .patch(
            call("update_project", &project, "Change a project")
                .masked()
                .body("Project")
                .answers("Operation"),
            update,
        )
        .delete(
            call("delete_project", &project, "Delete a project with all its branches")
                .query("purge", "boolean", "Free the data at once; it cannot come back")
                .answers("Operation"),
            delete,
        )
        .post(
            call("undelete_project", format!("{project}/undelete"), "Take the deletion of a project back")
                .body("Empty")
                .answers("Operation"),
            undelete,
        )
}

#[derive(Deserialize)]
struct CreateQuery {
    #[serde(default)]
    project_id: String,
}

#[derive(Deserialize)]
pub(crate) struct ProjectBody {
    spec: Option<ProjectSpec>,
    initial_branch_spec: Option<InitialBranch>,
    initial_endpoint_spec: Option<InitialEndpoint>,
    initial_database_spec: Option<InitialDatabase>,
    initial_role_spec: Option<RoleSpec>,
}

#[derive(Default, Deserialize)]
struct ProjectSpec {
    display_name: Option<String>,
    pg_version: Option<u32>,
    history_retention_duration: Option<String>,
    default_endpoint_settings: Option<EndpointSettings>,
    default_branch: Option<String>,
    custom_tags: Option<Vec<Tag>>,
    enable_pg_native_login: Option<bool>,
    budget_policy_id: Option<String>,
    compute_provisioner: Option<String>,
}

/// What new endpoints begin with.
#[derive(Default, Deserialize)]
struct EndpointSettings {
    #[serde(flatten)]
    compute: ComputeSpec,
    pg_settings: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct InitialBranch {
    is_protected: Option<bool>,
}

#[derive(Default, Deserialize)]
struct InitialEndpoint {
    #[serde(flatten)]
    compute: ComputeSpec,
    group: Option<GroupSpec>,
}

#[derive(Deserialize)]
struct InitialDatabase {
    postgres_database: Option<String>,
}

async fn create(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: ProjectBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    if let Some(name) = &spec.default_branch
        && *name != format!("projects/{}/branches/{PRODUCTION}", query.project_id)
    {
        return Err(ApiError::invalid(format!(
            "Field 'spec.default_branch': a new project has only the branch {PRODUCTION}, got '{name}'."
        )));
    }
    let history = history(&spec)?;
    let defaults = spec.default_endpoint_settings.unwrap_or_default();
    let first = body.initial_endpoint_spec.unwrap_or_default();
    let group = first.group.unwrap_or_default();
    group.check()?;
    let request = NewProject {
        id: query.project_id,
        display_name: spec.display_name,
        pg_version: spec.pg_version,
        history_seconds: history,
        compute: defaults.compute.wanted(defaults.pg_settings)?,
        options: ProjectOptions {
            native_login: spec.enable_pg_native_login.unwrap_or(false),
            custom_tags: spec.custom_tags.unwrap_or_default(),
            budget_policy_id: spec.budget_policy_id,
            compute_provisioner: spec.compute_provisioner,
        },
        protect_root: body.initial_branch_spec.and_then(|branch| branch.is_protected).unwrap_or(false),
        first_endpoint: first.compute.wanted(None)?,
        readable_secondaries: group.enable_readable_secondaries.unwrap_or(false),
        first_role: body.initial_role_spec.map(first_role).transpose()?,
        first_database: body.initial_database_spec.and_then(|database| database.postgres_database),
    };
    let operation = local.control.create_project(principal, request).await?;
    super::operations::answer(&local, operation).await
}

/// What is said of the first role.
fn first_role(spec: RoleSpec) -> Result<FirstRole, ApiError> {
    let attributes = spec.attributes.unwrap_or_default();
    Ok(FirstRole {
        identity_type: spec.identity_type()?,
        auth_method: spec.auth_method()?,
        superuser_member: spec.superuser_member()?,
        name: spec.postgres_role.filter(|name| !name.is_empty()),
        bypassrls: attributes.bypassrls,
        createdb: attributes.createdb,
        createrole: attributes.createrole,
    })
}

fn history(spec: &ProjectSpec) -> Result<Option<f64>, ApiError> {
    let parse = |text| parse_duration("history_retention_duration", text);
    Ok(spec.history_retention_duration.as_deref().map(parse).transpose()?.map(|time| time.as_secs_f64()))
}

async fn show(State(local): State<Local>, Path(project): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::project(&local.control.project(project).await?)))
}

async fn list(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Paged(query): Paged,
) -> Result<Json<Value>, ApiError> {
    let mut all = local.control.projects(query.show_deleted).await?;
    all.retain(|view| local.control.may_see(&caller, &view.project.uid, &view.project.owner));
    let place = |view: &control::app::ProjectView| (view.project.create_time, view.project.uid.clone());
    Ok(Json(page("projects", all, &query, place, resources::project)?))
}

#[derive(Deserialize)]
struct UpdateQuery {
    #[serde(default)]
    update_mask: String,
}

async fn update(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path(project): Path<String>,
    Query(query): Query<UpdateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: ProjectBody = parse_body(&body)?;
    let update = masked_update(&project, &query.update_mask, body.spec.unwrap_or_default())?;
    let operation = local.control.update_project(principal, project, update).await?;
    super::operations::answer(&local, operation).await
}

const DEFAULTS: &str = "spec.default_endpoint_settings";

/// The pair of suspension fields goes by two names: the documented one, and the one that its place
/// suggests.
const SUSPENSION: &[&str] =
    &["spec.project_default_settings.suspension", "spec.default_endpoint_settings.suspension"];

const MASK: &[&str] = &[
    "spec.display_name",
    "spec.default_branch",
    "spec.history_retention_duration",
    "spec.custom_tags",
    "spec.enable_pg_native_login",
    "spec.budget_policy_id",
    "spec.compute_provisioner",
    "spec.project_default_settings.suspension",
    "spec.default_endpoint_settings",
    "spec.default_endpoint_settings.suspension",
    "spec.default_endpoint_settings.suspend_timeout_duration",
    "spec.default_endpoint_settings.no_suspension",
    "spec.default_endpoint_settings.autoscaling_limit_min_cu",
    "spec.default_endpoint_settings.autoscaling_limit_max_cu",
    "spec.default_endpoint_settings.pg_settings",
];

const MASK_FIXED: &[&str] = &["spec.pg_version"];

/// What a project begins with cannot change any more; clients that send everything name it anyway.
const MASK_PAST: &[&str] =
    &["initial_branch_spec", "initial_endpoint_spec", "initial_database_spec", "initial_role_spec"];

fn masked_update(project: &str, mask: &str, spec: ProjectSpec) -> Result<UpdateProject, ApiError> {
    let known: Vec<&str> = MASK.iter().chain(MASK_PAST).copied().collect();
    let mask = Mask::parse(mask, &known, MASK_FIXED)?;
    let defaults = match spec.default_endpoint_settings.as_ref() {
        None if mask.names(DEFAULTS) => reset_compute(),
        given => {
            let none = EndpointSettings::default();
            let given = given.unwrap_or(&none);
            let path = format!("{DEFAULTS}.pg_settings");
            let pg_settings = mask.pick(&[&path], given.pg_settings.clone());
            given.compute.masked(&mask, DEFAULTS, SUSPENSION, pg_settings)?
        }
    };
    let history = history(&spec)?;
    let prefix = format!("projects/{project}/branches/");
    let default_branch = match mask.pick(&["spec.default_branch"], spec.default_branch) {
        Change::Set(name) => Change::Set(parse_name("spec.default_branch", &prefix, &name)?),
        Change::Keep => Change::Keep,
        Change::Reset => Change::Reset,
    };
    // Clients that cannot tell an empty list from none send it along with `*`.
    let tags = spec.custom_tags.filter(|tags| !(tags.is_empty() && mask.names("*")));
    let update = UpdateProject {
        display_name: mask.pick(&["spec.display_name"], spec.display_name),
        default_branch,
        history_seconds: mask.pick(&["spec.history_retention_duration"], history),
        compute: defaults,
        native_login: mask.pick(&["spec.enable_pg_native_login"], spec.enable_pg_native_login),
        custom_tags: mask.pick(&["spec.custom_tags"], tags),
        budget_policy_id: mask.pick(&["spec.budget_policy_id"], spec.budget_policy_id),
        compute_provisioner: mask.pick(&["spec.compute_provisioner"], spec.compute_provisioner),
        pg_version: spec.pg_version.filter(|_| mask.reaches("spec.pg_version")),
    };
    Ok(update)
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

async fn undelete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path(project): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let operation = local.control.undelete_project(principal, project).await?;
    super::operations::answer(&local, operation).await
}

#[cfg(test)]
mod tests;
