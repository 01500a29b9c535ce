use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use control::app::{ComputeInstanceView, EndpointId, EndpointView, NewEndpoint, UpdateEndpoint};
use control::model::Principal;
use serde::Deserialize;
use serde_json::Value;

use super::PG;
use super::specs::{ComputeSpec, GroupSpec};
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::mask::{Mask, fixed_field};
use crate::page::{Paged, page};
use crate::resources;
use crate::wire::parse_body;

pub(super) fn routes() -> Routes {
    let endpoints = format!("{PG}/projects/{{project}}/branches/{{branch}}/endpoints");
    let endpoint = format!("{endpoints}/{{endpoint}}");
    let computes = format!("{endpoint}/compute-instances");
    Routes::new()
        .get(
            call("list_endpoints", &endpoints, "Endpoints of a branch")
                .paged()
                .answers("ListEndpointsResponse"),
            list,
        )
        .post(
            call("create_endpoint", &endpoints, "Adopt the endpoint that the branch has")
                .query(
                    "endpoint_id",
                    "string",
                    "Identifier: a lowercase letter, then letters, digits, hyphens",
                )
                .query("replace_existing", "boolean", "Change the endpoint where there is one already")
                .body("Endpoint")
                .answers("Operation"),
            create,
        )
        .get(call("get_endpoint", &endpoint, "One endpoint").answers("Endpoint"), show)
        .patch(
            call("update_endpoint", &endpoint, "Change an endpoint")
                .masked()
                .body("Endpoint")
                .answers("Operation"),
            update,
        )
        .delete(
            call("delete_endpoint", &endpoint, "Refused for the endpoint that a branch comes with")
                .answers("Operation"),
            delete,
        )
        .get(
            call("list_compute_instances", &computes, "What runs behind an endpoint")
                .paged()
                .answers("ListComputeInstancesResponse"),
            list_computes,
        )
        .get(
            call("get_compute_instance", format!("{computes}/{{compute}}"), "One compute")
                .answers("ComputeInstance"),
            show_compute,
        )
}

#[derive(Deserialize)]
struct CreateQuery {
    #[serde(default)]
    endpoint_id: String,
    #[serde(default)]
    replace_existing: bool,
}

#[derive(Deserialize)]
pub(crate) struct EndpointBody {
    spec: Option<EndpointSpec>,
}

#[derive(Default, Deserialize)]
struct EndpointSpec {
    endpoint_type: Option<String>,
    disabled: Option<bool>,
    settings: Option<SettingsSpec>,
    group: Option<GroupSpec>,
    #[serde(flatten)]
    compute: ComputeSpec,
}

#[derive(Default, Deserialize)]
struct SettingsSpec {
    pg_settings: Option<BTreeMap<String, String>>,
}

const READ_WRITE: &str = "ENDPOINT_TYPE_READ_WRITE";
const READ_ONLY: &str = "ENDPOINT_TYPE_READ_ONLY";

async fn create(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: EndpointBody = parse_body(&body)?;
    let spec = body.spec.unwrap_or_default();
    let read_write = match spec.endpoint_type.as_deref() {
        Some(READ_WRITE) => true,
        Some(READ_ONLY) => false,
        other => {
            return Err(ApiError::invalid(format!(
                "Field 'spec.endpoint_type' must be {READ_WRITE} or {READ_ONLY}, got '{}'.",
                other.unwrap_or("")
            )));
        }
    };
    let group = spec.group.unwrap_or_default();
    group.check()?;
    let settings = UpdateEndpoint {
        compute: spec.compute.wanted(spec.settings.and_then(|settings| settings.pg_settings))?,
        disabled: spec.disabled.into(),
        readable_secondaries: group.enable_readable_secondaries.into(),
    };
    let which = EndpointId { project, branch, id: query.endpoint_id };
    let request = NewEndpoint { read_write, settings, replace_existing: query.replace_existing };
    let operation = local.control.create_endpoint(principal, which, request).await?;
    super::operations::answer(&local, operation).await
}

async fn show(
    State(local): State<Local>,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(resources::endpoint(&local.control.endpoint(project, branch, endpoint).await?)))
}

async fn list(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
    Paged(query): Paged,
) -> Result<Json<Value>, ApiError> {
    let all = local.control.endpoints(project, branch).await?;
    let place = |view: &EndpointView| (view.endpoint.create_time, view.endpoint.uid.clone());
    Ok(Json(page("endpoints", all, &query, place, resources::endpoint)?))
}

#[derive(Deserialize)]
struct UpdateQuery {
    #[serde(default)]
    update_mask: String,
}

async fn update(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
    Query(query): Query<UpdateQuery>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body: EndpointBody = parse_body(&body)?;
    let update = masked_update(&query.update_mask, body.spec.unwrap_or_default())?;
    let which = EndpointId { project, branch, id: endpoint };
    let operation = local.control.update_endpoint(principal, which, update).await?;
    super::operations::answer(&local, operation).await
}

const MASK: &[&str] = &[
    "spec.autoscaling_limit_min_cu",
    "spec.autoscaling_limit_max_cu",
    "spec.disabled",
    "spec.suspension",
    "spec.suspend_timeout_duration",
    "spec.no_suspension",
    "spec.settings",
    "spec.settings.pg_settings",
    "spec.group",
    "spec.group.min",
    "spec.group.max",
    "spec.group.enable_readable_secondaries",
];

const MASK_FIXED: &[&str] = &["spec.endpoint_type"];

fn masked_update(mask: &str, spec: EndpointSpec) -> Result<UpdateEndpoint, ApiError> {
    let mask = Mask::parse(mask, MASK, MASK_FIXED)?;
    if mask.reaches("spec.endpoint_type") && spec.endpoint_type.is_some_and(|kind| kind != READ_WRITE) {
        return Err(fixed_field("spec.endpoint_type"));
    }
    // A group that is named and absent takes its members with it.
    let settings = match spec.settings {
        None => mask.pick(&["spec.settings", "spec.settings.pg_settings"], None),
        Some(settings) => mask.pick(&["spec.settings.pg_settings"], settings.pg_settings),
    };
    let readable_secondaries = match &spec.group {
        None => mask.pick(&["spec.group", "spec.group.enable_readable_secondaries"], None),
        Some(group) => {
            let path = "spec.group.enable_readable_secondaries";
            mask.pick(&[path], group.enable_readable_secondaries)
        }
    };
    let size = spec.group.unwrap_or_default();
    let masked = |path: &str, limit: Option<i64>| limit.filter(|_| mask.reaches(path));
    let (min, max) = (masked("spec.group.min", size.min), masked("spec.group.max", size.max));
    GroupSpec { min, max, enable_readable_secondaries: None }.check()?;
    Ok(UpdateEndpoint {
        compute: spec.compute.masked(&mask, "spec", &["spec.suspension"], settings)?,
        disabled: mask.pick(&["spec.disabled"], spec.disabled),
        readable_secondaries,
    })
}

async fn delete(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let which = EndpointId { project, branch, id: endpoint };
    let operation = local.control.delete_endpoint(principal, which).await?;
    super::operations::answer(&local, operation).await
}

async fn list_computes(
    State(local): State<Local>,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
    Paged(query): Paged,
) -> Result<Json<Value>, ApiError> {
    let all = local.control.compute_instances(project, branch, endpoint).await?;
    let place = |view: &ComputeInstanceView| (view.endpoint.endpoint.create_time, view.id.clone());
    Ok(Json(page("compute_instances", all, &query, place, resources::compute_instance)?))
}

async fn show_compute(
    State(local): State<Local>,
    Path((project, branch, endpoint, compute)): Path<(String, String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let view = local.control.compute_instance(project, branch, endpoint, compute).await?;
    Ok(Json(resources::compute_instance(&view)))
}

#[cfg(test)]
mod tests {
    use control::app::{Change, UpdateCompute};
    use serde_json::json;

    use super::*;

    fn update(mask: &str, spec: Value) -> Option<UpdateEndpoint> {
        masked_update(mask, serde_json::from_value(spec).unwrap()).ok()
    }

    fn full() -> Value {
        json!({
            "endpoint_type": READ_WRITE,
            "autoscaling_limit_min_cu": 1,
            "autoscaling_limit_max_cu": 2,
            "disabled": true,
            "suspend_timeout_duration": "300s",
            "settings": {"pg_settings": {"work_mem": "8MB"}},
            "group": {"min": 1, "max": 1, "enable_readable_secondaries": true},
        })
    }

    #[test]
    fn a_leaf_mask_takes_one_field_of_a_full_body() {
        let compute = |compute| Some(UpdateEndpoint { compute, ..UpdateEndpoint::default() });
        let none = UpdateCompute::default;
        assert_eq!(
            update("spec.autoscaling_limit_max_cu", full()),
            compute(UpdateCompute { max_cu: Change::Set(2.0), ..none() })
        );
        for pair in ["spec.suspension", "spec.suspend_timeout_duration", "spec.no_suspension"] {
            let suspend_seconds = Change::Set(Some(300.0));
            assert_eq!(update(pair, full()), compute(UpdateCompute { suspend_seconds, ..none() }), "{pair}");
        }
        assert_eq!(
            update("spec.settings.pg_settings", full()),
            compute(UpdateCompute {
                pg_settings: Change::Set([("work_mem".into(), "8MB".into())].into()),
                ..none()
            })
        );
        assert_eq!(
            update("spec.disabled", full()),
            Some(UpdateEndpoint { disabled: Change::Set(true), ..UpdateEndpoint::default() })
        );
        assert_eq!(
            update("spec.group.enable_readable_secondaries", full()),
            Some(UpdateEndpoint { readable_secondaries: Change::Set(true), ..UpdateEndpoint::default() })
        );
        assert_eq!(update("spec.group.min,spec.group.max", full()), Some(UpdateEndpoint::default()));
    }

    #[test]
    fn wide_masks_take_all_that_is_given() {
        for mask in ["spec", "*", ""] {
            let all = update(mask, full()).unwrap();
            assert_eq!(
                (&all.disabled, &all.compute.max_cu),
                (&Change::Set(true), &Change::Set(2.0)),
                "{mask}"
            );
            assert_eq!(update(mask, json!({})), Some(UpdateEndpoint::default()), "{mask}");
        }
    }

    #[test]
    fn what_is_named_and_absent_is_cleared() {
        let cleared = update("spec.disabled,spec.suspension,spec.settings,spec.group", json!({})).unwrap();
        assert_eq!((cleared.disabled, cleared.readable_secondaries), (Change::Reset, Change::Reset));
        assert_eq!(cleared.compute.suspend_seconds, Change::Reset);
        assert_eq!(cleared.compute.pg_settings, Change::Reset);
        assert_eq!(update("spec.settings", json!({"settings": {}})), Some(UpdateEndpoint::default()));
    }

    #[test]
    fn what_cannot_change_is_refused() {
        for mask in ["spec.endpoint_type", "s,p", "spec.unknown", "endpoint_id"] {
            assert_eq!(update(mask, full()), None, "{mask}");
        }
        let read_only = json!({"endpoint_type": READ_ONLY});
        assert_eq!(update("spec", read_only.clone()), None);
        assert!(update("spec.disabled", read_only).is_some(), "what is not masked is not looked at");
        let larger = json!({"group": {"min": 2, "max": 2}});
        assert_eq!(update("spec", larger.clone()), None);
        assert!(update("spec.disabled", larger).is_some());
    }
}
