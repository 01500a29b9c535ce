//! Everything about who may do what, in memory: logins and checks must not wait for the database,
//! whose lock is held while a write reaches the disk. Read anew after each change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use auth::Digest;
use jiff::Timestamp;
use rusqlite::Connection;

use crate::db::{Db, federation, grants, principals, tokens};
use crate::error::Error;
use crate::identity::{Federation, Identity, IdentityKind, Level, StoredToken};

/// One state of it.
#[derive(Default)]
pub(crate) struct Directory {
    identities: Vec<Arc<Identity>>,
    by_uid: HashMap<String, Arc<Identity>>,
    by_name: HashMap<String, Arc<Identity>>,
    tokens: Vec<Arc<StoredToken>>,
    by_digest: HashMap<Digest, Arc<StoredToken>>,
    groups_of: HashMap<String, Vec<String>>,
    grants: HashMap<String, Vec<(String, Level)>>,
    federation: Vec<Federation>,
    revoked: HashMap<String, Timestamp>,
}

impl Directory {
    /// Reads everything.
    pub fn load(connection: &Connection) -> Result<Directory, Error> {
        let mut directory = Directory {
            federation: federation::list(connection)?,
            revoked: tokens::revoked(connection)?.into_iter().collect(),
            ..Directory::default()
        };
        for identity in principals::list(connection)?.into_iter().map(Arc::new) {
            directory.by_uid.insert(identity.uid.clone(), Arc::clone(&identity));
            directory.by_name.insert(identity.name.clone(), Arc::clone(&identity));
            directory.identities.push(identity);
        }
        for (group, member) in principals::members(connection)? {
            directory.groups_of.entry(member).or_default().push(group);
        }
        for token in tokens::list(connection)?.into_iter().map(Arc::new) {
            directory.by_digest.insert(token.digest, Arc::clone(&token));
            directory.tokens.push(token);
        }
        for (project, principal, level) in grants::list(connection)? {
            directory.grants.entry(project).or_default().push((principal, level));
        }
        Ok(directory)
    }

    /// All principals, oldest first.
    pub fn identities(&self) -> &[Arc<Identity>] {
        &self.identities
    }

    pub fn by_uid(&self, uid: &str) -> Option<&Arc<Identity>> {
        self.by_uid.get(uid)
    }

    pub fn by_name(&self, name: &str) -> Option<&Arc<Identity>> {
        self.by_name.get(name)
    }

    /// The principal that a person means: by name, or a service principal by what it is called, as
    /// long as only one is called so.
    pub fn find(&self, word: &str) -> Option<&Arc<Identity>> {
        if let Some(identity) = self.by_name.get(word) {
            return Some(identity);
        }
        let called = |identity: &&Arc<Identity>| {
            identity.kind == IdentityKind::ServicePrincipal && identity.display_name == word
        };
        let mut found = self.identities.iter().filter(called);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// All opaque tokens, oldest first.
    pub fn tokens(&self) -> &[Arc<StoredToken>] {
        &self.tokens
    }

    pub fn token(&self, digest: &Digest) -> Option<&Arc<StoredToken>> {
        self.by_digest.get(digest)
    }

    pub fn is_revoked(&self, token_id: &str) -> bool {
        self.revoked.contains_key(token_id)
    }

    /// Whether a token's time was over before `time`, so that it need not be remembered.
    pub fn has_expired(&self, time: Timestamp) -> bool {
        self.tokens.iter().filter_map(|token| token.expire_time).any(|end| end < time)
            || self.revoked.values().any(|end| *end < time)
    }

    pub fn federation(&self) -> &[Federation] {
        &self.federation
    }

    /// `uid`s of the groups that a principal is in.
    pub fn groups_of(&self, uid: &str) -> &[String] {
        self.groups_of.get(uid).map_or(&[], Vec::as_slice)
    }

    /// Rights that were given on a project.
    pub fn grants(&self, project_uid: &str) -> &[(String, Level)] {
        self.grants.get(project_uid).map_or(&[], Vec::as_slice)
    }

    /// The highest right that a principal was given on a project, by itself or through a group.
    pub fn level(&self, uid: &str, project_uid: &str) -> Option<Level> {
        let groups = self.groups_of(uid);
        let concerns = |holder: &String| holder == uid || groups.contains(holder);
        self.grants(project_uid).iter().filter(|(holder, _)| concerns(holder)).map(|(_, level)| *level).max()
    }
}

/// The present state, and the way to the next.
pub(crate) struct Directories {
    now: RwLock<Arc<Directory>>,
    /// One change after the other, so that what is read last is also what stays.
    writing: Mutex<()>,
}

impl Directories {
    pub fn open(db: &Db) -> Result<Directories, Error> {
        let first = db.read(Directory::load)?;
        Ok(Directories { now: RwLock::new(Arc::new(first)), writing: Mutex::default() })
    }

    pub fn now(&self) -> Arc<Directory> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes rows; what follows sees the new state.
    pub fn change<T>(
        &self,
        db: &Db,
        work: impl FnOnce(&rusqlite::Transaction, &Directory) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now();
        let (value, next) = db.write(|tx| {
            let value = work(tx, &before)?;
            Ok((value, Directory::load(tx)?))
        })?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(value)
    }
}
