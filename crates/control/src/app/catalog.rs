//! What roles and databases have in common: looking into a branch's PostgreSQL, remembering what was
//! seen, changing it as an operation; and what the proxy must know to let somebody in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auth::Secret;
use tokio_postgres::Client;

use super::databases::DatabaseWork;
use super::roles::RoleWork;
use super::{Control, PATIENCE, key_of};
use crate::catalog::{Catalog, LiveDatabase, LiveRole, passwords, quiet_transaction, roles};
use crate::db::{catalog as rows, operations};
use crate::error::{Error, Refusal};
use crate::model::{
    AuthMethod, Database, Identity, IdentityType, Kind, Operation, Outcome, Principal, PrincipalKind, Role,
    Verb,
};
use crate::{catalog, prepare};

/// How long what was seen of roles is believed when somebody logs in. Changes that must count at once
/// are PostgreSQL's own to enforce; this only decides how a client is asked for its credentials.
const BELIEVED: Duration = Duration::from_secs(60);

/// How long a list waits for a server that runs but does not answer, before it shows what is known.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// What is needed to log in as a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleLogin {
    /// A token of this principal; the daemon then logs in with [`Control::backend_password`].
    Identity {
        /// Name of the principal.
        name: String,
        /// Its kind.
        kind: IdentityType,
    },
    /// The role's own password.
    Password,
    /// Nobody logs in as it: a bundle of privileges, or a real superuser.
    NoLogin,
    /// There is no such role, or it is the system's.
    Unknown,
}

/// What was last seen of the roles of every branch.
#[derive(Default)]
pub(crate) struct Catalogs {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    /// Held by whoever looks: what is stored later was seen later.
    turn: tokio::sync::Mutex<()>,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    /// When somebody began to look, by the steady clock.
    since: Duration,
    logins: HashMap<String, RoleLogin>,
}

/// What a change worked on, so that its time of change moves even where nothing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touched {
    Nothing,
    Role(u32),
    Database(u32),
}

/// A change inside a branch's PostgreSQL.
pub(crate) enum Work {
    Role(RoleWork),
    Database(DatabaseWork),
}

/// A change that is asked for.
pub(crate) struct Change {
    pub principal: Principal,
    /// `uid` of the branch.
    pub branch: String,
    pub verb: Verb,
    /// Resource name of what is changed.
    pub resource: String,
    /// Its identifier.
    pub id: String,
    pub work: Work,
}

impl Catalogs {
    fn slot(&self, branch: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(branch.to_owned()).or_default())
    }

    /// Forgets a branch that is gone.
    pub fn forget(&self, branch: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(branch);
    }
}

impl Slot {
    /// What was seen of a role, if somebody began to look at `since` or later.
    fn login(&self, role: &str, since: Duration) -> Option<RoleLogin> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.as_ref().filter(|seen| seen.since >= since)?;
        Some(seen.logins.get(role).cloned().unwrap_or(RoleLogin::Unknown))
    }

    fn is_seen_since(&self, since: Duration) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().is_some_and(|seen| seen.since >= since)
    }
}

impl Control {
    /// How somebody logs in as a role of a branch whose compute runs. What is good news is remembered
    /// for a minute; a role that is not known, or lets nobody in, is looked up anew.
    ///
    /// # Errors
    /// The branch's server cannot be asked.
    pub async fn role_login(self: &Arc<Self>, branch_uid: &str, role: &str) -> Result<RoleLogin, Error> {
        let slot = self.catalogs.slot(branch_uid);
        let asked = self.clock.steady();
        let known = slot.login(role, asked.saturating_sub(BELIEVED));
        if let Some(login @ (RoleLogin::Identity { .. } | RoleLogin::Password)) = known {
            return Ok(login);
        }
        let _turn = slot.turn.lock().await;
        if !slot.is_seen_since(asked) {
            let mut client = self.admin(branch_uid).await?;
            self.look_in_turn(branch_uid, &slot, &mut client, Touched::Nothing).await?;
        }
        Ok(slot.login(role, Duration::ZERO).unwrap_or(RoleLogin::Unknown))
    }

    /// How somebody logs in as a role, as far as that is known without waking the compute: as it was
    /// last seen. None for a role that was not there then.
    ///
    /// # Errors
    /// The database failed.
    pub async fn known_login(
        self: &Arc<Self>,
        branch_uid: &str,
        role: &str,
    ) -> Result<Option<RoleLogin>, Error> {
        if let Some(login) = self.catalogs.slot(branch_uid).login(role, Duration::ZERO) {
            return Ok(Some(login).filter(|login| *login != RoleLogin::Unknown));
        }
        let (uid, name) = (branch_uid.to_owned(), role.to_owned());
        self.blocking(move |control| {
            let roles = control.db.read(|c| rows::roles(c, &uid))?;
            let role = roles.into_iter().find(|role| role.name == name);
            Ok(role.map(|role| login_by(role.auth_method, role.identity.as_ref())))
        })
        .await
    }

    /// The password with which the daemon itself logs in as a role that belongs to an identity.
    ///
    /// # Errors
    /// The branch's keys cannot be read.
    pub fn backend_password(&self, branch_uid: &str, role: &str) -> Result<Secret, Error> {
        Ok(passwords::backend_password(&self.keys.wanted(branch_uid)?, role))
    }

    /// Makes [`Control::backend_password`] fit again, after somebody gave the role another password.
    ///
    /// # Errors
    /// The role does not (or no longer) belong to an identity, or the server cannot be asked.
    pub async fn repair_role_password(self: &Arc<Self>, branch_uid: &str, role: &str) -> Result<(), Error> {
        let mut client = self.admin(branch_uid).await?;
        let found = self.look(branch_uid, &mut client, Touched::Nothing).await?;
        let found = found.roles.into_iter().find(|live| live.name == role && is_identity_login(live));
        let Some(live) = found else {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("role \"{role}\" does not belong to an identity"),
            ));
        };
        let secrets = self.keys.wanted(branch_uid)?;
        let verifier = passwords::backend_verifier(&secrets, role, &*self.random)?;
        roles::set_verifier(&mut client, live.oid, verifier).await?;
        tracing::warn!(
            branch = branch_uid,
            role,
            "the password of an identity's role was changed; set again"
        );
        Ok(())
    }

    /// Connects to a branch as its administrator; wakes it where it sleeps.
    pub(crate) async fn admin(self: &Arc<Self>, branch: &str) -> Result<Client, Error> {
        self.awake(branch).await?;
        self.admin_if_awake(branch).await
    }

    async fn admin_if_awake(&self, branch: &str) -> Result<Client, Error> {
        let key = key_of(branch)?;
        prepare::connect_admin(&self.engine.socket_dir(&key), &self.keys.read(branch)?).await
    }

    /// Brings what is known of a branch up to date, if its compute runs. To be called before a compute
    /// is stopped: afterwards its roles and databases are listed from here.
    pub(crate) async fn look_if_awake(self: &Arc<Self>, branch: &str) {
        let slot = self.catalogs.slot(branch);
        let asked = self.clock.steady();
        let looking = async {
            let _turn = slot.turn.lock().await;
            if slot.is_seen_since(asked) {
                return Ok(());
            }
            let mut client = self.admin_if_awake(branch).await?;
            self.look_in_turn(branch, &slot, &mut client, Touched::Nothing).await.map(drop)
        };
        match tokio::time::timeout(LOOK_LIMIT, looking).await {
            Ok(Ok(())) => {}
            // Usually it sleeps; then what is known is right.
            Ok(Err(error)) => tracing::debug!(branch, %error, "roles and databases are shown as last seen"),
            Err(_) => tracing::warn!(branch, "the branch's server does not answer"),
        }
    }

    /// Reads the catalogs and remembers what they hold.
    pub(crate) async fn look(
        self: &Arc<Self>,
        branch: &str,
        client: &mut Client,
        touched: Touched,
    ) -> Result<Catalog, Error> {
        let slot = self.catalogs.slot(branch);
        let _turn = slot.turn.lock().await;
        self.look_in_turn(branch, &slot, client, touched).await
    }

    async fn look_in_turn(
        self: &Arc<Self>,
        branch: &str,
        slot: &Slot,
        client: &mut Client,
        touched: Touched,
    ) -> Result<Catalog, Error> {
        let since = self.clock.steady();
        let live = catalog::read(client).await?;
        if live.roles.iter().any(passwords::lacks_verifier) {
            let secrets = self.keys.wanted(branch)?;
            let transaction = quiet_transaction(client).await?;
            passwords::complete(&transaction, &live, &secrets, &*self.random).await?;
            let failed = |error| Error::postgres("cannot set the passwords of the branch's roles", error);
            transaction.commit().await.map_err(failed)?;
        }
        let logins = live.roles.iter().map(|role| (role.name.clone(), login_of(role))).collect();
        let uid = branch.to_owned();
        let live = self
            .blocking(move |control| {
                control.remember(&uid, &live, touched)?;
                Ok(live)
            })
            .await?;
        *slot.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen { since, logins });
        Ok(live)
    }

    fn remember(&self, branch: &str, live: &Catalog, touched: Touched) -> Result<(), Error> {
        let now = self.clock.now();
        let (old_roles, old_databases) =
            self.db.read(|c| Ok((rows::roles(c, branch)?, rows::databases(c, branch)?)))?;
        let roles = merge_roles(&old_roles, &live.roles, touched, now);
        let databases = merge_databases(&old_databases, &live.databases, touched, now);
        if roles == old_roles && databases == old_databases {
            return Ok(());
        }
        // What is lost in a power failure is seen again.
        self.db.write_soon(|tx| rows::replace(tx, branch, &roles, &databases))
    }

    /// Carries out a change. Its operation is done when this returns, unless it takes very long.
    pub(crate) async fn change_catalog(self: &Arc<Self>, change: Change) -> Result<Operation, Error> {
        let Change { principal, branch, verb, resource, id, work } = change;
        let kind = match work {
            Work::Role(_) => Kind::Role,
            Work::Database(_) => Kind::Database,
        };
        let target = format!("{branch}/{id}");
        let operation = self
            .blocking(move |control| {
                let operation = control.new_operation(&principal, verb, kind, &resource, &target)?;
                control.db.write_soon(|tx| operations::insert(tx, &operation))?;
                Ok(operation)
            })
            .await?;
        let (control, begun) = (Arc::clone(self), operation.clone());
        // A task of its own: a caller that hangs up must not leave a change half-way.
        let task = tokio::spawn(async move {
            let outcome = control.change_in_turn(&branch, work).await;
            control.end_change(begun, outcome).await
        });
        match tokio::time::timeout(PATIENCE, task).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(error)) => return Err(Error::Internal(format!("a change ended early: {error}"))),
            Err(_) => {}
        }
        self.operation_row(operation.resource, operation.uid).await
    }

    async fn change_in_turn(self: &Arc<Self>, branch: &str, work: Work) -> Result<(), Error> {
        let _claim = self.claim_in_turn(&format!("{branch}/catalog")).await;
        // As any connection: what is woken for a change is not suspended for another branch before it.
        let _guard = self.computes.guard(branch);
        let mut client = self.admin(branch).await?;
        let live = catalog::read(&client).await?;
        let touched = match work {
            Work::Role(work) => self.work_on_role(branch, work, &mut client, &live).await?,
            Work::Database(work) => self.work_on_database(work, &mut client, &live).await?,
        };
        self.look(branch, &mut client, touched).await.map(drop)
    }

    async fn end_change(
        self: &Arc<Self>,
        operation: Operation,
        outcome: Result<(), Error>,
    ) -> Result<(), Error> {
        self.blocking(move |control| {
            let action = format!("{}.{}", operation.kind.as_str(), operation.verb.as_str());
            let (end, result, detail) = match &outcome {
                Ok(()) => (Outcome::Done, "done", String::new()),
                Err(error) => {
                    let refused = matches!(error, Error::Refused { .. });
                    let result = if refused { "refused" } else { "failed" };
                    (super::projects::failure(error), result, error.to_string())
                }
            };
            control.db.write(|tx| {
                control.finish_operation(tx, &operation, &end)?;
                control.note(tx, &operation.principal, &action, &operation.resource, result, &detail)
            })?;
            outcome
        })
        .await
    }

    /// Ends changes that an earlier daemon was at. Whether they were made shows in the catalogs.
    pub(crate) fn abort_changes(&self) -> Result<(), Error> {
        let outcome = Outcome::Failed {
            code: "ABORTED".to_owned(),
            message: "the daemon ended during the change; look whether it was made".to_owned(),
        };
        self.db.write(|tx| {
            let running = operations::all_running(tx)?;
            for operation in running.iter().filter(|operation| is_catalog(operation.kind)) {
                self.finish_operation(tx, operation, &outcome)?;
            }
            Ok(())
        })
    }

    /// A random identifier for what nobody named.
    pub(crate) fn new_short_id(&self, prefix: &str) -> Result<String, Error> {
        Ok(format!("{prefix}-{}", &self.new_secret()?[..8]))
    }
}

/// Whether operations of this kind work inside a branch's PostgreSQL.
pub(crate) fn is_catalog(kind: Kind) -> bool {
    matches!(kind, Kind::Role | Kind::Database)
}

/// Branch `uid` and identifier in an operation's target.
pub(crate) fn split_target(target: &str) -> Option<(&str, &str)> {
    target.split_once('/')
}

/// Whose role a principal makes. What acts for a person acts as that person.
pub(crate) fn identity_of(principal: &Principal) -> Identity {
    let (name, kind) = match principal.kind {
        PrincipalKind::Human => (principal.name.as_str(), IdentityType::User),
        PrincipalKind::Service => (principal.name.as_str(), IdentityType::ServicePrincipal),
        PrincipalKind::Agent => match principal.name.rsplit_once(" for ") {
            Some((_, person)) => (person, IdentityType::User),
            None => (principal.name.as_str(), IdentityType::ServicePrincipal),
        },
    };
    Identity { name: name.to_owned(), kind }
}

fn is_identity_login(role: &LiveRole) -> bool {
    role.auth_method == AuthMethod::Identity && !role.is_superuser
}

pub(crate) fn login_of(role: &LiveRole) -> RoleLogin {
    if role.is_superuser { RoleLogin::NoLogin } else { login_by(role.auth_method, role.identity.as_ref()) }
}

fn login_by(method: AuthMethod, identity: Option<&Identity>) -> RoleLogin {
    match (method, identity) {
        (AuthMethod::NoLogin, _) => RoleLogin::NoLogin,
        (AuthMethod::Identity, Some(identity)) => {
            RoleLogin::Identity { name: identity.name.clone(), kind: identity.kind }
        }
        _ => RoleLogin::Password,
    }
}

/// What was known and what is seen, as one list in its order.
fn merge_roles(old: &[Role], live: &[LiveRole], touched: Touched, now: jiff::Timestamp) -> Vec<Role> {
    let known: HashMap<u32, &Role> = old.iter().map(|role| (role.oid, role)).collect();
    let merge = |live: &LiveRole| {
        let before = known.get(&live.oid);
        let mut role = Role {
            oid: live.oid,
            id: live.id.clone(),
            name: live.name.clone(),
            identity: live.identity.clone(),
            auth_method: live.auth_method,
            superuser_member: live.superuser_member,
            attributes: live.attributes,
            create_time: before.map_or(now, |before| before.create_time),
            update_time: before.map_or(now, |before| before.update_time),
        };
        if before.is_some_and(|before| **before != role) || touched == Touched::Role(live.oid) {
            role.update_time = now;
        }
        role
    };
    let mut merged: Vec<Role> = live.iter().map(merge).collect();
    merged.sort_by(|a, b| (a.create_time, &a.id).cmp(&(b.create_time, &b.id)));
    merged
}

fn merge_databases(
    old: &[Database],
    live: &[LiveDatabase],
    touched: Touched,
    now: jiff::Timestamp,
) -> Vec<Database> {
    let known: HashMap<u32, &Database> = old.iter().map(|database| (database.oid, database)).collect();
    let merge = |live: &LiveDatabase| {
        let before = known.get(&live.oid);
        let mut database = Database {
            oid: live.oid,
            id: live.id.clone(),
            name: live.name.clone(),
            owner: live.owner,
            create_time: before.map_or(now, |before| before.create_time),
            update_time: before.map_or(now, |before| before.update_time),
        };
        if before.is_some_and(|before| **before != database) || touched == Touched::Database(live.oid) {
            database.update_time = now;
        }
        database
    };
    let mut merged: Vec<Database> = live.iter().map(merge).collect();
    merged.sort_by(|a, b| (a.create_time, &a.id).cmp(&(b.create_time, &b.id)));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Attributes;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    fn live(oid: u32, name: &str) -> LiveRole {
        LiveRole {
            oid,
            id: format!("role-{oid}"),
            name: name.to_owned(),
            identity: None,
            auth_method: AuthMethod::Password,
            superuser_member: false,
            attributes: Attributes::default(),
            is_superuser: false,
            has_password: true,
        }
    }

    #[test]
    fn times_follow_what_is_seen() {
        let first = merge_roles(&[], &[live(2, "b"), live(1, "a")], Touched::Nothing, at(1));
        let times = |roles: &[Role]| -> Vec<(u32, i64, i64)> {
            let second = |time: jiff::Timestamp| time.as_second();
            roles.iter().map(|role| (role.oid, second(role.create_time), second(role.update_time))).collect()
        };
        assert_eq!(times(&first), [(1, 1, 1), (2, 1, 1)]);
        let same = merge_roles(&first, &[live(1, "a"), live(2, "b")], Touched::Nothing, at(2));
        assert_eq!(same, first);
        let changed =
            merge_roles(&first, &[live(1, "renamed"), live(2, "b"), live(3, "c")], Touched::Role(2), at(3));
        assert_eq!(times(&changed), [(1, 1, 3), (2, 1, 3), (3, 3, 3)]);
        let gone = merge_roles(&changed, &[live(3, "c")], Touched::Database(3), at(4));
        assert_eq!(times(&gone), [(3, 3, 3)]);
    }

    #[test]
    fn nobody_logs_in_as_a_real_superuser() {
        let identity = Identity { name: "bob".to_owned(), kind: IdentityType::User };
        let mut role =
            LiveRole { identity: Some(identity), auth_method: AuthMethod::Identity, ..live(1, "bob") };
        let bob = RoleLogin::Identity { name: "bob".to_owned(), kind: IdentityType::User };
        assert_eq!(login_of(&role), bob);
        role.is_superuser = true;
        assert_eq!(login_of(&role), RoleLogin::NoLogin);
        assert_eq!(login_of(&LiveRole { is_superuser: true, ..live(2, "root") }), RoleLogin::NoLogin);
    }

    #[test]
    fn principals_get_roles_of_their_own_kind() {
        let identity = |name: &str, kind| {
            let identity = identity_of(&Principal { name: name.to_owned(), kind });
            (identity.name, identity.kind)
        };
        assert_eq!(identity("ana@x", PrincipalKind::Human), ("ana@x".to_owned(), IdentityType::User));
        let service = ("7d5b".to_owned(), IdentityType::ServicePrincipal);
        assert_eq!(identity("7d5b", PrincipalKind::Service), service);
        assert_eq!(identity("bot for ana@x", PrincipalKind::Agent), ("ana@x".to_owned(), IdentityType::User));
        let agent = ("bot".to_owned(), IdentityType::ServicePrincipal);
        assert_eq!(identity("bot", PrincipalKind::Agent), agent);
    }
}
