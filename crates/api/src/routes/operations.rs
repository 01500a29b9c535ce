use axum::extract::{Path, State};
use axum::{Json, Router};
use control::model::Operation;
use serde_json::Value;

use super::PG;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::resources;

/// What has operations, by its path below the contract's base.
const HOLDERS: &[(&str, &str)] = &[
    ("get_project_operation", "projects/{project}"),
    ("get_branch_operation", "projects/{project}/branches/{branch}"),
    ("get_endpoint_operation", "projects/{project}/branches/{branch}/endpoints/{endpoint}"),
    ("get_role_operation", "projects/{project}/branches/{branch}/roles/{role}"),
    ("get_database_operation", "projects/{project}/branches/{branch}/databases/{database}"),
];

/// Where clients may look for operations that are not there.
const EMPTY_HOLDERS: &[&str] = &[
    "operations/{operation}",
    "projects/{project}/snapshots/{snapshot}/operations/{operation}",
    "catalogs/{catalog}/operations/{operation}",
    "synced_tables/{synced_table}/operations/{operation}",
];

pub(super) fn routes() -> Routes {
    let empty = EMPTY_HOLDERS
        .iter()
        .fold(Router::new(), |router, path| router.route(&format!("{PG}/{path}"), axum::routing::get(show)));
    HOLDERS.iter().fold(Routes::new().undocumented(empty), |routes, (id, holder)| {
        let path = format!("{PG}/{holder}/operations/{{operation}}");
        routes.get(call(id, path, "How a change stands").answers("Operation"), show)
    })
}

/// The answer to a call that began `operation`.
pub(super) async fn answer(local: &Local, operation: Operation) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::operation(&local.control.view_operation(operation).await?)))
}

async fn show(
    State(local): State<Local>,
    Path(segments): Path<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let (resource, operation) = split(&segments);
    Ok(Json(resources::operation(&local.control.operation(resource, operation).await?)))
}

/// Resource name and operation that the parameters of a path stand for.
fn split(segments: &[(String, String)]) -> (String, String) {
    let Some(((_, operation), holders)) = segments.split_last() else { return Default::default() };
    let plural = |noun: &str| match noun {
        "branch" => "branches".to_owned(),
        other => format!("{other}s"),
    };
    let names: Vec<String> = holders.iter().map(|(noun, id)| format!("{}/{id}", plural(noun))).collect();
    (names.join("/"), operation.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_together_again() {
        let pair = |noun: &str, id: &str| (noun.to_owned(), id.to_owned());
        let (resource, operation) =
            split(&[pair("project", "p"), pair("branch", "b"), pair("role", "r@x"), pair("operation", "o")]);
        assert_eq!((resource.as_str(), operation.as_str()), ("projects/p/branches/b/roles/r@x", "o"));
        assert_eq!(split(&[pair("synced_table", "a.b.c"), pair("operation", "o")]).0, "synced_tables/a.b.c");
        assert_eq!(split(&[pair("operation", "o")]), (String::new(), "o".to_owned()));
    }
}
