//! A small SQL client, for machines without psql.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use client::Connection;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::connection;
use crate::failure::{Exit, Failure};
use crate::output;

/// Connects; the session ends when the client is dropped.
pub async fn connect(connection: &Connection) -> Result<tokio_postgres::Client, Failure> {
    let tls = client::tls::connector(connection.ca_file.as_deref().map(Path::new))
        .map_err(|error| Failure::new(Exit::Outside, error.to_string()))?;
    let (client, session) = connection::config(connection).connect(tls).await?;
    tokio::spawn(session);
    Ok(client)
}

/// Runs statements and prints what they give.
pub async fn run(connection: &Connection, statements: &str) -> Result<(), Failure> {
    let client = connect(connection).await?;
    print(&client.simple_query(statements).await?);
    Ok(())
}

/// Runs statements from stdin, each as soon as a line ends with a semicolon. At a terminal errors
/// are shown and the session goes on; from a file the first one ends it.
pub async fn read_and_run(connection: &Connection) -> Result<(), Failure> {
    let client = connect(connection).await?;
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        output::talk("statements end with a semicolon; \\q ends the session");
    }
    let mut statement = String::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::io("cannot read stdin", &error))?;
        if statement.is_empty() && line.trim() == "\\q" {
            return Ok(());
        }
        if statement.is_empty() && line.trim_start().starts_with('\\') {
            complain(interactive, Failure::refused(format!("{} needs psql", line.trim())))?;
            continue;
        }
        statement.push_str(&line);
        statement.push('\n');
        if line.trim_end().ends_with(';') {
            run_one(&client, &std::mem::take(&mut statement), interactive).await?;
        }
    }
    if statement.trim().is_empty() { Ok(()) } else { run_one(&client, &statement, interactive).await }
}

async fn run_one(client: &tokio_postgres::Client, statement: &str, interactive: bool) -> Result<(), Failure> {
    match client.simple_query(statement).await {
        Ok(messages) => {
            print(&messages);
            Ok(())
        }
        Err(error) if error.is_closed() => Err(Failure::new(Exit::Outside, "the server ended the session")),
        Err(error) => complain(interactive, error.into()),
    }
}

fn complain(interactive: bool, failure: Failure) -> Result<(), Failure> {
    if !interactive {
        return Err(failure);
    }
    output::talk(failure.render());
    Ok(())
}

fn print(messages: &[SimpleQueryMessage]) {
    let mut header: Vec<String> = Vec::new();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                header = columns.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => rows.push(cells(row)),
            SimpleQueryMessage::CommandComplete(count) => {
                if header.is_empty() {
                    output::talk(format!("{count} row{}", if *count == 1 { "" } else { "s" }));
                } else {
                    let names: Vec<&str> = header.iter().map(String::as_str).collect();
                    output::table(&names, &rows);
                    header.clear();
                    rows.clear();
                }
            }
            _ => {}
        }
    }
}

fn cells(row: &SimpleQueryRow) -> Vec<String> {
    (0..row.len()).map(|place| row.get(place).unwrap_or("").to_owned()).collect()
}
