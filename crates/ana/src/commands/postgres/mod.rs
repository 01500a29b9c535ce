//! `ana postgres VERB-NOUN …`: the API with the grammar, flags and JSON of the vendor's own command
//! line, so that scripts written for that one work by changing one word. Errors, too, have its form.

mod go_duration;
mod grammar;
mod request;

use std::time::{Duration, Instant};

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgMatches, Command as Clap, FromArgMatches};
use client::{Client, Method};
use serde_json::{Map, Value};

use crate::context::Global;
use crate::failure::Failure;
use crate::output;
use grammar::{Action, VERBS, Verb};
use request::{Request, Waiting};

const PG: &str = "/api/2.0/postgres";

/// Pause between two looks at an unfinished operation.
const POLL: Duration = Duration::from_millis(200);

/// One command of the group as it was written.
#[derive(Debug)]
pub struct Command {
    verb: &'static Verb,
    matches: ArgMatches,
}

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Command, clap::Error> {
        let missing = || clap::Error::new(ErrorKind::MissingSubcommand);
        let (name, matches) = matches.subcommand().ok_or_else(missing)?;
        let verb = VERBS.iter().find(|verb| verb.name == name).ok_or_else(missing)?;
        Ok(Command { verb, matches: matches.clone() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Command::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Subcommand for Command {
    fn augment_subcommands(command: Clap) -> Clap {
        command
            .subcommand_required(true)
            .arg_required_else_help(true)
            .args_override_self(true)
            .args(grammar::everywhere())
            .after_help("Example: ana postgres create-branch projects/shop dev --json '{\"spec\":{\"ttl\":\"3600s\"}}'")
            .subcommands(VERBS.iter().map(Verb::clap))
    }

    fn augment_subcommands_for_update(command: Clap) -> Clap {
        Command::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        VERBS.iter().any(|verb| verb.name == name)
    }
}

/// Ends the program with a mistake in the group's grammar, in the group's form. To ask for help is no
/// mistake, and neither is to ask for nothing.
pub fn explain(error: &clap::Error) {
    let nothing = [ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand];
    if !error.use_stderr() || nothing.contains(&error.kind()) {
        return;
    }
    let context = |kind| error.get(kind).map(ToString::to_string);
    let message = match error.kind() {
        ErrorKind::UnknownArgument => {
            context(ContextKind::InvalidArg).map(|name| format!("unknown flag: {name}"))
        }
        ErrorKind::InvalidSubcommand => context(ContextKind::InvalidSubcommand)
            .map(|name| format!("unknown command \"{name}\" for \"ana postgres\"")),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => bad_value(error),
        _ => None,
    };
    let first_line = || {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    };
    fail(&message.unwrap_or_else(first_line));
}

/// What is wrong with the value of a flag.
fn bad_value(error: &clap::Error) -> Option<String> {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let flag = context(ContextKind::InvalidArg)?;
    let flag = flag.split(['[', '=', ' ']).next()?;
    match context(ContextKind::InvalidValue).filter(|value| !value.is_empty()) {
        None => Some(format!("flag needs an argument: {flag}")),
        Some(value) => {
            let why = std::error::Error::source(error)?;
            Some(format!("invalid argument \"{value}\" for \"{flag}\" flag: {why}"))
        }
    }
}

fn fail(message: &str) -> ! {
    output::talk(format!("Error: {message}"));
    std::process::exit(1)
}

/// Does what was asked for; ends the program itself where that fails, since the form of its errors is
/// not that of the other commands.
pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    if let Err(message) = carry_out(global, command).await {
        fail(&message);
    }
    Ok(())
}

async fn carry_out(global: &Global, command: Command) -> Result<(), String> {
    let Command { verb, matches } = command;
    let waiting = request::waiting(&matches)?;
    let limit = request::limit(&matches)?;
    let request = request::build(verb, &matches)?;
    for warning in &request.warnings {
        output::talk(format!("Warning: {warning}"));
    }
    let client = global.client().map_err(|failure| failure.message)?;
    match verb.action {
        Action::Get | Action::Credential => print(send(&client, &request).await?),
        Action::List { key, .. } => print(Value::Array(pages(&client, request, key, limit).await?)),
        Action::Create { .. } | Action::Update { .. } => change(&client, &request, waiting, true).await?,
        Action::Delete | Action::Undelete => change(&client, &request, waiting, false).await?,
    }
    Ok(())
}

async fn send(client: &Client, request: &Request) -> Result<Value, String> {
    let path = format!("{PG}/{}", request.path);
    client.raw(request.method.clone(), &path, request.body.clone()).await.map_err(|error| tell(&error))
}

async fn get(client: &Client, name: &str) -> Result<Value, String> {
    client.raw(Method::GET, &format!("{PG}/{name}"), None).await.map_err(|error| tell(&error))
}

/// The daemon's whole sentence: scripts look for what the vendor's service says.
fn tell(error: &client::Error) -> String {
    match error {
        client::Error::Refused { message, trace_id: Some(trace), .. } => {
            format!("{message} [TraceId: {trace}]")
        }
        client::Error::NotRunning { .. } => format!("{error}; start it with: ana up"),
        _ => error.to_string(),
    }
}

async fn pages(
    client: &Client,
    first: Request,
    key: &str,
    limit: Option<usize>,
) -> Result<Vec<Value>, String> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut items = Vec::new();
    let mut request = first.clone();
    loop {
        let mut page = send(client, &request).await?;
        if let Value::Array(found) = page[key].take() {
            items.extend(found);
        }
        let next = page["next_page_token"].as_str().unwrap_or_default();
        if next.is_empty() || items.len() >= limit {
            items.truncate(limit);
            return Ok(items);
        }
        let (path, query) = first.path.split_once('?').unwrap_or((&first.path, ""));
        let others = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("page_token="));
        let token = format!("page_token={}", client::encode(next));
        let query: Vec<&str> = others.chain([token.as_str()]).collect();
        request.path = format!("{path}?{}", query.join("&"));
    }
}

async fn change(client: &Client, request: &Request, waiting: Waiting, show: bool) -> Result<(), String> {
    let begin = Instant::now();
    let started = send(client, request).await?;
    let name = started["name"].as_str().ok_or("the answer is no operation")?.to_owned();
    let mut operation = get(client, &name).await?;
    if waiting.no_wait {
        print(operation);
        return Ok(());
    }
    while operation["done"] != true {
        if waiting.timeout.is_some_and(|limit| begin.elapsed() >= limit) {
            return Err(format!(
                "timed out waiting for {name}; see how it stands: ana postgres get-operation {name}"
            ));
        }
        tokio::time::sleep(POLL).await;
        operation = get(client, &name).await?;
    }
    if let Some(error) = operation.get("error") {
        let text = |key: &str| error[key].as_str().unwrap_or_default();
        return Err(format!("operation failed: [{}] {}", text("error_code"), text("message")));
    }
    if show {
        print(operation["response"].take());
    }
    Ok(())
}

fn print(value: Value) {
    let text = serde_json::to_string_pretty(&as_the_vendor_has_it(value));
    output::data(text.unwrap_or_else(|error| fail(&error.to_string())));
}

/// Keys in order, and nothing that only we know.
fn as_the_vendor_has_it(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut kept: Map<String, Value> = fields
                .into_iter()
                .filter(|(name, _)| name != "anabranch")
                .map(|(name, value)| (name, as_the_vendor_has_it(value)))
                .collect();
            kept.sort_keys();
            Value::Object(kept)
        }
        Value::Array(items) => items.into_iter().map(as_the_vendor_has_it).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_in_order_and_none_is_ours() {
        let shown = as_the_vendor_has_it(json!([{"uid": 1, "anabranch": {}, "name": {"b": 1, "a": 2}}]));
        assert_eq!(shown.to_string(), r#"[{"name":{"a":2,"b":1},"uid":1}]"#);
    }
}
