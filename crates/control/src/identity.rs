//! Principals, their tokens and their rights, as stored.

use auth::external::{Alg, Condition};
use auth::{Digest, Scope};
use jiff::Timestamp;

use crate::model::{Principal, PrincipalKind};

/// Somebody or something that can be given rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Identity for ever: a name may be given anew after a deletion.
    pub uid: String,
    /// E-mail address of a user, application id of a service principal, name of a group. Also the
    /// name of its role in PostgreSQL.
    pub name: String,
    /// What it is.
    pub kind: IdentityKind,
    /// What people see.
    pub display_name: String,
    /// Whether this is the owner of the home, who may do everything.
    pub is_owner: bool,
    /// When it was made.
    pub create_time: Timestamp,
}

/// Kinds of identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityKind {
    /// A person.
    User,
    /// A program with credentials of its own.
    ServicePrincipal,
    /// Several of the other two; cannot log in to the API itself.
    Group,
}

impl IdentityKind {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            IdentityKind::User => "user",
            IdentityKind::ServicePrincipal => "service_principal",
            IdentityKind::Group => "group",
        }
    }

    /// The kind that a stored word means.
    pub fn parse(word: &str) -> Option<IdentityKind> {
        match word {
            "user" => Some(IdentityKind::User),
            "service_principal" => Some(IdentityKind::ServicePrincipal),
            "group" => Some(IdentityKind::Group),
            _ => None,
        }
    }
}

impl Identity {
    /// The actor that appears in the audit log when this identity acts, by itself or through a
    /// program that says so.
    pub fn actor(&self, agent: Option<&str>) -> Principal {
        match (agent, self.kind) {
            (Some(agent), _) => {
                Principal { name: format!("{agent} for {}", self.name), kind: PrincipalKind::Agent }
            }
            (None, IdentityKind::ServicePrincipal) => {
                Principal { name: self.name.clone(), kind: PrincipalKind::Service }
            }
            (None, _) => Principal { name: self.name.clone(), kind: PrincipalKind::Human },
        }
    }
}

/// An opaque secret as stored: its digest and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Public identity, for listing and revoking (`tok-…`).
    pub id: String,
    /// What it is.
    pub kind: TokenKind,
    /// `uid` of the principal.
    pub principal: String,
    /// What its maker calls it.
    pub name: String,
    /// SHA-256 of the secret.
    pub digest: Digest,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// `uid`s of the projects that it is confined to; none means all that the principal reaches.
    pub projects: Option<Vec<String>>,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it ends; none means never.
    pub expire_time: Option<Timestamp>,
}

/// Kinds of opaque secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Shown with each call.
    Personal,
    /// Exchanged for access tokens.
    ClientSecret,
}

impl TokenKind {
    /// The word stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenKind::Personal => "personal",
            TokenKind::ClientSecret => "client_secret",
        }
    }

    /// The kind that a stored word means.
    pub fn parse(word: &str) -> Option<TokenKind> {
        match word {
            "personal" => Some(TokenKind::Personal),
            "client_secret" => Some(TokenKind::ClientSecret),
            _ => None,
        }
    }
}

/// Right on a project; the greater one includes the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// See it, connect to it, make roles and databases.
    Use,
    /// Change and delete it and what it holds, and say who may do what.
    Manage,
}

impl Level {
    /// The contract's word, also stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Use => "CAN_USE",
            Level::Manage => "CAN_MANAGE",
        }
    }

    /// The level that a word means.
    pub fn parse(word: &str) -> Option<Level> {
        match word {
            "CAN_USE" => Some(Level::Use),
            "CAN_MANAGE" => Some(Level::Manage),
            _ => None,
        }
    }
}

/// Whose tokens stand for a principal, under which conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Identity (`fed-…`).
    pub id: String,
    /// Exact `iss` of the tokens, a URL.
    pub issuer: String,
    /// What their `aud` must contain.
    pub audience: String,
    /// How they may be signed.
    pub algorithms: Vec<Alg>,
    /// Where the issuer's keys are; found by discovery where absent.
    pub jwks_uri: Option<String>,
    /// What their claims must say; all of it.
    pub conditions: Vec<Condition>,
    /// `uid` of the principal that such tokens stand for.
    pub principal: String,
    /// When it was made.
    pub create_time: Timestamp,
}
