//! Typed client of the daemon's HTTP API, over its unix socket or, with a token, over TCP.

mod access;
mod error;
mod identity;
mod remote;
mod resources;
pub mod tls;
mod transport;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use access::{Attributes, Database, DatabaseStatus, NewDatabase, NewRole, Role, RoleChange, RoleStatus};
pub use error::Error;
pub use identity::{Federation, NewSecret, NewToken, Principal, Right, Token, Whoami};
pub use remote::{Remote, RemoteError};
pub use resources::{
    AuditEntry, AuditLog, Authority, BackupReport, Branch, BranchStatus, Compute, Connection,
    DatabaseCredential, Endpoint, EndpointSettings, EndpointStatus, Host, Hosts, Log, Operation,
    OperationError, OwnBranch, OwnEndpoint, Postgres, Project, ProjectStatus, Scrub, ScrubFinding, Status,
    Superuser, Tag, Usage, Wake,
};

const PG: &str = "/api/2.0/postgres";
const OWN: &str = "/api/anabranch/v1";

/// Pause between two looks at an unfinished operation.
const POLL: Duration = Duration::from_millis(200);

/// A daemon. Connects anew for each call.
#[derive(Debug, Clone)]
pub struct Client {
    target: Target,
    agent: Option<String>,
}

/// Where a daemon is.
#[derive(Debug, Clone)]
enum Target {
    /// Behind a socket of this host.
    Socket(PathBuf),
    /// At an address, for whoever has a token.
    Remote(Remote),
}

/// When a new branch vanishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// After so many seconds.
    Seconds(u64),
    /// At a time (RFC 3339).
    At(String),
}

/// Which lines of the audit log are wanted; what is absent does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Not earlier than this (RFC 3339).
    pub since: Option<String>,
    /// By this principal.
    pub principal: Option<String>,
    /// This action, e.g. `branch.create`, or all of a kind, e.g. `branch`.
    pub action: Option<String>,
}

/// What is wanted of a new branch.
#[derive(Debug, Clone)]
pub struct NewBranch {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub id: String,
    /// What a person wrote, where that differs.
    pub given_name: Option<String>,
    /// Identifier of the parent; the default branch where absent.
    pub source: Option<String>,
    /// When it vanishes.
    pub expiry: Expiry,
    /// Whether delete and reset are refused.
    pub is_protected: bool,
}

impl Client {
    /// The daemon behind `socket`. Nothing is sent yet.
    pub fn new(socket: &Path) -> Client {
        Client { target: Target::Socket(socket.to_owned()), agent: None }
    }

    /// The daemon at an address. Nothing is sent yet.
    pub fn at(remote: Remote) -> Client {
        Client { target: Target::Remote(remote), agent: None }
    }

    /// The same client, acting for the person as the program `name`.
    #[must_use]
    pub fn as_agent(self, name: impl Into<String>) -> Client {
        Client { agent: Some(name.into()), ..self }
    }

    /// What runs.
    ///
    /// # Errors
    /// The daemon is not there or refuses, as for every call.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get(&format!("{OWN}/status")).await
    }

    /// Asks the daemon to end; it does so after the answer.
    ///
    /// # Errors
    /// As for every call.
    pub async fn shutdown(&self, keep_computes: bool) -> Result<(), Error> {
        let body = json!({"keep_computes": keep_computes});
        self.call::<Value>(Method::POST, &format!("{OWN}/shutdown"), Some(body)).await?;
        Ok(())
    }

    /// The last lines of the audit log that fit, newest first.
    ///
    /// # Errors
    /// As for every call.
    pub async fn audit(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>, Error> {
        let fields = [("since", &filter.since), ("principal", &filter.principal), ("action", &filter.action)];
        let fields: String = fields
            .iter()
            .filter_map(|(name, value)| Some(format!("&{name}={}", encode(value.as_ref()?))))
            .collect();
        let log: AuditLog = self.get(&format!("{OWN}/audit?limit={limit}{fields}")).await?;
        Ok(log.entries)
    }

    /// The daemon's figures in the text format of Prometheus.
    ///
    /// # Errors
    /// As for every call.
    pub async fn metrics(&self) -> Result<String, Error> {
        self.send(Method::GET, "/metrics", None).await?.read_text().await
    }

    /// The last lines of the log of a branch's server.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn log(&self, project: &str, branch: &str, lines: usize) -> Result<Log, Error> {
        self.get(&format!("{}/log?lines={lines}", branch_path(OWN, project, branch))).await
    }

    /// What came after an earlier piece of the log.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn log_after(&self, project: &str, branch: &str, offset: u64) -> Result<Log, Error> {
        self.get(&format!("{}/log?offset={offset}", branch_path(OWN, project, branch))).await
    }

    /// Ends an endpoint's compute now; the next connection wakes it.
    ///
    /// # Errors
    /// There is no such endpoint, or as for every call.
    pub async fn suspend_endpoint(&self, project: &str, branch: &str, endpoint: &str) -> Result<(), Error> {
        let path = format!("{}/endpoints/{}/suspend", branch_path(OWN, project, branch), encode(endpoint));
        self.call::<Value>(Method::POST, &path, None).await.map(drop)
    }

    /// Waits until an endpoint's compute answers a query.
    ///
    /// # Errors
    /// There is no such endpoint, it does not start, or as for every call.
    pub async fn wake_endpoint(&self, project: &str, branch: &str, endpoint: &str) -> Result<Wake, Error> {
        let path = format!("{}/endpoints/{}/wake", branch_path(OWN, project, branch), encode(endpoint));
        self.call(Method::POST, &path, None).await
    }

    /// All projects.
    ///
    /// # Errors
    /// As for every call.
    pub async fn projects(&self) -> Result<Vec<Project>, Error> {
        self.list(&format!("{PG}/projects"), "projects").await
    }

    /// Deleted projects whose data is still there.
    ///
    /// # Errors
    /// As for every call.
    pub async fn deleted_projects(&self) -> Result<Vec<Project>, Error> {
        let all: Vec<Project> = self.list(&format!("{PG}/projects?show_deleted=true"), "projects").await?;
        Ok(all.into_iter().filter(|project| project.delete_time.is_some()).collect())
    }

    /// One project.
    ///
    /// # Errors
    /// There is none, or as for every call.
    pub async fn project(&self, id: &str) -> Result<Project, Error> {
        self.get(&project_path(id)).await
    }

    /// Makes a project and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be made, or as for every call.
    pub async fn create_project(&self, id: &str, pg_version: Option<u32>) -> Result<Project, Error> {
        let body = match pg_version {
            Some(version) => json!({"spec": {"pg_version": version}}),
            None => json!({}),
        };
        let operation =
            self.call(Method::POST, &format!("{PG}/projects?project_id={}", encode(id)), Some(body)).await?;
        self.finish(operation).await
    }

    /// Deletes a project and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be deleted, or as for every call.
    pub async fn delete_project(&self, id: &str, purge: bool) -> Result<(), Error> {
        let path = format!("{}?purge={purge}", project_path(id));
        let operation = self.call(Method::DELETE, &path, None).await?;
        self.finish::<Value>(operation).await.map(drop)
    }

    /// Changes those fields of a project that `mask` names, e.g. `spec.display_name`; what `spec`
    /// lacks of them is reset.
    ///
    /// # Errors
    /// A value is not allowed, or as for every call.
    pub async fn update_project(&self, id: &str, mask: &[&str], spec: Value) -> Result<Project, Error> {
        self.update(&project_path(id), mask, spec).await
    }

    /// Takes back the deletion of a project.
    ///
    /// # Errors
    /// None of that name can come back, or as for every call.
    pub async fn undelete_project(&self, id: &str) -> Result<(), Error> {
        let path = format!("{}/undelete", project_path(id));
        let operation = self.call(Method::POST, &path, Some(json!({}))).await?;
        self.finish::<Value>(operation).await.map(drop)
    }

    /// Branches of a project.
    ///
    /// # Errors
    /// There is no such project, or as for every call.
    pub async fn branches(&self, project: &str) -> Result<Vec<Branch>, Error> {
        self.list(&format!("{}/branches", project_path(project)), "branches").await
    }

    /// Deleted branches of a project whose data is still there.
    ///
    /// # Errors
    /// There is no such project, or as for every call.
    pub async fn deleted_branches(&self, project: &str) -> Result<Vec<Branch>, Error> {
        let all: Vec<Branch> =
            self.list(&format!("{}/branches?show_deleted=true", project_path(project)), "branches").await?;
        Ok(all.into_iter().filter(|branch| branch.status.delete_time.is_some()).collect())
    }

    /// Takes back the deletion of a branch.
    ///
    /// # Errors
    /// None of that name can come back, or as for every call.
    pub async fn undelete_branch(&self, project: &str, branch: &str) -> Result<(), Error> {
        let path = format!("{}/undelete", branch_path(PG, project, branch));
        let operation = self.call(Method::POST, &path, Some(json!({}))).await?;
        self.finish::<Value>(operation).await.map(drop)
    }

    /// One branch.
    ///
    /// # Errors
    /// There is none, or as for every call.
    pub async fn branch(&self, project: &str, branch: &str) -> Result<Branch, Error> {
        self.get(&branch_path(PG, project, branch)).await
    }

    /// Makes a branch and waits until it is durable. Its compute is not started.
    ///
    /// # Errors
    /// It cannot be made, or as for every call.
    pub async fn create_branch(&self, new: &NewBranch) -> Result<Branch, Error> {
        let mut spec = json!({"is_protected": new.is_protected});
        match &new.expiry {
            Expiry::Never => spec["no_expiry"] = json!(true),
            Expiry::Seconds(seconds) => spec["ttl"] = json!(format!("{seconds}s")),
            Expiry::At(time) => spec["expire_time"] = json!(time),
        }
        if let Some(source) = &new.source {
            spec["source_branch"] = json!(format!("projects/{}/branches/{source}", new.project));
        }
        let mut body = json!({"spec": spec});
        if let Some(name) = &new.given_name {
            body["anabranch"] = json!({"given_name": name});
        }
        let path = format!("{}/branches?branch_id={}", project_path(&new.project), encode(&new.id));
        let operation = self.call(Method::POST, &path, Some(body)).await?;
        self.finish(operation).await
    }

    /// Changes those fields of a branch that `mask` names, e.g. `spec.expiration`; what `spec` lacks
    /// of them is reset.
    ///
    /// # Errors
    /// A value is not allowed, or as for every call.
    pub async fn update_branch(
        &self,
        project: &str,
        branch: &str,
        mask: &[&str],
        spec: Value,
    ) -> Result<Branch, Error> {
        self.update(&branch_path(PG, project, branch), mask, spec).await
    }

    /// Deletes a branch and waits until its compute has ended.
    ///
    /// # Errors
    /// It cannot be deleted, or as for every call.
    pub async fn delete_branch(
        &self,
        project: &str,
        branch: &str,
        cascade: bool,
        purge: bool,
    ) -> Result<(), Error> {
        let path = format!("{}?cascade={cascade}&purge={purge}", branch_path(PG, project, branch));
        let operation = self.call(Method::DELETE, &path, None).await?;
        self.finish::<Value>(operation).await.map(drop)
    }

    /// Endpoints of a branch.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn endpoints(&self, project: &str, branch: &str) -> Result<Vec<Endpoint>, Error> {
        self.list(&format!("{}/endpoints", branch_path(PG, project, branch)), "endpoints").await
    }

    /// One endpoint.
    ///
    /// # Errors
    /// There is none, or as for every call.
    pub async fn endpoint(&self, project: &str, branch: &str, endpoint: &str) -> Result<Endpoint, Error> {
        self.get(&endpoint_path(project, branch, endpoint)).await
    }

    /// Changes those fields of an endpoint that `mask` names, e.g. `spec.suspension`; what `spec`
    /// lacks of them is reset.
    ///
    /// # Errors
    /// A value is not allowed, or as for every call.
    pub async fn update_endpoint(
        &self,
        project: &str,
        branch: &str,
        endpoint: &str,
        mask: &[&str],
        spec: Value,
    ) -> Result<Endpoint, Error> {
        self.update(&endpoint_path(project, branch, endpoint), mask, spec).await
    }

    /// Space of a branch.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn usage(&self, project: &str, branch: &str) -> Result<Usage, Error> {
        self.get(&format!("{}/usage", branch_path(OWN, project, branch))).await
    }

    /// How to connect to a branch, but for the password: [`Client::database_credential`] gives one.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn connection(&self, project: &str, branch: &str) -> Result<Connection, Error> {
        self.get(&format!("{}/connection", branch_path(OWN, project, branch))).await
    }

    /// A token to log in to an endpoint with, by its resource name. Good for an hour.
    ///
    /// # Errors
    /// There is no such endpoint, or as for every call.
    pub async fn database_credential(&self, endpoint: &str) -> Result<DatabaseCredential, Error> {
        self.call(Method::POST, &format!("{PG}/credentials"), Some(json!({"endpoint": endpoint}))).await
    }

    /// The home's own certificate authority.
    ///
    /// # Errors
    /// It has none, since the servers show a certificate from elsewhere; or as for every call.
    pub async fn authority(&self) -> Result<Authority, Error> {
        self.get(&format!("{OWN}/ca")).await
    }

    /// The superuser of a branch, which is woken for it.
    ///
    /// # Errors
    /// Only the owner gets it, on the daemon's own host; or as for every call.
    pub async fn superuser(&self, project: &str, branch: &str) -> Result<Superuser, Error> {
        self.call(Method::POST, &format!("{}/superuser", branch_path(OWN, project, branch)), None).await
    }

    /// Waits until a branch answers a query.
    ///
    /// # Errors
    /// It does not start, or as for every call.
    pub async fn wake(&self, project: &str, branch: &str) -> Result<Wake, Error> {
        self.call(Method::POST, &format!("{}/wake", branch_path(OWN, project, branch)), None).await
    }

    /// Has the daemon write a branch as a plain data directory. `progress` gets bytes done and
    /// bytes in all.
    ///
    /// # Errors
    /// The directory cannot be written, or as for every call.
    pub async fn export(
        &self,
        project: &str,
        branch: &str,
        dir: &Path,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        let path = format!("{}/export", branch_path(OWN, project, branch));
        let mut lines = self.send(Method::POST, &path, Some(json!({"dir": dir}))).await?;
        while let Some(line) = lines.next_line().await? {
            if let (Some(done), Some(total)) = (line["done"].as_u64(), line["total"].as_u64()) {
                progress(done, total);
            } else if let Some(text) = line["error"].as_str() {
                return Err(Error::Failed { code: "INTERNAL_ERROR".to_owned(), message: text.to_owned() });
            } else if line["finished"] == true {
                return Ok(());
            }
        }
        Err(Error::Protocol("the daemon ended the answer early".to_owned()))
    }

    /// Has the daemon back up the whole home into a directory of its host. `progress` gets bytes done and
    /// bytes to write, about.
    ///
    /// # Errors
    /// The directory cannot be used, or as for every call.
    pub async fn backup(
        &self,
        dir: &Path,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<BackupReport, Error> {
        let mut lines = self.send(Method::POST, &format!("{OWN}/backup"), Some(json!({"dir": dir}))).await?;
        while let Some(mut line) = lines.next_line().await? {
            if let (Some(done), Some(total)) = (line["done"].as_u64(), line["total"].as_u64()) {
                progress(done, total);
            } else if let Some(text) = line["error"].as_str() {
                return Err(Error::Failed { code: "INTERNAL_ERROR".to_owned(), message: text.to_owned() });
            } else if line["backup"].is_object() {
                return decode(line["backup"].take());
            }
        }
        Err(Error::Protocol("the daemon ended the answer early".to_owned()))
    }

    /// Verifies everything that the daemon keeps. `progress` gets bytes done and bytes in all.
    ///
    /// # Errors
    /// Somebody else is at it, or as for every call. What is damaged is a finding, no error.
    pub async fn scrub(&self, mut progress: impl FnMut(u64, u64)) -> Result<Scrub, Error> {
        let mut lines = self.send(Method::POST, &format!("{OWN}/scrub"), None).await?;
        let mut findings = Vec::new();
        while let Some(line) = lines.next_line().await? {
            if let (Some(done), Some(total)) = (line["done"].as_u64(), line["total"].as_u64()) {
                progress(done, total);
            } else if let Some(found) = line.get("found") {
                findings.push(decode(found.clone())?);
            } else if let Some(text) = line["error"].as_str() {
                return Err(Error::Failed { code: "INTERNAL_ERROR".to_owned(), message: text.to_owned() });
            } else if line["finished"] == true {
                let totals: Scrub = decode(line)?;
                return Ok(Scrub { findings, ..totals });
            }
        }
        Err(Error::Protocol("the daemon ended the answer early".to_owned()))
    }

    /// Any call, as it goes over the wire. `path` begins with a slash and carries its query.
    ///
    /// # Errors
    /// As for every call.
    pub async fn raw(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Error> {
        self.call(method, path, body).await
    }

    async fn update<T: DeserializeOwned>(&self, path: &str, mask: &[&str], spec: Value) -> Result<T, Error> {
        let path = format!("{path}?update_mask={}", mask.join(","));
        let operation = self.call(Method::PATCH, &path, Some(json!({"spec": spec}))).await?;
        self.finish(operation).await
    }

    /// Waits for an operation and gives what it made.
    async fn finish<T: DeserializeOwned>(&self, mut operation: Operation) -> Result<T, Error> {
        while !operation.done {
            tokio::time::sleep(POLL).await;
            operation = self.get(&format!("{PG}/{}", operation.name)).await?;
        }
        match (operation.error, operation.response) {
            (Some(error), _) => Err(Error::Failed { code: error.error_code, message: error.message }),
            (None, Some(response)) => decode(response),
            (None, None) => Err(Error::Protocol("a finished operation without a result".to_owned())),
        }
    }

    async fn list<T: DeserializeOwned>(&self, path: &str, key: &str) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut body: Value = self.get(&format!("{path}{separator}page_token={token}")).await?;
            let page: Vec<T> = decode(body[key].take())?;
            items.extend(page);
            match body["next_page_token"].as_str() {
                Some(next) if !next.is_empty() => token = next.to_owned(),
                _ => return Ok(items),
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Error> {
        let answer = self.send(method, path, body).await?.read_all().await?;
        decode(answer)
    }
}

/// An identifier as part of a URI: whatever a person wrote, the daemon shall be the one to judge it.
pub fn encode(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    id.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Path of a project.
fn project_path(project: &str) -> String {
    format!("{PG}/projects/{}", encode(project))
}

/// Path of a branch below the contract's base, or below our own.
fn branch_path(base: &str, project: &str, branch: &str) -> String {
    format!("{base}/projects/{}/branches/{}", encode(project), encode(branch))
}

/// Path of an endpoint.
fn endpoint_path(project: &str, branch: &str, endpoint: &str) -> String {
    format!("{}/endpoints/{}", branch_path(PG, project, branch), encode(endpoint))
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::Protocol(format!("unexpected answer: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_leave_their_place_in_the_path() {
        assert_eq!(branch_path(PG, "shop", "dev-1"), "/api/2.0/postgres/projects/shop/branches/dev-1");
        assert_eq!(project_path("a/../b?c ä"), "/api/2.0/postgres/projects/a%2F..%2Fb%3Fc%20%C3%A4");
    }
}
