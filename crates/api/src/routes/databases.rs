use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use control::app::{Caller, DatabaseView, NewDatabase, UpdateDatabase};
use control::model::Principal;
use serde::Deserialize;
use serde_json::Value;

use super::PG;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::page::{Paged, page};
use crate::resources;
use crate::wire::{parse_body, parse_name};

pub(super) fn routes() -> Routes {
    let databases = format!("{PG}/projects/{{project}}/branches/{{branch}}/databases");
    let database = format!("{databases}/{{database}}");
    Routes::new()
        .get(
            call("list_databases", &databases, "Databases of a branch")
                .paged()
                .answers("ListDatabasesResponse"),
            list,
        )
        .post(
            call("create_database", &databases, "Make a database; the branch is woken")
                .query("database_id", "string", "Identifier; made from the name where absent")
                .query("replace_existing", "boolean", "Change the database of that name, where there is one")
                .body("Database")
                .answers("Operation"),
            create,
        )
        .get(call("get_database", &database, "One database").answers("Database"), show)
        .patch(
            call("update_database", &database, "Rename a database or hand it to another role")
                .masked()
                .body("Database")
                .answers("Operation"),
            update,
        )
        .delete(
            call("delete_database", &database, "Delete a database; sessions in it end").answers("Operation"),
            delete,
        )
}

#[derive(Deserialize)]
struct CreateQuery {
    database_id: Option<String>,
    #[serde(default)]
    replace_existing: bool,
}

#[derive(Deserialize)]
pub(crate) struct DatabaseBody {
    spec: Option<DatabaseSpec>,
}

#[derive(Default, Deserialize)]
struct DatabaseSpec {
    postgres_database: Option<String>,
    role: Option<String>,
}

/// A field that must be given, in the contract's words where it is not.
fn required(field: &str, value: Option<&String>) -> Result<String, ApiError> {
    value.filter(|value| !value.is_empty()).cloned().ok_or_else(|| {
        ApiError::invalid(format!(
            "Field 'database.spec.{field}' is required, expected non-default value (not \"\")!"
        ))
    })
}

impl DatabaseSpec {
    /// Identifier of the owner, a role of the same branch.
    fn owner(&self, project: &str, branch: &str) -> Result<String, ApiError> {
        let name = required("role", self.role.as_ref())?;
        parse_name("database.spec.role", &format!("projects/{project}/branches/{branch}/roles/"), &name)
    }
}

async fn create(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: DatabaseBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    // The parent comes first: without it no other field matters.
    local.control.branch(project.clone(), branch.clone()).await?;
    let owner = spec.owner(&project, &branch)?;
    let request = NewDatabase {
        name: required("postgres_database", spec.postgres_database.as_ref())?,
        owner,
        project,
        branch,
        id: query.database_id.filter(|id| !id.is_empty()),
        replace_existing: query.replace_existing,
    };
    let operation = local.control.create_database(&caller, request).await?;
    super::operations::answer(&local, operation).await
}

async fn show(
    State(local): State<Local>,
    Path((project, branch, database)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::database(&local.control.database(project, branch, database).await?)))
}

async fn list(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
    Paged(query): Paged,
) -> Result<Json<Value>, ApiError> {
    let all = local.control.databases(project, branch).await?;
    let place = |view: &DatabaseView| (view.database.create_time, view.database.id.clone());
    Ok(Json(page("databases", all, &query, place, resources::database)?))
}

#[derive(Deserialize)]
struct UpdateQuery {
    #[serde(default)]
    update_mask: String,
}

async fn update(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, database)): Path<(String, String, String)>,
    Query(query): Query<UpdateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: DatabaseBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let update = masked_update(&query.update_mask, &spec, &project, &branch)?;
    let operation = local.control.update_database(principal, project, branch, database, update).await?;
    super::operations::answer(&local, operation).await
}

/// Only what the mask names is changed. Nothing of a database can be cleared.
fn masked_update(
    mask: &str,
    spec: &DatabaseSpec,
    project: &str,
    branch: &str,
) -> Result<UpdateDatabase, ApiError> {
    let mut update = UpdateDatabase::default();
    for path in mask.split(',').map(str::trim) {
        match path {
            "" | "*" | "spec" => {
                if spec.postgres_database.is_some() {
                    update.name = Some(required("postgres_database", spec.postgres_database.as_ref())?);
                }
                if spec.role.is_some() {
                    update.owner = Some(spec.owner(project, branch)?);
                }
            }
            "spec.postgres_database" => {
                update.name = Some(required("postgres_database", spec.postgres_database.as_ref())?);
            }
            "spec.role" => update.owner = Some(spec.owner(project, branch)?),
            _ => return Err(ApiError::invalid(format!("Unknown field path in update_mask: {path}"))),
        }
    }
    Ok(update)
}

async fn delete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, database)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let operation = local.control.delete_database(principal, project, branch, database).await?;
    super::operations::answer(&local, operation).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_choose_what_changes() {
        let full = DatabaseSpec {
            postgres_database: Some("new".into()),
            role: Some("projects/p/branches/b/roles/app-role".into()),
        };
        let update = |mask: &str, spec: &DatabaseSpec| {
            masked_update(mask, spec, "p", "b").map(|update| (update.name, update.owner)).ok()
        };
        let (name, owner) = (Some("new".to_owned()), Some("app-role".to_owned()));
        assert_eq!(update("spec.postgres_database", &full), Some((name.clone(), None)));
        assert_eq!(update("spec.role", &full), Some((None, owner.clone())));
        for all in ["", "*", "spec", "spec.role,spec.postgres_database"] {
            assert_eq!(update(all, &full), Some((name.clone(), owner.clone())), "{all}");
        }
        let empty = DatabaseSpec::default();
        assert_eq!(update("spec", &empty), Some((None, None)));
        for wrong in ["spec.role", "spec.postgres_database", "spec.owner", "s,p"] {
            assert_eq!(update(wrong, &empty), None, "{wrong}");
        }
        let elsewhere = DatabaseSpec { role: Some("projects/p/branches/c/roles/r".into()), ..empty };
        assert_eq!(update("spec.role", &elsewhere), None);
    }
}
