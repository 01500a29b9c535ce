//! What the control plane speaks of.

mod access;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use access::{Attributes, AuthMethod, Database, Identity, IdentityType, Role};

/// Name of the branch that every project begins with.
pub const PRODUCTION: &str = "production";
/// Name of the endpoint that every branch begins with.
pub const PRIMARY: &str = "primary";

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// E-mail address, or the name of a service or agent.
    pub name: String,
    /// What kind of actor.
    pub kind: PrincipalKind,
}

/// Kinds of actors, recorded with every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// A person.
    Human,
    /// A program with an identity of its own; also this daemon.
    Service,
    /// A program that acts on a person's behalf and decides by itself.
    Agent,
}

impl Principal {
    /// The daemon itself, when it acts on a clock or after a crash.
    pub fn daemon() -> Principal {
        Principal { name: "anabranch".to_owned(), kind: PrincipalKind::Service }
    }

    /// Name of the identity whose rights count: a program that acts for somebody is written
    /// `NAME for PRINCIPAL`, whatever its own name is.
    pub fn on_behalf_of(&self) -> &str {
        match self.kind {
            PrincipalKind::Agent => self.name.rsplit_once(" for ").map_or(&self.name, |(_, name)| name),
            PrincipalKind::Human | PrincipalKind::Service => &self.name,
        }
    }
}

impl PrincipalKind {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            PrincipalKind::Human => "human",
            PrincipalKind::Service => "service",
            PrincipalKind::Agent => "agent",
        }
    }

    /// The kind that a stored word means.
    pub fn parse(word: &str) -> Option<PrincipalKind> {
        match word {
            "human" => Some(PrincipalKind::Human),
            "service" => Some(PrincipalKind::Service),
            "agent" => Some(PrincipalKind::Agent),
            _ => None,
        }
    }
}

/// Where a project or branch is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Wanted, not whole yet.
    Creating,
    /// Whole.
    Ready,
    /// Deleted; data is freed at the purge time.
    Deleted,
}

impl State {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Ready => "ready",
            State::Deleted => "deleted",
        }
    }

    /// The state that a stored word means.
    pub fn parse(word: &str) -> Option<State> {
        match word {
            "creating" => Some(State::Creating),
            "ready" => Some(State::Ready),
            "deleted" => Some(State::Deleted),
            _ => None,
        }
    }
}

/// Compute settings: of an endpoint, or those new endpoints of a project begin with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComputeSettings {
    /// Smallest size, in compute units.
    pub min_cu: f64,
    /// Largest size, in compute units.
    pub max_cu: f64,
    /// Idle time until suspension, seconds; none means never.
    pub suspend_seconds: Option<f64>,
    /// PostgreSQL settings.
    #[serde(default)]
    pub pg_settings: BTreeMap<String, String>,
}

impl Default for ComputeSettings {
    fn default() -> Self {
        ComputeSettings {
            min_cu: 1.0,
            max_cu: 1.0,
            suspend_seconds: Some(86_400.0),
            pg_settings: BTreeMap::new(),
        }
    }
}

/// A label of a project, for people and bills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Its key; one of a kind in a project.
    pub key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub value: String,
}

/// What a project is set to beside its computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectOptions {
    /// Whether PostgreSQL roles may log in with passwords of their own.
    pub native_login: bool,
    /// Labels, in the order given.
    pub custom_tags: Vec<Tag>,
    /// Kept and shown for clients that manage it; means nothing here.
    pub budget_policy_id: Option<String>,
    /// Kept and shown for clients that manage it; means nothing here.
    pub compute_provisioner: Option<String>,
}

/// A PostgreSQL installation as a project remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// Directory of `postgres` and `initdb`.
    pub bin_dir: PathBuf,
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

/// A unit of ownership: branches of one database cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// Identity for ever (a UUID).
    pub uid: String,
    /// Identifier in names; free again once the project is deleted.
    pub id: String,
    /// What people see.
    pub display_name: String,
    /// Who made it.
    pub owner: String,
    /// Where it is in its life.
    pub state: State,
    /// Server that its clusters were made with.
    pub server: ServerRecord,
    /// What new endpoints begin with.
    pub compute: ComputeSettings,
    /// How far back the past is kept, seconds.
    pub history_seconds: f64,
    /// Logins, labels and what else is set.
    pub options: ProjectOptions,
    /// `uid` of the default branch.
    pub default_branch: String,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// When it was deleted.
    pub delete_time: Option<Timestamp>,
    /// When its data is (or was) due to be freed.
    pub purge_time: Option<Timestamp>,
}

/// A line of data.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Identity for ever (`br-…`); also the name of its data on disk.
    pub uid: String,
    /// `uid` of its project.
    pub project: String,
    /// Identifier in names.
    pub id: String,
    /// What the caller wrote where that differs from the identifier, e.g. the name of a git branch.
    pub given_name: Option<String>,
    /// Where it left from; none for a root.
    pub source: Option<Source>,
    /// Where it is in its life.
    pub state: State,
    /// When it came into this state.
    pub state_change_time: Timestamp,
    /// Whether secrets and subscriptions that came with the data were replaced; until then no
    /// client is let in.
    pub prepared: bool,
    /// Whether delete and reset are refused.
    pub is_protected: bool,
    /// When it vanishes by itself.
    pub expire_time: Option<Timestamp>,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// When it was deleted.
    pub delete_time: Option<Timestamp>,
    /// When its data is due to be freed.
    pub purge_time: Option<Timestamp>,
}

/// Where a branch left from.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// `uid` of the parent.
    pub branch: String,
    /// Identifier that the parent had.
    pub branch_id: String,
    /// End of the WAL inside the cut; none until the cut is made.
    pub lsn: Option<String>,
    /// Time of the cut; none until the cut is made.
    pub time: Option<Timestamp>,
    /// What became of the parent: `expired` or `deleted`; none while it lives.
    pub fate: Option<String>,
}

/// A stable address of a branch.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Identity for ever (`ep-…`).
    pub uid: String,
    /// `uid` of its branch.
    pub branch: String,
    /// Identifier in names.
    pub id: String,
    /// Size and suspension.
    pub compute: ComputeSettings,
    /// Whether connections are refused.
    pub disabled: bool,
    /// Whether secondaries would serve reads; there are none in a group of one compute.
    pub readable_secondaries: bool,
    /// Where it listens; none until first bound.
    pub address: Option<Address>,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Loopback address.
    pub host: IpAddr,
    /// TCP port.
    pub port: u16,
}

/// What an operation does to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Makes it.
    Create,
    /// Changes it.
    Update,
    /// Deletes it.
    Delete,
    /// Takes a delete back.
    Undelete,
}

impl Verb {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Undelete => "undelete",
        }
    }

    /// The verb that a stored word means.
    pub fn parse(word: &str) -> Option<Verb> {
        match word {
            "create" => Some(Verb::Create),
            "update" => Some(Verb::Update),
            "delete" => Some(Verb::Delete),
            "undelete" => Some(Verb::Undelete),
            _ => None,
        }
    }
}

/// What kind of thing an operation works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A project.
    Project,
    /// A branch.
    Branch,
    /// An endpoint.
    Endpoint,
    /// A role inside a branch.
    Role,
    /// A database inside a branch.
    Database,
}

impl Kind {
    /// The word stored, and the noun in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Project => "project",
            Kind::Branch => "branch",
            Kind::Endpoint => "endpoint",
            Kind::Role => "role",
            Kind::Database => "database",
        }
    }

    /// The kind that a stored word means.
    pub fn parse(word: &str) -> Option<Kind> {
        match word {
            "project" => Some(Kind::Project),
            "branch" => Some(Kind::Branch),
            "endpoint" => Some(Kind::Endpoint),
            "role" => Some(Kind::Role),
            "database" => Some(Kind::Database),
            _ => None,
        }
    }
}

/// A change that may take a while. Outlives what it works on.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// UUID, the last segment of its name.
    pub uid: String,
    /// Resource name of the target at that time, e.g. `projects/p/branches/b`.
    pub resource: String,
    /// What kind of thing the target is.
    pub kind: Kind,
    /// `uid` of the target.
    pub target: String,
    /// What is done to it.
    pub verb: Verb,
    /// Who asked.
    pub principal: Principal,
    /// How it stands.
    pub outcome: Outcome,
    /// When it began.
    pub create_time: Timestamp,
}

/// How an operation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Not finished.
    Running,
    /// Finished.
    Done,
    /// Given up, with a code of the API's vocabulary and a line of text.
    Failed {
        /// E.g. `INTERNAL_ERROR`.
        code: String,
        /// What went wrong.
        message: String,
    },
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// When.
    pub time: Timestamp,
    /// Who.
    pub principal: Principal,
    /// What, e.g. `branch.create`.
    pub action: String,
    /// On what (a resource name).
    pub target: String,
    /// `done`, `refused` or `failed`.
    pub result: String,
    /// Anything more; never a secret.
    pub detail: String,
}
