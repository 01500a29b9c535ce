//! Principals: users, service principals and groups.

use std::sync::Arc;

use rusqlite::Connection;

use super::{Caller, Control, check_role_name};
use crate::clock::Random;
use crate::db::{grants, principals, settings};
use crate::error::{Error, Refusal};
use crate::identity::{Identity, IdentityKind};

/// What a caller wants of a new principal.
#[derive(Debug, Clone)]
pub struct NewPrincipal {
    /// What it is.
    pub kind: IdentityKind,
    /// E-mail address of a user, name of a group, what a service principal is called (its real name
    /// is an application id made here).
    pub name: String,
    /// What people see; the name where absent.
    pub display_name: Option<String>,
}

/// A principal with the groups it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalView {
    /// The principal.
    pub identity: Arc<Identity>,
    /// Names of its groups, in order.
    pub groups: Vec<String>,
}

impl Control {
    /// Makes a principal.
    ///
    /// # Errors
    /// The name cannot be used or is taken.
    pub async fn create_principal(
        self: &Arc<Self>,
        caller: Caller,
        new: NewPrincipal,
    ) -> Result<PrincipalView, Error> {
        self.blocking(move |control| {
            let target = format!("principals/{}", new.name);
            let outcome = control.insert_principal(&caller, new);
            control.note_refusal(&caller.principal, "principal.create", &target, outcome)
        })
        .await
    }

    fn insert_principal(&self, caller: &Caller, new: NewPrincipal) -> Result<PrincipalView, Error> {
        check_principal_name(&new.name)?;
        let identity = Identity {
            uid: self.new_uid("pr")?,
            name: match new.kind {
                IdentityKind::ServicePrincipal => self.new_uuid()?,
                IdentityKind::User | IdentityKind::Group => new.name.clone(),
            },
            kind: new.kind,
            display_name: new.display_name.filter(|name| !name.is_empty()).unwrap_or(new.name),
            is_owner: false,
            create_time: self.clock.now(),
        };
        self.directories.change(&self.db, |tx, directory| {
            if directory.by_name(&identity.name).is_some() {
                return Err(Error::refused(
                    Refusal::AlreadyExists,
                    format!("a principal named '{}' already exists", identity.name),
                ));
            }
            let namesake = |other: &&Arc<Identity>| {
                other.kind == IdentityKind::ServicePrincipal && other.display_name == identity.display_name
            };
            if identity.kind == IdentityKind::ServicePrincipal
                && directory.identities().iter().any(|other| namesake(&other))
            {
                return Err(Error::refused(
                    Refusal::AlreadyExists,
                    format!("a service principal called '{}' already exists", identity.display_name),
                ));
            }
            principals::insert(tx, &identity)?;
            let target = format!("principals/{}", identity.name);
            self.note(tx, &caller.principal, "principal.create", &target, "done", identity.kind.as_str())
        })?;
        Ok(PrincipalView { identity: Arc::new(identity), groups: Vec::new() })
    }

    /// All principals, oldest first.
    pub fn principals(&self) -> Vec<PrincipalView> {
        self.directories.now().identities().iter().map(|identity| self.view_principal(identity)).collect()
    }

    /// A principal with its groups.
    pub fn view_principal(&self, identity: &Arc<Identity>) -> PrincipalView {
        let directory = self.directories.now();
        let mut groups: Vec<String> = directory
            .groups_of(&identity.uid)
            .iter()
            .filter_map(|uid| Some(directory.by_uid(uid)?.name.clone()))
            .collect();
        groups.sort();
        PrincipalView { identity: Arc::clone(identity), groups }
    }

    /// Deletes a principal with its tokens and rights. Its projects are handed to `heir`.
    ///
    /// # Errors
    /// There is none, it owns the home, or it owns projects and there is no heir.
    pub async fn delete_principal(
        self: &Arc<Self>,
        caller: Caller,
        name: String,
        heir: Option<String>,
    ) -> Result<(), Error> {
        self.blocking(move |control| {
            let target = format!("principals/{name}");
            let outcome = control.directories.change(&control.db, |tx, directory| {
                let doomed = directory.find(&name).ok_or_else(|| no_principal(&name))?;
                if doomed.is_owner {
                    return Err(Error::refused(Refusal::BadRequest, "the owner of this server stays"));
                }
                control.hand_to_owner(tx, directory, doomed, heir.as_deref())?;
                principals::remove(tx, &doomed.uid)?;
                control.note(tx, &caller.principal, "principal.delete", &target, "done", "")
            });
            if outcome.is_ok() {
                control.forget_subjects();
            }
            control.note_refusal(&caller.principal, "principal.delete", &target, outcome)
        })
        .await
    }

    fn hand_to_owner(
        &self,
        tx: &Connection,
        directory: &crate::directory::Directory,
        from: &Identity,
        heir: Option<&str>,
    ) -> Result<(), Error> {
        let owned = grants::owned_by(tx, &from.name)?;
        if owned.is_empty() {
            return Ok(());
        }
        let Some(heir) = heir else {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("principal '{}' owns projects ({})", from.name, owned.join(", ")),
            )
            .with_hint("delete them first, or name somebody to take them over"));
        };
        let heir = directory.find(heir).ok_or_else(|| no_principal(heir))?;
        if heir.uid == from.uid || heir.kind == IdentityKind::Group {
            return Err(Error::invalid(format!("'{}' cannot take over the projects", heir.name)));
        }
        grants::hand_over(tx, &from.name, &heir.name)
    }

    /// Puts a principal into a group, or takes it out.
    ///
    /// # Errors
    /// One of them does not exist, or the one is no group or the other is one.
    pub async fn set_member(
        self: &Arc<Self>,
        caller: Caller,
        group: String,
        member: String,
        present: bool,
    ) -> Result<(), Error> {
        self.blocking(move |control| {
            let action = if present { "group.add" } else { "group.remove" };
            let target = format!("principals/{group}");
            let outcome = control.directories.change(&control.db, |tx, directory| {
                let group = directory.find(&group).ok_or_else(|| no_principal(&group))?;
                let member = directory.find(&member).ok_or_else(|| no_principal(&member))?;
                if group.kind != IdentityKind::Group {
                    return Err(Error::invalid(format!("'{}' is not a group", group.name)));
                }
                if member.kind == IdentityKind::Group {
                    return Err(Error::invalid("a group cannot be in a group"));
                }
                principals::set_member(tx, &group.uid, &member.uid, present)?;
                control.note(tx, &caller.principal, action, &target, "done", &member.name)
            });
            control.note_refusal(&caller.principal, action, &target, outcome)
        })
        .await
    }
}

/// Makes the owner's row in a home that has none yet.
pub(super) fn ensure_owner(
    connection: &Connection,
    random: &dyn Random,
    owner: &str,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    if principals::list(connection)?.iter().any(|identity| identity.is_owner) {
        return Ok(());
    }
    let uid = crate::clock::new_uid(random, "pr").map_err(super::no_randomness)?;
    let identity = Identity {
        uid,
        name: owner.to_owned(),
        kind: IdentityKind::User,
        display_name: owner.to_owned(),
        is_owner: true,
        create_time: now,
    };
    principals::insert(connection, &identity)
}

/// What tells this home from others: `(home id, workspace id)`, made once. The second is a number
/// of 16 digits, which clients keep as an integer.
pub(super) fn ensure_home_id(
    connection: &Connection,
    random: &dyn Random,
) -> Result<(String, String), Error> {
    if let (Some(home), Some(workspace)) =
        (settings::get(connection, settings::HOME_ID)?, settings::get(connection, settings::WORKSPACE_ID)?)
    {
        return Ok((home, workspace));
    }
    let home = crate::clock::new_uuid(random).map_err(super::no_randomness)?;
    let mut bytes = [0; 8];
    random.fill(&mut bytes).map_err(super::no_randomness)?;
    // Below 2^53, so that every JSON reader keeps it exact.
    let workspace = (1_000_000_000_000_000 + u64::from_be_bytes(bytes) % 8_000_000_000_000_000).to_string();
    settings::set(connection, settings::HOME_ID, &home)?;
    settings::set(connection, settings::WORKSPACE_ID, &workspace)?;
    Ok((home, workspace))
}

pub(crate) fn no_principal(name: &str) -> Error {
    Error::refused(Refusal::NotFound, format!("principal '{name}' not found"))
}

/// A principal is a role in PostgreSQL too, and its name stands in the audit log between spaces.
fn check_principal_name(name: &str) -> Result<(), Error> {
    check_role_name(name)?;
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) || name.contains('/') {
        return Err(Error::invalid(format!("\"{name}\" cannot be a principal's name"))
            .with_hint("use an e-mail address or a word without spaces and slashes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_principal_name;

    #[test]
    fn names() {
        for good in ["bob@example.org", "ci", "data-team"] {
            assert!(check_principal_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\nb", "a/b", "public", "pg_x", &"a".repeat(64)] {
            assert!(check_principal_name(bad).is_err(), "{bad}");
        }
    }
}
