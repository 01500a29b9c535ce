//! The role and the database that a project begins with.

use compute::engine::DEFAULT_DATABASE;
use serde::{Deserialize, Serialize};

use super::is_reserved;
use super::roles::auth_method;
use crate::catalog::names::{check_database_id, check_name};
use crate::error::Error;
use crate::model::{Attributes, AuthMethod, Identity, IdentityType};
use crate::names::normalise;
use crate::prepare::identity_role_id;

/// Identifier of the database that every project begins with, unless its creator wishes another.
const DEFAULT_DATABASE_ID: &str = "databricks-postgres";

/// What belongs to the server itself.
const SERVERS_OWN: [&str; 3] = ["postgres", "template0", "template1"];

/// What a creator says of the first role. All of it may be absent: the role is then the creator's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstRole {
    /// Name in PostgreSQL; the creator's where absent.
    pub name: Option<String>,
    /// What kind of principal it belongs to.
    pub identity_type: Option<IdentityType>,
    /// How somebody logs in; follows from the kind where absent.
    pub auth_method: Option<AuthMethod>,
    /// Row-level security does not apply to it.
    pub bypassrls: Option<bool>,
    /// It may make databases.
    pub createdb: Option<bool>,
    /// It may make roles.
    pub createrole: Option<bool>,
    /// Membership in `databricks_superuser`.
    pub superuser_member: Option<bool>,
}

/// Role and database to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct First {
    /// Identifier of the role.
    pub role_id: Option<String>,
    /// Its name in PostgreSQL.
    pub role: String,
    /// Whose it is; nobody's where absent.
    pub identity: Option<Identity>,
    /// How somebody logs in.
    pub auth_method: AuthMethod,
    /// What it may do.
    pub attributes: Attributes,
    /// Whether it is a member of `databricks_superuser`, with the right to hand that on.
    pub superuser_member: bool,
    /// Identifier of the database.
    pub database_id: String,
    /// Its name in PostgreSQL. The role owns it.
    pub database: String,
}

impl First {
    /// The creator's role, which may nearly everything, and the usual database.
    pub fn usual(creator: Identity) -> First {
        First {
            role_id: identity_role_id(&creator.name),
            role: creator.name.clone(),
            identity: Some(creator),
            auth_method: AuthMethod::Identity,
            attributes: Attributes { bypassrls: true, createdb: true, createrole: true },
            superuser_member: true,
            database_id: DEFAULT_DATABASE_ID.to_owned(),
            database: DEFAULT_DATABASE.to_owned(),
        }
    }

    /// What a creator wishes. Another role than the creator's begins with nothing, as one that is
    /// added later does.
    ///
    /// # Errors
    /// A name cannot be used, or the wishes do not go together.
    pub fn wished(
        creator: &Identity,
        role: Option<FirstRole>,
        database: Option<String>,
    ) -> Result<First, Error> {
        let mut first = First::usual(creator.clone());
        if let Some(role) = role {
            first.wish_role(creator, role)?;
        }
        if let Some(name) = database.filter(|name| *name != first.database) {
            check_name("initial_database_spec.postgres_database", &name)?;
            let id = normalise(&name);
            if SERVERS_OWN.contains(&name.as_str()) || check_database_id(&id).is_err() {
                return Err(Error::invalid(format!(
                    "Field 'initial_database_spec.postgres_database': '{name}' cannot be the first database's name."
                )));
            }
            (first.database_id, first.database) = (id, name);
        }
        Ok(first)
    }

    fn wish_role(&mut self, creator: &Identity, role: FirstRole) -> Result<(), Error> {
        let is_creators = role.name.as_ref().is_none_or(|name| *name == creator.name)
            && role.identity_type.is_none_or(|kind| kind == creator.kind);
        let kind = if is_creators { Some(creator.kind) } else { role.identity_type };
        if !is_creators {
            let name = role.name.unwrap_or_default();
            check_name("initial_role_spec.postgres_role", &name)?;
            if is_reserved(&name) {
                return Err(Error::invalid(format!(
                    "Field 'initial_role_spec.postgres_role': '{name}' is reserved."
                )));
            }
            self.role_id = identity_role_id(&name);
            self.identity = kind.map(|kind| Identity { name: name.clone(), kind });
            self.role = name;
        }
        self.auth_method = auth_method(kind, role.auth_method)?;
        self.attributes = Attributes {
            bypassrls: role.bypassrls.unwrap_or(is_creators),
            createdb: role.createdb.unwrap_or(is_creators),
            createrole: role.createrole.unwrap_or(is_creators),
        };
        self.superuser_member = role.superuser_member.unwrap_or(is_creators);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creator() -> Identity {
        Identity { name: "ana@example.org".to_owned(), kind: IdentityType::User }
    }

    fn wished(role: FirstRole) -> Result<First, Error> {
        First::wished(&creator(), Some(role), None)
    }

    #[test]
    fn without_wishes_all_is_as_usual() {
        let usual = First::usual(creator());
        assert_eq!(
            (usual.role.as_str(), usual.database.as_str()),
            ("ana@example.org", "databricks_postgres")
        );
        assert_eq!(First::wished(&creator(), None, None).unwrap(), usual);
        assert_eq!(wished(FirstRole::default()).unwrap(), usual);
        let spelled_out = FirstRole {
            name: Some(creator().name),
            identity_type: Some(IdentityType::User),
            auth_method: Some(AuthMethod::Identity),
            superuser_member: Some(true),
            ..FirstRole::default()
        };
        assert_eq!(wished(spelled_out).unwrap(), usual);
        let named = First::wished(&creator(), None, Some("databricks_postgres".to_owned()));
        assert_eq!(named.unwrap(), usual);
    }

    #[test]
    fn the_creators_role_loses_only_what_is_taken_away() {
        let less = FirstRole { createrole: Some(false), ..FirstRole::default() };
        let usual = First::usual(creator());
        let attributes = Attributes { createrole: false, ..usual.attributes };
        assert_eq!(wished(less).unwrap(), First { attributes, ..usual });
    }

    #[test]
    fn another_role_begins_with_nothing() {
        let name = Some("app_owner".to_owned());
        let plain = wished(FirstRole { name: name.clone(), ..FirstRole::default() }).unwrap();
        assert_eq!(plain.role_id.as_deref(), Some("app-owner"));
        assert_eq!((plain.identity, plain.auth_method), (None, AuthMethod::Password));
        assert_eq!((plain.attributes, plain.superuser_member), (Attributes::default(), false));
        let group = FirstRole { name, identity_type: Some(IdentityType::Group), ..FirstRole::default() };
        let group = wished(group).unwrap();
        assert_eq!(group.identity.unwrap().kind, IdentityType::Group);
        assert_eq!(group.auth_method, AuthMethod::Identity);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let named = |name: &str| FirstRole { name: Some(name.to_owned()), ..FirstRole::default() };
        for reserved in ["anabranch", "databricks_superuser", "pg_monitor", "none", "public", "", "a\nb"] {
            assert!(wished(named(reserved)).is_err(), "{reserved:?}");
        }
        let kind = Some(IdentityType::Group);
        assert!(wished(FirstRole { identity_type: kind, ..FirstRole::default() }).is_err(), "whose?");
        let method = Some(AuthMethod::Password);
        assert!(wished(FirstRole { auth_method: method, ..FirstRole::default() }).is_err());
        for name in ["postgres", "template1", "", "größe\n"] {
            assert!(First::wished(&creator(), None, Some(name.to_owned())).is_err(), "{name:?}");
        }
        let other = First::wished(&creator(), None, Some("Shop_Data".to_owned())).unwrap();
        assert_eq!((other.database_id.as_str(), other.database.as_str()), ("shop-data", "Shop_Data"));
    }
}
