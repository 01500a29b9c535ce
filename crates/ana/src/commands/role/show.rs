use client::{Role, RoleStatus};
use jiff::Timestamp;

use super::Place;
use crate::context::Global;
use crate::failure::Failure;
use crate::output;

/// List roles; a branch that sleeps is not woken
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Show a role
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name or identifier
    role: String,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn list(global: &Global, args: ListArgs) -> Result<(), Failure> {
    let roles = args.place.find(global).await?.roles().await?;
    if args.json {
        return output::json(&roles);
    }
    let rows: Vec<Vec<String>> = roles.iter().map(row).collect();
    output::table(&["ROLE", "ID", "KIND", "LOGIN", "MAY"], &rows);
    Ok(())
}

fn row(role: &Role) -> Vec<String> {
    let status = &role.status;
    vec![
        status.postgres_role.clone(),
        role.role_id.clone(),
        kind(status),
        login(status).to_owned(),
        rights(status),
    ]
}

pub async fn show(global: &Global, args: ShowArgs) -> Result<(), Failure> {
    let role = args.place.find(global).await?.role(&args.role).await?;
    if args.json {
        return output::json(&role);
    }
    let status = &role.status;
    output::data(format!("role      {}", status.postgres_role));
    output::data(format!("id        {}", role.role_id));
    output::data(format!("kind      {}", kind(status)));
    output::data(format!("login     {}", login(status)));
    output::data(format!("may       {}", rights(status)));
    let made = output::relative(&role.create_time, Timestamp::now());
    output::data(format!("created   {made} ({})", output::absolute(&role.create_time)));
    Ok(())
}

fn kind(status: &RoleStatus) -> String {
    match status.identity_type.as_str() {
        "" | "IDENTITY_TYPE_UNSPECIFIED" => "plain".to_owned(),
        kind => kind.to_lowercase().replace('_', " "),
    }
}

fn login(status: &RoleStatus) -> &'static str {
    match status.auth_method.as_str() {
        "LAKEBASE_OAUTH_V1" => "token",
        "NO_LOGIN" => "none",
        _ => "password",
    }
}

fn rights(status: &RoleStatus) -> String {
    let all = [
        (!status.membership_roles.is_empty(), "superuser"),
        (status.attributes.createdb, "createdb"),
        (status.attributes.createrole, "createrole"),
        (status.attributes.bypassrls, "bypassrls"),
    ];
    let words: Vec<&str> = all.iter().filter(|(may, _)| *may).map(|(_, word)| *word).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}
