use client::Federation;

use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// Who you are, whose tokens are trusted, and what signs them
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show who you are to the daemon
    Whoami {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign tokens with a new key; tokens signed before stay valid
    RotateKey,
    /// Trust tokens of another issuer, e.g. a CI system's
    #[command(subcommand)]
    Issuer(Issuer),
}

/// Trust tokens of another issuer, e.g. a CI system's
#[derive(Debug, clap::Subcommand)]
pub enum Issuer {
    /// Let tokens of an OIDC issuer stand for a principal
    Add {
        /// Issuer, e.g. https://token.actions.githubusercontent.com
        issuer: String,
        /// Principal that the tokens stand for
        #[arg(long)]
        principal: String,
        /// What the tokens' audience must be
        #[arg(long)]
        audience: String,
        /// What a claim must say, e.g. repository=acme/shop; a `*` at the end stands for any rest
        #[arg(long = "claim", required = true, value_name = "CLAIM=VALUE")]
        conditions: Vec<String>,
        /// How tokens may be signed; may be repeated [default: RS256]
        #[arg(long = "algorithm", value_name = "NAME")]
        algorithms: Vec<String>,
        /// Where the issuer's keys are, if it has no discovery document
        #[arg(long, value_name = "URL")]
        jwks_uri: Option<String>,
    },
    /// List trusted issuers
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Trust no longer
    Remove {
        /// Id, as `ana auth issuer list` shows it
        id: String,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Whoami { json } => whoami(global, json).await,
        Command::RotateKey => {
            let kid = global.client()?.rotate_signing_key().await?;
            output::talk(format!("tokens are signed with key {kid} from now on"));
            Ok(())
        }
        Command::Issuer(command) => issuer(global, command).await,
    }
}

async fn whoami(global: &Global, json: bool) -> Result<(), Failure> {
    let me = global.client()?.whoami().await?;
    if json {
        return output::json(&me);
    }
    let owner = if me.is_owner { ", owner of this server" } else { "" };
    output::data(format!("name      {} ({}{owner})", me.name, me.kind.replace('_', " ")));
    if me.acting_as != me.name {
        output::data(format!("acting as {}", me.acting_as));
    }
    if !me.groups.is_empty() {
        output::data(format!("groups    {}", me.groups.join(", ")));
    }
    output::data(format!("scopes    {}", me.scopes.join(", ")));
    if let Some(projects) = &me.projects {
        output::data(format!("projects  {}", projects.join(", ")));
    }
    if let Some(id) = &me.token_id {
        output::data(format!("token     {id}"));
    }
    Ok(())
}

async fn issuer(global: &Global, command: Issuer) -> Result<(), Failure> {
    let client = global.client()?;
    match command {
        Issuer::Add { issuer, principal, audience, conditions, algorithms, jwks_uri } => {
            let new = Federation {
                id: String::new(),
                issuer,
                audience,
                algorithms,
                jwks_uri,
                conditions,
                principal,
            };
            let made = client.create_federation(&new).await?;
            output::talk(format!(
                "{}: tokens of {} with {} stand for {}",
                made.id,
                made.issuer,
                made.conditions.join(" and "),
                made.principal
            ));
        }
        Issuer::List { json } => {
            let all = client.federations().await?;
            if json {
                return output::json(&all);
            }
            let rows: Vec<_> = all.iter().map(row).collect();
            output::table(&["ID", "ISSUER", "AUDIENCE", "CLAIMS", "PRINCIPAL"], &rows);
        }
        Issuer::Remove { id } => {
            client.delete_federation(&id).await?;
            output::talk(format!("removed {id}"));
        }
    }
    Ok(())
}

fn row(federation: &Federation) -> Vec<String> {
    vec![
        federation.id.clone(),
        federation.issuer.clone(),
        federation.audience.clone(),
        federation.conditions.join(" "),
        federation.principal.clone(),
    ]
}
