//! Rights on projects, as the contract's permissions calls show and change them.

use std::sync::Arc;

use super::principals::no_principal;
use super::{Action, Caller, Control, not_found};
use crate::db::grants;
use crate::error::Error;
use crate::identity::{Identity, IdentityKind, Level};

/// A principal as a call names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which kind it must be; any where absent.
    pub kind: Option<IdentityKind>,
    /// Its name.
    pub name: String,
}

/// A right that somebody has on a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Who.
    pub identity: Arc<Identity>,
    /// What.
    pub level: Level,
}

/// How rights are to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Those named get theirs; the others keep what they have.
    Merge(Vec<(Holder, Level)>),
    /// Those named get theirs, the others lose what they have.
    Replace(Vec<(Holder, Level)>),
    /// This one loses its right.
    Revoke(Holder),
}

impl Control {
    /// Rights on a project, its owner's first.
    ///
    /// # Errors
    /// There is no such project.
    pub async fn permissions(self: &Arc<Self>, project: String) -> Result<Vec<Permission>, Error> {
        self.blocking(move |control| {
            let subject = control.db.read(|c| grants::subject(c, &project))?;
            let (uid, owner) = subject.ok_or_else(|| not_found("project"))?;
            let directory = control.directories.now();
            let owner = directory.by_name(&owner).cloned();
            let mut rights: Vec<Permission> = owner
                .iter()
                .map(|owner| Permission { identity: Arc::clone(owner), level: Level::Manage })
                .collect();
            for (principal, level) in directory.grants(&uid) {
                let Some(identity) = directory.by_uid(principal) else { continue };
                if owner.as_ref().is_none_or(|owner| owner.uid != identity.uid) {
                    rights.push(Permission { identity: Arc::clone(identity), level: *level });
                }
            }
            Ok(rights)
        })
        .await
    }

    /// Changes rights on a project. Its owner keeps all rights whatever is asked for.
    ///
    /// # Errors
    /// There is no such project, or a principal is unknown.
    pub async fn change_permissions(
        self: &Arc<Self>,
        caller: Caller,
        project: String,
        change: Change,
    ) -> Result<(), Error> {
        self.blocking(move |control| {
            let target = format!("projects/{project}");
            let outcome = control.write_permissions(&caller, &project, &target, change);
            control.note_refusal(&caller.principal, "project.permissions", &target, outcome)
        })
        .await
    }

    fn write_permissions(
        &self,
        caller: &Caller,
        project: &str,
        target: &str,
        change: Change,
    ) -> Result<(), Error> {
        self.directories.change(&self.db, |tx, directory| {
            let (uid, owner) = grants::subject(tx, project)?.ok_or_else(|| not_found("project"))?;
            // Looked at again: rights may have changed since the call was let in.
            self.conclude(caller, Action::Manage, Some((&uid, &owner)))?;
            let find = |holder: &Holder| {
                let fits = |identity: &&Arc<Identity>| holder.kind.is_none_or(|kind| kind == identity.kind);
                let found = directory.find(&holder.name).filter(fits);
                found.ok_or_else(|| no_principal(&holder.name))
            };
            let mut words = Vec::new();
            let (entries, replace) = match change {
                Change::Merge(entries) => (entries, false),
                Change::Replace(entries) => (entries, true),
                Change::Revoke(holder) => {
                    let identity = find(&holder)?;
                    if !grants::remove(tx, &uid, &identity.uid)? {
                        return Err(Error::invalid(format!(
                            "'{}' was not given any right on this project",
                            identity.name
                        )));
                    }
                    words.push(format!("{} none", identity.name));
                    (Vec::new(), false)
                }
            };
            if replace {
                grants::clear(tx, &uid)?;
                words.push("all others none".to_owned());
            }
            for (holder, level) in &entries {
                let identity = find(holder)?;
                grants::set(tx, &uid, &identity.uid, *level)?;
                words.push(format!("{} {}", identity.name, level.as_str()));
            }
            self.note(tx, &caller.principal, "project.permissions", target, "done", &words.join(", "))
        })
    }
}
