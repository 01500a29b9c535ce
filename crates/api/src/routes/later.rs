//! Parts of the contract that this version does not have. They say so, in the contract's form.

use axum::Router;
use axum::routing::any;

use super::PG;
use crate::error::ApiError;
use crate::local::Local;

/// Names of the parts, and their paths below the contract's base.
const GROUPS: &[(&str, &[&str])] = &[
    ("catalogs", &["catalogs", "catalogs/{catalog}"]),
    ("synced tables", &["synced_tables", "synced_tables/{synced_table}"]),
    ("tables", &["tables", "tables/{table}"]),
    ("data APIs", &["projects/{project}/branches/{branch}/databases/{database}/data-api"]),
    (
        "change feeds",
        &[
            "projects/{project}/branches/{branch}/databases/{database}/cdf-configs",
            "projects/{project}/branches/{branch}/databases/{database}/cdf-configs/{config}",
            "projects/{project}/branches/{branch}/databases/{database}/cdf-configs/{config}/cdf-statuses",
            "projects/{project}/branches/{branch}/databases/{database}/cdf-configs/{config}/cdf-statuses/{table}",
        ],
    ),
    ("snapshots", &["projects/{project}/snapshots", "projects/{project}/snapshots/{snapshot}"]),
    ("snapshot schedules", &["projects/{project}/branches/{branch}/snapshot-schedule"]),
    (
        "forward ETLs",
        &[
            "projects/{project}/branches/{branch}/forward-etl",
            "projects/{project}/branches/{branch}/forward-etl/metadata",
            "projects/{project}/branches/{branch}/forward-etl/configuration",
        ],
    ),
    (
        "replication groups",
        &[
            "projects/{project}/preview/replication-groups",
            "projects/{project}/preview/replication-groups/{group}",
            "projects/{project}/preview/replication-groups/{group}/failover",
            "projects/{project}/preview/replication-groups/{group}/switchover",
        ],
    ),
    (
        "recovery branches",
        &[
            "projects/{project}/preview/recovery-branches",
            "projects/{project}/preview/recovery-branches/{recovery_branch}",
            "projects/{project}/preview/recovery-branches/{recovery_branch}/inspect",
        ],
    ),
];

/// The paths as the router has them, each with the name of its part.
pub(super) fn paths() -> impl Iterator<Item = (&'static str, String)> {
    let pairs = GROUPS.iter().flat_map(|(group, paths)| paths.iter().map(move |path| (*group, path)));
    pairs.map(|(group, path)| (group, format!("{PG}/{path}")))
}

pub(super) fn routes() -> Router<Local> {
    paths().fold(Router::new(), |router, (group, path)| {
        router.route(&path, any(async move || ApiError::not_implemented(group)))
    })
}
