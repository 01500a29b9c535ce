//! From what was written to what is asked of the API.

use std::time::Duration;

use clap::ArgMatches;
use client::{Method, encode};
use serde_json::{Map, Value, json};

use super::go_duration;
use super::grammar::{Action, Verb};

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// HTTP method.
    pub method: Method,
    /// Path below the contract's base, with the query.
    pub path: String,
    /// Body.
    pub body: Option<Value>,
    /// What is to be told about the body.
    pub warnings: Vec<String>,
}

/// How to wait for the end of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Not at all.
    pub no_wait: bool,
    /// So long; none is for ever.
    pub timeout: Option<Duration>,
}

/// The call that a command stands for; of a list, that of its first page.
pub fn build(verb: &Verb, matches: &ArgMatches) -> Result<Request, String> {
    let arguments: Vec<&str> =
        matches.get_many::<String>("arguments").into_iter().flatten().map(String::as_str).collect();
    let json = text(matches, "json");
    count(verb, arguments.len(), json.is_some())?;
    let mut query: Vec<(String, String)> = Vec::new();
    for (option, name) in [
        ("purge", "purge"),
        ("force", "force"),
        ("replace-existing", "replace_existing"),
        ("show-deleted", "show_deleted"),
    ] {
        if flag(matches, option) {
            query.push((name.to_owned(), "true".to_owned()));
        }
    }
    for (option, name) in [
        ("role-id", "role_id"),
        ("database-id", "database_id"),
        ("cdf-config-id", "cdf_config_id"),
        ("reassign-owned-to", "reassign_owned_to"),
        ("page-size", "page_size"),
        ("page-token", "page_token"),
    ] {
        if let Some(value) = text(matches, option) {
            query.push((name.to_owned(), value.to_owned()));
        }
    }
    let (method, path, body, warnings) = match verb.action {
        Action::Create { collection, resource } => {
            let (mut body, warnings) = body(matches, json, resource)?;
            let mut path = collection.to_owned();
            for (argument, value) in verb.arguments.iter().zip(&arguments) {
                let field = argument.to_lowercase();
                match place(argument) {
                    Place::Path => path = format!("{}/{collection}", path_of(value)),
                    Place::Query => query.insert(0, (field, (*value).to_owned())),
                    Place::Body => body[field] = json!(value),
                }
            }
            (Method::POST, path, Some(body), warnings)
        }
        Action::Update { resource } => {
            let (body, warnings) = body(matches, json, resource)?;
            query.push(("update_mask".to_owned(), arguments[1].to_owned()));
            (Method::PATCH, path_of(arguments[0]), Some(body), warnings)
        }
        Action::Get => (Method::GET, path_of(arguments[0]), None, Vec::new()),
        Action::List { collection, .. } => {
            let path = match arguments.first() {
                Some(parent) => format!("{}/{collection}", path_of(parent)),
                None => collection.to_owned(),
            };
            (Method::GET, path, None, Vec::new())
        }
        Action::Delete => (Method::DELETE, path_of(arguments[0]), None, Vec::new()),
        Action::Undelete => {
            (Method::POST, format!("{}/undelete", path_of(arguments[0])), Some(json!({})), Vec::new())
        }
        Action::Credential => {
            let body = credential(matches, json, arguments.first().copied())?;
            (Method::POST, "credentials".to_owned(), Some(body), Vec::new())
        }
    };
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
    Ok(Request { method, path, body, warnings })
}

/// Where an argument goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    Query,
    Body,
}

fn place(argument: &str) -> Place {
    match argument {
        "NAME" | "PARENT" => Place::Path,
        "UPDATE_MASK" => Place::Query,
        id if id.ends_with("_ID") => Place::Query,
        _ => Place::Body,
    }
}

/// Checks the number of arguments. With `--json`, those for the body are left out.
fn count(verb: &Verb, received: usize, with_json: bool) -> Result<(), String> {
    let is_of_body = |argument: &&&str| place(argument) == Place::Body;
    let fields: Vec<String> =
        verb.arguments.iter().filter(is_of_body).map(|field| format!("'{}'", field.to_lowercase())).collect();
    let others: Vec<&str> = verb.arguments.iter().filter(|argument| !is_of_body(argument)).copied().collect();
    if with_json && !fields.is_empty() {
        if received == others.len() {
            return Ok(());
        }
        let which = match others.join(", ") {
            none if none.is_empty() => "no positional arguments are required".to_owned(),
            some => format!("provide only {some} as positional arguments"),
        };
        let fields = fields.join(", ");
        return Err(format!("when --json flag is specified, {which}. Provide {fields} in your JSON input"));
    }
    let wanted = verb.arguments.len();
    if received == wanted { Ok(()) } else { Err(format!("accepts {wanted} arg(s), received {received}")) }
}

/// How the command wants to wait.
pub fn waiting(matches: &ArgMatches) -> Result<Waiting, String> {
    let timeout = match text(matches, "timeout") {
        Some(value) => {
            let why = |text| format!("invalid argument \"{value}\" for \"--timeout\" flag: {text}");
            Some(go_duration::parse(value).map_err(why)?).filter(|time| !time.is_zero())
        }
        None => None,
    };
    Ok(Waiting { no_wait: flag(matches, "no-wait"), timeout })
}

/// Most items of a list; none is all.
pub fn limit(matches: &ArgMatches) -> Result<Option<usize>, String> {
    match text(matches, "limit").map(|value| (value, value.parse::<i64>())) {
        None | Some((_, Ok(0))) => Ok(None),
        Some((_, Ok(limit))) => {
            usize::try_from(limit).map(Some).map_err(|_| "--limit must be a non-negative integer".to_owned())
        }
        Some((value, Err(_))) => {
            Err(format!("invalid argument \"{value}\" for \"--limit\" flag: no integer"))
        }
    }
}

fn text<'a>(matches: &'a ArgMatches, option: &str) -> Option<&'a str> {
    matches.try_get_one::<String>(option).ok().flatten().map(String::as_str)
}

fn flag(matches: &ArgMatches, option: &str) -> bool {
    matches.try_get_one::<bool>(option).ok().flatten().copied().unwrap_or(false)
}

/// A resource name in an address. Slashes are its structure; what else a person wrote, the daemon
/// shall be the one to judge.
fn path_of(name: &str) -> String {
    name.split('/').map(encode).collect::<Vec<_>>().join("/")
}

fn body(matches: &ArgMatches, json: Option<&str>, resource: &str) -> Result<(Value, Vec<String>), String> {
    let mut body = match json {
        Some(json) => read(json)?,
        None => json!({}),
    };
    let Some(fields) = body.as_object_mut() else {
        return Err("--json must be a JSON object".to_owned());
    };
    let noun = noun(resource);
    let inside = if resource == "CdfConfig" { "catalog" } else { "spec" };
    if fields.get(&noun).is_some_and(Value::is_object) && !fields.contains_key(inside) {
        return Err(format!(
            "--json should NOT be wrapped in '{{\"{noun}\": ...}}'; give the {noun} itself: {{\"{inside}\": ...}}"
        ));
    }
    let mut warnings = Vec::new();
    if let Some(schema) = api::openapi::request_schema(resource) {
        drop_unknown(fields, &schema, "", &mut warnings);
    }
    if let Some(name) = text(matches, "name") {
        fields.insert("name".to_owned(), json!(name));
    }
    Ok((body, warnings))
}

/// `SyncedTable` as a field is called: `synced_table`.
fn noun(resource: &str) -> String {
    let mut noun = String::new();
    for letter in resource.chars() {
        if letter.is_ascii_uppercase() && !noun.is_empty() {
            noun.push('_');
        }
        noun.push(letter.to_ascii_lowercase());
    }
    noun
}

/// Inline, or the contents of `@FILE`.
fn read(json: &str) -> Result<Value, String> {
    let (place, text) = match json.strip_prefix('@') {
        Some(file) => {
            let text =
                std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
            (file, text)
        }
        None => ("(inline)", json.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| format!("error decoding JSON at {place}: {error}"))
}

fn drop_unknown(fields: &mut Map<String, Value>, schema: &Value, at: &str, warnings: &mut Vec<String>) {
    let Some(known) = schema["properties"].as_object() else { return };
    fields.retain(|name, value| {
        let Some(schema) = known.get(name) else {
            warnings.push(format!("unknown field: {at}{name}"));
            return false;
        };
        if let Some(inner) = value.as_object_mut() {
            drop_unknown(inner, schema, &format!("{at}{name}."), warnings);
        }
        true
    });
}

fn credential(matches: &ArgMatches, json: Option<&str>, endpoint: Option<&str>) -> Result<Value, String> {
    let mut body = json.map(read).transpose()?.unwrap_or_else(|| json!({}));
    if !body.is_object() {
        return Err("--json must be a JSON object".to_owned());
    }
    if let Some(endpoint) = endpoint {
        body["endpoint"] = json!(endpoint);
    }
    if let Some(time) = text(matches, "expire-time") {
        body["expire_time"] = json!(time);
    }
    if let Some(ttl) = text(matches, "ttl") {
        let why = |text| format!("invalid argument \"{ttl}\" for \"--ttl\" flag: {text}");
        let ttl = go_duration::parse(ttl).map_err(why)?;
        body["ttl"] = json!(format!("{}s", ttl.as_secs_f64()));
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
