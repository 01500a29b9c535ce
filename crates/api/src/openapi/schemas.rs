//! Shapes of requests and answers. Tests hold them against both sides: what is answered must fit
//! them, and every field of a request must be one that the parser knows.

use serde_json::{Map, Value, json};

use super::reference;

mod access;

const AUTH_METHODS: [&str; 3] = ["LAKEBASE_OAUTH_V1", "PG_PASSWORD_SCRAM_SHA_256", "NO_LOGIN"];

/// All shapes by name, in order of names.
pub(super) fn all() -> Map<String, Value> {
    let mut all = Map::new();
    for (name, schema) in resources().into_iter().chain(specs()).chain(own()).chain(access::schemas()) {
        all.insert(name.to_owned(), schema);
    }
    all.sort_keys();
    all
}

fn resources() -> Vec<(&'static str, Value)> {
    vec![
        (
            "Project",
            object([
                ("name", read_only(text("Resource name: projects/{project_id}"))),
                ("uid", read_only(text("Identity for ever"))),
                ("project_id", read_only(text("Identifier"))),
                ("create_time", read_only(time("When it was made"))),
                ("update_time", read_only(time("When it was last changed"))),
                ("delete_time", read_only(time("When it was deleted"))),
                ("purge_time", read_only(time("When its data is due to be freed"))),
                ("spec", write_only(reference("ProjectSpec"))),
                ("status", read_only(reference("ProjectStatus"))),
                ("initial_branch_spec", write_only(reference("InitialBranchSpec"))),
                ("initial_endpoint_spec", write_only(reference("InitialEndpointSpec"))),
                ("initial_database_spec", write_only(reference("InitialDatabaseSpec"))),
                ("initial_role_spec", write_only(reference("RoleSpec"))),
            ]),
        ),
        (
            "ProjectStatus",
            object([
                ("branch_logical_size_limit_bytes", integer("Largest size of a branch")),
                ("budget_policy_id", text("As set")),
                ("compute_last_active_time", time("When one of its computes was last in use")),
                ("compute_provisioner", text("As set")),
                ("custom_tags", list(reference("Tag"))),
                ("default_branch", text("Resource name of the default branch")),
                ("default_endpoint_settings", reference("DefaultEndpointSettings")),
                ("display_name", text("What people see")),
                ("enable_pg_native_login", flag("Whether roles may log in with passwords of their own")),
                ("history_retention_duration", duration("How far back the past is kept")),
                ("owner", text("Who made it")),
                ("pg_version", integer("PostgreSQL major version")),
                ("project_id", text("Identifier")),
                ("synthetic_storage_size_bytes", integer("Always 0")),
            ]),
        ),
        (
            "Branch",
            object([
                ("name", read_only(text("Resource name: projects/{project_id}/branches/{branch_id}"))),
                ("uid", read_only(text("Identity for ever"))),
                ("branch_id", read_only(text("Identifier"))),
                ("parent", read_only(text("Resource name of the project"))),
                ("create_time", read_only(time("When it was made"))),
                ("update_time", read_only(time("When it was last changed"))),
                ("spec", write_only(reference("BranchSpec"))),
                ("status", read_only(reference("BranchStatus"))),
                ("anabranch", reference("OwnBranch")),
            ]),
        ),
        (
            "BranchStatus",
            object([
                ("branch_id", text("Identifier")),
                ("current_state", one_of(&["INIT", "READY", "DELETED"])),
                ("default", flag("Whether it is the project's default branch")),
                ("is_protected", flag("Whether delete and reset are refused")),
                ("logical_size_bytes", integer("Length of its files as PostgreSQL sees them, without WAL")),
                ("state_change_time", time("When it came into its state")),
                ("source_branch", text("Resource name of the branch it was made from")),
                ("source_branch_lsn", text("Where in the source's log")),
                ("source_branch_time", time("At which time of the source")),
                ("expire_time", time("When it vanishes")),
                ("delete_time", time("When it was deleted")),
                ("purge_time", time("When its data is due to be freed")),
            ]),
        ),
        (
            "OwnBranch",
            object([
                ("given_name", text("What a person wrote, e.g. the name of a git branch")),
                ("source_fate", one_of(&["expired", "deleted"])),
                ("own_bytes", read_only(integer("Disk space that its removal would free"))),
                ("shared_bytes", read_only(integer("Disk space that others use too"))),
                ("damage", text("What is wrong with its data, where it cannot be started or cut")),
            ]),
        ),
        (
            "Endpoint",
            object([
                ("name", read_only(text("Resource name: …/branches/{branch_id}/endpoints/{endpoint_id}"))),
                ("uid", read_only(text("Identity for ever"))),
                ("endpoint_id", read_only(text("Identifier"))),
                ("parent", read_only(text("Resource name of the branch"))),
                ("create_time", read_only(time("When it was made"))),
                ("update_time", read_only(time("When it was last changed"))),
                ("spec", write_only(reference("EndpointSpec"))),
                ("status", read_only(reference("EndpointStatus"))),
                ("anabranch", read_only(object([("port", integer("TCP port"))]))),
            ]),
        ),
        (
            "EndpointStatus",
            object([
                ("endpoint_id", text("Identifier")),
                ("endpoint_type", one_of(&["ENDPOINT_TYPE_READ_WRITE"])),
                ("current_state", one_of(&["INIT", "ACTIVE", "IDLE", "DEGRADED"])),
                ("pending_state", one_of(&["INIT", "ACTIVE", "IDLE", "DEGRADED"])),
                ("disabled", flag("Whether connections are refused")),
                ("last_active_time", time("When its compute was last in use")),
                ("hosts", object([("host", text("Address or name to connect to"))])),
                ("autoscaling_limit_min_cu", number("Smallest size in compute units")),
                ("autoscaling_limit_max_cu", number("Largest size in compute units")),
                ("suspend_timeout_duration", duration("Idle time until suspension; absent: never")),
                ("settings", reference("EndpointSettings")),
                ("group", reference("EndpointGroup")),
            ]),
        ),
        (
            "ComputeInstance",
            object([
                ("name", text("Resource name: …/endpoints/{endpoint_id}/compute-instances/{id}")),
                ("compute_instance_id", text("Identifier")),
                ("compute_host", text("Where it is reached")),
                ("current_state", one_of(&["INIT", "ACTIVE", "IDLE"])),
                ("role", one_of(&["READ_WRITE"])),
                ("start_time", time("When the server that runs now was started")),
                ("suspend_time", time("When it was suspended")),
            ]),
        ),
        (
            "Role",
            object([
                ("name", read_only(text("Resource name: …/branches/{branch_id}/roles/{role_id}"))),
                ("role_id", read_only(text("Identifier"))),
                ("parent", read_only(text("Resource name of the branch"))),
                ("create_time", read_only(time("When it was first seen"))),
                ("update_time", read_only(time("When it was last seen to change"))),
                ("spec", write_only(reference("RoleSpec"))),
                ("status", read_only(reference("RoleStatus"))),
            ]),
        ),
        (
            "RoleStatus",
            object([
                ("role_id", text("Identifier")),
                ("postgres_role", text("Name of the role in PostgreSQL")),
                (
                    "identity_type",
                    one_of(&["USER", "SERVICE_PRINCIPAL", "GROUP", "IDENTITY_TYPE_UNSPECIFIED"]),
                ),
                ("auth_method", one_of(&AUTH_METHODS)),
                ("membership_roles", list(one_of(&["DATABRICKS_SUPERUSER"]))),
                ("attributes", reference("RoleAttributes")),
            ]),
        ),
        (
            "RoleAttributes",
            object([
                ("bypassrls", flag("Whether row-level security does not bind it")),
                ("createdb", flag("Whether it may make databases")),
                ("createrole", flag("Whether it may make roles")),
            ]),
        ),
        (
            "Database",
            object([
                ("name", read_only(text("Resource name: …/branches/{branch_id}/databases/{database_id}"))),
                ("database_id", read_only(text("Identifier"))),
                ("parent", read_only(text("Resource name of the branch"))),
                ("create_time", read_only(time("When it was first seen"))),
                ("update_time", read_only(time("When it was last seen to change"))),
                ("spec", write_only(reference("DatabaseSpec"))),
                (
                    "status",
                    read_only(object([
                        ("database_id", text("Identifier")),
                        ("postgres_database", text("Name of the database in PostgreSQL")),
                        ("role", text("Resource name of the role that owns it")),
                    ])),
                ),
            ]),
        ),
        (
            "GenerateDatabaseCredentialRequest",
            object([
                ("endpoint", text("Resource name of the endpoint")),
                ("ttl", duration("How long it is good, 300s to 3600s; 3600s where absent; one of two")),
                ("expire_time", time("Until when it is good; one of two")),
                ("group_name", text("Group whose role is logged in to, by a member of it")),
                ("claims", list(json!({"type": "object", "description": "Not supported yet"}))),
            ]),
        ),
        (
            "DatabaseCredential",
            object([("token", text("The password")), ("expire_time", time("Until when it is good"))]),
        ),
        (
            "Operation",
            object([
                ("name", text("Resource name: {resource}/operations/{id}")),
                ("done", flag("Whether it has ended; then it has either response or error")),
                ("metadata", json!({"type": "object"})),
                (
                    "response",
                    json!({"anyOf": [
                        reference("Project"), reference("Branch"), reference("Endpoint"), reference("Role"),
                        reference("Database"), reference("Empty"),
                    ]}),
                ),
                ("error", reference("Error")),
            ]),
        ),
        (
            "Error",
            object([
                ("error_code", text("E.g. NOT_FOUND")),
                ("message", text("One line")),
                ("details", list(json!({"type": "object"}))),
            ]),
        ),
        ("Empty", object([("@type", text("Name of the empty message"))])),
        ("ListProjectsResponse", page("projects", "Project")),
        ("ListBranchesResponse", page("branches", "Branch")),
        ("ListEndpointsResponse", page("endpoints", "Endpoint")),
        ("ListComputeInstancesResponse", page("compute_instances", "ComputeInstance")),
        ("ListRolesResponse", page("roles", "Role")),
        ("ListDatabasesResponse", page("databases", "Database")),
    ]
}

fn specs() -> Vec<(&'static str, Value)> {
    vec![
        (
            "ProjectSpec",
            object([
                ("display_name", text("1 to 256 characters; the identifier where absent")),
                ("pg_version", integer("PostgreSQL major version; never changes")),
                ("history_retention_duration", duration("172800s to 3024000s; 604800s where absent")),
                ("default_endpoint_settings", reference("DefaultEndpointSettings")),
                ("default_branch", text("Resource name of a branch of the project that does not expire")),
                ("custom_tags", list(reference("Tag"))),
                ("enable_pg_native_login", flag("Whether roles may log in with passwords of their own")),
                ("budget_policy_id", text("Kept and shown")),
                ("compute_provisioner", text("Kept and shown")),
            ]),
        ),
        ("Tag", object([("key", text("One of a kind")), ("value", text("May be empty"))])),
        ("DefaultEndpointSettings", object([min_cu(), max_cu(), suspend(), no_suspension(), pg_settings()])),
        ("InitialBranchSpec", object([("is_protected", flag("Whether the first branch is protected"))])),
        (
            "InitialEndpointSpec",
            object([min_cu(), max_cu(), suspend(), no_suspension(), ("group", reference("EndpointGroup"))]),
        ),
        (
            "InitialDatabaseSpec",
            object([("postgres_database", text("Its name; databricks_postgres where absent"))]),
        ),
        (
            "BranchSpec",
            object([
                ("source_branch", text("Resource name; the default branch where absent; never changes")),
                ("source_branch_lsn", text("Not supported on creation")),
                ("source_branch_time", text("Not supported on creation")),
                ("source_snapshot", text("Not supported")),
                ("ttl", duration("Vanishes so long after now; one of three")),
                ("expire_time", time("Vanishes then; one of three")),
                ("no_expiry", flag("Never vanishes; only true; one of three")),
                ("is_protected", flag("Whether delete and reset are refused; not with an expiry")),
            ]),
        ),
        (
            "EndpointSpec",
            object([
                ("endpoint_type", one_of(&["ENDPOINT_TYPE_READ_WRITE", "ENDPOINT_TYPE_READ_ONLY"])),
                min_cu(),
                max_cu(),
                suspend(),
                no_suspension(),
                ("disabled", flag("Whether connections are refused")),
                ("settings", reference("EndpointSettings")),
                ("group", reference("EndpointGroup")),
            ]),
        ),
        (
            "RoleSpec",
            object([
                (
                    "postgres_role",
                    text("Name in PostgreSQL; the identifier, or the creator's, where absent; never changes"),
                ),
                (
                    "identity_type",
                    described(
                        "Whose role it is; absent: nobody's; never changes",
                        one_of(&["USER", "SERVICE_PRINCIPAL", "GROUP", "IDENTITY_TYPE_UNSPECIFIED"]),
                    ),
                ),
                ("auth_method", described("How it is logged in to; never changes", one_of(&AUTH_METHODS))),
                ("membership_roles", list(one_of(&["DATABRICKS_SUPERUSER"]))),
                ("attributes", reference("RoleAttributes")),
            ]),
        ),
        (
            "DatabaseSpec",
            object([
                ("postgres_database", text("Name in PostgreSQL")),
                ("role", text("Resource name of the role that owns it")),
            ]),
        ),
        ("EndpointSettings", object([pg_settings()])),
        (
            "EndpointGroup",
            object([
                ("min", integer("Only 1")),
                ("max", integer("Only 1")),
                ("enable_readable_secondaries", flag("Without effect in a group of one")),
            ]),
        ),
    ]
}

fn own() -> Vec<(&'static str, Value)> {
    vec![
        ("Document", json!({"type": "object"})),
        ("Health", object([("status", one_of(&["ok"])), ("version", text("Version of the daemon"))])),
        (
            "Status",
            object([
                ("version", text("Version of the daemon")),
                ("pid", integer("Its process id")),
                ("home", text("Its directory")),
                ("owner", text("Owner of the home")),
                ("postgres", object([("version", text("E.g. 17.10")), ("dir", text("Of its programs"))])),
                ("http", json!({"type": ["string", "null"], "description": "Address of the HTTP API"})),
                ("http_scheme", one_of(&["http", "https"])),
                (
                    "postgres_address",
                    json!({"type": ["string", "null"], "description": "Address for clients of all endpoints"}),
                ),
                ("projects", integer("Number of projects")),
                ("computes", list(reference("Compute"))),
                ("host", reference("Host")),
                ("warnings", list(text("What people should know"))),
            ]),
        ),
        (
            "Compute",
            object([
                ("project", text("Identifier")),
                ("branch", text("Identifier")),
                ("parent", text("Identifier of the branch it left from, where that lives on")),
                ("state", one_of(&["asleep", "waiting", "starting", "awake", "suspending"])),
                ("disabled", flag("Whether it may not wake")),
                ("pid", integer("Process id of the postmaster")),
                ("host", text("Address")),
                ("port", integer("TCP port")),
                ("last_active_time", time("When it was last in use")),
                ("connections", integer("Open connections")),
                ("connections_waiting", integer("Connections that wait for it to wake")),
                ("cu", number("Its size now, in compute units; absent while it does not run")),
                ("min_cu", number("Smallest size")),
                ("max_cu", number("Largest size")),
                ("memory_bytes", integer("Memory it was found to take")),
                ("idle_seconds", integer("How long nobody has used it, at most; while it runs")),
                ("suspends_in_seconds", integer("When it is suspended if nothing happens; absent: never")),
                ("kept_awake_by", text("What kept it awake when its time was over")),
            ]),
        ),
        (
            "Host",
            object([
                ("computes", integer("Computes that take room")),
                ("computes_waiting", integer("Computes that wait for room")),
                ("memory_reckoned_bytes", integer("Memory that running computes are reckoned to take")),
                ("memory_limit_bytes", integer("Memory for all computes")),
                ("sizes", one_of(&["cgroup v2", "cgroup v1", "advisory"])),
                ("sizes_enforced", flag("Whether a size is a limit and not just advice")),
                ("isolation", one_of(&["landlock", "none"])),
            ]),
        ),
        (
            "Log",
            object([
                ("text", text("Whole lines")),
                ("next_offset", integer("For `offset`: where the next piece begins")),
            ]),
        ),
        ("Metrics", text("In the text format of Prometheus")),
        ("ShutdownRequest", object([("keep_computes", flag("Whether computes run on"))])),
        ("AuditLog", object([("entries", list(reference("AuditEntry")))])),
        (
            "AuditEntry",
            object([
                ("time", time("When")),
                ("principal", text("Who")),
                ("principal_kind", one_of(&["human", "service", "agent"])),
                ("action", text("What, e.g. branch.create")),
                ("target", text("On what")),
                ("result", one_of(&["done", "refused", "failed"])),
                ("detail", text("Anything more")),
            ]),
        ),
        (
            "Usage",
            object([
                ("own_bytes", integer("Disk space that its removal would free")),
                ("shared_bytes", integer("Disk space that others use too")),
                ("logical_bytes", integer("Length of its files as PostgreSQL sees them, without WAL")),
            ]),
        ),
        (
            "Connection",
            object([
                ("host", text("Address or name")),
                ("port", integer("TCP port")),
                ("role", text("Role to log in as: the caller's")),
                ("database", text("Database to use")),
                ("endpoint", text("Resource name of the endpoint, for which there are credentials")),
                ("ca_file", text("Certificate that signs the server's, on the daemon's host")),
            ]),
        ),
        (
            "Authority",
            object([("certificate", text("As PEM")), ("file", text("Where it lies on the daemon's host"))]),
        ),
        (
            "Superuser",
            object([
                ("socket_dir", text("Directory of the server's socket")),
                ("role", text("The role")),
                ("database", text("A database that is always there")),
                ("password", text("The role's password")),
            ]),
        ),
        ("RolePassword", object([("password", text("The new password; it is kept nowhere"))])),
        ("Wake", object([("duration_ms", number("Milliseconds until the branch answered"))])),
        ("ExportRequest", object([("dir", text("Absolute path of an empty directory"))])),
        (
            "ScrubLine",
            object([
                ("done", integer("Bytes verified")),
                ("total", integer("Bytes in all")),
                ("found", reference("ScrubFinding")),
                ("finished", flag("In the last line")),
                ("error", text("In the last line, where it failed")),
                ("branches", integer("In the last line: branches whose manifests were read")),
                ("layers", integer("In the last line: layers looked at")),
                ("sealed", integer("In the last line: layers of these whose content was verified")),
                ("bytes", integer("In the last line: bytes of content verified")),
            ]),
        ),
        (
            "ScrubFinding",
            object([
                ("grade", one_of(&["damage", "leftover"])),
                ("layer", text("The layer, below the directory of layers")),
                ("path", text("Path on the daemon's host")),
                ("file", text("Path in the data directory, for PostgreSQL's own files")),
                ("block", integer("Block of 8,192 bytes in the file")),
                ("what", text("What is wrong")),
                ("branches", list(text("Resource name of a branch that reads it"))),
            ]),
        ),
        (
            "ExportLine",
            object([
                ("done", integer("Bytes written")),
                ("total", integer("Bytes in all")),
                ("finished", flag("In the last line")),
                ("error", text("In the last line, where it failed")),
            ]),
        ),
        (
            "BackupRequest",
            object([("dir", text("Absolute path; empty, or with an earlier backup of this home"))]),
        ),
        (
            "BackupLine",
            object([
                ("done", integer("Bytes written")),
                ("total", integer("Bytes to write, about")),
                ("backup", reference("BackupReport")),
                ("error", text("In the last line, where it failed")),
            ]),
        ),
        (
            "BackupReport",
            object([
                ("number", integer("Of the backups into this directory, which one")),
                ("branches", integer("Branches in it")),
                ("branches_copied", integer("Of these, changed since the backup before")),
                ("layers", integer("Layers in it")),
                ("layers_copied", integer("Of these, not in the directory before")),
                ("bytes", integer("Bytes of the whole backup")),
                ("bytes_copied", integer("Bytes written for it now")),
            ]),
        ),
    ]
}

fn min_cu() -> (&'static str, Value) {
    ("autoscaling_limit_min_cu", number("Smallest size in compute units, at least 0.5"))
}

fn max_cu() -> (&'static str, Value) {
    (
        "autoscaling_limit_max_cu",
        number("Largest size in compute units, at most 64 and 16 above the smallest"),
    )
}

fn suspend() -> (&'static str, Value) {
    ("suspend_timeout_duration", duration("Idle time until suspension, 60s to 604800s; one of two"))
}

fn no_suspension() -> (&'static str, Value) {
    ("no_suspension", flag("Never suspended; only true; one of two"))
}

fn pg_settings() -> (&'static str, Value) {
    let description = "PostgreSQL settings, taken as a whole; they count from the next start of a compute";
    let values = json!({"type": "string"});
    ("pg_settings", json!({"type": "object", "additionalProperties": values, "description": description}))
}

fn page(key: &'static str, item: &str) -> Value {
    object([
        (key, list(reference(item))),
        ("next_page_token", text("For `page_token`; absent on the last page")),
    ])
}

fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> =
        properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "properties": properties})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn integer(description: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": description})
}

fn number(description: &str) -> Value {
    json!({"type": "number", "description": description})
}

fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn duration(description: &str) -> Value {
    json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?s$", "description": description})
}

fn one_of(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn read_only(schema: Value) -> Value {
    marked("readOnly", schema)
}

fn write_only(schema: Value) -> Value {
    marked("writeOnly", schema)
}

fn described(description: &str, mut schema: Value) -> Value {
    schema["description"] = json!(description);
    schema
}

fn marked(mark: &str, mut schema: Value) -> Value {
    schema[mark] = json!(true);
    schema
}
