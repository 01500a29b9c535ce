//! Who calls, in the vendor's words and in ours; and the sink of the vendor's telemetry.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use control::app::Caller;
use serde::Deserialize;
use serde_json::{Value, json};

use super::OWN;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::gate::header_value;
use crate::local::Local;
use crate::resources::object;
use crate::wire::parse_body;

/// Clients learn from this header which workspace they talk to.
const ORG_HEADER: &str = "x-databricks-org-id";

pub(super) fn routes() -> Routes {
    let version = async || Json(json!({"version": env!("CARGO_PKG_VERSION")}));
    Routes::new()
        .get(call("version", "/version", "Version of the daemon").answers("Version"), version)
        .get(call("me", "/api/2.0/preview/scim/v2/Me", "Who calls, in SCIM's words").answers("ScimUser"), me)
        .get(call("whoami", format!("{OWN}/whoami"), "Who calls, and with what").answers("Whoami"), whoami)
        .post(
            call("telemetry", "/telemetry-ext", "Reports of the vendor's clients; dropped unread")
                .body("TelemetryRequest")
                .answers("TelemetryResponse"),
            telemetry,
        )
}

async fn me(State(local): State<Local>, Extension(caller): Extension<Caller>) -> Response {
    let view = local.control.view_principal(&caller.identity);
    let name = &view.identity.name;
    let email = name.contains('@').then(|| json!([{"value": name, "type": "work", "primary": true}]));
    let groups: Vec<Value> =
        view.groups.iter().map(|group| json!({"display": group, "value": group})).collect();
    let body = object([
        ("schemas", Some(json!(["urn:ietf:params:scim:schemas:core:2.0:User"]))),
        ("id", Some(json!(view.identity.uid))),
        ("userName", Some(json!(name))),
        ("displayName", Some(json!(view.identity.display_name))),
        ("active", Some(json!(true))),
        ("emails", Some(email.unwrap_or_else(|| json!([])))),
        ("groups", Some(json!(groups))),
    ]);
    let mut response = Json(body).into_response();
    response.headers_mut().insert(ORG_HEADER, header_value(local.control.workspace_id()));
    response
}

async fn whoami(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    let view = local.control.view_principal(&caller.identity);
    let projects = match caller.projects.clone() {
        Some(uids) => Some(local.control.project_ids(uids).await?),
        None => None,
    };
    let scopes: Vec<&str> = caller.scopes.iter().map(|scope| scope.as_str()).collect();
    Ok(Json(object([
        ("name", Some(json!(view.identity.name))),
        ("kind", Some(json!(view.identity.kind.as_str()))),
        ("display_name", Some(json!(view.identity.display_name))),
        ("is_owner", Some(json!(view.identity.is_owner))),
        ("groups", Some(json!(view.groups))),
        ("acting_as", Some(json!(caller.principal.name))),
        ("scopes", Some(json!(scopes))),
        ("projects", projects.map(Value::from)),
        ("token_id", caller.token_id.clone().map(Value::from)),
    ])))
}

#[derive(Default, Deserialize)]
struct Telemetry {
    #[serde(default, rename = "protoLogs")]
    logs: Vec<Value>,
    #[serde(default)]
    items: Vec<Value>,
}

/// The vendor's CLI wants to hear that its reports arrived, or it waits. They are dropped unread.
async fn telemetry(body: Bytes) -> Result<Json<Value>, ApiError> {
    let body: Telemetry = parse_body(&body)?;
    Ok(Json(json!({
        "errors": [], "numProtoSuccess": body.logs.len(), "numSuccess": body.items.len(),
    })))
}
