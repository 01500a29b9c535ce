//! The commands of the group and what each takes.

use clap::{Arg, ArgAction, Command as Clap};

/// What a command does with the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// POST to a collection: its name and that of the identifier in the query.
    Create {
        /// Last segment of the path.
        collection: &'static str,
        /// Name of the identifier in the query.
        id: &'static str,
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
    (collection, id, resource): (&'static str, &'static str, &'static str),
) -> Verb {
    verb(name, about, arguments, options, Action::Create { collection, id, resource })
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

const NAME: &[&str] = &["NAME"];
const PARENT: &[&str] = &["PARENT"];
const NAME_MASK: &[&str] = &["NAME", "UPDATE_MASK"];

/// All commands.
pub const VERBS: &[Verb] = &[
    create("create-project", "Make a project", &["PROJECT_ID"], &[], ("projects", "project_id", "Project")),
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
        ("branches", "branch_id", "Branch"),
    ),
    verb("get-branch", "Show a branch", NAME, &[], Action::Get),
    list("list-branches", "List branches", PARENT, &["show-deleted"], "branches"),
    verb("update-branch", "Change a branch", NAME_MASK, &[], Action::Update { resource: "Branch" }),
    verb("delete-branch", "Delete a branch", NAME, &["purge"], Action::Delete),
    Verb {
        hidden: true,
        ..verb("undelete-branch", "Take the deletion of a branch back", NAME, &[], Action::Undelete)
    },
    create(
        "create-endpoint",
        "Make an endpoint",
        &["PARENT", "ENDPOINT_ID"],
        &["replace-existing"],
        ("endpoints", "endpoint_id", "Endpoint"),
    ),
    verb("get-endpoint", "Show an endpoint", NAME, &[], Action::Get),
    list("list-endpoints", "List endpoints", PARENT, &[], "endpoints"),
    verb("update-endpoint", "Change an endpoint", NAME_MASK, &[], Action::Update { resource: "Endpoint" }),
    verb("delete-endpoint", "Delete an endpoint", NAME, &[], Action::Delete),
    create(
        "create-role",
        "Make a role",
        PARENT,
        &["role-id", "replace-existing"],
        ("roles", "role_id", "Role"),
    ),
    verb("get-role", "Show a role", NAME, &[], Action::Get),
    list("list-roles", "List roles", PARENT, &[], "roles"),
    verb("update-role", "Change a role", NAME_MASK, &[], Action::Update { resource: "Role" }),
    verb("delete-role", "Delete a role", NAME, &["reassign-owned-to"], Action::Delete),
    create(
        "create-database",
        "Make a database",
        PARENT,
        &["database-id", "replace-existing"],
        ("databases", "database_id", "Database"),
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
            .override_usage(usage)
            .arg(arguments)
            .args(options)
    }
}

fn option(name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name);
    let flag = |help: &'static str| Arg::new(name).long(name).help(help).action(ArgAction::SetTrue);
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
        "role-id" => arg.value_name("ID").help("Identifier of the role"),
        "database-id" => arg.value_name("ID").help("Identifier of the database"),
        "reassign-owned-to" => {
            arg.value_name("ROLE").help("Resource name of the role that gets what it owned")
        }
        "expire-time" => arg.value_name("TIME").help("When the token ends, e.g. 2030-01-31T12:00:00Z"),
        "ttl" => arg.value_name("DURATION").help("How long the token holds, e.g. 10m"),
        _ => arg,
    }
}
