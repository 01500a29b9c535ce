//! Databases of a branch: kept by its PostgreSQL, remembered here.

use std::sync::Arc;

use tokio_postgres::Client;

use super::branches::{branch_name, live_branch};
use super::catalog::{Change, Touched, Work};
use super::roles::{replacing_is_managing, role_not_found};
use super::{Action, Caller, Control, not_found};
use crate::catalog::names::{check_database_id, check_name};
use crate::catalog::{Catalog, databases};
use crate::db::catalog as rows;
use crate::error::Error;
use crate::model::{Database, Operation, Principal, Role, Verb};

/// What a caller wants of a new database.
#[derive(Debug, Clone)]
pub struct NewDatabase {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub branch: String,
    /// Identifier of the database; one is made where absent.
    pub id: Option<String>,
    /// Its name in PostgreSQL.
    pub name: String,
    /// Identifier of the role that owns it.
    pub owner: String,
    /// Whether a database that exists already is changed instead.
    pub replace_existing: bool,
}

/// What a caller wants changed of a database; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateDatabase {
    /// Its new name in PostgreSQL.
    pub name: Option<String>,
    /// Identifier of the role that shall own it.
    pub owner: Option<String>,
}

/// A database with what its row does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseView {
    /// The row.
    pub database: Database,
    /// Identifier of the role that owns it; none where the system does.
    pub owner_id: Option<String>,
    /// Identifier of the project.
    pub project_id: String,
    /// Identifier of the branch.
    pub branch_id: String,
}

/// A change of one database.
pub(crate) enum DatabaseWork {
    Create { id: String, request: NewDatabase, may_manage: bool },
    Update { id: String, update: UpdateDatabase },
    Delete { id: String },
}

impl Control {
    /// Databases of a branch, oldest first. A branch that sleeps is not woken: its databases are then
    /// shown as they were when it was last looked at.
    ///
    /// # Errors
    /// There is no such branch.
    pub async fn databases(
        self: &Arc<Self>,
        project: String,
        branch: String,
    ) -> Result<Vec<DatabaseView>, Error> {
        let (project, branch) = self.find_branch(project, branch).await?;
        self.look_if_awake(&branch.uid).await;
        self.blocking(move |control| {
            let (databases, roles) =
                control.db.read(|c| Ok((rows::databases(c, &branch.uid)?, rows::roles(c, &branch.uid)?)))?;
            let view = |database| database_view(&project.id, &branch.id, database, &roles);
            Ok(databases.into_iter().map(view).collect())
        })
        .await
    }

    /// One database.
    ///
    /// # Errors
    /// There is none with these identifiers.
    pub async fn database(
        self: &Arc<Self>,
        project: String,
        branch: String,
        id: String,
    ) -> Result<DatabaseView, Error> {
        let all = self.databases(project, branch).await?;
        all.into_iter().find(|view| view.database.id == id).ok_or_else(|| not_found("database"))
    }

    /// Makes a database; wakes the branch. Who may not manage the project changes none that exists.
    ///
    /// # Errors
    /// The request is wrong, its owner is missing, or the name is taken.
    pub async fn create_database(
        self: &Arc<Self>,
        caller: &Caller,
        request: NewDatabase,
    ) -> Result<Operation, Error> {
        let right = self.authorise(caller, Action::Manage, Some(request.project.clone())).await;
        let (principal, may_manage) = (caller.principal.clone(), right.is_ok());
        let change = self
            .blocking(move |control| {
                let databases = format!("{}/databases", branch_name(&request.project, &request.branch));
                let target = format!("{databases}/{}", request.id.as_deref().unwrap_or(&request.name));
                let change = control.plan_database(&principal, &databases, request, may_manage);
                control.note_refusal(&principal, "database.create", &target, change)
            })
            .await?;
        self.change_catalog(change).await
    }

    fn plan_database(
        &self,
        principal: &Principal,
        databases: &str,
        request: NewDatabase,
        may_manage: bool,
    ) -> Result<Change, Error> {
        let (_, branch) = self.db.read(|c| live_branch(c, &request.project, &request.branch))?;
        if let Some(id) = &request.id {
            check_database_id(id)?;
        }
        check_name("database.spec.postgres_database", &request.name)?;
        let id = match &request.id {
            Some(id) => id.clone(),
            None => self.choose_database_id(&branch.uid, &request)?,
        };
        Ok(Change {
            principal: principal.clone(),
            branch: branch.uid,
            verb: Verb::Create,
            resource: format!("{databases}/{id}"),
            id: id.clone(),
            work: Work::Database(DatabaseWork::Create { id, request, may_manage }),
        })
    }

    fn choose_database_id(&self, branch: &str, request: &NewDatabase) -> Result<String, Error> {
        if request.replace_existing {
            let known = self.db.read(|c| rows::databases(c, branch))?;
            if let Some(database) = known.into_iter().find(|database| database.name == request.name) {
                return Ok(database.id);
            }
        }
        self.new_short_id("db")
    }

    /// Renames a database or gives it to another role; wakes the branch.
    ///
    /// # Errors
    /// There is no such database or role, or PostgreSQL does not allow the change.
    pub async fn update_database(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
        update: UpdateDatabase,
    ) -> Result<Operation, Error> {
        let work = DatabaseWork::Update { id: id.clone(), update };
        self.change_database(principal, project, branch, id, Verb::Update, work).await
    }

    /// Deletes a database and ends the sessions in it; wakes the branch.
    ///
    /// # Errors
    /// There is no such database, or PostgreSQL does not allow it.
    pub async fn delete_database(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
    ) -> Result<Operation, Error> {
        let work = DatabaseWork::Delete { id: id.clone() };
        self.change_database(principal, project, branch, id, Verb::Delete, work).await
    }

    async fn change_database(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
        verb: Verb,
        work: DatabaseWork,
    ) -> Result<Operation, Error> {
        let change = self
            .blocking(move |control| {
                let resource = format!("{}/databases/{id}", branch_name(&project, &branch));
                let planned = control.db.read(|c| {
                    if let DatabaseWork::Update { update: UpdateDatabase { name: Some(name), .. }, .. } =
                        &work
                    {
                        check_name("database.spec.postgres_database", name)?;
                    }
                    live_branch(c, &project, &branch)
                });
                let action = format!("database.{}", verb.as_str());
                let (_, branch) = control.note_refusal(&principal, &action, &resource, planned)?;
                Ok(Change { principal, branch: branch.uid, verb, resource, id, work: Work::Database(work) })
            })
            .await?;
        self.change_catalog(change).await
    }

    pub(crate) async fn work_on_database(
        &self,
        work: DatabaseWork,
        client: &mut Client,
        live: &Catalog,
    ) -> Result<Touched, Error> {
        match work {
            DatabaseWork::Create { id, request, may_manage } => {
                let existing = live.database(&id);
                if existing.is_some() && !request.replace_existing {
                    return Err(databases::duplicate());
                }
                if existing.is_some() && !may_manage {
                    return Err(replacing_is_managing());
                }
                let owner = owner_name(live, &request.owner)?;
                let Some(database) = existing else {
                    databases::create(client, &id, &request.name, owner).await?;
                    return Ok(Touched::Nothing);
                };
                let new_name = Some(request.name.as_str()).filter(|name| *name != database.name);
                databases::change(client, &database.name, new_name, Some(owner)).await?;
                Ok(Touched::Database(database.oid))
            }
            DatabaseWork::Update { id, update } => {
                let database = live.database(&id).ok_or_else(|| not_found("database"))?;
                let owner = update.owner.as_deref().map(|owner| owner_name(live, owner)).transpose()?;
                let new_name = update.name.as_deref().filter(|name| *name != database.name);
                databases::change(client, &database.name, new_name, owner).await?;
                Ok(Touched::Database(database.oid))
            }
            DatabaseWork::Delete { id } => {
                let database = live.database(&id).ok_or_else(|| not_found("database"))?;
                databases::delete(client, &database.name).await?;
                Ok(Touched::Nothing)
            }
        }
    }
}

fn owner_name<'a>(live: &'a Catalog, id: &str) -> Result<&'a str, Error> {
    live.role(id).map(|role| role.name.as_str()).ok_or_else(|| role_not_found(id))
}

pub(crate) fn database_view(
    project_id: &str,
    branch_id: &str,
    database: Database,
    roles: &[Role],
) -> DatabaseView {
    DatabaseView {
        owner_id: roles.iter().find(|role| role.oid == database.owner).map(|role| role.id.clone()),
        database,
        project_id: project_id.to_owned(),
        branch_id: branch_id.to_owned(),
    }
}
