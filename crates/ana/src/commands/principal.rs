use client::{NewToken, Principal, Right};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Global;
use crate::duration;
use crate::failure::{Failure, about};
use crate::output;

/// Make and delete users, service principals and groups, and say who may do what
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a user, or a service principal or group
    Create {
        /// E-mail address of a user; what to call a service principal or group
        name: String,
        /// A program with credentials of its own
        #[arg(long, conflicts_with = "group")]
        service: bool,
        /// Several principals
        #[arg(long)]
        group: bool,
        /// What people see
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List principals
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a principal with its tokens and rights
    Delete {
        /// Name
        name: String,
        /// Who takes over its projects
        #[arg(long, value_name = "PRINCIPAL")]
        reassign_to: Option<String>,
    },
    /// Make a client secret for a service principal (OAuth client credentials); shown this once
    Secret {
        /// Name or application id
        name: String,
        /// How long it lives [default: 90d]
        #[arg(long, value_name = "DURATION", value_parser = duration::parse, conflicts_with = "no_expiry")]
        ttl: Option<u64>,
        /// Let it live until it is revoked
        #[arg(long)]
        no_expiry: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a principal a right on a project
    Grant {
        /// Name
        name: String,
        /// CAN_USE or CAN_MANAGE
        #[arg(value_parser = ["CAN_USE", "CAN_MANAGE"])]
        level: String,
    },
    /// Take a principal's right on a project away
    Revoke {
        /// Name
        name: String,
    },
    /// List who has which right on a project
    #[command(after_help = "Example: ana principal rights --project shop")]
    Rights {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a principal into a group
    Join {
        /// Group
        group: String,
        /// Name
        name: String,
    },
    /// Take a principal out of a group
    Leave {
        /// Group
        group: String,
        /// Name
        name: String,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let client = global.client()?;
    match command {
        Command::Create { name, service, group, display_name, json } => {
            let kind = match (service, group) {
                (true, _) => "service_principal",
                (_, true) => "group",
                _ => "user",
            };
            let made = client.create_principal(&name, kind, display_name.as_deref()).await?;
            if json {
                return output::json(&made);
            }
            output::talk(format!("created {} {}", made.kind.replace('_', " "), label(&made)));
            output::talk(match kind {
                "service_principal" => format!("give it a secret: ana principal secret {name}"),
                "group" => format!("add members: ana principal join {name} PRINCIPAL"),
                _ => format!("give them a token: ana token create --principal {name}"),
            });
        }
        Command::List { json } => {
            let all = client.principals().await?;
            if json {
                return output::json(&all);
            }
            let rows: Vec<_> = all.iter().map(row).collect();
            output::table(&["NAME", "KIND", "CALLED", "GROUPS", "CREATED"], &rows);
        }
        Command::Delete { name, reassign_to } => {
            client.delete_principal(&name, reassign_to.as_deref()).await?;
            output::talk(format!("deleted principal {name}; its tokens are void"));
        }
        Command::Secret { name, ttl, no_expiry, json } => {
            let new = NewToken {
                client_secret: true,
                principal: Some(name),
                seconds: ttl,
                no_expiry,
                ..NewToken::default()
            };
            let made = client.create_token(&new).await?;
            if json {
                return output::json(&json!({
                    "client_id": made.principal,
                    "client_secret": made.token,
                    "expire_time": made.expire_time,
                }));
            }
            output::data(format!("client id      {}", made.principal));
            output::data(format!("client secret  {}", made.token));
            output::talk("the secret is not shown again");
        }
        Command::Grant { name, level } => {
            let project = global.project(&client).await?;
            client.grant(&project, &name, &level).await?;
            output::talk(format!("{name} has {level} on project {project}"));
        }
        Command::Revoke { name } => {
            let project = global.project(&client).await?;
            client.revoke(&project, &name).await?;
            output::talk(format!("{name} has no right of its own on project {project} any more"));
        }
        Command::Rights { json } => {
            let project = global.project(&client).await?;
            let rights = client.rights(&project).await.map_err(|error| about(error, &project, ""))?;
            if json {
                return output::json(&rights);
            }
            let rows: Vec<_> = rights.into_iter().map(right).collect();
            output::table(&["NAME", "KIND", "CALLED", "RIGHT"], &rows);
        }
        Command::Join { group, name } => {
            client.set_member(&group, &name, true).await?;
            output::talk(format!("{name} is in group {group}"));
        }
        Command::Leave { group, name } => {
            client.set_member(&group, &name, false).await?;
            output::talk(format!("{name} is not in group {group}"));
        }
    }
    Ok(())
}

fn label(principal: &Principal) -> String {
    if principal.display_name == principal.name {
        principal.name.clone()
    } else {
        format!("{} ({})", principal.display_name, principal.name)
    }
}

fn right(right: Right) -> Vec<String> {
    vec![right.principal, right.kind.replace('_', " "), right.display_name, right.level]
}

fn row(principal: &Principal) -> Vec<String> {
    let owner = if principal.is_owner { " (owner)" } else { "" };
    vec![
        principal.name.clone(),
        format!("{}{owner}", principal.kind.replace('_', " ")),
        principal.display_name.clone(),
        principal.groups.join(","),
        output::relative(&principal.create_time, Timestamp::now()),
    ]
}
