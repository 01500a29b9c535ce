use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use control::app::{Caller, NewRole, RoleChange, RoleView};
use control::model::{Attributes, AuthMethod, IdentityType, Principal};
use serde::Deserialize;
use serde_json::{Value, json};

use super::table::{Routes, call};
use super::{OWN, PG};
use crate::error::ApiError;
use crate::local::Local;
use crate::page::{Paged, page};
use crate::resources::{self, SUPERUSER, parse_auth_method};
use crate::wire::{parse_body, parse_name};

pub(super) fn routes() -> Routes {
    let branch = "projects/{project}/branches/{branch}";
    let roles = format!("{PG}/{branch}/roles");
    let role = format!("{roles}/{{role}}");
    Routes::new()
        .get(call("list_roles", &roles, "Roles of a branch").paged().answers("ListRolesResponse"), list)
        .post(
            call("create_role", &roles, "Make a role; the branch is woken")
                .query("role_id", "string", "Identifier; made from the name where absent")
                .query("replace_existing", "boolean", "Change the role of that name, where there is one")
                .body("Role")
                .answers("Operation"),
            create,
        )
        .get(call("get_role", &role, "One role").answers("Role"), show)
        .patch(
            call("update_role", &role, "Change a role; the branch is woken")
                .masked()
                .body("Role")
                .answers("Operation"),
            update,
        )
        .delete(
            call("delete_role", &role, "Delete a role; the branch is woken")
                .query(
                    "reassign_owned_to",
                    "string",
                    "Resource name of the role that gets what it owns; absent: it must own nothing",
                )
                .answers("Operation"),
            delete,
        )
        .post(
            call(
                "reset_role_password",
                format!("{OWN}/{branch}/roles/{{role}}/reset-password"),
                "Give a plain role a new password, shown once",
            )
            .answers("RolePassword"),
            reset_password,
        )
}

#[derive(Deserialize)]
struct CreateQuery {
    role_id: Option<String>,
    #[serde(default)]
    replace_existing: bool,
}

#[derive(Deserialize)]
pub(crate) struct RoleBody {
    spec: Option<RoleSpec>,
}

#[derive(Default, Deserialize)]
pub(super) struct RoleSpec {
    pub postgres_role: Option<String>,
    identity_type: Option<String>,
    auth_method: Option<String>,
    membership_roles: Option<Vec<String>>,
    pub attributes: Option<AttributesSpec>,
}

#[derive(Clone, Copy, Default, Deserialize)]
pub(super) struct AttributesSpec {
    pub bypassrls: Option<bool>,
    pub createdb: Option<bool>,
    pub createrole: Option<bool>,
}

impl RoleSpec {
    pub fn identity_type(&self) -> Result<Option<IdentityType>, ApiError> {
        match self.identity_type.as_deref() {
            None | Some("" | "IDENTITY_TYPE_UNSPECIFIED") => Ok(None),
            Some(word) => IdentityType::parse(word).map(Some).ok_or_else(|| {
                ApiError::invalid(format!(
                    "Field 'spec.identity_type' must be USER, SERVICE_PRINCIPAL or GROUP, got '{word}'."
                ))
            }),
        }
    }

    pub fn auth_method(&self) -> Result<Option<AuthMethod>, ApiError> {
        match self.auth_method.as_deref() {
            None | Some("" | "AUTH_METHOD_UNSPECIFIED") => Ok(None),
            Some(word) => parse_auth_method(word).map(Some).ok_or_else(|| {
                ApiError::invalid(format!(
                    "Field 'spec.auth_method' must be LAKEBASE_OAUTH_V1, PG_PASSWORD_SCRAM_SHA_256 or NO_LOGIN, \
                     got '{word}'."
                ))
            }),
        }
    }

    /// Whether the role shall be a member of the group; none where the body does not say.
    pub fn superuser_member(&self) -> Result<Option<bool>, ApiError> {
        let Some(memberships) = &self.membership_roles else { return Ok(None) };
        match memberships.iter().find(|membership| *membership != SUPERUSER) {
            Some(other) => Err(ApiError::invalid(format!(
                "Field 'spec.membership_roles' can only hold {SUPERUSER}, got '{other}'."
            ))),
            None => Ok(Some(!memberships.is_empty())),
        }
    }
}

async fn create(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: RoleBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let (identity_type, auth_method) = (spec.identity_type()?, spec.auth_method()?);
    let superuser_member = spec.superuser_member()?.unwrap_or(false);
    let attributes = spec.attributes.unwrap_or_default();
    let id = query.role_id.filter(|id| !id.is_empty());
    let request = NewRole {
        project,
        branch,
        // Older clients name the role by its identifier alone.
        name: spec.postgres_role.filter(|name| !name.is_empty()).or_else(|| id.clone()).unwrap_or_default(),
        id,
        identity_type,
        auth_method,
        attributes: Attributes {
            bypassrls: attributes.bypassrls.unwrap_or(false),
            createdb: attributes.createdb.unwrap_or(false),
            createrole: attributes.createrole.unwrap_or(false),
        },
        superuser_member,
        replace_existing: query.replace_existing,
    };
    let operation = local.control.create_role(&caller, request).await?;
    super::operations::answer(&local, operation).await
}

async fn show(
    State(local): State<Local>,
    Path((project, branch, role)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::role(&local.control.role(project, branch, role).await?)))
}

async fn list(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
    Paged(query): Paged,
) -> Result<Json<Value>, ApiError> {
    let all = local.control.roles(project, branch).await?;
    let place = |view: &RoleView| (view.role.create_time, view.role.id.clone());
    Ok(Json(page("roles", all, &query, place, resources::role)?))
}

#[derive(Deserialize)]
struct UpdateQuery {
    #[serde(default)]
    update_mask: String,
}

async fn update(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, role)): Path<(String, String, String)>,
    Query(query): Query<UpdateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: RoleBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let current = local.control.role(project.clone(), branch.clone(), role.clone()).await?;
    let change = masked_change(&query.update_mask, &spec, &current)?;
    let operation = local.control.update_role(principal, project, branch, role, change).await?;
    super::operations::answer(&local, operation).await
}

/// Only what the mask names is changed; what it names and the body lacks is cleared.
fn masked_change(mask: &str, spec: &RoleSpec, current: &RoleView) -> Result<RoleChange, ApiError> {
    let mut change = RoleChange::default();
    let attributes = spec.attributes.unwrap_or_default();
    for path in mask.split(',').map(str::trim) {
        match path {
            "" | "*" | "spec" => {
                check_unchanged(spec, current)?;
                change.bypassrls = attributes.bypassrls.or(change.bypassrls);
                change.createdb = attributes.createdb.or(change.createdb);
                change.createrole = attributes.createrole.or(change.createrole);
                change.superuser_member = spec.superuser_member()?.or(change.superuser_member);
            }
            "spec.attributes" => {
                change.bypassrls = Some(attributes.bypassrls.unwrap_or(false));
                change.createdb = Some(attributes.createdb.unwrap_or(false));
                change.createrole = Some(attributes.createrole.unwrap_or(false));
            }
            "spec.attributes.bypassrls" => change.bypassrls = Some(attributes.bypassrls.unwrap_or(false)),
            "spec.attributes.createdb" => change.createdb = Some(attributes.createdb.unwrap_or(false)),
            "spec.attributes.createrole" => change.createrole = Some(attributes.createrole.unwrap_or(false)),
            "spec.membership_roles" => {
                change.superuser_member = Some(spec.superuser_member()?.unwrap_or(false));
            }
            _ => return Err(ApiError::invalid(format!("Unknown field path in update_mask: {path}"))),
        }
    }
    Ok(change)
}

fn check_unchanged(spec: &RoleSpec, current: &RoleView) -> Result<(), ApiError> {
    let role = &current.role;
    let name = spec.postgres_role.as_ref().is_some_and(|name| *name != role.name);
    let kind = spec.identity_type.is_some()
        && spec.identity_type()? != role.identity.as_ref().map(|identity| identity.kind);
    let method = spec.auth_method()?.is_some_and(|method| method != role.auth_method);
    let fields = [("postgres_role", name), ("identity_type", kind), ("auth_method", method)];
    match fields.iter().find(|(_, changed)| *changed) {
        Some((field, _)) => Err(ApiError::invalid(format!("Field 'spec.{field}' cannot be changed."))),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct DeleteQuery {
    reassign_owned_to: Option<String>,
}

async fn delete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, role)): Path<(String, String, String)>,
    Query(query): Query<DeleteQuery>,
) -> Result<Json<Value>, ApiError> {
    let prefix = format!("projects/{project}/branches/{branch}/roles/");
    let heir = query.reassign_owned_to.filter(|name| !name.is_empty());
    let heir = heir.map(|name| parse_name("reassign_owned_to", &prefix, &name)).transpose()?;
    let operation = local.control.delete_role(principal, project, branch, role, heir).await?;
    super::operations::answer(&local, operation).await
}

async fn reset_password(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, role)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let password = local.control.reset_role_password(principal, project, branch, role).await?;
    Ok(Json(json!({"password": password.expose()})))
}

#[cfg(test)]
mod tests {
    use control::model::Role;

    use super::*;

    fn spec(json: Value) -> RoleSpec {
        serde_json::from_value(json).unwrap()
    }

    fn current() -> RoleView {
        RoleView {
            role: Role {
                oid: 16_400,
                id: "app-role".into(),
                name: "app_role".into(),
                identity: None,
                auth_method: AuthMethod::Password,
                superuser_member: false,
                attributes: Attributes::default(),
                create_time: jiff::Timestamp::UNIX_EPOCH,
                update_time: jiff::Timestamp::UNIX_EPOCH,
            },
            project_id: "shop".into(),
            branch_id: "dev".into(),
        }
    }

    #[test]
    fn masks_choose_what_changes() {
        let full = spec(json!({
            "postgres_role": "app_role", "auth_method": "PG_PASSWORD_SCRAM_SHA_256",
            "membership_roles": ["DATABRICKS_SUPERUSER"],
            "attributes": {"createdb": true, "createrole": true},
        }));
        let change = |mask: &str, spec: &RoleSpec| masked_change(mask, spec, &current()).ok();
        let some = |bypassrls, createdb, createrole, superuser_member| {
            Some(RoleChange { bypassrls, createdb, createrole, superuser_member })
        };
        assert_eq!(change("spec.attributes.createdb", &full), some(None, Some(true), None, None));
        assert_eq!(
            change("spec.attributes", &full),
            some(Some(false), Some(true), Some(true), None),
            "what the object lacks is cleared"
        );
        assert_eq!(change("spec.membership_roles", &full), some(None, None, None, Some(true)));
        for all in ["", "*", "spec"] {
            assert_eq!(change(all, &full), some(None, Some(true), Some(true), Some(true)), "{all}");
        }
        let empty = spec(json!({}));
        assert_eq!(change("spec.membership_roles", &empty), some(None, None, None, Some(false)));
        assert_eq!(change("spec.attributes.createdb", &empty), some(None, Some(false), None, None));
        assert_eq!(change("spec", &empty), Some(RoleChange::default()));
        for unknown in
            ["spec.postgres_role", "spec.auth_method", "spec.identity_type", "s,p,e,c", "spec.attributes.x"]
        {
            let error = format!("{:?}", masked_change(unknown, &full, &current()).unwrap_err());
            assert!(error.contains("Unknown field path in update_mask"), "{unknown}: {error}");
        }
        for moved in [
            json!({"postgres_role": "other"}),
            json!({"identity_type": "USER"}),
            json!({"auth_method": "NO_LOGIN"}),
        ] {
            assert_eq!(change("spec", &spec(moved.clone())), None, "{moved}");
        }
    }

    #[test]
    fn words_of_the_contract() {
        assert_eq!(
            spec(json!({"identity_type": "GROUP"})).identity_type().ok(),
            Some(Some(IdentityType::Group))
        );
        assert!(spec(json!({"identity_type": "user"})).identity_type().is_err());
        assert!(spec(json!({"auth_method": "MD5"})).auth_method().is_err());
        assert!(spec(json!({"membership_roles": ["postgres"]})).superuser_member().is_err());
        assert_eq!(spec(json!({"membership_roles": []})).superuser_member().ok(), Some(Some(false)));
    }
}
