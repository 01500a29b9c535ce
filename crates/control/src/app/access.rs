//! Who may do what: one pure decision, and the callers it is made about.

use std::sync::Arc;

use auth::Scope;

use super::{Control, not_found};
use crate::db::{grants, operations};
use crate::directory::Directory;
use crate::error::{Error, Refusal};
use crate::identity::{Identity, Level};
use crate::model::Principal;

/// Somebody who has proved who they are.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who acts, for the audit log.
    pub principal: Principal,
    /// On whose rights.
    pub identity: Arc<Identity>,
    /// What the credential may be used for.
    pub scopes: Vec<Scope>,
    /// `uid`s of the projects that the credential is confined to; none means no such limit.
    pub projects: Option<Vec<String>>,
    /// Which credential it was; none on the local socket.
    pub token_id: Option<String>,
}

/// What can be done, as far as rights tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What everybody who is known may do: ask who they are, list what they may see.
    Know,
    /// Change what is one's own: make and revoke one's tokens.
    ChangeSelf,
    /// Make a project.
    CreateProject,
    /// Look at a project and what it holds.
    View,
    /// Connect to its databases.
    Connect,
    /// Make roles and databases in it.
    Use,
    /// Change or delete it and what it holds, and say who may do what.
    Manage,
    /// Look at the home as a whole: what runs, figures, the audit log, principals.
    Observe,
    /// Change what concerns the home as a whole: principals, issuers, keys, the daemon.
    Administer,
}

/// How a caller stands to what an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Whether the caller owns the home.
    pub owns_home: bool,
    /// What the credential may be used for.
    pub scopes: &'a [Scope],
    /// Whether the credential is confined to some projects.
    pub confined: bool,
    /// How the caller stands to the project; none where there is no such project, or no project is
    /// concerned.
    pub project: Option<ProjectStanding>,
}

/// How a caller stands to a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectStanding {
    /// Whether it is the caller's own.
    pub owns: bool,
    /// What the caller was given on it.
    pub level: Option<Level>,
    /// Whether the credential reaches it.
    pub in_reach: bool,
}

/// What comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// The caller may know that it exists, but not do this.
    Deny(&'static str),
    /// The caller must not even learn that it exists.
    Hide,
}

const NARROW_TOKEN: Decision = Decision::Deny("the token's scope does not allow this");

/// Whether an action is allowed. The only place that decides so.
pub fn decide(action: Action, standing: &Standing) -> Decision {
    let has = |scope| standing.scopes.contains(&Scope::All) || standing.scopes.contains(&scope);
    let unlimited = has(Scope::All) && !standing.confined;
    let allow_if = |truth, otherwise| if truth { Decision::Allow } else { otherwise };
    match action {
        Action::Know => Decision::Allow,
        Action::ChangeSelf | Action::CreateProject => allow_if(unlimited, NARROW_TOKEN),
        Action::Observe if standing.owns_home => {
            allow_if(has(Scope::Read) && !standing.confined, NARROW_TOKEN)
        }
        Action::Administer if standing.owns_home => allow_if(unlimited, NARROW_TOKEN),
        Action::Observe | Action::Administer => Decision::Deny("only the owner of this server may do this"),
        Action::View | Action::Connect | Action::Use | Action::Manage => {
            let project =
                standing.project.unwrap_or(ProjectStanding { owns: false, level: None, in_reach: true });
            let owns = project.owns || standing.owns_home;
            let level = if owns { Some(Level::Manage) } else { project.level };
            let (Some(level), true) = (level, project.in_reach) else { return Decision::Hide };
            match action {
                Action::Manage if level < Level::Manage => {
                    Decision::Deny("this needs CAN_MANAGE on the project; its owner can grant that")
                }
                Action::View => allow_if(!standing.scopes.is_empty(), NARROW_TOKEN),
                Action::Connect => allow_if(has(Scope::Connect), NARROW_TOKEN),
                _ => allow_if(has(Scope::All), NARROW_TOKEN),
            }
        }
    }
}

impl Caller {
    /// Whether nothing needs to be looked up: the owner with a credential without limits.
    fn is_almighty(&self) -> bool {
        self.identity.is_owner && self.scopes.contains(&Scope::All) && self.projects.is_none()
    }

    /// Decides about an action on the project with this `uid` and owner.
    pub(crate) fn decide(
        &self,
        directory: &Directory,
        action: Action,
        project: Option<(&str, &str)>,
    ) -> Decision {
        let standing = Standing {
            owns_home: self.identity.is_owner,
            scopes: &self.scopes,
            confined: self.projects.is_some(),
            project: project.map(|(uid, owner)| ProjectStanding {
                owns: owner == self.identity.name,
                level: directory.level(&self.identity.uid, uid),
                in_reach: self.projects.as_ref().is_none_or(|list| list.iter().any(|one| one == uid)),
            }),
        };
        decide(action, &standing)
    }
}

impl Control {
    /// The caller on the local socket: the owner, perhaps through a program that says its name.
    ///
    /// # Errors
    /// The owner's row is missing, which cannot happen.
    pub fn local_caller(&self, agent: Option<&str>) -> Result<Caller, Error> {
        let identity = self.directories.now().by_name(self.owner()).cloned();
        let identity = identity.ok_or_else(|| Error::Internal("the owner is unknown".to_owned()))?;
        Ok(Caller {
            principal: identity.actor(agent),
            identity,
            scopes: vec![Scope::All],
            projects: None,
            token_id: None,
        })
    }

    /// The caller that a principal is on its own, without the limits of any token. For parts that
    /// have checked a credential themselves.
    ///
    /// # Errors
    /// There is no such principal any more.
    pub fn caller_of(&self, principal: &Principal) -> Result<Caller, Error> {
        let identity = self.directories.now().by_name(principal.on_behalf_of()).cloned();
        let identity = identity.ok_or_else(|| {
            Error::refused(Refusal::Unauthenticated, "the principal does not exist any more")
        })?;
        Ok(Caller {
            principal: principal.clone(),
            identity,
            scopes: vec![Scope::All],
            projects: None,
            token_id: None,
        })
    }

    /// Whether a caller may do something, to the project with this identifier where one is concerned.
    ///
    /// # Errors
    /// It may not: as if the project did not exist, where the caller must not know that it does.
    pub async fn authorise(
        self: &Arc<Self>,
        caller: &Caller,
        action: Action,
        project: Option<String>,
    ) -> Result<(), Error> {
        if caller.is_almighty() {
            return Ok(());
        }
        let subject = match project {
            Some(id) => self.blocking(move |control| control.db.read(|c| grants::subject(c, &id))).await?,
            None => None,
        };
        let subject = subject.as_ref().map(|(uid, owner)| (uid.as_str(), owner.as_str()));
        self.conclude(caller, action, subject)
    }

    /// Whether a caller may look at an operation: it outlives its resource, so whoever began it may
    /// always ask how it ended.
    ///
    /// # Errors
    /// It may not.
    pub async fn authorise_operation(
        self: &Arc<Self>,
        caller: &Caller,
        project: String,
        operation: String,
    ) -> Result<(), Error> {
        let refusal = match self.authorise(caller, Action::View, Some(project)).await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        let begun_by =
            self.blocking(move |control| control.db.read(|c| operations::begun_by(c, &operation))).await?;
        let own = begun_by.is_some_and(|principal| principal.on_behalf_of() == caller.identity.name);
        if own && !caller.scopes.is_empty() && caller.projects.is_none() { Ok(()) } else { Err(refusal) }
    }

    /// The decision about a known project as an outcome.
    pub(crate) fn conclude(
        &self,
        caller: &Caller,
        action: Action,
        project: Option<(&str, &str)>,
    ) -> Result<(), Error> {
        match caller.decide(&self.directories.now(), action, project) {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => Err(Error::refused(Refusal::PermissionDenied, reason)),
            Decision::Hide => Err(not_found("project")),
        }
    }

    /// Whether a caller may see a project, given its `uid` and owner.
    pub fn may_see(&self, caller: &Caller, project_uid: &str, project_owner: &str) -> bool {
        caller.is_almighty()
            || caller.decide(&self.directories.now(), Action::View, Some((project_uid, project_owner)))
                == Decision::Allow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Scope] = &[Scope::All];
    const ACTIONS: [Action; 9] = [
        Action::Know,
        Action::ChangeSelf,
        Action::CreateProject,
        Action::View,
        Action::Connect,
        Action::Use,
        Action::Manage,
        Action::Observe,
        Action::Administer,
    ];

    /// One letter for each action: allowed, denied, hidden.
    fn row(standing: Standing) -> String {
        let letter = |action| match decide(action, &standing) {
            Decision::Allow => 'a',
            Decision::Deny(_) => 'd',
            Decision::Hide => 'h',
        };
        ACTIONS.into_iter().map(letter).collect()
    }

    fn standing(scopes: &[Scope]) -> Standing<'_> {
        Standing { owns_home: false, scopes, confined: false, project: None }
    }

    fn on(level: Option<Level>) -> Option<ProjectStanding> {
        Some(ProjectStanding { owns: false, level, in_reach: true })
    }

    #[test]
    fn the_matrix() {
        let own = Some(ProjectStanding { owns: true, level: None, in_reach: true });
        //                                             know, self, create, view, connect, use, manage, observe, administer
        assert_eq!(row(Standing { owns_home: true, ..standing(ALL) }), "aaaaaaaaa", "the home's owner");
        assert_eq!(row(Standing { project: own, ..standing(ALL) }), "aaaaaaadd", "the project's owner");
        assert_eq!(row(Standing { project: on(Some(Level::Manage)), ..standing(ALL) }), "aaaaaaadd");
        assert_eq!(row(Standing { project: on(Some(Level::Use)), ..standing(ALL) }), "aaaaaaddd");
        assert_eq!(row(Standing { project: on(None), ..standing(ALL) }), "aaahhhhdd", "a stranger");
        assert_eq!(row(standing(ALL)), "aaahhhhdd", "no such project: the same answer");
    }

    #[test]
    fn narrow_tokens() {
        let own = Some(ProjectStanding { owns: true, level: None, in_reach: true });
        let far = Some(ProjectStanding { owns: true, level: Some(Level::Manage), in_reach: false });
        let with = |scopes, project| Standing { project, ..standing(scopes) };
        assert_eq!(row(with(&[Scope::Read], own)), "addaddddd");
        assert_eq!(row(with(&[Scope::Connect], own)), "addaadddd");
        assert_eq!(row(with(&[Scope::Read, Scope::Connect], own)), "addaadddd");
        assert_eq!(row(with(&[], own)), "adddddddd", "no scope at all");
        assert_eq!(row(Standing { confined: true, ..with(ALL, own) }), "addaaaadd");
        assert_eq!(row(Standing { confined: true, ..with(ALL, far) }), "addhhhhdd", "out of its reach");
        let owner = Standing { owns_home: true, ..with(&[Scope::Read], own) };
        assert_eq!(row(owner), "addadddad", "a narrow token of the home's owner is narrow");
        let confined = Standing { owns_home: true, confined: true, ..with(ALL, far) };
        assert_eq!(row(confined), "addhhhhdd");
    }

    #[test]
    fn no_level_gives_more_than_a_higher_one() {
        for action in ACTIONS {
            let allowed =
                |level| decide(action, &Standing { project: on(level), ..standing(ALL) }) == Decision::Allow;
            assert!(!allowed(None) || allowed(Some(Level::Use)), "{action:?}");
            assert!(!allowed(Some(Level::Use)) || allowed(Some(Level::Manage)), "{action:?}");
        }
    }
}
