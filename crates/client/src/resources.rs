//! What the API answers with. Absent and unknown fields are tolerated: the daemon may be older or
//! newer than its client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A project.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    /// Resource name.
    pub name: String,
    /// Identity for ever.
    pub uid: String,
    /// Identifier.
    pub project_id: String,
    /// When it was made (RFC 3339).
    pub create_time: String,
    /// When it was last changed.
    pub update_time: String,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_time: Option<String>,
    /// When its data is due to be freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge_time: Option<String>,
    /// Effective values.
    pub status: ProjectStatus,
}

/// Effective values of a project.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectStatus {
    /// Resource name of the default branch.
    pub default_branch: String,
    /// What people see.
    pub display_name: String,
    /// Who made it.
    pub owner: String,
    /// PostgreSQL major version.
    pub pg_version: u32,
    /// How far back the past is kept.
    pub history_retention_duration: String,
    /// What new endpoints begin with.
    pub default_endpoint_settings: Value,
    /// Whether roles may log in with passwords of their own.
    pub enable_pg_native_login: bool,
    /// Labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub custom_tags: Vec<Tag>,
}

/// A label of a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tag {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A branch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Branch {
    /// Resource name.
    pub name: String,
    /// Identity for ever.
    pub uid: String,
    /// Identifier.
    pub branch_id: String,
    /// Resource name of the project.
    pub parent: String,
    /// When it was made (RFC 3339).
    pub create_time: String,
    /// When it was last changed.
    pub update_time: String,
    /// Effective values.
    pub status: BranchStatus,
    /// Beyond the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anabranch: Option<OwnBranch>,
}

/// Effective values of a branch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BranchStatus {
    /// `READY`, `INIT` or `DELETED`.
    pub current_state: String,
    /// Whether it is the project's default.
    pub default: bool,
    /// Whether delete and reset are refused.
    pub is_protected: bool,
    /// Length of its files as PostgreSQL sees them, without WAL.
    pub logical_size_bytes: i64,
    /// When it came into its state.
    pub state_change_time: String,
    /// Resource name of the parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_branch: Option<String>,
    /// Where it left from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_branch_lsn: Option<String>,
    /// When it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_branch_time: Option<String>,
    /// When it vanishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<String>,
    /// When it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_time: Option<String>,
    /// When its data is due to be freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purge_time: Option<String>,
}

/// What a branch has beyond the contract.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnBranch {
    /// What a person wrote, where that differs from the identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_name: Option<String>,
    /// What became of its parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_fate: Option<String>,
    /// Disk space that its removal would free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_bytes: Option<u64>,
    /// Disk space that others use too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
    /// What is wrong with its data, where it cannot be started or cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// An endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Resource name.
    pub name: String,
    /// Identity for ever.
    pub uid: String,
    /// Identifier.
    pub endpoint_id: String,
    /// Resource name of the branch.
    pub parent: String,
    /// Effective values.
    pub status: EndpointStatus,
    /// Beyond the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anabranch: Option<OwnEndpoint>,
}

/// Effective values of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointStatus {
    /// `ENDPOINT_TYPE_READ_WRITE` or `ENDPOINT_TYPE_READ_ONLY`.
    pub endpoint_type: String,
    /// `ACTIVE`, `IDLE` or `DEGRADED`.
    pub current_state: String,
    /// Whether connections are refused.
    pub disabled: bool,
    /// Where it listens.
    pub hosts: Hosts,
    /// Smallest size in compute units.
    pub autoscaling_limit_min_cu: f64,
    /// Largest size in compute units.
    pub autoscaling_limit_max_cu: f64,
    /// Idle time until suspension, e.g. `300s`; none means never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend_timeout_duration: Option<String>,
    /// When somebody last connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_time: Option<String>,
    /// Settings of its PostgreSQL.
    pub settings: EndpointSettings,
}

/// What an endpoint's server is started with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    /// Names and values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pg_settings: BTreeMap<String, String>,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hosts {
    /// Address or name.
    pub host: String,
}

/// What an endpoint has beyond the contract.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnEndpoint {
    /// TCP port.
    pub port: u16,
}

/// A change that may take a while.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// Resource name.
    pub name: String,
    /// Whether it has ended.
    pub done: bool,
    /// What it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Value>,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<OperationError>,
}

/// Why an operation was given up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperationError {
    /// Code of the contract.
    pub error_code: String,
    /// One line.
    pub message: String,
}

/// The daemon at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: i32,
    /// Its home directory.
    pub home: String,
    /// Owner of the home.
    pub owner: String,
    /// Its PostgreSQL.
    pub postgres: Postgres,
    /// Address of the HTTP API.
    pub http: Option<String>,
    /// `http` or `https`.
    pub http_scheme: Option<String>,
    /// Address for clients of PostgreSQL that name their endpoint otherwise.
    pub postgres_address: Option<String>,
    /// Number of projects.
    pub projects: usize,
    /// Every branch with its compute.
    pub computes: Vec<Compute>,
    /// What the host gives to them.
    pub host: Host,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// A PostgreSQL installation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Postgres {
    /// Version, e.g. `17.10`.
    pub version: String,
    /// Directory of its programs.
    pub dir: String,
}

/// A branch's compute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compute {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub branch: String,
    /// Identifier of the branch it left from, where that lives on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// `asleep`, `waiting`, `starting`, `awake` or `suspending`.
    pub state: String,
    /// Whether it may not wake.
    pub disabled: bool,
    /// Process id of its postmaster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Where clients connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// TCP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// When it was last in use (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_time: Option<String>,
    /// Open connections.
    pub connections: u64,
    /// Connections that wait for it to wake.
    pub connections_waiting: u64,
    /// Its size now, in compute units; none while it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cu: Option<f64>,
    /// Its smallest size.
    pub min_cu: f64,
    /// Its largest size.
    pub max_cu: f64,
    /// Memory it was found to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How long nobody has used it, while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u64>,
    /// When it is suspended if nothing happens; none where it never is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspends_in_seconds: Option<u64>,
    /// What kept it awake when its time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_awake_by: Option<String>,
}

/// What the host gives to computes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Computes that take room.
    pub computes: u64,
    /// Computes that wait for room.
    pub computes_waiting: u64,
    /// Memory that running computes are reckoned to take.
    pub memory_reckoned_bytes: u64,
    /// Memory for all computes.
    pub memory_limit_bytes: u64,
    /// What holds computes to their size, e.g. `cgroup v2`, or `advisory`.
    pub sizes: String,
    /// Whether a size is a limit and not just advice.
    pub sizes_enforced: bool,
    /// What keeps the programs of a branch from the files of the others: `landlock`, or `none`.
    pub isolation: String,
}

/// A piece of a branch's log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Whole lines.
    pub text: String,
    /// Where the next piece begins.
    pub next_offset: u64,
}

/// What a backup came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// Of the backups into this directory, which one.
    pub number: u64,
    /// Branches in it.
    pub branches: u64,
    /// Of these, changed since the backup before.
    pub branches_copied: u64,
    /// Layers in it.
    pub layers: u64,
    /// Of these, not in the directory before.
    pub layers_copied: u64,
    /// Bytes of the whole backup.
    pub bytes: u64,
    /// Bytes written for it now.
    pub bytes_copied: u64,
}

/// Space of a branch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Disk space that its removal would free.
    pub own_bytes: u64,
    /// Disk space that others use too.
    pub shared_bytes: u64,
    /// Length of its files as PostgreSQL sees them, without WAL.
    pub logical_bytes: u64,
}

/// What a scrub looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrub {
    /// Branches whose manifests were read.
    pub branches: u64,
    /// Layers looked at.
    pub layers: u64,
    /// Layers of these whose content was verified: the others are written to.
    pub sealed: u64,
    /// Bytes of content verified.
    pub bytes: u64,
    /// What was found, in the order in which it was.
    pub findings: Vec<ScrubFinding>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubFinding {
    /// `damage`, or `leftover` for what costs space only.
    pub grade: String,
    /// The layer, below the directory of layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Path on the daemon's host.
    pub path: String,
    /// Path in the data directory, for PostgreSQL's own files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Block of 8,192 bytes in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u32>,
    /// What is wrong, to be read after the path.
    pub what: String,
    /// Resource names of the branches that read it.
    pub branches: Vec<String>,
}

/// How to connect to a branch. Has no `Debug`: it may hold a password.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// Address or name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Role to log in as.
    pub role: String,
    /// Database to use.
    pub database: String,
    /// What to log in with, once somebody has asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Resource name of the endpoint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// File with the certificate of the authority that signs the server's; none where the server has
    /// a certificate from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// What a database token is, and until when. Has no `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseCredential {
    /// The token, to be used as a password.
    pub token: String,
    /// When it ends (RFC 3339).
    pub expire_time: String,
}

/// The certificate authority of the home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authority {
    /// Its certificate, as PEM.
    pub certificate: String,
    /// Where that lies on the daemon's host.
    pub file: String,
}

/// The superuser of a branch. Has no `Debug`: it holds a password.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Superuser {
    /// Directory of the server's socket.
    pub socket_dir: String,
    /// The role.
    pub role: String,
    /// A database that is always there.
    pub database: String,
    /// The role's password.
    pub password: String,
}

/// How long it took until a branch answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wake {
    /// Milliseconds inside the daemon.
    pub duration_ms: f64,
}

/// Lines of the audit log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditLog {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
}

/// One line of the audit log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditEntry {
    /// When (RFC 3339).
    pub time: String,
    /// Who.
    pub principal: String,
    /// `human`, `service` or `agent`.
    pub principal_kind: String,
    /// What.
    pub action: String,
    /// On what.
    pub target: String,
    /// `done`, `refused` or `failed`.
    pub result: String,
    /// Anything more.
    pub detail: String,
}
