use client::{Attributes, NewRole};

use super::Place;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Make a role
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ana role create app --branch dev\n  \
                        ana role create bob@example.org --kind user --superuser")]
pub struct Args {
    /// Name in PostgreSQL; of an identity, the principal's name
    name: String,
    /// Whose role it is: who logs in with a token. Without it the role has a password
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Make it a member of databricks_superuser
    #[arg(long)]
    superuser: bool,
    /// It may make databases
    #[arg(long)]
    createdb: bool,
    /// It may make roles
    #[arg(long)]
    createrole: bool,
    /// Row-level security does not apply to it
    #[arg(long)]
    bypassrls: bool,
    /// Nobody logs in as it
    #[arg(long)]
    no_login: bool,
    /// Identifier in the API [default: one is made]
    #[arg(long)]
    id: Option<String>,
    /// Change a role that exists already; all its attributes are then as given here
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    User,
    ServicePrincipal,
    Group,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let branch = args.place.find(global).await?;
    let new = NewRole {
        id: args.id,
        postgres_role: args.name,
        identity_type: args.kind.map(|kind| {
            match kind {
                Kind::User => "USER",
                Kind::ServicePrincipal => "SERVICE_PRINCIPAL",
                Kind::Group => "GROUP",
            }
            .to_owned()
        }),
        no_login: args.no_login,
        superuser: args.superuser,
        attributes: Attributes {
            bypassrls: args.bypassrls,
            createdb: args.createdb,
            createrole: args.createrole,
        },
        replace_existing: args.replace,
    };
    let role = branch
        .client
        .create_role(&branch.project, &branch.id, &new)
        .await
        .map_err(|error| about(error, &branch.project, &branch.id))?;
    if args.json {
        return output::json(&role);
    }
    output::talk(format!("created role {} on branch {}", role.status.postgres_role, branch.id));
    if role.status.auth_method == "PG_PASSWORD_SCRAM_SHA_256" {
        output::talk(format!("get a password for it: ana role password {} -b {}", role.role_id, branch.id));
    }
    Ok(())
}
