mod update;

use client::Project;
use jiff::Timestamp;

use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Make, list, change and delete projects
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a project with a branch `production`
    #[command(after_help = "Example: ana project create shop")]
    Create {
        /// Name: lowercase letters, digits and hyphens
        name: String,
        /// PostgreSQL major version
        #[arg(long, value_name = "MAJOR")]
        pg: Option<u32>,
    },
    /// List projects
    #[command(after_help = "Examples: ana project list --json\n          ana project list --deleted")]
    List {
        /// Those that are deleted and can come back
        #[arg(long)]
        deleted: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a project
    #[command(after_help = "Example: ana project show shop")]
    Show {
        /// Name; the current project where absent
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Update(update::Args),
    /// Delete a project with all its branches
    #[command(after_help = "Example: ana project delete shop")]
    Delete {
        /// Name
        name: String,
        /// Free the data at once; it cannot come back
        #[arg(long)]
        purge: bool,
    },
    /// Take back the deletion of a project whose data is still there
    #[command(after_help = "Example: ana project undelete shop")]
    Undelete {
        /// Name
        name: String,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let client = global.client()?;
    match command {
        Command::Create { name, pg } => {
            let project = client.create_project(&name, pg).await?;
            output::talk(format!(
                "created project {} (PostgreSQL {}) with branch production",
                project.project_id, project.status.pg_version
            ));
            output::talk(format!("connect: ana psql production --project {}", project.project_id));
        }
        Command::Update(args) => update::run(global, args).await?,
        Command::Undelete { name } => {
            client.undelete_project(&name).await.map_err(|error| match error.is_not_found() {
                true => Failure::refused(format!("no deleted project \"{name}\" can come back")),
                false => error.into(),
            })?;
            output::talk(format!("project {name} is back"));
        }
        Command::List { deleted, json } => {
            let all = if deleted { client.deleted_projects().await? } else { client.projects().await? };
            if json {
                return output::json(&all);
            }
            if deleted {
                let rows: Vec<_> = all.iter().map(deleted_row).collect();
                output::table(&["PROJECT", "PG", "OWNER", "DELETED", "FREED"], &rows);
                return Ok(());
            }
            let rows: Vec<_> = all.iter().map(row).collect();
            output::table(&["PROJECT", "PG", "OWNER", "CREATED"], &rows);
        }
        Command::Show { name, json } => {
            let name = match name {
                Some(name) => name,
                None => global.project(&client).await?,
            };
            let project = client.project(&name).await.map_err(|error| about(error, &name, ""))?;
            if json {
                return output::json(&project);
            }
            show(&project);
        }
        Command::Delete { name, purge } => {
            client.delete_project(&name, purge).await.map_err(|error| about(error, &name, ""))?;
            if purge {
                output::talk(format!("deleted project {name}; its data is freed"));
            } else {
                output::talk(format!(
                    "deleted project {name}; its data is kept for a day, until then: ana project undelete {name}"
                ));
            }
        }
    }
    Ok(())
}

fn row(project: &Project) -> Vec<String> {
    vec![
        project.project_id.clone(),
        project.status.pg_version.to_string(),
        project.status.owner.clone(),
        output::relative(&project.create_time, Timestamp::now()),
    ]
}

fn deleted_row(project: &Project) -> Vec<String> {
    let mut row = row(project);
    row.pop();
    row.extend(
        [&project.delete_time, &project.purge_time].map(|time| output::relative_or_none(time.as_deref())),
    );
    row
}

fn show(project: &Project) {
    let status = &project.status;
    let default = status.default_branch.rsplit('/').next().unwrap_or_default();
    output::data(format!("project         {}", project.project_id));
    output::data(format!("name            {}", status.display_name));
    output::data(format!("uid             {}", project.uid));
    output::data(format!("owner           {}", status.owner));
    output::data(format!("PostgreSQL      {}", status.pg_version));
    output::data(format!("default branch  {default}"));
    let logins = if status.enable_pg_native_login { "allowed" } else { "not allowed" };
    output::data(format!("password login  {logins}"));
    for tag in &status.custom_tags {
        output::data(format!("tag             {} = {}", tag.key, tag.value));
    }
    output::data(format!(
        "created         {} ({})",
        output::relative(&project.create_time, Timestamp::now()),
        output::absolute(&project.create_time)
    ));
}
