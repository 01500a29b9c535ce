//! `ana database …`: databases inside a branch's PostgreSQL.

use client::{Database, NewDatabase};
use jiff::Timestamp;

use super::role::{Branch, Place};
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Make, list and change the databases of a branch
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a database
    #[command(after_help = "Example: ana database create app_db --owner app --branch dev")]
    Create {
        /// Name in PostgreSQL
        name: String,
        /// Role that owns it [default: the role that `ana psql` logs in as]
        #[arg(long, value_name = "ROLE")]
        owner: Option<String>,
        /// Identifier in the API [default: one is made]
        #[arg(long)]
        id: Option<String>,
        /// Change a database that exists already
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List databases; a branch that sleeps is not woken
    List {
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a database
    Show {
        /// Name or identifier
        database: String,
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Rename a database, or give it to another role
    #[command(after_help = "Example: ana database update app_db --rename app --owner bob@example.org")]
    Update {
        /// Name or identifier
        database: String,
        /// New name in PostgreSQL
        #[arg(long, value_name = "NAME")]
        rename: Option<String>,
        /// Role that shall own it
        #[arg(long, value_name = "ROLE")]
        owner: Option<String>,
        #[command(flatten)]
        place: Place,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a database and end the sessions in it
    Delete {
        /// Name or identifier
        database: String,
        #[command(flatten)]
        place: Place,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { name, owner, id, replace, place, json } => {
            let branch = place.find(global).await?;
            let owner = match owner {
                Some(owner) => owner,
                None => usual_owner(&branch).await?,
            };
            let role = branch.role(&owner).await?.name;
            let new = NewDatabase { id, postgres_database: name, role, replace_existing: replace };
            let made = branch.client.create_database(&branch.project, &branch.id, &new).await?;
            tell(&made, json, format!("created database {} on branch {}", new.postgres_database, branch.id))
        }
        Command::List { place, json } => {
            let databases = all(&place.find(global).await?).await?;
            if json {
                return output::json(&databases);
            }
            let rows: Vec<Vec<String>> = databases.iter().map(row).collect();
            output::table(&["DATABASE", "ID", "OWNER", "CREATED"], &rows);
            Ok(())
        }
        Command::Show { database, place, json } => {
            let database = find(&place.find(global).await?, &database).await?;
            if json {
                return output::json(&database);
            }
            output::data(format!("database  {}", database.status.postgres_database));
            output::data(format!("id        {}", database.database_id));
            output::data(format!("owner     {}", owner(&database)));
            let made = output::relative(&database.create_time, Timestamp::now());
            output::data(format!("created   {made} ({})", output::absolute(&database.create_time)));
            Ok(())
        }
        Command::Update { database, rename, owner, place, json } => {
            if rename.is_none() && owner.is_none() {
                return Err(Failure::refused("nothing to change").with_hint("use --rename or --owner"));
            }
            let branch = place.find(global).await?;
            let database = find(&branch, &database).await?;
            let role = match owner {
                Some(owner) => Some(branch.role(&owner).await?.name),
                None => None,
            };
            let (client, id) = (&branch.client, &database.database_id);
            let changed = client
                .update_database(&branch.project, &branch.id, id, rename.as_deref(), role.as_deref())
                .await?;
            let name = &changed.status.postgres_database;
            tell(&changed, json, format!("changed database {name} on branch {}", branch.id))
        }
        Command::Delete { database, place } => {
            let branch = place.find(global).await?;
            let database = find(&branch, &database).await?;
            branch.client.delete_database(&branch.project, &branch.id, &database.database_id).await?;
            let name = &database.status.postgres_database;
            output::talk(format!("deleted database {name} of branch {}", branch.id));
            Ok(())
        }
    }
}

fn tell(database: &Database, json: bool, line: String) -> Result<(), Failure> {
    if json {
        return output::json(database);
    }
    output::talk(line);
    Ok(())
}

async fn usual_owner(branch: &Branch) -> Result<String, Failure> {
    let project = branch.client.project(&branch.project).await;
    Ok(project.map_err(|error| about(error, &branch.project, &branch.id))?.status.owner)
}

async fn all(branch: &Branch) -> Result<Vec<Database>, Failure> {
    let databases = branch.client.databases(&branch.project, &branch.id).await;
    databases.map_err(|error| about(error, &branch.project, &branch.id))
}

/// The database that a person means: by its identifier, or else by its name in PostgreSQL.
async fn find(branch: &Branch, text: &str) -> Result<Database, Failure> {
    let mut all = all(branch).await?;
    let by_id = all.iter().position(|database| database.database_id == text);
    let found = by_id.or_else(|| all.iter().position(|database| database.status.postgres_database == text));
    match found {
        Some(place) => Ok(all.swap_remove(place)),
        None => Err(Failure::refused(format!("there is no database \"{text}\" on branch {}", branch.id))
            .with_hint(format!("see them with: ana database list --branch {}", branch.id))),
    }
}

fn owner(database: &Database) -> String {
    let owner = database.status.role.as_deref().and_then(|name| name.rsplit('/').next());
    owner.unwrap_or("-").to_owned()
}

fn row(database: &Database) -> Vec<String> {
    vec![
        database.status.postgres_database.clone(),
        database.database_id.clone(),
        owner(database),
        output::relative(&database.create_time, Timestamp::now()),
    ]
}
