use client::{NewToken, Token};
use jiff::Timestamp;
use serde_json::json;

use crate::context::Global;
use crate::duration;
use crate::failure::Failure;
use crate::output;

/// Make, list and revoke tokens for the HTTP API
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a personal token; it is shown this once
    Create {
        /// What to call it
        #[arg(long, default_value = "")]
        name: String,
        /// For whom; for yourself where absent
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Option<String>,
        /// What it may be used for: all-apis, read, connect; may be repeated
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        /// Confine it to a project; may be repeated
        #[arg(long = "only", value_name = "PROJECT")]
        projects: Vec<String>,
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
    /// List tokens
    List {
        /// Those of everybody
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a token back
    Revoke {
        /// Id, as `ana token list` shows it
        id: String,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let client = global.client()?;
    match command {
        Command::Create { name, principal, scope, projects, ttl, no_expiry, json } => {
            let new = NewToken {
                client_secret: false,
                name,
                principal,
                scopes: scope,
                projects,
                seconds: ttl,
                no_expiry,
            };
            let made = client.create_token(&new).await?;
            if json {
                return output::json(&json!({"token": made.token, "expire_time": made.expire_time}));
            }
            output::data(&made.token);
            let end = match &made.expire_time {
                Some(time) => format!("expires {}", output::relative(time, Timestamp::now())),
                None => "never expires".to_owned(),
            };
            output::talk(format!("token {} of {}, {end}; it is not shown again", made.id, made.principal));
        }
        Command::List { all, json } => {
            let tokens = client.tokens(all).await?;
            if json {
                return output::json(&tokens);
            }
            let rows: Vec<_> = tokens.iter().map(row).collect();
            output::table(&["ID", "PRINCIPAL", "KIND", "NAME", "SCOPES", "PROJECTS", "EXPIRES"], &rows);
        }
        Command::Revoke { id } => {
            client.revoke_token(&id).await?;
            output::talk(format!("revoked token {id}"));
        }
    }
    Ok(())
}

fn row(token: &Token) -> Vec<String> {
    let end = token.expire_time.as_deref().map(|time| output::relative(time, Timestamp::now()));
    vec![
        token.id.clone(),
        token.principal.clone(),
        token.kind.replace('_', " "),
        token.name.clone(),
        token.scopes.join(","),
        token.projects.as_ref().map_or_else(|| "all".to_owned(), |projects| projects.join(",")),
        end.unwrap_or_else(|| "never".to_owned()),
    ]
}
