//! Rights on projects: the vendor's permissions calls, and two of ours for a single principal.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use control::app::{Caller, Holder, Permission, PermissionChange as Change};
use control::identity::{IdentityKind, Level};
use serde::Deserialize;
use serde_json::{Value, json};

use super::OWN;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::resources::object;
use crate::wire::parse_body;

pub(super) fn routes() -> Routes {
    let project = "/api/2.0/permissions/database-projects/{project}";
    let single = format!("{OWN}/projects/{{project}}/permissions/{{principal}}");
    Routes::new()
        .get(call("get_permissions", project, "Who may do what with a project").answers("Permissions"), show)
        .put(
            call("set_permissions", project, "Replace all rights on a project but its owner's")
                .body("PermissionsRequest")
                .answers("Permissions"),
            replace,
        )
        .patch(
            call("update_permissions", project, "Add rights on a project, or change single ones")
                .body("PermissionsRequest")
                .answers("Permissions"),
            merge,
        )
        .get(
            call(
                "get_permission_levels",
                format!("{project}/permissionLevels"),
                "Rights that there are on a project",
            )
            .answers("PermissionLevels"),
            levels,
        )
        .put(
            call("grant_permission", &single, "Give a principal a right on a project")
                .body("GrantRequest")
                .answers("Permissions"),
            grant,
        )
        .delete(
            call("revoke_permission", &single, "Take a principal's right on a project")
                .answers("Permissions"),
            revoke,
        )
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    access_control_list: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    user_name: Option<String>,
    group_name: Option<String>,
    service_principal_name: Option<String>,
    #[serde(default)]
    permission_level: String,
}

impl Entry {
    fn parse(self) -> Result<(Holder, Level), ApiError> {
        let named = [
            (IdentityKind::User, self.user_name),
            (IdentityKind::Group, self.group_name),
            (IdentityKind::ServicePrincipal, self.service_principal_name),
        ];
        let mut holders = named.into_iter().filter_map(|(kind, name)| {
            Some(Holder { kind: Some(kind), name: name.filter(|name| !name.is_empty())? })
        });
        match (holders.next(), holders.next()) {
            (Some(holder), None) => Ok((holder, parse_level(&self.permission_level)?)),
            _ => Err(ApiError::invalid(
                "each entry must have one of 'user_name', 'group_name' and 'service_principal_name'",
            )),
        }
    }
}

fn parse_level(word: &str) -> Result<Level, ApiError> {
    Level::parse(word).ok_or_else(|| {
        ApiError::invalid(format!("Field 'permission_level' must be CAN_USE or CAN_MANAGE, got '{word}'."))
    })
}

async fn show(State(local): State<Local>, Path(project): Path<String>) -> Result<Json<Value>, ApiError> {
    let rights = local.control.permissions(project.clone()).await?;
    Ok(Json(json!({
        "object_id": format!("/database-projects/{project}"),
        "object_type": "database-projects",
        "access_control_list": rights.iter().map(entry).collect::<Vec<_>>(),
    })))
}

fn entry(right: &Permission) -> Value {
    let identity = &right.identity;
    let of = |kind| (identity.kind == kind).then(|| json!(identity.name));
    object([
        ("user_name", of(IdentityKind::User)),
        ("group_name", of(IdentityKind::Group)),
        ("service_principal_name", of(IdentityKind::ServicePrincipal)),
        ("display_name", Some(json!(identity.display_name))),
        ("all_permissions", Some(json!([{"inherited": false, "permission_level": right.level.as_str()}]))),
    ])
}

async fn replace(
    state: State<Local>,
    caller: Extension<Caller>,
    path: Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    change(state, caller, path, &body, Change::Replace).await
}

async fn merge(
    state: State<Local>,
    caller: Extension<Caller>,
    path: Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    change(state, caller, path, &body, Change::Merge).await
}

async fn change(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path(project): Path<String>,
    body: &Bytes,
    how: fn(Vec<(Holder, Level)>) -> Change,
) -> Result<Json<Value>, ApiError> {
    let body: Body = parse_body(body)?;
    let entries = body.access_control_list.into_iter().map(Entry::parse).collect::<Result<_, _>>()?;
    local.control.change_permissions(caller, project.clone(), how(entries)).await?;
    show(State(local), Path(project)).await
}

async fn levels() -> Json<Value> {
    Json(json!({"permission_levels": [
        {"permission_level": "CAN_USE",
         "description": "Can see the project, connect to it, and make roles and databases"},
        {"permission_level": "CAN_MANAGE",
         "description": "Can change and delete the project and what it holds, and say who may do what"},
    ]}))
}

#[derive(Deserialize)]
struct GrantBody {
    #[serde(default)]
    permission_level: String,
}

async fn grant(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((project, principal)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: GrantBody = parse_body(&body)?;
    let entry = (Holder { kind: None, name: principal }, parse_level(&body.permission_level)?);
    local.control.change_permissions(caller, project.clone(), Change::Merge(vec![entry])).await?;
    show(State(local), Path(project)).await
}

async fn revoke(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((project, principal)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let holder = Holder { kind: None, name: principal };
    local.control.change_permissions(caller, project.clone(), Change::Revoke(holder)).await?;
    show(State(local), Path(project)).await
}
