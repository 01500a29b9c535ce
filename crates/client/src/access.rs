//! Roles and databases of a branch.

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Client, Error, OWN, PG, branch_path, encode};

/// A role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Role {
    /// Resource name.
    pub name: String,
    /// Identifier.
    pub role_id: String,
    /// Resource name of the branch.
    pub parent: String,
    /// When it was made, or first seen (RFC 3339).
    pub create_time: String,
    /// When it was last changed.
    pub update_time: String,
    /// Effective values.
    pub status: RoleStatus,
}

/// Effective values of a role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleStatus {
    /// Identifier.
    pub role_id: String,
    /// Its name in PostgreSQL.
    pub postgres_role: String,
    /// `USER`, `SERVICE_PRINCIPAL`, `GROUP`, or `IDENTITY_TYPE_UNSPECIFIED` for a plain role.
    pub identity_type: String,
    /// `LAKEBASE_OAUTH_V1`, `PG_PASSWORD_SCRAM_SHA_256` or `NO_LOGIN`.
    pub auth_method: String,
    /// `DATABRICKS_SUPERUSER` or nothing.
    pub membership_roles: Vec<String>,
    /// What it may do.
    pub attributes: Attributes,
}

/// What a role may do beside its privileges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Row-level security does not apply to it.
    pub bypassrls: bool,
    /// It may make databases.
    pub createdb: bool,
    /// It may make roles.
    pub createrole: bool,
}

/// A database.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// Resource name.
    pub name: String,
    /// Identifier.
    pub database_id: String,
    /// Resource name of the branch.
    pub parent: String,
    /// When it was made, or first seen (RFC 3339).
    pub create_time: String,
    /// When it was last changed.
    pub update_time: String,
    /// Effective values.
    pub status: DatabaseStatus,
}

/// Effective values of a database.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseStatus {
    /// Identifier.
    pub database_id: String,
    /// Its name in PostgreSQL.
    pub postgres_database: String,
    /// Resource name of the role that owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// What is wanted of a new role.
#[derive(Debug, Clone, Default)]
pub struct NewRole {
    /// Identifier; the daemon makes one where absent.
    pub id: Option<String>,
    /// Its name in PostgreSQL.
    pub postgres_role: String,
    /// `USER`, `SERVICE_PRINCIPAL` or `GROUP`; a plain role where absent.
    pub identity_type: Option<String>,
    /// Whether nobody shall log in as it.
    pub no_login: bool,
    /// Whether it is a member of `databricks_superuser`.
    pub superuser: bool,
    /// What it may do.
    pub attributes: Attributes,
    /// Whether one that exists already is changed instead.
    pub replace_existing: bool,
}

/// What is wanted changed of a role; what is absent stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoleChange {
    /// Row-level security does not apply to it.
    pub bypassrls: Option<bool>,
    /// It may make databases.
    pub createdb: Option<bool>,
    /// It may make roles.
    pub createrole: Option<bool>,
    /// Membership in `databricks_superuser`.
    pub superuser: Option<bool>,
}

/// What is wanted of a new database.
#[derive(Debug, Clone, Default)]
pub struct NewDatabase {
    /// Identifier; the daemon makes one where absent.
    pub id: Option<String>,
    /// Its name in PostgreSQL.
    pub postgres_database: String,
    /// Resource name of the role that shall own it.
    pub role: String,
    /// Whether one that exists already is changed instead.
    pub replace_existing: bool,
}

impl Client {
    /// Roles of a branch.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn roles(&self, project: &str, branch: &str) -> Result<Vec<Role>, Error> {
        self.list(&format!("{}/roles", branch_path(PG, project, branch)), "roles").await
    }

    /// Makes a role and waits until it is there.
    ///
    /// # Errors
    /// It cannot be made, or as for every call.
    pub async fn create_role(&self, project: &str, branch: &str, new: &NewRole) -> Result<Role, Error> {
        let mut spec = json!({
            "postgres_role": new.postgres_role,
            "attributes": new.attributes,
            "membership_roles": memberships(new.superuser),
        });
        if let Some(kind) = &new.identity_type {
            spec["identity_type"] = json!(kind);
        }
        if new.no_login {
            spec["auth_method"] = json!("NO_LOGIN");
        }
        let id = new.id.as_deref().map(encode).unwrap_or_default();
        let path = format!(
            "{}/roles?role_id={id}&replace_existing={}",
            branch_path(PG, project, branch),
            new.replace_existing
        );
        let operation = self.call(Method::POST, &path, Some(json!({"spec": spec}))).await?;
        self.finish(operation).await
    }

    /// Changes a role and waits until that is done.
    ///
    /// # Errors
    /// It cannot be changed, or as for every call.
    pub async fn update_role(
        &self,
        project: &str,
        branch: &str,
        role: &str,
        change: RoleChange,
    ) -> Result<Role, Error> {
        let (mut mask, mut spec) = (Vec::new(), json!({"attributes": {}}));
        let attributes = [
            ("bypassrls", change.bypassrls),
            ("createdb", change.createdb),
            ("createrole", change.createrole),
        ];
        for (name, value) in attributes {
            if let Some(value) = value {
                mask.push(format!("spec.attributes.{name}"));
                spec["attributes"][name] = json!(value);
            }
        }
        if let Some(superuser) = change.superuser {
            mask.push("spec.membership_roles".to_owned());
            spec["membership_roles"] = json!(memberships(superuser));
        }
        let path =
            format!("{}?update_mask={}", item_path(PG, project, branch, "roles", role), mask.join("%2C"));
        let operation = self.call(Method::PATCH, &path, Some(json!({"spec": spec}))).await?;
        self.finish(operation).await
    }

    /// Deletes a role; `heir` is the resource name of the role that gets what it owns.
    ///
    /// # Errors
    /// It cannot be deleted, or as for every call.
    pub async fn delete_role(
        &self,
        project: &str,
        branch: &str,
        role: &str,
        heir: Option<&str>,
    ) -> Result<(), Error> {
        let heir = heir.map(encode).unwrap_or_default();
        let path = format!("{}?reassign_owned_to={heir}", item_path(PG, project, branch, "roles", role));
        let operation = self.call(Method::DELETE, &path, None).await?;
        self.finish::<Value>(operation).await.map(drop)
    }

    /// Gives a role a new password and tells it, this once.
    ///
    /// # Errors
    /// The role has no password of its own, or as for every call.
    pub async fn reset_role_password(
        &self,
        project: &str,
        branch: &str,
        role: &str,
    ) -> Result<String, Error> {
        let path = format!("{}/reset-password", item_path(OWN, project, branch, "roles", role));
        let answer: Value = self.call(Method::POST, &path, Some(json!({}))).await?;
        let password = answer["password"].as_str().map(str::to_owned);
        password.ok_or_else(|| Error::Protocol("an answer without a password".to_owned()))
    }

    /// Databases of a branch.
    ///
    /// # Errors
    /// There is no such branch, or as for every call.
    pub async fn databases(&self, project: &str, branch: &str) -> Result<Vec<Database>, Error> {
        self.list(&format!("{}/databases", branch_path(PG, project, branch)), "databases").await
    }

    /// Makes a database and waits until it is there.
    ///
    /// # Errors
    /// It cannot be made, or as for every call.
    pub async fn create_database(
        &self,
        project: &str,
        branch: &str,
        new: &NewDatabase,
    ) -> Result<Database, Error> {
        let spec = json!({"postgres_database": new.postgres_database, "role": new.role});
        let id = new.id.as_deref().map(encode).unwrap_or_default();
        let path = format!(
            "{}/databases?database_id={id}&replace_existing={}",
            branch_path(PG, project, branch),
            new.replace_existing
        );
        let operation = self.call(Method::POST, &path, Some(json!({"spec": spec}))).await?;
        self.finish(operation).await
    }

    /// Renames a database, gives it to another role (a resource name), or both.
    ///
    /// # Errors
    /// It cannot be changed, or as for every call.
    pub async fn update_database(
        &self,
        project: &str,
        branch: &str,
        database: &str,
        name: Option<&str>,
        role: Option<&str>,
    ) -> Result<Database, Error> {
        let (mut mask, mut spec) = (Vec::new(), json!({}));
        for (field, value) in [("postgres_database", name), ("role", role)] {
            if let Some(value) = value {
                mask.push(format!("spec.{field}"));
                spec[field] = json!(value);
            }
        }
        let path = format!(
            "{}?update_mask={}",
            item_path(PG, project, branch, "databases", database),
            mask.join("%2C")
        );
        let operation = self.call(Method::PATCH, &path, Some(json!({"spec": spec}))).await?;
        self.finish(operation).await
    }

    /// Deletes a database and ends the sessions in it.
    ///
    /// # Errors
    /// It cannot be deleted, or as for every call.
    pub async fn delete_database(&self, project: &str, branch: &str, database: &str) -> Result<(), Error> {
        let path = item_path(PG, project, branch, "databases", database);
        let operation = self.call(Method::DELETE, &path, None).await?;
        self.finish::<Value>(operation).await.map(drop)
    }
}

fn memberships(superuser: bool) -> Vec<&'static str> {
    if superuser { vec!["DATABRICKS_SUPERUSER"] } else { Vec::new() }
}

fn item_path(base: &str, project: &str, branch: &str, kind: &str, id: &str) -> String {
    format!("{}/{kind}/{}", branch_path(base, project, branch), encode(id))
}
