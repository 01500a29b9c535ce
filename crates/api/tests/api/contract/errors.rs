//! The texts that clients know.

use super::{FOREVER, refused};
use crate::world::World;
use serde_json::json;

/// Method, path, body, status, code, text.
type Row = (&'static str, &'static str, &'static str, u16, &'static str, &'static str);

const READ_WRITE: &str = r#"{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_WRITE"}}"#;
const READ_ONLY: &str = r#"{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_ONLY"}}"#;

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("POST", "/projects", "{}", 400, "INVALID_PARAMETER_VALUE", "Field 'project_id' is required, expected non-default value (not \"\")!"),
    ("POST", "/projects/shop/branches", FOREVER, 400, "INVALID_PARAMETER_VALUE", "Field 'branch_id' is required, expected non-default value (not \"\")!"),
    ("POST", "/projects/shop/branches/production/endpoints", READ_WRITE, 400, "INVALID_PARAMETER_VALUE", "Field 'endpoint_id' is required, expected non-default value (not \"\")!"),
    ("POST", "/projects?project_id=Bad_ID", "{}", 400, "INVALID_PARAMETER_VALUE", "Field project_id must match pattern ^[a-z][a-z0-9-]{0,62}$, got 'Bad_ID'."),
    ("POST", "/projects/shop/branches?branch_id=1x", FOREVER, 400, "INVALID_PARAMETER_VALUE", "Field branch_id must match pattern"),
    ("POST", "/projects/shop/branches/production/endpoints?endpoint_id=-", READ_WRITE, 400, "INVALID_PARAMETER_VALUE", "Field endpoint_id must match pattern"),
    ("POST", "/projects?project_id=shop", "{}", 409, "ALREADY_EXISTS", "project with such id already exists in the workspace"),
    ("POST", "/projects/shop/branches?branch_id=production", FOREVER, 409, "ALREADY_EXISTS", "branch with such id already exists"),
    ("POST", "/projects/shop/branches/production/endpoints?endpoint_id=primary", READ_WRITE, 409, "ALREADY_EXISTS", "endpoint with such id already exists"),
    ("GET", "/projects/none", "", 404, "NOT_FOUND", "project id not found [TraceId: "),
    ("GET", "/projects/none/branches/none/endpoints/none", "", 404, "NOT_FOUND", "project id not found [TraceId: "),
    ("GET", "/projects/shop/branches/none", "", 404, "NOT_FOUND", "branch id not found [TraceId: "),
    ("GET", "/projects/shop/branches/br-1234", "", 404, "NOT_FOUND", "branch id not found [TraceId: "),
    ("GET", "/projects/shop/branches/none/endpoints/none", "", 404, "NOT_FOUND", "branch id not found [TraceId: "),
    ("GET", "/projects/shop/branches/production/endpoints/none", "", 404, "NOT_FOUND", "endpoint id not found [TraceId: "),
    ("DELETE", "/projects/none", "", 404, "NOT_FOUND", "project id not found"),
    ("DELETE", "/projects/shop/branches/none", "", 404, "NOT_FOUND", "branch id not found"),
    ("DELETE", "/projects/shop/branches/production/endpoints/none", "", 404, "NOT_FOUND", "endpoint id not found"),
    ("PATCH", "/projects/shop/branches/none?update_mask=spec", "{}", 404, "NOT_FOUND", "branch id not found"),
    ("POST", "/projects/none/undelete", "{}", 404, "NOT_FOUND", "project id not found"),
    ("POST", "/projects/none/branches?branch_id=x", FOREVER, 404, "NOT_FOUND", "project id not found"),
    ("POST", "/projects/shop/branches/none/endpoints?endpoint_id=x", READ_WRITE, 404, "NOT_FOUND", "branch id not found"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/none"}}"#, 404, "NOT_FOUND", "branch id not found"),
    ("GET", "/projects/shop/operations/none", "", 404, "NOT_FOUND", "operation id not found [TraceId: "),
    ("GET", "/projects/shop/branches/production/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/projects/shop/branches/production/endpoints/primary/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/projects/shop/branches/production/roles/r@x.org/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/projects/shop/branches/production/databases/d/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/projects/shop/snapshots/s/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/catalogs/c/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/synced_tables/a.b.c/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/operations/none", "", 404, "NOT_FOUND", "operation id not found"),
    ("GET", "/1234", "", 404, "NOT_FOUND", "resource not found"),
    ("GET", "/projects/shop/branches/production/nothing", "", 404, "NOT_FOUND", "resource not found"),
    ("DELETE", "/projects/shop/branches/production", "", 400, "BAD_REQUEST", "Cannot delete root branch 'projects/shop/branches/production'. Root branches cannot be deleted independently."),
    ("DELETE", "/projects/shop/branches/production/endpoints/primary", "", 400, "BAD_REQUEST", "Cannot delete read-write endpoint 'projects/shop/branches/production/endpoints/primary'. Read-write endpoints cannot be deleted."),
    ("POST", "/projects?project_id=x", "{", 400, "INVALID_PARAMETER_VALUE", "the request body is not valid"),
    ("POST", "/projects?project_id=x", r#"{"spec":{"display_name":1}}"#, 400, "INVALID_PARAMETER_VALUE", "the request body is not valid"),
    ("POST", "/projects?project_id=x", r#"{"spec":{"pg_version":9}}"#, 400, "INVALID_PARAMETER_VALUE", "pg_version"),
    ("POST", "/projects?project_id=x", r#"{"spec":{"history_retention_duration":"1s"}}"#, 400, "INVALID_PARAMETER_VALUE", "history_retention_duration"),
    ("POST", "/projects?project_id=x", r#"{"spec":{"default_branch":"projects/x/branches/dev"}}"#, 400, "INVALID_PARAMETER_VALUE", "default_branch"),
    ("POST", "/projects?project_id=x", r#"{"spec":{"default_endpoint_settings":{"pg_settings":{"fsync":"off"}}}}"#, 400, "INVALID_PARAMETER_VALUE", "\"fsync\" is decided by the service"),
    ("POST", "/projects?project_id=x", r#"{"initial_endpoint_spec":{"autoscaling_limit_min_cu":0.1}}"#, 400, "INVALID_PARAMETER_VALUE", "autoscaling limits"),
    ("POST", "/projects/shop/branches?branch_id=x", "{}", 400, "INVALID_PARAMETER_VALUE", "one of 'spec.ttl', 'spec.expire_time' and 'spec.no_expiry' must be set"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"ttl":"60s","no_expiry":true}}"#, 400, "INVALID_PARAMETER_VALUE", "only one of"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":false}}"#, 400, "INVALID_PARAMETER_VALUE", "can only be true"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"ttl":"9223372036854775807s"}}"#, 400, "INVALID_PARAMETER_VALUE", "expiration time exceeds the maximum expiration time"),
    ("POST", "/projects/shop/branches?branch_id=x&replace_existing=perhaps", FOREVER, 400, "INVALID_PARAMETER_VALUE", "replace_existing"),
    ("PATCH", "/projects/shop?update_mask=s,p,e,c", "{}", 400, "INVALID_PARAMETER_VALUE", "Unknown field path in update_mask: 's'"),
    ("POST", "/projects?project_id=x", r#"{"initial_database_spec":{"postgres_database":"postgres"}}"#, 400, "INVALID_PARAMETER_VALUE", "initial_database_spec.postgres_database"),
    ("POST", "/projects?project_id=x", r#"{"initial_role_spec":{"postgres_role":"pg_monitor"}}"#, 400, "INVALID_PARAMETER_VALUE", "initial_role_spec.postgres_role"),
    ("POST", "/projects/shop/branches/production/endpoints?endpoint_id=ro", READ_ONLY, 501, "NOT_IMPLEMENTED", "read-only endpoints"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":true,"source_branch_time":"2001-01-01T00:00:00Z"}}"#, 501, "NOT_IMPLEMENTED", "past"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":true,"source_branch_lsn":"0/1"}}"#, 501, "NOT_IMPLEMENTED", "past"),
    ("POST", "/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":true,"source_snapshot":"projects/shop/snapshots/s"}}"#, 501, "NOT_IMPLEMENTED", "snapshot"),
    ("POST", "/catalogs?catalog_id=c", "{}", 501, "NOT_IMPLEMENTED", "catalogs are not supported"),
    ("GET", "/catalogs/c", "", 501, "NOT_IMPLEMENTED", "catalogs"),
    ("POST", "/synced_tables?synced_table_id=a.b.c", "{}", 501, "NOT_IMPLEMENTED", "synced tables"),
    ("DELETE", "/synced_tables/a.b.c", "", 501, "NOT_IMPLEMENTED", "synced tables"),
    ("POST", "/tables", "{}", 501, "NOT_IMPLEMENTED", "tables"),
    ("GET", "/tables/a.b.c", "", 501, "NOT_IMPLEMENTED", "tables"),
    ("POST", "/projects/shop/branches/production/databases/d/data-api", "{}", 501, "NOT_IMPLEMENTED", "data APIs"),
    ("GET", "/projects/shop/branches/production/databases/d/cdf-configs", "", 501, "NOT_IMPLEMENTED", "change feeds"),
    ("GET", "/projects/shop/branches/production/databases/d/cdf-configs/c/cdf-statuses/t", "", 501, "NOT_IMPLEMENTED", "change feeds"),
    ("GET", "/projects/shop/snapshots", "", 501, "NOT_IMPLEMENTED", "snapshots"),
    ("DELETE", "/projects/shop/snapshots/s", "", 501, "NOT_IMPLEMENTED", "snapshots"),
    ("PATCH", "/projects/shop/branches/production/snapshot-schedule", "{}", 501, "NOT_IMPLEMENTED", "snapshot schedules"),
    ("GET", "/projects/shop/branches/production/forward-etl", "", 501, "NOT_IMPLEMENTED", "forward ETLs"),
    ("DELETE", "/projects/shop/branches/production/forward-etl/configuration", "", 501, "NOT_IMPLEMENTED", "forward ETLs"),
    ("POST", "/projects/shop/preview/replication-groups/g/switchover", "{}", 501, "NOT_IMPLEMENTED", "replication groups"),
    ("POST", "/projects/shop/preview/recovery-branches/r/inspect", "{}", 501, "NOT_IMPLEMENTED", "recovery branches"),
];

pub async fn are_the_contracts(world: &World) {
    for (method, path, body, status, code, text) in ROWS {
        eprintln!("{method} {path}");
        refused(&world.call(method, path, body, "").await, *status, code, text);
    }
    let projects = world.get("/projects").await.body;
    assert_eq!(
        projects["projects"].as_array().unwrap().len(),
        1,
        "a refused call left something: {projects}"
    );
    let branches = world.get("/projects/shop/branches").await.body;
    assert_eq!(
        branches["branches"].as_array().unwrap().len(),
        1,
        "a refused call left something: {branches}"
    );
    let missing = world.get("/projects/none").await.body;
    let trace = missing["details"][0]["request_id"].as_str().unwrap();
    assert_eq!(missing["message"], json!(format!("project id not found [TraceId: {trace}]")));
}
