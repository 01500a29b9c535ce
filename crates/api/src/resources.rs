//! Resources as the contract shows them: `status` carries effective values, `spec` is never echoed.

mod catalog;

use control::app::{
    BranchView, ComputeInstanceView, ComputeStatus, EndpointView, OperationView, ProjectView, Target,
};
use control::model::{ComputeSettings, Kind, Outcome, State, Verb};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub(crate) use catalog::{SUPERUSER, database, parse_auth_method, role};

use crate::error::lasting;
use crate::wire::{duration, number};

/// The live service's limit; shown because clients read it, not enforced.
const LOGICAL_SIZE_LIMIT: i64 = 8_796_093_022_208;

pub(crate) fn project(view: &ProjectView) -> Value {
    let project = &view.project;
    let name = format!("projects/{}", project.id);
    let options = &project.options;
    let status = object([
        ("branch_logical_size_limit_bytes", Some(json!(LOGICAL_SIZE_LIMIT))),
        ("budget_policy_id", options.budget_policy_id.clone().map(Value::from)),
        ("compute_last_active_time", view.last_active.map(time)),
        ("compute_provisioner", options.compute_provisioner.clone().map(Value::from)),
        ("custom_tags", (!options.custom_tags.is_empty()).then(|| json!(options.custom_tags))),
        ("default_branch", Some(json!(format!("{name}/branches/{}", view.default_branch_id)))),
        ("default_endpoint_settings", Some(default_settings(&project.compute))),
        ("display_name", Some(json!(project.display_name))),
        ("enable_pg_native_login", Some(json!(options.native_login))),
        ("history_retention_duration", Some(json!(duration(project.history_seconds)))),
        ("owner", Some(json!(project.owner))),
        ("pg_version", Some(json!(project.server.major))),
        ("project_id", Some(json!(project.id))),
        ("synthetic_storage_size_bytes", Some(json!(0))),
    ]);
    object([
        ("name", Some(json!(name))),
        ("uid", Some(json!(project.uid))),
        ("project_id", Some(json!(project.id))),
        ("create_time", Some(time(project.create_time))),
        ("update_time", Some(time(project.update_time))),
        ("delete_time", project.delete_time.map(time)),
        ("purge_time", project.purge_time.map(time)),
        ("status", Some(status)),
    ])
}

pub(crate) fn branch(view: &BranchView) -> Value {
    let branch = &view.branch;
    let parent = format!("projects/{}", view.project_id);
    let state = match branch.state {
        State::Creating => "INIT",
        State::Ready => "READY",
        State::Deleted => "DELETED",
    };
    let source = branch.source.as_ref();
    let status = object([
        ("branch_id", Some(json!(branch.id))),
        ("current_state", Some(json!(state))),
        ("default", Some(json!(view.is_default))),
        ("is_protected", Some(json!(branch.is_protected))),
        ("logical_size_bytes", Some(json!(view.usage.map_or(0, |usage| usage.logical_bytes)))),
        ("state_change_time", Some(time(branch.state_change_time))),
        ("source_branch", source.map(|source| json!(format!("{parent}/branches/{}", source.branch_id)))),
        ("source_branch_lsn", source.and_then(|source| source.lsn.clone()).map(Value::from)),
        ("source_branch_time", source.and_then(|source| source.time).map(time)),
        ("expire_time", branch.expire_time.map(time)),
        ("delete_time", branch.delete_time.map(time)),
        ("purge_time", branch.purge_time.map(time)),
    ]);
    let ours = object([
        ("given_name", branch.given_name.clone().map(Value::from)),
        ("source_fate", source.and_then(|source| source.fate.clone()).map(Value::from)),
        ("own_bytes", view.usage.map(|usage| json!(usage.own_bytes))),
        ("shared_bytes", view.usage.map(|usage| json!(usage.shared_bytes))),
        ("damage", view.damage.clone().map(Value::from)),
    ]);
    object([
        ("name", Some(json!(format!("{parent}/branches/{}", branch.id)))),
        ("uid", Some(json!(branch.uid))),
        ("branch_id", Some(json!(branch.id))),
        ("parent", Some(json!(parent))),
        ("create_time", Some(time(branch.create_time))),
        ("update_time", Some(time(branch.update_time))),
        ("status", Some(status)),
        ("anabranch", (ours != json!({})).then_some(ours)),
    ])
}

pub(crate) fn endpoint(view: &EndpointView) -> Value {
    let endpoint = &view.endpoint;
    let parent = format!("projects/{}/branches/{}", view.project_id, view.branch_id);
    let compute = &endpoint.compute;
    let settings = object([("pg_settings", pg_settings(compute))]);
    // One compute, which is what the group counts.
    let group = json!({"enable_readable_secondaries": endpoint.readable_secondaries, "max": 1, "min": 1});
    let status = object([
        ("endpoint_id", Some(json!(endpoint.id))),
        ("endpoint_type", Some(json!("ENDPOINT_TYPE_READ_WRITE"))),
        ("current_state", Some(json!(compute_state(view.state)))),
        ("pending_state", view.pending.map(|state| json!(compute_state(state)))),
        ("disabled", Some(json!(endpoint.disabled))),
        ("last_active_time", view.times.last_active.map(time)),
        ("hosts", view.place.as_ref().map(|place| json!({"host": place.host}))),
        ("autoscaling_limit_min_cu", Some(number(compute.min_cu))),
        ("autoscaling_limit_max_cu", Some(number(compute.max_cu))),
        ("suspend_timeout_duration", suspension(compute)),
        ("settings", Some(settings)),
        ("group", Some(group)),
    ]);
    object([
        ("name", Some(json!(format!("{parent}/endpoints/{}", endpoint.id)))),
        ("uid", Some(json!(endpoint.uid))),
        ("endpoint_id", Some(json!(endpoint.id))),
        ("parent", Some(json!(parent))),
        ("create_time", Some(time(endpoint.create_time))),
        ("update_time", Some(time(endpoint.update_time))),
        ("status", Some(status)),
        ("anabranch", view.place.as_ref().map(|place| json!({"port": place.port}))),
    ])
}

pub(crate) fn operation(view: &OperationView) -> Value {
    let operation = &view.operation;
    let noun = match operation.kind {
        Kind::Project => "Project",
        Kind::Branch => "Branch",
        Kind::Endpoint => "Endpoint",
        Kind::Role => "Role",
        Kind::Database => "Database",
    };
    let metadata = format!("type.googleapis.com/databricks.postgres.v1.{noun}OperationMetadata");
    let (done, response, error) = match &operation.outcome {
        Outcome::Running => (false, None, None),
        Outcome::Done => (true, Some(response(view)), None),
        Outcome::Failed { code, message } => {
            (true, None, Some(json!({"error_code": code, "message": lasting(message)})))
        }
    };
    object([
        ("name", Some(json!(format!("{}/operations/{}", operation.resource, operation.uid)))),
        ("done", Some(json!(done))),
        ("metadata", Some(json!({"@type": metadata}))),
        ("response", response),
        ("error", error),
    ])
}

/// Never absent in a finished operation: clients take that for a failure.
fn response(view: &OperationView) -> Value {
    match (&view.target, view.operation.verb) {
        (Some(Target::Project(view)), _) => project(view),
        (Some(Target::Branch(view)), _) => branch(view),
        (Some(Target::Endpoint(view)), _) => endpoint(view),
        (Some(Target::Role(view)), _) => role(view),
        (Some(Target::Database(view)), _) => database(view),
        (None, Verb::Delete) => json!({"@type": "type.googleapis.com/google.protobuf.Empty"}),
        (None, _) => json!({}),
    }
}

pub(crate) fn compute_instance(view: &ComputeInstanceView) -> Value {
    let endpoint = &view.endpoint.endpoint;
    let parent = format!("projects/{}/branches/{}", view.endpoint.project_id, view.endpoint.branch_id);
    let state = match view.endpoint.state {
        // Leftovers of an earlier run are ended by the next start; there is no server to connect to.
        ComputeStatus::Degraded => ComputeStatus::Idle,
        state => state,
    };
    let awake = view.endpoint.state == ComputeStatus::Active;
    object([
        ("name", Some(json!(format!("{parent}/endpoints/{}/compute-instances/{}", endpoint.id, view.id)))),
        ("compute_instance_id", Some(json!(view.id))),
        ("compute_host", view.endpoint.place.as_ref().map(|place| json!(place.host))),
        ("current_state", Some(json!(compute_state(state)))),
        ("role", Some(json!("READ_WRITE"))),
        ("start_time", view.start_time.map(time)),
        ("suspend_time", view.endpoint.times.suspend.filter(|_| !awake).map(time)),
    ])
}

fn compute_state(state: ComputeStatus) -> &'static str {
    match state {
        ComputeStatus::Active => "ACTIVE",
        ComputeStatus::Idle => "IDLE",
        ComputeStatus::Init => "INIT",
        ComputeStatus::Degraded => "DEGRADED",
    }
}

/// What new endpoints of a project begin with.
fn default_settings(settings: &ComputeSettings) -> Value {
    object([
        ("autoscaling_limit_min_cu", Some(number(settings.min_cu))),
        ("autoscaling_limit_max_cu", Some(number(settings.max_cu))),
        ("suspend_timeout_duration", suspension(settings)),
        // The contract's status of an endpoint has no such field, these settings have.
        ("no_suspension", settings.suspend_seconds.is_none().then_some(json!(true))),
        ("pg_settings", pg_settings(settings)),
    ])
}

/// Absent where a compute is never suspended.
fn suspension(settings: &ComputeSettings) -> Option<Value> {
    settings.suspend_seconds.map(|seconds| json!(duration(seconds)))
}

fn pg_settings(settings: &ComputeSettings) -> Option<Value> {
    (!settings.pg_settings.is_empty()).then(|| json!(settings.pg_settings))
}

pub(crate) fn time(time: Timestamp) -> Value {
    json!(time.to_string())
}

/// A JSON object of the fields that are there.
pub(crate) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let present = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

#[cfg(test)]
pub(crate) mod tests;
