use client::Project;
use jiff::Timestamp;

use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Make, list and delete projects
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a project with a branch `production`
    Create {
        /// Name: lowercase letters, digits and hyphens
        name: String,
        /// PostgreSQL major version
        #[arg(long, value_name = "MAJOR")]
        pg: Option<u32>,
    },
    /// List projects
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a project
    Show {
        /// Name; the current project where absent
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a project with all its branches
    Delete {
        /// Name
        name: String,
        /// Free the data at once; it cannot come back
        #[arg(long)]
        purge: bool,
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
        Command::List { json } => {
            let all = client.projects().await?;
            if json {
                return output::json(&all);
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
            let end = if purge { "its data is freed" } else { "its data is kept for a day" };
            output::talk(format!("deleted project {name}; {end}"));
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

fn show(project: &Project) {
    let status = &project.status;
    let default = status.default_branch.rsplit('/').next().unwrap_or_default();
    output::data(format!("project         {}", project.project_id));
    output::data(format!("name            {}", status.display_name));
    output::data(format!("uid             {}", project.uid));
    output::data(format!("owner           {}", status.owner));
    output::data(format!("PostgreSQL      {}", status.pg_version));
    output::data(format!("default branch  {default}"));
    output::data(format!(
        "created         {} ({})",
        output::relative(&project.create_time, Timestamp::now()),
        output::absolute(&project.create_time)
    ));
}
