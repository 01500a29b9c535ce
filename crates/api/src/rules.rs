//! Which right each route needs. Everything that is not in this table is closed to all but the
//! owner; a test walks the router and fails on a route without a line here.

use axum::http::Method;
use control::app::Action;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing: whoever reaches the listener may call it.
    Open,
    /// A right that concerns no single project, or one that the handler finds out and checks itself.
    Of(Action),
    /// A right on the project in the path.
    OnProject(Action),
    /// Being the one who began the operation in the path, or seeing its project.
    OnOperation,
}

use Action::{Administer, ChangeSelf, Connect, CreateProject, Know, Manage, Observe, Use, View};
use Rule::{Of, OnOperation, OnProject, Open};

macro_rules! pg {
    ($path:literal) => {
        concat!("/api/2.0/postgres", $path)
    };
}

macro_rules! own {
    ($path:literal) => {
        concat!("/api/anabranch/v1", $path)
    };
}

macro_rules! branch {
    ($path:literal) => {
        concat!("/api/2.0/postgres/projects/{project}/branches/{branch}", $path)
    };
}

const PERMISSIONS: &str = "/api/2.0/permissions/database-projects/{project}";

/// Method (`*` for any), template as the router has it, rule.
const TABLE: &[(&str, &str, Rule)] = &[
    ("GET", "/health", Open),
    ("GET", "/version", Open),
    ("GET", "/metrics", Of(Observe)),
    ("GET", "/.well-known/databricks-config", Open),
    ("GET", "/oidc/.well-known/oauth-authorization-server", Open),
    ("GET", "/oidc/.well-known/openid-configuration", Open),
    ("GET", "/oidc/jwks", Open),
    ("GET", "/oidc/v1/authorize", Open),
    ("POST", "/oidc/v1/authorize", Open),
    ("POST", "/oidc/v1/token", Open),
    ("GET", "/api/2.0/preview/scim/v2/Me", Of(Know)),
    ("POST", "/telemetry-ext", Of(Know)),
    ("GET", PERMISSIONS, OnProject(View)),
    ("PUT", PERMISSIONS, OnProject(Manage)),
    ("PATCH", PERMISSIONS, OnProject(Manage)),
    ("GET", "/api/2.0/permissions/database-projects/{project}/permissionLevels", OnProject(View)),
    ("GET", pg!("/projects"), Of(Know)),
    ("POST", pg!("/projects"), Of(CreateProject)),
    ("GET", pg!("/projects/{project}"), OnProject(View)),
    ("PATCH", pg!("/projects/{project}"), OnProject(Manage)),
    ("DELETE", pg!("/projects/{project}"), OnProject(Manage)),
    ("POST", pg!("/projects/{project}/undelete"), OnProject(Manage)),
    ("GET", pg!("/projects/{project}/operations/{operation}"), OnOperation),
    ("GET", pg!("/projects/{project}/branches"), OnProject(View)),
    ("POST", pg!("/projects/{project}/branches"), OnProject(Manage)),
    ("GET", branch!(""), OnProject(View)),
    ("PATCH", branch!(""), OnProject(Manage)),
    ("DELETE", branch!(""), OnProject(Manage)),
    ("POST", branch!("/undelete"), OnProject(Manage)),
    ("GET", branch!("/operations/{operation}"), OnOperation),
    ("GET", branch!("/endpoints"), OnProject(View)),
    ("POST", branch!("/endpoints"), OnProject(Manage)),
    ("GET", branch!("/endpoints/{endpoint}"), OnProject(View)),
    ("PATCH", branch!("/endpoints/{endpoint}"), OnProject(Manage)),
    ("DELETE", branch!("/endpoints/{endpoint}"), OnProject(Manage)),
    ("GET", branch!("/endpoints/{endpoint}/operations/{operation}"), OnOperation),
    ("GET", branch!("/endpoints/{endpoint}/compute-instances"), OnProject(View)),
    ("GET", branch!("/endpoints/{endpoint}/compute-instances/{compute}"), OnProject(View)),
    ("GET", branch!("/roles"), OnProject(View)),
    ("POST", branch!("/roles"), OnProject(Use)),
    ("GET", branch!("/roles/{role}"), OnProject(View)),
    ("PATCH", branch!("/roles/{role}"), OnProject(Manage)),
    ("DELETE", branch!("/roles/{role}"), OnProject(Manage)),
    ("GET", branch!("/roles/{role}/operations/{operation}"), OnOperation),
    ("GET", branch!("/databases"), OnProject(View)),
    ("POST", branch!("/databases"), OnProject(Use)),
    ("GET", branch!("/databases/{database}"), OnProject(View)),
    ("PATCH", branch!("/databases/{database}"), OnProject(Manage)),
    ("DELETE", branch!("/databases/{database}"), OnProject(Manage)),
    ("GET", branch!("/databases/{database}/operations/{operation}"), OnOperation),
    ("GET", pg!("/operations/{operation}"), Of(Know)),
    ("GET", pg!("/catalogs/{catalog}/operations/{operation}"), Of(Know)),
    ("GET", pg!("/synced_tables/{synced_table}/operations/{operation}"), Of(Know)),
    ("GET", pg!("/projects/{project}/snapshots/{snapshot}/operations/{operation}"), OnOperation),
    // Groups of the contract that say themselves that they are not there yet.
    ("*", pg!("/catalogs"), Of(Know)),
    ("*", pg!("/catalogs/{catalog}"), Of(Know)),
    ("*", pg!("/synced_tables"), Of(Know)),
    ("*", pg!("/synced_tables/{synced_table}"), Of(Know)),
    ("*", pg!("/tables"), Of(Know)),
    ("*", pg!("/tables/{table}"), Of(Know)),
    ("*", branch!("/databases/{database}/data-api"), OnProject(View)),
    ("*", branch!("/databases/{database}/cdf-configs"), OnProject(View)),
    ("*", branch!("/databases/{database}/cdf-configs/{config}"), OnProject(View)),
    ("*", branch!("/databases/{database}/cdf-configs/{config}/cdf-statuses"), OnProject(View)),
    ("*", branch!("/databases/{database}/cdf-configs/{config}/cdf-statuses/{table}"), OnProject(View)),
    ("*", branch!("/snapshot-schedule"), OnProject(View)),
    ("*", branch!("/forward-etl"), OnProject(View)),
    ("*", branch!("/forward-etl/metadata"), OnProject(View)),
    ("*", branch!("/forward-etl/configuration"), OnProject(View)),
    ("*", pg!("/projects/{project}/snapshots"), OnProject(View)),
    ("*", pg!("/projects/{project}/snapshots/{snapshot}"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/replication-groups"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/replication-groups/{group}"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/replication-groups/{group}/failover"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/replication-groups/{group}/switchover"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/recovery-branches"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/recovery-branches/{recovery_branch}"), OnProject(View)),
    ("*", pg!("/projects/{project}/preview/recovery-branches/{recovery_branch}/inspect"), OnProject(View)),
    // Its project stands in the body; `Control::issue_for` checks it.
    ("POST", pg!("/credentials"), Of(Know)),
    ("GET", own!("/whoami"), Of(Know)),
    ("GET", own!("/tokens"), Of(Know)),
    ("POST", own!("/tokens"), Of(ChangeSelf)),
    ("DELETE", own!("/tokens/{token}"), Of(ChangeSelf)),
    ("GET", own!("/principals"), Of(Observe)),
    ("POST", own!("/principals"), Of(Administer)),
    ("DELETE", own!("/principals/{principal}"), Of(Administer)),
    ("PUT", own!("/groups/{group}/members/{principal}"), Of(Administer)),
    ("DELETE", own!("/groups/{group}/members/{principal}"), Of(Administer)),
    ("GET", own!("/federations"), Of(Observe)),
    ("POST", own!("/federations"), Of(Administer)),
    ("DELETE", own!("/federations/{federation}"), Of(Administer)),
    ("POST", own!("/signing-keys/rotate"), Of(Administer)),
    ("PUT", own!("/projects/{project}/permissions/{principal}"), OnProject(Manage)),
    ("DELETE", own!("/projects/{project}/permissions/{principal}"), OnProject(Manage)),
    ("GET", own!("/status"), Of(Observe)),
    ("POST", own!("/shutdown"), Of(Administer)),
    ("GET", own!("/audit"), Of(Observe)),
    // Reads everything, and names branches of all projects.
    ("POST", own!("/scrub"), Of(Administer)),
    ("GET", own!("/projects/{project}/branches/{branch}/usage"), OnProject(View)),
    ("GET", own!("/projects/{project}/branches/{branch}/connection"), OnProject(Connect)),
    ("POST", own!("/projects/{project}/branches/{branch}/wake"), OnProject(Connect)),
    ("GET", own!("/openapi.json"), Of(Know)),
    ("GET", own!("/ca"), Of(Know)),
    ("POST", own!("/projects/{project}/branches/{branch}/endpoints/{endpoint}/wake"), OnProject(Connect)),
    ("POST", own!("/projects/{project}/branches/{branch}/endpoints/{endpoint}/suspend"), OnProject(Manage)),
    ("POST", own!("/projects/{project}/branches/{branch}/roles/{role}/reset-password"), OnProject(Manage)),
    // Statements may stand in it.
    ("GET", own!("/projects/{project}/branches/{branch}/log"), OnProject(Manage)),
    ("POST", own!("/projects/{project}/branches/{branch}/superuser"), Of(Administer)),
    // Both write to any directory of the host.
    ("POST", own!("/backup"), Of(Administer)),
    ("POST", own!("/projects/{project}/branches/{branch}/export"), Of(Administer)),
];

/// What a call of the route with this template needs; none for a route without a rule.
pub(crate) fn rule(method: &Method, template: &str) -> Option<Rule> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    TABLE.iter().find(|(m, t, _)| (*m == method || *m == "*") && *t == template).map(|(_, _, rule)| *rule)
}

/// One line of the table, for documents and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRule {
    /// HTTP method, `*` for any.
    pub method: &'static str,
    /// Path with `{placeholders}`.
    pub template: &'static str,
    /// The right that it needs; none where it is open to everybody. An operation needs `View` on its
    /// project, or to be one's own.
    pub needs: Option<Action>,
    /// Whether the right is one on the project in the path.
    pub on_project: bool,
}

/// Every call that there is a rule for.
pub fn route_rules() -> Vec<RouteRule> {
    let line = |(method, template, rule): &(&'static str, &'static str, Rule)| {
        let (needs, on_project) = match rule {
            Open => (None, false),
            Of(action) => (Some(*action), false),
            OnProject(action) => (Some(*action), true),
            OnOperation => (Some(View), true),
        };
        RouteRule { method, template, needs, on_project }
    };
    TABLE.iter().map(line).collect()
}

/// Whether the table knows the template with any method.
pub(crate) fn knows(template: &str) -> bool {
    TABLE.iter().any(|(_, known, _)| *known == template)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
