//! Roles and databases inside a branch's PostgreSQL.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What kind of principal a role stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum IdentityType {
    /// A person.
    User,
    /// A program with an identity of its own.
    ServicePrincipal,
    /// Several principals.
    Group,
}

impl IdentityType {
    /// The word of the contract; also what is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            IdentityType::User => "USER",
            IdentityType::ServicePrincipal => "SERVICE_PRINCIPAL",
            IdentityType::Group => "GROUP",
        }
    }

    /// The type that a word of the contract means.
    pub fn parse(word: &str) -> Option<IdentityType> {
        match word {
            "USER" => Some(IdentityType::User),
            "SERVICE_PRINCIPAL" => Some(IdentityType::ServicePrincipal),
            "GROUP" => Some(IdentityType::Group),
            _ => None,
        }
    }
}

/// The principal that a role belongs to. Bound to the principal's name, not to the role's: renaming a
/// role does not give it to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the principal.
    pub name: String,
    /// Its kind.
    pub kind: IdentityType,
}

/// How somebody logs in as a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// With a token of the principal whose role it is.
    Identity,
    /// With the role's own password.
    Password,
    /// Not at all.
    NoLogin,
}

impl AuthMethod {
    /// The word stored.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Identity => "identity",
            AuthMethod::Password => "password",
            AuthMethod::NoLogin => "no_login",
        }
    }

    /// The method that a stored word means.
    pub fn parse(word: &str) -> Option<AuthMethod> {
        match word {
            "identity" => Some(AuthMethod::Identity),
            "password" => Some(AuthMethod::Password),
            "no_login" => Some(AuthMethod::NoLogin),
            _ => None,
        }
    }
}

/// What a role may do beside its privileges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Row-level security does not apply to it.
    pub bypassrls: bool,
    /// It may make databases.
    pub createdb: bool,
    /// It may make roles.
    pub createrole: bool,
}

/// A role of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// PostgreSQL's number for it: stays when it is renamed, and on branches.
    pub oid: u32,
    /// Identifier in names, unique on the branch.
    pub id: String,
    /// Its name in PostgreSQL.
    pub name: String,
    /// The principal that it belongs to; none for a plain role.
    pub identity: Option<Identity>,
    /// How somebody logs in as it.
    pub auth_method: AuthMethod,
    /// Whether it is a direct member of `databricks_superuser`.
    pub superuser_member: bool,
    /// What it may do.
    pub attributes: Attributes,
    /// When it was made, or first seen.
    pub create_time: Timestamp,
    /// When it was last seen changed.
    pub update_time: Timestamp,
}

/// A database of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// PostgreSQL's number for it: stays when it is renamed, and on branches.
    pub oid: u32,
    /// Identifier in names, unique on the branch.
    pub id: String,
    /// Its name in PostgreSQL.
    pub name: String,
    /// `oid` of the role that owns it.
    pub owner: u32,
    /// When it was made, or first seen.
    pub create_time: Timestamp,
    /// When it was last seen changed.
    pub update_time: Timestamp,
}
