//! The commands of the group and what each takes.

use clap::{Arg, Command as Clap};

/// What a command does with the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// POST to a collection. Of the arguments, `PARENT` leads to it, `…_ID` goes into the query and
    /// what else there is into the body.
    Create {
        /// Last segment of the path.
        collection: &'static str,
        /// Schema of the body.
        resource: &'static str,
    },
    /// GET of a name.
    Get,
    /// GET of a collection, all pages: its last segment, and the key of its items.
    List {
        /// Last segment of the path.
        collection: &'static str,
        /// Key of the items in the answer.
        key: &'static str,
    },
    /// PATCH of a name.
    Update {
        /// Schema of the body.
        resource: &'static str,
    },
    /// DELETE of a name.
    Delete,
    /// POST to `undelete` of a name.
    Undelete,
    /// POST to `credentials`.
    Credential,
}

/// One command.
#[derive(Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Names of its arguments.
    pub arguments: &'static [&'static str],
    /// Names of its options beside those that its action brings.
    pub options: &'static [&'static str],
    /// What it does.
    pub action: Action,
    /// Not in the list of commands.
    pub hidden: bool,
}

const fn verb(
    name: &'static str,
    about: &'static str,
    arguments: &'static [&'static str],
    options: &'static [&'static str],
    action: Action,
) -> Verb {
    Verb { name, about, arguments, options, action, hidden: false }
}

const fn create(
    name: &'static str,
    about: &'static str,
    arguments: &'static [&'static str],
    options: &'static [&'static str],
    (collection, resource): (&'static str, &'static str),
) -> Verb {
    verb(name, about, arguments, options, Action::Create { collection, resource })
}

const fn list(
    name: &'static str,
    about: &'static str,
    arguments: &'static [&'static str],
    options: &'static [&'static str],
    collection: &'static str,
) -> Verb {
    verb(name, about, arguments, options, Action::List { collection, key: collection })
}

const fn hidden(verb: Verb) -> Verb {
    Verb { hidden: true, ..verb }
}

const NAME: &[&str] = &["NAME"];
const PARENT: &[&str] = &["PARENT"];
const NAME_MASK: &[&str] = &["NAME", "UPDATE_MASK"];

/// All commands.
pub const VERBS: &[Verb] = &[
    create("create-project", "Make a project", &["PROJECT_ID"], &[], ("projects", "Project")),
    verb("get-project", "Show a project", NAME, &[], Action::Get),
    list("list-projects", "List projects", &[], &["show-deleted"], "projects"),
    verb("update-project", "Change a project", NAME_MASK, &[], Action::Update { resource: "Project" }),
    verb("delete-project", "Delete a project", NAME, &["purge"], Action::Delete),
    verb("undelete-project", "Take the deletion of a project back", NAME, &[], Action::Undelete),
    create(
        "create-branch",
        "Make a branch",
        &["PARENT", "BRANCH_ID"],
        &["replace-existing"],
        ("branches", "Branch"),
    ),
    verb("get-branch", "Show a branch", NAME, &[], Action::Get),
    list("list-branches", "List branches", PARENT, &["show-deleted"], "branches"),
    verb("update-branch", "Change a branch", NAME_MASK, &[], Action::Update { resource: "Branch" }),
    verb("delete-branch", "Delete a branch", NAME, &["purge"], Action::Delete),
    hidden(verb("undelete-branch", "Take the deletion of a branch back", NAME, &[], Action::Undelete)),
    create(
        "create-endpoint",
        "Make an endpoint",
        &["PARENT", "ENDPOINT_ID"],
        &["replace-existing"],
        ("endpoints", "Endpoint"),
    ),
    verb("get-endpoint", "Show an endpoint", NAME, &[], Action::Get),
    list("list-endpoints", "List endpoints", PARENT, &[], "endpoints"),
    verb("update-endpoint", "Change an endpoint", NAME_MASK, &[], Action::Update { resource: "Endpoint" }),
    verb("delete-endpoint", "Delete an endpoint", NAME, &[], Action::Delete),
    create("create-role", "Make a role", PARENT, &["role-id", "replace-existing"], ("roles", "Role")),
    verb("get-role", "Show a role", NAME, &[], Action::Get),
    list("list-roles", "List roles", PARENT, &[], "roles"),
    verb("update-role", "Change a role", NAME_MASK, &[], Action::Update { resource: "Role" }),
    verb("delete-role", "Delete a role", NAME, &["reassign-owned-to"], Action::Delete),
    create(
        "create-database",
        "Make a database",
        PARENT,
        &["database-id", "replace-existing"],
        ("databases", "Database"),
    ),
    verb("get-database", "Show a database", NAME, &[], Action::Get),
    list("list-databases", "List databases", PARENT, &[], "databases"),
    verb("update-database", "Change a database", NAME_MASK, &[], Action::Update { resource: "Database" }),
    verb("delete-database", "Delete a database", NAME, &[], Action::Delete),
    verb(
        "generate-database-credential",
        "Get a token to log in with",
        &["ENDPOINT"],
        &["json", "expire-time", "ttl"],
        Action::Credential,
    ),
    verb("get-operation", "Show how a change stands", NAME, &[], Action::Get),
    create(
        "create-catalog",
        "Register a database as a catalog",
        &["CATALOG_ID"],
        &[],
        ("catalogs", "Catalog"),
    ),
    verb("get-catalog", "Show a catalog", NAME, &[], Action::Get),
    verb("delete-catalog", "Delete a catalog", NAME, &[], Action::Delete),
    create(
        "create-synced-table",
        "Make a synced table",
        &["SYNCED_TABLE_ID"],
        &[],
        ("synced_tables", "SyncedTable"),
    ),
    verb("get-synced-table", "Show a synced table", NAME, &[], Action::Get),
    verb("delete-synced-table", "Delete a synced table", NAME, &[], Action::Delete),
    create(
        "create-cdf-config",
        "Make a change feed of a schema",
        &["PARENT", "CATALOG", "SCHEMA", "POSTGRES_SCHEMA"],
        &["cdf-config-id"],
        ("cdf-configs", "CdfConfig"),
    ),
    verb("get-cdf-config", "Show a change feed", NAME, &[], Action::Get),
    verb(
        "list-cdf-configs",
        "List change feeds",
        PARENT,
        &[],
        Action::List { collection: "cdf-configs", key: "cdf_configs" },
    ),
    verb("delete-cdf-config", "Delete a change feed", NAME, &["force"], Action::Delete),
    verb("get-cdf-status", "Show how the change feed of a table stands", NAME, &[], Action::Get),
    verb(
        "list-cdf-statuses",
        "List how a change feed stands, by table",
        PARENT,
        &[],
        Action::List { collection: "cdf-statuses", key: "cdf_statuses" },
    ),
    hidden(create("create-data-api", "Make a database's data API", PARENT, &[], ("data-api", "DataApi"))),
    hidden(verb("get-data-api", "Show a database's data API", NAME, &[], Action::Get)),
    hidden(verb(
        "update-data-api",
        "Change a database's data API",
        NAME_MASK,
        &[],
        Action::Update { resource: "DataApi" },
    )),
    hidden(verb("delete-data-api", "Delete a database's data API", NAME, &[], Action::Delete)),
];

impl Verb {
    /// What the command's action brings beside the options of its own.
    fn brings(&self) -> &'static [&'static str] {
        match self.action {
            Action::Create { .. } | Action::Update { .. } => &["json", "name", "no-wait", "timeout"],
            Action::Delete | Action::Undelete => &["no-wait", "timeout"],
            Action::List { .. } => &["page-size", "limit", "page-token"],
            Action::Get | Action::Credential => &[],
        }
    }

    /// The command for the parser.
    pub fn clap(&self) -> Clap {
        let arguments: String = self.arguments.iter().map(|name| format!(" {name}")).collect();
        let usage = format!("ana postgres {}{arguments} [flags]", self.name);
        // As many as are written: too few and too many get an answer in the vendor's words.
        let arguments = Arg::new("arguments").num_args(0..).hide(true);
        let options = self.options.iter().chain(self.brings()).map(|name| option(name));
        Clap::new(self.name)
            .about(self.about)
            .hide(self.hidden)
            .args_override_self(true)
            .override_usage(usage)
            .arg(arguments)
            .args(options)
    }
}

/// Flags that every command of the vendor's has.
pub fn everywhere() -> Vec<Arg> {
    let output = Arg::new("output")
        .short('o')
        .long("output")
        .value_name("FORMAT")
        .value_parser(["text", "json"])
        .help("The output is JSON either way");
    let value = |name: &'static str, of: &'static str| Arg::new(name).long(name).value_name(of);
    let others = [
        value("profile", "NAME").short('p').help("Which daemon is meant, ANABRANCH_HOST says"),
        value("target", "NAME").short('t').help("There are no bundles"),
        flag("debug", "What the daemon does is in its log"),
        value("log-level", "LEVEL").help("See --debug"),
        value("log-file", "FILE").help("See --debug"),
        value("log-format", "FORMAT").help("See --debug"),
    ];
    let all = std::iter::once(output).chain(others);
    all.map(|arg| arg.global(true).help_heading("Taken for scripts, without effect")).collect()
}

/// A switch as programs in Go have it: `--purge`, `--purge=true`, `--purge=false`.
fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .help(help)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_name("BOOL")
        .value_parser(boolean)
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
    }
}

fn option(name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name);
    let flag = |help| flag(name, help);
    match name {
        "json" => arg.value_name("JSON|@FILE").help("Body of the request: the resource itself"),
        "name" => arg.value_name("NAME").help("Ignored by the API"),
        "no-wait" => flag("Print the operation instead of waiting for its end"),
        "timeout" => arg.value_name("DURATION").help("Longest wait, e.g. 10m; 0 waits for ever"),
        "page-size" => arg.value_name("N").help("Items of one request"),
        "limit" => arg.value_name("N").help("Most items in all; 0 is all").allow_negative_numbers(true),
        "page-token" => arg.value_name("TOKEN").help("Where to begin").hide(true),
        "show-deleted" => flag("Also what is deleted and still holds data"),
        "purge" => flag("Free the data at once; it cannot come back"),
        "replace-existing" => flag("Change what exists already"),
        "force" => flag("Also drop the tables that it wrote"),
        "role-id" => arg.value_name("ID").help("Identifier of the role"),
        "database-id" => arg.value_name("ID").help("Identifier of the database"),
        "cdf-config-id" => arg.value_name("ID").help("Identifier of the change feed"),
        "reassign-owned-to" => {
            arg.value_name("ROLE").help("Resource name of the role that gets what it owned")
        }
        "expire-time" => arg.value_name("TIME").help("When the token ends, e.g. 2030-01-31T12:00:00Z"),
        "ttl" => arg.value_name("DURATION").help("How long the token holds, e.g. 10m"),
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tests/postgres.rs` runs against a daemon.
    const GOLDEN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres.golden"));

    #[test]
    fn every_command_is_run_against_a_daemon() {
        let run: Vec<&str> = GOLDEN
            .lines()
            .filter_map(|line| line.strip_prefix("$ ana postgres ")?.split_whitespace().next())
            .collect();
        for verb in VERBS {
            assert!(run.contains(&verb.name), "{} is not in SCRIPT of tests/postgres.rs", verb.name);
        }
    }
}
