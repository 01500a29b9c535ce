use std::io::IsTerminal;

use client::{Federation, NewToken};

use crate::context::{Global, client_at};
use crate::failure::Failure;
use crate::login::{self, Login};
use crate::{output, system};

/// How long a token of `ana auth token` lives.
const TOKEN_SECONDS: u64 = 3600;

/// Who you are, whose tokens are trusted, and what signs them
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show who you are to the daemon
    Whoami {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Use a daemon elsewhere from now on; reads a token from standard input
    ///
    /// The address and the token are kept in a file that only you can read, and serve every command that
    /// is given neither ANABRANCH_HOST nor a home.
    #[command(after_help = "Example:\n  ana auth login https://ana.example.org < token.txt")]
    Login {
        /// Address of its HTTP API, e.g. https://ana.example.org
        host: String,
    },
    /// Forget the daemon elsewhere
    Logout,
    /// Print a token of an hour for the HTTP API
    #[command(after_help = "Example:\n  curl -H \"Authorization: Bearer $(ana auth token)\" \\\n    \
                            http://127.0.0.1:8432/api/2.0/postgres/projects")]
    Token {
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
        Command::Login { host } => log_in(host).await,
        Command::Logout => {
            output::talk(if login::forget()? { "logged out" } else { "nobody was logged in" });
            Ok(())
        }
        Command::Token { json } => token(global, json).await,
        Command::RotateKey => {
            let kid = global.client()?.rotate_signing_key().await?;
            output::talk(format!("tokens are signed with key {kid} from now on"));
            Ok(())
        }
        Command::Issuer(command) => issuer(global, command).await,
    }
}

/// Keeps what works, and nothing else.
async fn log_in(host: String) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        output::talk(format!("token for {host} (make one there with: ana token create):"));
    }
    let token = system::read_hidden_line().map_err(|error| Failure::io("cannot read the token", &error))?;
    let me = client_at(&host, Some(token.clone()))?.whoami().await?;
    let path = Login { host: host.clone(), token: token.trim().to_owned() }.keep()?;
    output::talk(format!("logged in to {host} as {}; kept in {}", me.name, path.display()));
    Ok(())
}

/// In the form of the vendor's `auth token`.
async fn token(global: &Global, json: bool) -> Result<(), Failure> {
    let wanted =
        NewToken { name: "ana auth token".to_owned(), seconds: Some(TOKEN_SECONDS), ..NewToken::default() };
    let made = global.client()?.create_token(&wanted).await?;
    if json {
        return output::json(&serde_json::json!({
            "access_token": made.token,
            "token_type": "Bearer",
            "expiry": made.expire_time,
        }));
    }
    output::data(&made.token);
    Ok(())
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
