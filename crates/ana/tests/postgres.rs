//! `ana postgres …` against a real daemon, its output to the letter: what scripts read.
#![allow(clippy::unwrap_used)]

mod desk;

use std::path::Path;

use compute::run_as;
use desk::Desk;

/// Set to any value, this writes the expected output instead of comparing with it.
const BLESS: &str = "ANA_BLESS";

/// What is run, a line each; `'…'` is one argument, `$OPERATION` the operation that was printed last.
const SCRIPT: &str = r#"
create-project shop --json '{"spec":{"display_name":"Shop","custom_tags":[{"key":"team","value":"web"}]}}'
create-project shop
create-project Bad_ID
get-project projects/shop -o json
list-projects --limit 1 --output text
update-project projects/shop spec.display_name --json '{"spec":{"display_name":"The shop","pg_version":3}}'
update-project projects/shop spec.owner
update-project projects/shop
create-branch projects/shop dev --json '{"spec":{"no_expiry":true,"is_protected":false,"tll":"1s"}}'
create-branch projects/shop dev --json '{"spec":{"no_expiry":true}}'
create-branch projects/shop dev --replace-existing --json '{"spec":{"is_protected":true}}'
create-branch projects/shop x --json '{"branch":{"spec":{"no_expiry":true}}}'
create-branch projects/shop x --json @missing.json
create-branch projects/shop
list-branches projects/shop --page-size 1
list-branches projects/shop --limit 1
list-branches projects/shop --limit -1
delete-branch projects/shop/branches/dev
update-branch projects/shop/branches/dev spec.is_protected --json @unprotected.json
get-branch projects/shop/branches/none
list-endpoints projects/shop/branches/dev
update-endpoint projects/shop/branches/dev/endpoints/primary spec.suspension,spec.autoscaling_limit_max_cu --json '{"spec":{"suspend_timeout_duration":"300s","autoscaling_limit_max_cu":4}}'
get-endpoint projects/shop/branches/dev/endpoints/primary
create-endpoint projects/shop/branches/dev primary --replace-existing --json '{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_WRITE","autoscaling_limit_max_cu":2}}'
create-endpoint projects/shop/branches/dev second --json '{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_WRITE"}}'
delete-endpoint projects/shop/branches/dev/endpoints/primary
generate-database-credential projects/shop/branches/dev/endpoints/primary --ttl 10m
generate-database-credential --json '{"endpoint":"projects/shop/branches/dev/endpoints/primary"}'
generate-database-credential projects/shop/branches/dev/endpoints/primary --ttl 10s
generate-database-credential
create-role projects/shop/branches/dev --role-id app-role --json '{"spec":{"postgres_role":"app","attributes":{"createdb":true}}}'
create-role projects/shop/branches/dev --role-id app-role --json '{"spec":{"postgres_role":"app"}}'
get-role projects/shop/branches/dev/roles/app-role
list-roles projects/shop/branches/dev
update-role projects/shop/branches/dev/roles/app-role spec.attributes.createdb --json '{"spec":{"attributes":{"createdb":false}}}'
create-database projects/shop/branches/dev --database-id app-db --json '{"spec":{"postgres_database":"app_db","role":"projects/shop/branches/dev/roles/app-role"}}'
get-database projects/shop/branches/dev/databases/app-db
list-databases projects/shop/branches/dev
update-database projects/shop/branches/dev/databases/app-db spec.postgres_database --json '{"spec":{"postgres_database":"renamed"}}'
delete-role projects/shop/branches/dev/roles/app-role
delete-database projects/shop/branches/dev/databases/app-db
delete-role projects/shop/branches/dev/roles/app-role --no-wait=false
create-catalog shop --json '{"spec":{"postgres_database":"databricks_postgres"}}'
get-catalog catalogs/shop
delete-catalog catalogs/shop --no-wait
create-synced-table main.web.orders --json '{"spec":{"source_table_full_name":"main.web.sources"}}'
get-synced-table synced_tables/main.web.orders
delete-synced-table synced_tables/main.web.orders
create-cdf-config projects/shop/branches/dev/databases/app-db main web public --cdf-config-id feed
create-cdf-config projects/shop/branches/dev/databases/app-db main --json '{"catalog":"main"}'
get-cdf-config projects/shop/branches/dev/databases/app-db/cdf-configs/feed
list-cdf-configs projects/shop/branches/dev/databases/app-db --limit 3
delete-cdf-config projects/shop/branches/dev/databases/app-db/cdf-configs/feed --force
get-cdf-status projects/shop/branches/dev/databases/app-db/cdf-configs/feed/cdf-statuses/orders
list-cdf-statuses projects/shop/branches/dev/databases/app-db/cdf-configs/feed
create-data-api projects/shop/branches/dev/databases/app-db --json '{"spec":{"db_max_rows":100}}'
get-data-api projects/shop/branches/dev/databases/app-db/data-api
update-data-api projects/shop/branches/dev/databases/app-db/data-api spec.db_max_rows --json '{"spec":{"db_max_rows":10}}'
delete-data-api projects/shop/branches/dev/databases/app-db/data-api
delete-branch projects/shop/branches/dev --no-wait
get-operation $OPERATION
undelete-branch projects/shop/branches/dev
delete-branch projects/shop/branches/dev --purge --timeout 10m
delete-branch projects/shop/branches/dev --timeout soon
get-operation projects/shop/operations/none
delete-project projects/shop
list-projects --show-deleted=false
undelete-project projects/shop
delete-project projects/shop --purge=maybe
delete-project projects/shop --purge=true
list-projects --show-deleted
-p DEFAULT list-projects --target dev --debug --log-level info --log-file log --log-format json
get-nothing projects/shop
get-project projects/shop --unknown
get-project projects/shop --output
"#;

#[test]
fn scripts_read_what_they_always_did() {
    let desk = Desk::new("postgres", run_as::choose(None).unwrap().map(|choice| choice.user));
    std::fs::write(desk.path.join("unprotected.json"), r#"{"spec":{"is_protected":false}}"#).unwrap();
    desk.succeed(&["up", "--owner", "owner@example.org"]);
    let (mut transcript, mut operation) = (String::new(), String::new());
    for line in SCRIPT.lines().filter(|line| !line.is_empty()) {
        let run = line.replace("$OPERATION", &operation);
        let output = desk.ana(&[vec!["postgres"], words(&run)].concat());
        operation = operation_in(&output.stdout).unwrap_or(operation);
        transcript += &format!("$ ana postgres {line}\n");
        for bytes in [output.stdout, output.stderr] {
            transcript += &String::from_utf8(bytes).unwrap();
        }
        let code = output.status.code().unwrap();
        transcript += &if code == 0 { String::new() } else { format!("exit {code}\n") };
    }
    let transcript: Vec<String> = transcript.lines().map(|line| lasting(&lasting_words(line))).collect();
    let transcript = transcript.join("\n") + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres.golden");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&golden, &transcript).unwrap();
    }
    let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
    for (number, (have, want)) in transcript.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(have, want, "line {} of {}; {BLESS}=1 writes it anew", number + 1, golden.display());
    }
    assert_eq!(transcript.lines().count(), wanted.lines().count(), "{transcript}");
}

/// The name of an operation, where that is what was printed.
fn operation_in(stdout: &[u8]) -> Option<String> {
    let printed: serde_json::Value = serde_json::from_slice(stdout).ok()?;
    printed["name"].as_str().filter(|name| name.contains("/operations/")).map(str::to_owned)
}

fn words(line: &str) -> Vec<&str> {
    let pieces = line.split('\'').enumerate();
    pieces
        .flat_map(|(place, piece)| match place % 2 {
            0 => piece.split_whitespace().collect(),
            _ => vec![piece],
        })
        .collect()
}

/// A line of JSON without what is another in every run.
fn lasting(line: &str) -> String {
    const FLEETING: [&str; 12] = [
        "create_time",
        "delete_time",
        "update_time",
        "purge_time",
        "expire_time",
        "state_change_time",
        "last_active_time",
        "compute_last_active_time",
        "source_branch_time",
        "source_branch_lsn",
        "host",
        "token",
    ];
    let Some((key, value)) = line.split_once(": ") else { return line.to_owned() };
    let name = key.trim().trim_matches('"');
    let comma = if value.ends_with(',') { "," } else { "" };
    match name {
        "logical_size_bytes" | "own_bytes" | "shared_bytes" => format!("{key}: 0{comma}"),
        "uid" => {
            let prefix = value.trim_start_matches('"').split_once('-').map_or("", |(prefix, _)| prefix);
            let prefix = if ["br", "ep"].contains(&prefix) { format!("{prefix}-") } else { String::new() };
            format!("{key}: \"{prefix}…\"{comma}")
        }
        name if FLEETING.contains(&name) => format!("{key}: \"…\"{comma}"),
        _ => line.to_owned(),
    }
}

/// The same for names of operations and traces inside a text.
fn lasting_words(line: &str) -> String {
    let mut line = line.to_owned();
    for (mark, ends) in [("/operations/", ['"', ' ']), ("[TraceId: ", [']', ' '])] {
        let Some(begin) = line.find(mark).map(|at| at + mark.len()) else { continue };
        let length = line[begin..].find(ends).unwrap_or(line.len() - begin);
        if length == 36 {
            line.replace_range(begin..begin + length, "…");
        }
    }
    line
}
