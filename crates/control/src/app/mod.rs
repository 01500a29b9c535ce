//! What callers ask for: validated as a whole, written as intent, then carried out.

mod access;
mod authenticate;
mod branches;
mod browser;
mod catalog;
mod change;
mod connect;
mod credentials;
mod databases;
mod endpoints;
pub mod expiry;
mod federation;
mod first;
mod first_login;
mod logs;
mod operations;
mod permissions;
mod picture;
mod power;
mod principals;
mod projects;
mod roles;
mod scrub;
mod shutdown;
mod status;
mod superuser;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compute::engine::{BOOTSTRAP_ROLE, BranchKey, Engine};
use compute::server::Server;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use crate::admission::{Admission, Hosting};
use crate::clock::{Clock, Random, new_uid, new_uuid};
use crate::computes::Computes;
use crate::db::{Db, audit, settings};
use crate::directory::Directories;
use crate::error::{Error, Refusal};
use crate::front::{Domain, FrontDoor};
use crate::issuer_keys::IssuerKeys;
use crate::keys::KeyStore;
use crate::listener::Listeners;
use crate::metrics::Metrics;
use crate::model::{AuditEntry, Kind, Operation, Outcome, Principal, Verb};
use crate::prepare::SUPERUSER_GROUP;
use crate::reconcile::Watch;
use crate::signing::Signing;

pub use compute::engine::Usage;

pub use crate::computes::ComputeTimes;
pub use crate::db::audit::Filter as AuditFilter;
pub use access::{Action, Caller, Decision, ProjectStanding, Standing, decide};
pub use authenticate::AccessToken;
pub use branches::{BranchView, Expiry, NewBranch, RemoveBranch, UpdateBranch};
pub use browser::{Login, LoginRequest};
use catalog::Catalogs;
pub use catalog::RoleLogin;
pub(crate) use catalog::{Touched, is_catalog};
pub use change::Change;
pub use connect::{ConnectionInfo, Wake};
pub use credentials::{DatabaseToken, TokenIdentity, TokenRefusal};
pub use databases::{DatabaseView, NewDatabase, UpdateDatabase};
pub use endpoints::{
    ComputeInstanceView, ComputeStatus, EndpointId, EndpointView, NewEndpoint, UpdateCompute, UpdateEndpoint,
};
pub use federation::{FederationView, NewFederation};
pub(crate) use first::First;
pub use first::FirstRole;
pub use logs::{LogFrom, LogPiece};
pub use operations::{OperationView, Target};
pub use permissions::{Change as PermissionChange, Holder, Permission};
pub use picture::ComputeLine;
pub use principals::{NewPrincipal, PrincipalView};
pub use projects::{NewProject, ProjectView, UpdateProject};
pub use roles::{NewRole, RoleChange, RoleView};
pub use scrub::{Grade, ScrubFinding, ScrubNews, ScrubTurn};
use status::OwnSpace;
pub use status::Status;
pub use superuser::SuperuserAccess;
pub use tokens::{Life, NewSecret, NewToken, TokenView};

/// How long a call waits for its operation before it answers "not done yet".
const PATIENCE: Duration = Duration::from_secs(45);

/// Pause between two looks at whether a claimed thing is free.
const TURN: Duration = Duration::from_millis(10);

/// What the control plane is told at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The home directory; exists.
    pub home: PathBuf,
    /// Port that endpoints listen on; 0 lets the kernel choose (for tests).
    pub pg_port: u16,
    /// Owner of the home, where it has none yet.
    pub owner: String,
    /// How long deleted data is kept; none means the usual rules.
    pub delete_grace: Option<SignedDuration>,
    /// Pause between two rounds of reconciliation.
    pub round: Duration,
    /// The domain below which endpoints have names; none where they only have addresses.
    pub domain: Option<Domain>,
    /// What the host gives to computes.
    pub hosting: Hosting,
}

/// The control plane of one home.
pub struct Control {
    pub(crate) settings: Settings,
    pub(crate) engine: Arc<Engine>,
    pub(crate) server: Server,
    pub(crate) db: Db,
    pub(crate) keys: KeyStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) computes: Computes,
    pub(crate) admission: Admission,
    pub(crate) metrics: Metrics,
    pub(crate) listeners: Listeners,
    pub(crate) front: FrontDoor,
    pub(crate) watch: Watch,
    pub(crate) own_space: OwnSpace,
    pub(crate) directories: Directories,
    pub(crate) signing: Signing,
    pub(crate) issuer_keys: IssuerKeys,
    /// Identity and owner of each branch's project, as far as asked for.
    subjects: Mutex<HashMap<String, (String, String)>>,
    codes: browser::Codes,
    pub(crate) catalogs: Catalogs,
    owner: String,
    issuer: String,
    workspace_id: String,
    busy: Mutex<HashSet<String>>,
    scrubbing: AtomicBool,
    pub(crate) backing_up: AtomicBool,
}

/// The right to carry out changes on one branch or project, for one task at a time.
pub(crate) struct Claim {
    control: Arc<Control>,
    uid: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.control.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

impl Control {
    /// Opens the metadata of a home. Nothing runs until [`Control::run`].
    ///
    /// # Errors
    /// The database or the key directory cannot be used.
    pub fn open(
        settings: Settings,
        engine: Arc<Engine>,
        server: Server,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Arc<Control>, Error> {
        crate::backup::sweep(&settings.home);
        let path = settings.home.join("meta.db");
        // Made by us first, so that nobody else may read it: SQLite would follow the umask.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::io(format!("cannot open {}", path.display()), source))?;
        let db = Db::open(&path)?;
        let extensions = settings.home.join("run/extension");
        crate::catalog::extension::install(&extensions)?;
        engine.offer_extensions(&extensions);
        engine.fall_back_to(&server);
        let now = clock.now();
        let (owner, home_id, workspace_id) = db.write(|tx| {
            let owner = match settings::get(tx, settings::OWNER)? {
                Some(owner) => owner,
                None => {
                    check_role_name(&settings.owner).map_err(|error| {
                        error.with_hint("give an e-mail address of at most 63 bytes with --owner")
                    })?;
                    settings::set(tx, settings::OWNER, &settings.owner)?;
                    settings.owner.clone()
                }
            };
            principals::ensure_owner(tx, &*random, &owner, now)?;
            let (home_id, workspace_id) = principals::ensure_home_id(tx, &*random)?;
            Ok((owner, home_id, workspace_id))
        })?;
        let keys = KeyStore::open(settings.home.join("keys"))?;
        let admission = Admission::new(&settings.hosting);
        Ok(Arc::new(Control {
            computes: Computes::new(Arc::clone(&clock), Arc::clone(&admission.changed)),
            admission,
            metrics: Metrics::default(),
            signing: Signing::open(settings.home.join("keys").join("signing"), &db, now)?,
            directories: Directories::open(&db)?,
            issuer_keys: IssuerKeys::default(),
            subjects: Mutex::default(),
            codes: browser::Codes::default(),
            keys,
            settings,
            engine,
            server,
            db,
            clock,
            random,
            listeners: Listeners::default(),
            front: FrontDoor::default(),
            watch: Watch::default(),
            own_space: OwnSpace::default(),
            catalogs: Catalogs::default(),
            owner,
            issuer: format!("anabranch:{home_id}"),
            workspace_id,
            busy: Mutex::default(),
            scrubbing: AtomicBool::new(false),
            backing_up: AtomicBool::new(false),
        }))
    }

    /// Name of the principal that owns this home.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The time by this control plane's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Runs `work` where blocking is allowed.
    pub(crate) async fn blocking<T, W>(self: &Arc<Self>, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: FnOnce(&Arc<Control>) -> Result<T, Error> + Send + 'static,
    {
        let control = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&control))
            .await
            .map_err(|error| Error::Internal(format!("a task ended early: {error}")))?
    }

    /// Waits for work on an operation, but not for ever: the work goes on when the caller has no more
    /// patience, or is gone.
    pub(crate) async fn wait_patiently(work: tokio::task::JoinHandle<Result<(), Error>>) {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(Err(error))) => {
                tracing::error!(%error, "an operation is not finished; it will be tried again")
            }
            Ok(Err(error)) => tracing::error!(%error, "an operation ended early; it will be tried again"),
            Ok(Ok(Ok(()))) | Err(_) => {}
        }
    }

    /// Claims a branch or project; none if another task works on it.
    pub(crate) fn claim(self: &Arc<Self>, uid: &str) -> Option<Claim> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(uid.to_owned()).then(|| Claim { control: Arc::clone(self), uid: uid.to_owned() })
    }

    /// Claims what has no row yet.
    pub(crate) fn claim_new(self: &Arc<Self>, uid: &str) -> Result<Claim, Error> {
        self.claim(uid).ok_or_else(|| Error::Internal(format!("{uid} was handed out twice")))
    }

    /// Claims a branch or project as soon as nobody else works on it.
    pub(crate) async fn claim_in_turn(self: &Arc<Self>, uid: &str) -> Claim {
        loop {
            if let Some(claim) = self.claim(uid) {
                return claim;
            }
            tokio::time::sleep(TURN).await;
        }
    }

    pub(crate) fn new_uid(&self, prefix: &str) -> Result<String, Error> {
        new_uid(&*self.random, prefix).map_err(no_randomness)
    }

    pub(crate) fn new_uuid(&self) -> Result<String, Error> {
        new_uuid(&*self.random).map_err(no_randomness)
    }

    pub(crate) fn new_secret(&self) -> Result<String, Error> {
        crate::clock::new_secret(&*self.random).map_err(no_randomness)
    }

    /// An operation that begins now.
    pub(crate) fn new_operation(
        &self,
        principal: &Principal,
        verb: Verb,
        kind: Kind,
        resource: &str,
        target: &str,
    ) -> Result<Operation, Error> {
        Ok(Operation {
            uid: self.new_uuid()?,
            resource: resource.to_owned(),
            kind,
            target: target.to_owned(),
            verb,
            principal: principal.clone(),
            outcome: Outcome::Running,
            create_time: self.clock.now(),
        })
    }

    /// Appends to the audit log.
    pub(crate) fn note(
        &self,
        connection: &Connection,
        principal: &Principal,
        action: &str,
        target: &str,
        result: &str,
        detail: &str,
    ) -> Result<(), Error> {
        let entry = AuditEntry {
            time: self.clock.now(),
            principal: principal.clone(),
            action: action.to_owned(),
            target: target.to_owned(),
            result: result.to_owned(),
            detail: detail.to_owned(),
        };
        audit::append(connection, &entry)
    }

    /// Records a change that was asked for and not begun, and passes the outcome on.
    pub(crate) fn note_refusal<T>(
        &self,
        principal: &Principal,
        action: &str,
        target: &str,
        outcome: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(error) = &outcome {
            let result = if matches!(error, Error::Refused { .. }) { "refused" } else { "failed" };
            self.db.write(|tx| self.note(tx, principal, action, target, result, &error.to_string()))?;
        }
        outcome
    }

    /// The last `limit` lines of the audit log that fit, newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn audit_log(
        self: &Arc<Self>,
        filter: AuditFilter,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, Error> {
        self.blocking(move |control| control.db.read(|c| audit::latest(c, &filter, limit))).await
    }
}

/// A principal is a role in every branch that it uses, so the name must be one that PostgreSQL takes
/// as it is.
pub(crate) fn check_role_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) || is_reserved(name) {
        return Err(Error::invalid(format!("\"{name}\" cannot be a principal's name"))
            .with_hint("use an e-mail address of at most 63 bytes"));
    }
    Ok(())
}

/// Whether a role of this name means something already.
fn is_reserved(name: &str) -> bool {
    name.starts_with("pg_") || [BOOTSTRAP_ROLE, SUPERUSER_GROUP, "public", "none"].contains(&name)
}

/// The engine's name for a branch's data.
pub(crate) fn key_of(branch: &str) -> Result<BranchKey, Error> {
    BranchKey::new(branch).map_err(|text| Error::Internal(format!("{text:?} is no branch uid")))
}

/// A missing thing, in the contract's words; the trace id lets support find the request.
pub(crate) fn not_found(noun: &str) -> Error {
    Error::refused(Refusal::NotFound, format!("{noun} id not found"))
}

fn no_randomness(source: std::io::Error) -> Error {
    Error::io("cannot read random bytes", source)
}

#[cfg(test)]
mod tests {
    use super::check_role_name;

    #[test]
    fn a_principal_must_fit_a_role() {
        for good in ["ana@example.org", "nobody@localhost", &"a".repeat(63)] {
            assert!(check_role_name(good).is_ok(), "{good}");
        }
        for bad in ["", "anabranch", "databricks_superuser", "pg_monitor", "public", &"a".repeat(64)] {
            assert!(check_role_name(bad).is_err(), "{bad}");
        }
    }
}
