use std::path::Path;

use serde::de::DeserializeOwned;

use super::*;
use crate::routes::{BranchBody, DatabaseBody, EndpointBody, ProjectBody, RoleBody};

/// Set to any value, this writes the document instead of comparing it.
const BLESS: &str = "ANA_BLESS";

#[test]
fn the_committed_document_is_the_current_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let current = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/openapi.json is stale; {BLESS}=1 cargo test -p api openapi writes it"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_shape_is_used() {
    let document = document();
    let text = document.to_string();
    let shapes = document["components"]["schemas"].as_object().unwrap();
    for name in shapes.keys() {
        assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "{name} is not used");
    }
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(shapes.contains_key(name), "{name} is not there");
    }
}

#[test]
fn calls_have_names_of_their_own() {
    let calls = routes::described();
    let mut ids: Vec<&str> = calls.calls().iter().map(|call| call.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

/// A value of no type that any field has: what the parser does not know, it does not mind.
fn misfit() -> Value {
    json!([[[0]]])
}

fn knows_every_field<T: DeserializeOwned>(resource: &str) {
    let schema = request_schema(resource).unwrap();
    for (group, inner) in schema["properties"].as_object().unwrap() {
        if inner["readOnly"] == true {
            continue;
        }
        for path in paths(inner) {
            let body = path.iter().rev().fold(misfit(), |body, field| json!({*field: body}));
            let body = json!({group.as_str(): body});
            assert!(serde_json::from_value::<T>(body.clone()).is_err(), "{resource}: nobody reads {body}");
        }
    }
}

/// Paths to the fields of a shape.
fn paths(schema: &Value) -> Vec<Vec<&str>> {
    let Some(properties) = schema["properties"].as_object() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for (field, inner) in properties {
        all.extend(paths(inner).into_iter().map(|rest| [vec![field.as_str()], rest].concat()));
    }
    all
}

#[test]
fn every_field_of_a_request_is_read() {
    knows_every_field::<ProjectBody>("Project");
    knows_every_field::<EndpointBody>("Endpoint");
    knows_every_field::<RoleBody>("Role");
    knows_every_field::<DatabaseBody>("Database");
}

#[test]
fn every_field_of_a_branch_is_read() {
    // What became of the parent is only shown.
    let schema = request_schema("Branch").unwrap();
    for field in schema["properties"]["spec"]["properties"].as_object().unwrap().keys() {
        let body = json!({"spec": {field.as_str(): misfit()}});
        assert!(serde_json::from_value::<BranchBody>(body).is_err(), "nobody reads {field}");
    }
    assert!(serde_json::from_value::<BranchBody>(json!({"anabranch": {"given_name": misfit()}})).is_err());
}
