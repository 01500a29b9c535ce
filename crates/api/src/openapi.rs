//! The OpenAPI document, made from the table of routes.

mod schemas;

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::routes::{self, Call};
use crate::rules::{self, Rule};

/// The document: every route that does something, and the shapes of what goes in and out.
pub fn document() -> Value {
    let mut paths = Map::new();
    for call in routes::described().calls() {
        let entry = paths.entry(call.path.clone()).or_insert_with(|| json!({}));
        entry[call.method] = operation(call);
    }
    paths.sort_keys();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Anabranch",
            "summary": "Branches for PostgreSQL: the Lakebase API, and what goes beyond it",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A personal token, or an access token of the token endpoint",
            }},
        },
        "security": [{"token": []}],
    })
}

/// The fields that a request for `resource` (`Project`, `Branch`, …) may have, as a schema without
/// references; none for what the document does not know.
pub fn request_schema(resource: &str) -> Option<Value> {
    let all = schemas::all();
    Some(resolve(&all, all.get(resource)?.clone()))
}

fn operation(call: &Call) -> Value {
    let in_path = call.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = call.query.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.summary,
            "schema": {"type": parameter.kind},
        })
    });
    let mut operation = json!({"operationId": call.id, "summary": call.summary});
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(schema) = call.body {
        operation["requestBody"] = json!({"content": {call.body_media: {"schema": reference(schema)}}});
    }
    if is_open(call) {
        operation["security"] = json!([]);
    }
    let mut answer = json!({"description": "Done"});
    answer["content"][call.media]["schema"] = reference(call.answer);
    operation["responses"] = json!({
        "200": answer,
        "default": {
            "description": "Refused or failed",
            "content": {"application/json": {"schema": reference("Error")}},
        },
    });
    operation
}

/// Whether anybody may call it.
fn is_open(call: &Call) -> bool {
    let method = call.method.to_ascii_uppercase().parse::<Method>();
    method.is_ok_and(|method| rules::rule(&method, &call.path) == Some(Rule::Open))
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// A shape with those that it refers to in their place.
fn resolve(all: &Map<String, Value>, schema: Value) -> Value {
    match schema {
        Value::Object(mut fields) => {
            let target = fields.remove("$ref");
            let name = target.as_ref().and_then(Value::as_str).and_then(|name| name.rsplit('/').next());
            if let Some(Value::Object(target)) = name.and_then(|name| all.get(name)) {
                // What stands beside a reference, such as that it is read only, stays.
                fields.extend(target.clone());
            }
            fields.into_iter().map(|(key, value)| (key, resolve(all, value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(|item| resolve(all, item)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
