use std::time::Instant;

use client::{Client, Connection, Expiry, NewBranch};

use super::{down, up};
use crate::connection::{self, Wish};
use crate::context::Global;
use crate::daemon::Options;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::sql;

/// Show everything in a minute: a server, a project with data, a branch, and that it is on its own
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Remove what the quickstart made
    #[arg(long)]
    clean: bool,
}

const PROJECT: &str = "shop";
const PRODUCTION: &str = "production";
const BRANCH: &str = "dev";
const BRANCH_TTL: u64 = 86_400;

const SAMPLE: &str = include_str!("../../data/ecommerce.sql");

/// File in the home that says that the daemon was started here, and may be ended here.
const MARK: &str = "run/quickstart";

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if args.clean {
        return clean(global).await;
    }
    let begin = Instant::now();
    let mut step = Steps { last: begin };
    if up::start(global, args.options).await? == up::Started::Now {
        // Only a note for `--clean`; a home that does not take it shows soon enough.
        let _ = std::fs::write(global.home()?.join(MARK), "");
        step.done("started the daemon");
    } else {
        step.done("found the daemon");
    }
    let client = global.local_client()?;
    let production = project_with_sample(&client, &mut step).await?;
    let branch = fresh_branch(&client, &mut step).await?;
    show_isolation(&branch, &production, &mut step).await?;
    let usage = client.usage(PROJECT, BRANCH).await?;
    output::talk(format!(
        "branch {BRANCH} occupies {} of its own beside {} shared with {PRODUCTION}",
        output::bytes(usage.own_bytes),
        output::bytes(usage.shared_bytes)
    ));
    output::talk(format!("done in {}\n", output::took(begin.elapsed())));
    farewell(&branch);
    Ok(())
}

/// Prints each step with the time it took.
struct Steps {
    last: Instant,
}

impl Steps {
    fn done(&mut self, text: &str) {
        output::talk(format!("{:>8}  {text}", output::took(self.last.elapsed())));
        self.last = Instant::now();
    }
}

async fn project_with_sample(client: &Client, step: &mut Steps) -> Result<Connection, Failure> {
    match client.project(PROJECT).await {
        Ok(_) => step.done("found project shop"),
        Err(error) if error.is_not_found() => {
            client.create_project(PROJECT, None).await?;
            step.done("created project shop with branch production");
        }
        Err(error) => return Err(error.into()),
    }
    let production = log_in_to(client, PRODUCTION).await?;
    let session = sql::connect(&production).await?;
    let loaded = session.query_one("SELECT to_regnamespace('ecommerce') IS NOT NULL", &[]).await?.get(0);
    if loaded {
        step.done("found the sample data in production");
    } else {
        session.batch_execute(SAMPLE).await?;
        step.done("loaded a shop into production: 100 customers, 50 products, 200 orders, 500 items");
    }
    Ok(production)
}

async fn fresh_branch(client: &Client, step: &mut Steps) -> Result<Connection, Failure> {
    // What an earlier run left is thrown away, so that each run shows the same.
    if client.branch(PROJECT, BRANCH).await.is_ok() {
        client.delete_branch(PROJECT, BRANCH, true, true).await?;
        step.done("deleted branch dev of an earlier run");
    }
    let new = NewBranch {
        project: PROJECT.to_owned(),
        id: BRANCH.to_owned(),
        given_name: None,
        source: Some(PRODUCTION.to_owned()),
        expiry: Expiry::Seconds(BRANCH_TTL),
        is_protected: false,
    };
    client.create_branch(&new).await?;
    step.done("created branch dev from production; it vanishes in a day");
    client.wake(PROJECT, BRANCH).await?;
    step.done("the branch answered its first query");
    log_in_to(client, BRANCH).await
}

async fn log_in_to(client: &Client, branch: &str) -> Result<Connection, Failure> {
    connection::of_branch(client, PROJECT, branch, Wish { password: true, ..Wish::default() }).await
}

async fn show_isolation(
    branch: &Connection,
    production: &Connection,
    step: &mut Steps,
) -> Result<(), Failure> {
    let (branch, production) = (sql::connect(branch).await?, sql::connect(production).await?);
    let before = customers(&production).await?;
    branch
        .execute(
            "INSERT INTO ecommerce.customers (first_name, last_name, email, city, country) \
             VALUES ('Kim', 'Novak', 'kim.novak@example.com', 'Vienna', 'AT')",
            &[],
        )
        .await?;
    let (on_branch, on_production) = (customers(&branch).await?, customers(&production).await?);
    if on_branch != before + 1 || on_production != before {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "the branch is not on its own: {on_branch} customers on {BRANCH}, {on_production} on {PRODUCTION}"
            ),
        ));
    }
    step.done(&format!("inserted a customer on dev: {on_branch} there, still {on_production} in production"));
    Ok(())
}

async fn customers(session: &tokio_postgres::Client) -> Result<i64, Failure> {
    Ok(session.query_one("SELECT count(*) FROM ecommerce.customers", &[]).await?.get(0))
}

fn farewell(branch: &Connection) {
    output::talk("connect to the branch with this string, or with the line below it:");
    output::data(connection::uri(branch));
    output::talk(format!("  psql \"$(ana url {BRANCH} --project {PROJECT})\"\n"));
    output::talk("bring your own data:");
    output::talk(format!(
        "  pg_dump --no-owner --no-acl \"$YOUR_DATABASE_URL\" | psql \"$(ana url {PRODUCTION} --project {PROJECT})\"\n"
    ));
    output::talk("next:");
    output::talk(format!("  ana psql {BRANCH} --project {PROJECT}"));
    output::talk(format!("  ana branch create my-feature --project {PROJECT}"));
    output::talk(format!("  ana branch list --tree --project {PROJECT}"));
    output::talk("remove it all with: ana quickstart --clean");
}

async fn clean(global: &Global) -> Result<(), Failure> {
    let mark = global.home()?.join(MARK);
    let started_here = mark.exists();
    let client = global.local_client()?;
    let outcome = client.delete_project(PROJECT, true).await;
    match outcome {
        Ok(()) => output::talk("removed project shop with its data"),
        Err(error) if error.is_not_found() => output::talk("there is no project shop"),
        Err(client::Error::NotRunning { .. }) if !started_here => {
            output::talk("nothing to remove: the daemon is not running, and no quickstart started it");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    if started_here && client.projects().await?.is_empty() {
        let _ = std::fs::remove_file(&mark);
        down::stop(global, false).await?;
    }
    Ok(())
}
