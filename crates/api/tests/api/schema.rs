//! Holds answers against the OpenAPI document: every test that calls a documented route checks both.

use std::sync::OnceLock;

use serde_json::Value;

/// What does not fit, if anything, of a successful answer. Routes that are not documented fit.
pub fn misfit(method: &str, path: &str, body: &Value) -> Option<String> {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    let document = DOCUMENT.get_or_init(api::openapi::document);
    let path = path.split('?').next().unwrap_or_default();
    let templates = document["paths"].as_object().unwrap();
    let (_, calls) = templates.iter().find(|(template, _)| matches(template, path))?;
    let content = calls[method.to_lowercase()]["responses"]["200"]["content"].as_object()?;
    compare(document, &content.get("application/json")?["schema"], body, "answer").err()
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    let fits = |(pattern, segment): (&&str, &&str)| pattern.starts_with('{') || pattern == segment;
    template.len() == path.len() && template.iter().zip(&path).all(fits)
}

fn compare(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if schema["writeOnly"] == true {
        return Err(format!("{at} is only for requests"));
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return compare(document, document.pointer(&reference[1..]).unwrap(), value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let outcomes: Vec<_> = choices.iter().map(|choice| compare(document, choice, value, at)).collect();
        return if outcomes.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("{outcomes:?}")) };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = |wanted: &Value| *wanted == kind || (*wanted == "number" && kind == "integer");
    let wanted = &schema["type"];
    if !(allowed(wanted) || wanted.as_array().is_some_and(|kinds| kinds.iter().any(allowed))) {
        return Err(format!("{at} is {kind}, not {wanted}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{at} is {value}, which is none of {words:?}"));
    }
    if schema["format"] == "date-time" && value.as_str().unwrap().parse::<jiff::Timestamp>().is_err() {
        return Err(format!("{at} is no time: {value}"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().try_for_each(|item| compare(document, &schema["items"], item, at));
    }
    let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
        return Ok(());
    };
    fields.iter().try_for_each(|(name, field)| {
        let at = format!("{at}.{name}");
        let schema = known.get(name).ok_or_else(|| format!("{at} is not documented"))?;
        compare(document, schema, field, &at)
    })
}

#[test]
fn what_is_not_documented_is_noticed() {
    use serde_json::json;
    let branch = "/api/2.0/postgres/projects/p/branches/b";
    assert_eq!(misfit("GET", branch, &json!({"uid": "br-1", "status": {"default": false}})), None);
    for wrong in [
        json!([]),
        json!({"uid": 1}),
        json!({"new": 1}),
        json!({"spec": {}}),
        json!({"create_time": "today"}),
        json!({"status": {"current_state": "WELL"}}),
        json!({"status": {"logical_size_bytes": "0"}}),
    ] {
        assert!(misfit("GET", branch, &wrong).is_some(), "{wrong}");
    }
    let list = json!({"branches": [{"uid": "br-1"}, {"uid": null}]});
    assert!(misfit("GET", "/api/2.0/postgres/projects/p/branches?page_size=2", &list).is_some());
    let operation = json!({"name": "o", "done": true, "response": {"uid": "x", "nothing": 1}});
    assert!(misfit("DELETE", branch, &operation).is_some());
}
