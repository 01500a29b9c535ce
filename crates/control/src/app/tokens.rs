//! Personal tokens and client secrets: shown once, kept as digests.

use std::sync::Arc;

use auth::{Opaque, Scope, Secret};
use jiff::{SignedDuration, Timestamp};

use super::principals::no_principal;
use super::{Action, Caller, Control};
use crate::db::{grants, projects, tokens};
use crate::error::{Error, Refusal};
use crate::identity::{Identity, IdentityKind, StoredToken, TokenKind};

/// Tokens live this long unless told otherwise.
const USUAL_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// A secret that would outlive this is one that never ends.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(5 * 365 * 24);

/// One principal has at most this many tokens.
const MOST_TOKENS: usize = 1000;

/// How long a new secret is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// As long as usual: 90 days.
    Usual,
    /// This long.
    For(SignedDuration),
    /// Until it is revoked.
    UntilRevoked,
}

/// What a caller wants of a new secret.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it is.
    pub kind: TokenKind,
    /// What its maker calls it.
    pub name: String,
    /// For whom; for the caller where absent.
    pub principal: Option<String>,
    /// What it may be used for; everything where empty.
    pub scopes: Vec<Scope>,
    /// Identifiers of the projects that it is confined to.
    pub projects: Option<Vec<String>>,
    /// How long it lives.
    pub life: Life,
}

/// A secret and what is known of it. The secret is not stored: this is the only time that it is seen.
pub struct NewSecret {
    /// The secret.
    pub secret: Secret,
    /// What is stored.
    pub view: TokenView,
}

/// A stored secret as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// The row.
    pub token: Arc<StoredToken>,
    /// Whose it is.
    pub principal: Arc<Identity>,
}

impl Control {
    /// Makes a personal token or a client secret.
    ///
    /// # Errors
    /// The principal cannot have one, or the caller may not make one for it.
    pub async fn create_token(self: &Arc<Self>, caller: Caller, new: NewToken) -> Result<NewSecret, Error> {
        self.blocking(move |control| {
            let name = new.principal.clone().unwrap_or_else(|| caller.identity.name.clone());
            let target = format!("principals/{name}/tokens");
            let outcome = control.insert_token(&caller, new);
            control.note_refusal(&caller.principal, "token.create", &target, outcome)
        })
        .await
    }

    fn insert_token(&self, caller: &Caller, new: NewToken) -> Result<NewSecret, Error> {
        let now = self.clock.now();
        if new.name.chars().count() > 100 || new.name.chars().any(char::is_control) {
            return Err(Error::invalid("Field 'name' must have at most 100 printable characters."));
        }
        let expire_time = expiry(now, new.life)?;
        let mut scopes = if new.scopes.is_empty() { vec![Scope::All] } else { new.scopes };
        scopes.sort();
        scopes.dedup();
        let limited = scopes != [Scope::All] || new.projects.is_some();
        if new.kind == TokenKind::ClientSecret && limited {
            // What it is exchanged for says what it may do.
            let why =
                "A client secret has no limits of its own; ask the token endpoint for a narrower 'scope'.";
            return Err(Error::invalid(why));
        }
        let mut random = [0; 32];
        self.random.fill(&mut random).map_err(super::no_randomness)?;
        let form = match new.kind {
            TokenKind::Personal => Opaque::Personal,
            TokenKind::ClientSecret => Opaque::ClientSecret,
        };
        let secret = form.make(random);
        let id = self.new_uid("tok")?;
        let view = self.directories.change(&self.db, |tx, directory| {
            let principal = match &new.principal {
                Some(name) => directory.find(name).ok_or_else(|| no_principal(name))?,
                None => &caller.identity,
            };
            if principal.uid != caller.identity.uid {
                self.conclude(caller, Action::Administer, None)?;
            }
            check_holder(principal, new.kind)?;
            let held = directory.tokens().iter().filter(|token| token.principal == principal.uid).count();
            if held >= MOST_TOKENS {
                return Err(Error::refused(
                    Refusal::BadRequest,
                    format!("principal '{}' has {MOST_TOKENS} tokens already", principal.name),
                )
                .with_hint("revoke some first"));
            }
            let reach = match &new.projects {
                None => None,
                Some(ids) => {
                    let mut uids = Vec::new();
                    for project in ids {
                        let found = projects::by_id(tx, project)?;
                        let found = found.filter(|row| self.may_see(caller, &row.uid, &row.owner));
                        uids.push(found.ok_or_else(|| super::not_found("project"))?.uid);
                    }
                    Some(uids)
                }
            };
            let token = StoredToken {
                id,
                kind: new.kind,
                principal: principal.uid.clone(),
                name: new.name,
                digest: secret.digest(),
                scopes,
                projects: reach,
                create_time: now,
                expire_time,
            };
            tokens::insert(tx, &token)?;
            let target = format!("principals/{}/tokens/{}", principal.name, token.id);
            self.note(tx, &caller.principal, "token.create", &target, "done", &describe(&token))?;
            Ok(TokenView { token: Arc::new(token), principal: Arc::clone(principal) })
        })?;
        Ok(NewSecret { secret, view })
    }

    /// Tokens, oldest first: the caller's own, or those of everybody.
    ///
    /// # Errors
    /// The caller may not see those of everybody.
    pub fn tokens(&self, caller: &Caller, everybody: bool) -> Result<Vec<TokenView>, Error> {
        if everybody {
            self.conclude(caller, Action::Administer, None)?;
        }
        let directory = self.directories.now();
        let visible = |token: &&Arc<StoredToken>| everybody || token.principal == caller.identity.uid;
        let view = |token: &Arc<StoredToken>| {
            let principal = directory.by_uid(&token.principal)?;
            Some(TokenView { token: Arc::clone(token), principal: Arc::clone(principal) })
        };
        Ok(directory.tokens().iter().filter(visible).filter_map(view).collect())
    }

    /// Takes a token back: an opaque one by its id, a signed one by the id that the audit log shows.
    ///
    /// # Errors
    /// There is none, or it is another's and the caller does not own the home.
    pub async fn revoke_token(self: &Arc<Self>, caller: Caller, id: String) -> Result<(), Error> {
        self.blocking(move |control| {
            let target = format!("tokens/{id}");
            let outcome = control.directories.change(&control.db, |tx, directory| {
                let missing = || Error::refused(Refusal::NotFound, format!("token '{id}' not found"));
                let mine = |uid: &str| uid == caller.identity.uid;
                let may_all = control.conclude(&caller, Action::Administer, None).is_ok();
                match directory.tokens().iter().find(|token| token.id == id) {
                    Some(token) if mine(&token.principal) || may_all => {
                        tokens::remove(tx, &id)?;
                    }
                    // Signed tokens are stored nowhere, so anything of their form is taken for one.
                    None if may_all && is_uuid(&id) => {
                        let end = control.clock.now() + SignedDuration::from_secs(auth::ACCESS_SECONDS);
                        tokens::revoke_signed(tx, &id, end)?;
                    }
                    _ => return Err(missing()),
                }
                control.note(tx, &caller.principal, "token.revoke", &target, "done", "")
            });
            control.note_refusal(&caller.principal, "token.revoke", &target, outcome)
        })
        .await
    }

    /// Forgets tokens whose time is over.
    pub(crate) fn prune_tokens(&self) -> Result<(), Error> {
        let now = self.clock.now();
        if self.directories.now().has_expired(now) {
            self.directories.change(&self.db, |tx, _| tokens::remove_expired(tx, now))?;
        }
        Ok(())
    }

    /// Identifiers of projects, for showing what a token is confined to. Unknown ones are left out.
    ///
    /// # Errors
    /// The database failed.
    pub async fn project_ids(self: &Arc<Self>, uids: Vec<String>) -> Result<Vec<String>, Error> {
        self.blocking(move |control| {
            control.db.read(|c| {
                let mut ids = Vec::new();
                for uid in &uids {
                    ids.extend(projects::by_uid(c, uid)?.map(|project| project.id));
                }
                Ok(ids)
            })
        })
        .await
    }

    /// Identity and owner of a branch's project, remembered: a login must not wait for the database.
    pub(crate) fn subject_of_branch(&self, branch_uid: &str) -> Result<Option<(String, String)>, Error> {
        /// More than this are never needed at once.
        const MOST: usize = 10_000;
        let mut known = self.subjects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(subject) = known.get(branch_uid) {
            return Ok(Some(subject.clone()));
        }
        let found = self.db.read(|c| grants::subject_of_branch(c, branch_uid))?;
        if let Some(subject) = &found {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(branch_uid.to_owned(), subject.clone());
        }
        Ok(found)
    }

    /// Owners have changed.
    pub(crate) fn forget_subjects(&self) {
        self.subjects.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}

fn expiry(now: Timestamp, life: Life) -> Result<Option<Timestamp>, Error> {
    let span = match life {
        Life::UntilRevoked => return Ok(None),
        Life::Usual => USUAL_LIFE,
        Life::For(span) => span,
    };
    if span < SignedDuration::from_secs(1) || span > LONGEST_LIFE {
        return Err(Error::invalid("a token must live between one second and five years"));
    }
    Ok(Some(now + span))
}

fn check_holder(principal: &Identity, kind: TokenKind) -> Result<(), Error> {
    match (principal.kind, kind) {
        (IdentityKind::Group, _) => {
            Err(Error::invalid(format!("'{}' is a group and cannot log in", principal.name)))
        }
        (IdentityKind::User, TokenKind::ClientSecret) => {
            Err(Error::invalid(format!("'{}' is not a service principal", principal.name))
                .with_hint("only service principals have client secrets"))
        }
        _ => Ok(()),
    }
}

fn describe(token: &StoredToken) -> String {
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let end = token.expire_time.map_or_else(|| "never".to_owned(), |time| time.to_string());
    format!("{}; scopes {}; expires {end}", token.kind.as_str(), scopes.join(" "))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let hours = SignedDuration::from_hours;
        assert_eq!(expiry(now, Life::UntilRevoked).unwrap(), None);
        assert_eq!(expiry(now, Life::Usual).unwrap(), Some(now + hours(90 * 24)));
        assert_eq!(expiry(now, Life::For(hours(1))).unwrap(), Some(now + hours(1)));
        for wrong in [SignedDuration::ZERO, hours(-1), hours(10 * 365 * 24), SignedDuration::MAX] {
            assert!(expiry(now, Life::For(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn signed_tokens_have_uuids() {
        assert!(is_uuid("0b9c6f0e-7a55-4f1b-8a3e-0c5b7e1d2f3a"));
        for wrong in
            ["", "tok-abc", "0b9c6f0e-7a55-4f1b-8a3e-0c5b7e1d2f3", "0b9c6f0e_7a55-4f1b-8a3e-0c5b7e1d2f3a"]
        {
            assert!(!is_uuid(wrong), "{wrong}");
        }
    }
}
