use control::Place;
use control::app::{ComputeTimes, Usage};
use control::model::{
    Branch, ComputeSettings, Endpoint, Operation, Principal, Project, ProjectOptions, ServerRecord, Source,
    Tag,
};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn project_view() -> ProjectView {
    ProjectView {
        project: Project {
            uid: "5f6c".into(),
            id: "shop".into(),
            display_name: "Shop".into(),
            owner: "ana@example.org".into(),
            state: State::Ready,
            server: ServerRecord { bin_dir: "/pg/bin".into(), major: 17, minor: 10 },
            compute: ComputeSettings {
                min_cu: 0.5,
                max_cu: 4.0,
                suspend_seconds: Some(60.0),
                pg_settings: Default::default(),
            },
            history_seconds: 604_800.0,
            options: ProjectOptions::default(),
            default_branch: "br-a".into(),
            create_time: at(0),
            update_time: at(1),
            delete_time: None,
            purge_time: None,
        },
        default_branch_id: "production".into(),
        last_active: None,
    }
}

pub(crate) fn branch_view() -> BranchView {
    BranchView {
        branch: Branch {
            uid: "br-b".into(),
            project: "5f6c".into(),
            id: "dev".into(),
            given_name: None,
            source: Some(Source {
                branch: "br-a".into(),
                branch_id: "production".into(),
                lsn: Some("0/1A2B3C4".into()),
                time: Some(at(2)),
                fate: None,
            }),
            state: State::Ready,
            state_change_time: at(3),
            prepared: true,
            is_protected: false,
            expire_time: Some(at(3600)),
            create_time: at(2),
            update_time: at(2),
            delete_time: None,
            purge_time: None,
        },
        project_id: "shop".into(),
        is_default: false,
        usage: Some(Usage { own_bytes: 7, shared_bytes: 35, logical_bytes: 42 }),
        damage: None,
    }
}

#[test]
fn a_project() {
    assert_eq!(
        project(&project_view()),
        json!({
            "name": "projects/shop",
            "uid": "5f6c",
            "project_id": "shop",
            "create_time": "2027-01-15T08:00:00Z",
            "update_time": "2027-01-15T08:00:01Z",
            "status": {
                "branch_logical_size_limit_bytes": 8_796_093_022_208_i64,
                "default_branch": "projects/shop/branches/production",
                "default_endpoint_settings": {
                    "autoscaling_limit_min_cu": 0.5,
                    "autoscaling_limit_max_cu": 4,
                    "suspend_timeout_duration": "60s",
                },
                "display_name": "Shop",
                "enable_pg_native_login": false,
                "history_retention_duration": "604800s",
                "owner": "ana@example.org",
                "pg_version": 17,
                "project_id": "shop",
                "synthetic_storage_size_bytes": 0,
            },
        })
    );
}

#[test]
fn a_branch() {
    assert_eq!(
        branch(&branch_view()),
        json!({
            "name": "projects/shop/branches/dev",
            "uid": "br-b",
            "branch_id": "dev",
            "parent": "projects/shop",
            "create_time": "2027-01-15T08:00:02Z",
            "update_time": "2027-01-15T08:00:02Z",
            "status": {
                "branch_id": "dev",
                "current_state": "READY",
                "default": false,
                "is_protected": false,
                "logical_size_bytes": 42,
                "state_change_time": "2027-01-15T08:00:03Z",
                "source_branch": "projects/shop/branches/production",
                "source_branch_lsn": "0/1A2B3C4",
                "source_branch_time": "2027-01-15T08:00:02Z",
                "expire_time": "2027-01-15T09:00:00Z",
            },
            "anabranch": {"own_bytes": 7, "shared_bytes": 35},
        })
    );
}

#[test]
fn a_root_has_no_source_and_an_orphan_says_why() {
    let mut view = branch_view();
    view.branch.source.as_mut().unwrap().fate = Some("expired".into());
    view.branch.given_name = Some("feature/dev".into());
    view.usage = None;
    assert_eq!(branch(&view)["anabranch"], json!({"given_name": "feature/dev", "source_fate": "expired"}));
    view.branch.source = None;
    view.branch.given_name = None;
    let body = branch(&view);
    assert!(body.get("anabranch").is_none());
    assert!(!body["status"].as_object().unwrap().keys().any(|key| key.starts_with("source_")));
}

#[test]
fn a_project_shows_what_was_set() {
    let mut view = project_view();
    view.project.compute.suspend_seconds = None;
    view.project.compute.pg_settings = [("work_mem".to_owned(), "8MB".to_owned())].into();
    view.project.options = ProjectOptions {
        native_login: true,
        custom_tags: vec![Tag { key: "team".into(), value: "web".into() }],
        budget_policy_id: Some("b".into()),
        compute_provisioner: Some("c".into()),
    };
    view.last_active = Some(at(5));
    let body = project(&view);
    let status = &body["status"];
    assert_eq!(status["enable_pg_native_login"], true);
    assert_eq!(status["custom_tags"], json!([{"key": "team", "value": "web"}]));
    assert_eq!((&status["budget_policy_id"], &status["compute_provisioner"]), (&json!("b"), &json!("c")));
    assert_eq!(status["compute_last_active_time"], "2027-01-15T08:00:05Z");
    let settings = &status["default_endpoint_settings"];
    assert_eq!((settings.get("suspend_timeout_duration"), &settings["no_suspension"]), (None, &json!(true)));
    assert_eq!(settings["pg_settings"], json!({"work_mem": "8MB"}));
}

#[test]
fn a_compute_is_what_runs() {
    let mut endpoint = endpoint_view();
    let asleep = ComputeInstanceView { id: "compute-1".into(), endpoint: endpoint.clone(), start_time: None };
    assert_eq!(
        compute_instance(&asleep),
        json!({
            "name": "projects/shop/branches/dev/endpoints/primary/compute-instances/compute-1",
            "compute_instance_id": "compute-1",
            "compute_host": "127.64.1.2",
            "current_state": "IDLE",
            "role": "READ_WRITE",
        })
    );
    endpoint.times.suspend = Some(at(6));
    let suspended = ComputeInstanceView { endpoint: endpoint.clone(), ..asleep.clone() };
    assert_eq!(compute_instance(&suspended)["suspend_time"], "2027-01-15T08:00:06Z");
    endpoint.state = ComputeStatus::Active;
    let awake = ComputeInstanceView { endpoint, start_time: Some(at(7)), ..asleep };
    assert_eq!(compute_instance(&awake).get("suspend_time"), None);
    assert_eq!(compute_instance(&awake)["current_state"], "ACTIVE");
    assert_eq!(compute_instance(&awake)["start_time"], "2027-01-15T08:00:07Z");
}

fn endpoint_view() -> EndpointView {
    EndpointView {
        endpoint: Endpoint {
            uid: "ep-1".into(),
            branch: "br-b".into(),
            id: "primary".into(),
            compute: ComputeSettings::default(),
            disabled: false,
            readable_secondaries: false,
            address: None,
            create_time: at(2),
            update_time: at(2),
        },
        project_id: "shop".into(),
        branch_id: "dev".into(),
        place: Some(Place { host: "127.64.1.2".into(), port: 5432 }),
        state: ComputeStatus::Idle,
        pending: None,
        times: ComputeTimes::default(),
    }
}

#[test]
fn an_endpoint_shows_zero_values() {
    let view = endpoint_view();
    assert_eq!(
        endpoint(&view)["status"],
        json!({
            "endpoint_id": "primary",
            "endpoint_type": "ENDPOINT_TYPE_READ_WRITE",
            "current_state": "IDLE",
            "disabled": false,
            "hosts": {"host": "127.64.1.2"},
            "autoscaling_limit_min_cu": 1,
            "autoscaling_limit_max_cu": 1,
            "suspend_timeout_duration": "86400s",
            "settings": {},
            "group": {"enable_readable_secondaries": false, "max": 1, "min": 1},
        })
    );
    assert_eq!(endpoint(&view)["name"], "projects/shop/branches/dev/endpoints/primary");
}

#[test]
fn operations_have_exactly_one_end() {
    let row = Operation {
        uid: "u".into(),
        resource: "projects/shop/branches/dev".into(),
        kind: Kind::Branch,
        target: "br-b".into(),
        verb: Verb::Create,
        principal: Principal::daemon(),
        outcome: Outcome::Running,
        create_time: at(0),
    };
    let mut view = OperationView { operation: row, target: None };
    let metadata = json!({"@type": "type.googleapis.com/databricks.postgres.v1.BranchOperationMetadata"});
    let name = "projects/shop/branches/dev/operations/u";
    assert_eq!(operation(&view), json!({"name": name, "done": false, "metadata": metadata}));

    view.operation.outcome = Outcome::Done;
    view.target = Some(Target::Branch(branch_view()));
    assert_eq!(operation(&view)["response"]["uid"], "br-b");
    assert!(operation(&view).get("error").is_none());

    view.operation.verb = Verb::Delete;
    view.target = None;
    assert_eq!(operation(&view)["response"], json!({"@type": "type.googleapis.com/google.protobuf.Empty"}));

    view.operation.outcome = Outcome::Failed { code: "INTERNAL_ERROR".into(), message: "no".into() };
    assert_eq!(operation(&view)["error"], json!({"error_code": "INTERNAL_ERROR", "message": "no"}));
    assert!(operation(&view).get("response").is_none());
}
