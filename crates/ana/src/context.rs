//! What every command works with: the daemon, and the project meant.

use std::path::{Path, PathBuf};

use client::{Client, Remote, RemoteError};

use crate::failure::Failure;
use crate::home;
use crate::login::Login;

/// Name of the file that binds a directory tree to a project.
const CONTEXT_FILE: &str = ".anabranch";

/// Values given on the command line or in the environment for every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Directory of all data [default: ~/.local/share/anabranch, as root /var/lib/anabranch]
    #[arg(long, global = true, env = "ANABRANCH_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Project; not needed where there is only one, or a file `.anabranch` names it
    #[arg(long, global = true, env = "ANABRANCH_PROJECT", value_name = "PROJECT")]
    pub project: Option<String>,
}

impl Global {
    /// The home directory.
    pub fn home(&self) -> Result<PathBuf, Failure> {
        home::locate(self.home.clone(), crate::system::effective_uid())
    }

    /// The daemon: the one that `ANABRANCH_HOST` names, or that of the home where one is given, or the one
    /// that this user has logged in to, or that of the usual home. Agents say who they are in
    /// `ANABRANCH_AGENT`.
    pub fn client(&self) -> Result<Client, Failure> {
        if let Some(host) = variable("ANABRANCH_HOST") {
            return client_at(&host, variable("ANABRANCH_TOKEN"));
        }
        match if self.home.is_none() { Login::kept()? } else { None } {
            Some(login) => client_at(&login.host, Some(login.token)),
            None => self.local_client(),
        }
    }

    /// The daemon of the home, for what concerns the daemon itself.
    pub fn local_client(&self) -> Result<Client, Failure> {
        Ok(as_agent(Client::new(&home::client_socket(&self.home()?))))
    }

    /// The project meant.
    pub async fn project(&self, client: &Client) -> Result<String, Failure> {
        if let Some(project) = &self.project {
            return Ok(project.clone());
        }
        if let Some(project) = std::env::current_dir().ok().and_then(|dir| find_context(&dir)).transpose()? {
            return Ok(project);
        }
        let mut all = client.projects().await?;
        match all.len() {
            0 => Err(Failure::refused("there is no project yet")
                .with_hint("make one with: ana project create NAME")),
            1 => Ok(all.swap_remove(0).project_id),
            _ => {
                let names: Vec<&str> = all.iter().map(|project| project.project_id.as_str()).collect();
                Err(Failure::refused(format!("there are several projects ({})", names.join(", "))).with_hint(
                    "choose one with --project, ANABRANCH_PROJECT, or a line `project = NAME` in .anabranch",
                ))
            }
        }
    }
}

/// The value of an environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn as_agent(client: Client) -> Client {
    match variable("ANABRANCH_AGENT") {
        Some(agent) => client.as_agent(agent),
        None => client,
    }
}

/// A daemon elsewhere.
pub fn client_at(host: &str, token: Option<String>) -> Result<Client, Failure> {
    let remote = Remote::new(host, token).map_err(|error| {
        let hint = match error {
            RemoteError::Address(_) | RemoteError::Unencrypted(_) => "give another address",
            RemoteError::NoToken(_) => "set ANABRANCH_TOKEN to what `ana token create` printed",
        };
        Failure::refused(error.to_string()).with_hint(hint)
    })?;
    Ok(as_agent(Client::at(remote)))
}

/// The project that the nearest context file above `dir` names.
fn find_context(dir: &Path) -> Option<Result<String, Failure>> {
    dir.ancestors().find_map(|dir| {
        let path = dir.join(CONTEXT_FILE);
        let text = std::fs::read_to_string(&path).ok()?;
        Some(parse_context(&text).ok_or_else(|| {
            Failure::refused(format!("{} names no project", path.display()))
                .with_hint("it needs a line such as: project = \"shop\"")
        }))
    })
}

/// Lines of `key = value`; quotes are optional, `#` begins a comment.
fn parse_context(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (key.trim() == "project" && !value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_files() {
        assert_eq!(parse_context("project = \"shop\"\n").as_deref(), Some("shop"));
        assert_eq!(parse_context("# mine\nproject=shop # comment\n").as_deref(), Some("shop"));
        assert_eq!(parse_context("branch = dev\n"), None);
        assert_eq!(parse_context("project = \n"), None);
    }

    #[test]
    fn the_nearest_context_wins() {
        let base = std::env::temp_dir().join(format!("ana-context-{}", std::process::id()));
        let inner = base.join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(base.join(CONTEXT_FILE), "project = outer").unwrap();
        assert_eq!(find_context(&inner).unwrap().unwrap(), "outer");
        std::fs::write(base.join("a").join(CONTEXT_FILE), "project = inner").unwrap();
        assert_eq!(find_context(&inner).unwrap().unwrap(), "inner");
        std::fs::write(inner.join(CONTEXT_FILE), "nothing").unwrap();
        assert!(find_context(&inner).unwrap().is_err());
        std::fs::remove_dir_all(base).unwrap();
    }
}
