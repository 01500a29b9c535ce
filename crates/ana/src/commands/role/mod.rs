//! `ana role …`: roles inside a branch's PostgreSQL.

mod create;
mod show;
mod update;

use client::{Client, Role};

use super::branch::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Make, list and change the roles of a branch
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Create(create::Args),
    List(show::ListArgs),
    Show(show::ShowArgs),
    Update(update::Args),
    /// Give a role a new password and print it
    Password {
        /// Name or identifier
        role: String,
        #[command(flatten)]
        place: Place,
    },
    /// Delete a role and end its sessions
    #[command(after_help = "Example: ana role delete old_app --reassign-owned-to app")]
    Delete {
        /// Name or identifier
        role: String,
        /// Role that gets everything it owns
        #[arg(long, value_name = "ROLE")]
        reassign_owned_to: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

/// Where a role or database is.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Branch [default: the project's default branch]
    #[arg(long, short, value_name = "BRANCH")]
    branch: Option<String>,
}

/// A branch that a command works on.
pub struct Branch {
    pub client: Client,
    pub project: String,
    pub id: String,
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(global, args).await,
        Command::List(args) => show::list(global, args).await,
        Command::Show(args) => show::show(global, args).await,
        Command::Update(args) => update::run(global, args).await,
        Command::Password { role, place } => {
            let branch = place.find(global).await?;
            let role = branch.role(&role).await?;
            let password =
                branch.client.reset_role_password(&branch.project, &branch.id, &role.role_id).await?;
            output::data(password);
            Ok(())
        }
        Command::Delete { role, reassign_owned_to, place } => {
            let branch = place.find(global).await?;
            let role = branch.role(&role).await?;
            let heir = match reassign_owned_to {
                Some(heir) => Some(branch.role(&heir).await?.name),
                None => None,
            };
            let (client, project) = (&branch.client, &branch.project);
            client.delete_role(project, &branch.id, &role.role_id, heir.as_deref()).await?;
            output::talk(format!("deleted role {} of branch {}", role.status.postgres_role, branch.id));
            Ok(())
        }
    }
}

impl Place {
    /// The branch meant.
    pub async fn find(&self, global: &Global) -> Result<Branch, Failure> {
        let client = global.client()?;
        let project = global.project(&client).await?;
        let id = match &self.branch {
            Some(branch) => branch_id(branch),
            None => {
                let found = client.project(&project).await.map_err(|error| about(error, &project, ""))?;
                found.status.default_branch.rsplit('/').next().unwrap_or_default().to_owned()
            }
        };
        Ok(Branch { client, project, id })
    }
}

impl Branch {
    /// Its roles.
    pub async fn roles(&self) -> Result<Vec<Role>, Failure> {
        let roles = self.client.roles(&self.project, &self.id).await;
        roles.map_err(|error| about(error, &self.project, &self.id))
    }

    /// The role that a person means: by its identifier, or else by its name in PostgreSQL.
    pub async fn role(&self, text: &str) -> Result<Role, Failure> {
        let mut roles = self.roles().await?;
        let by_id = roles.iter().position(|role| role.role_id == text);
        let found = by_id.or_else(|| roles.iter().position(|role| role.status.postgres_role == text));
        match found {
            Some(place) => Ok(roles.swap_remove(place)),
            None => Err(Failure::refused(format!("there is no role \"{text}\" on branch {}", self.id))
                .with_hint(format!("see them with: ana role list --branch {}", self.id))),
        }
    }
}
