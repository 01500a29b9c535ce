//! Branches behind a daemon: what a user of the API sees.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Client, Expiry, Method, NewBranch, NewToken, Remote};
use compute::server::Server;
use tokio::runtime::Handle;

use crate::failure::{Context, Failure, Result};
use crate::ground::Ground;
use crate::raw::CutFacts;
use crate::session::Target;
use crate::site::Site;

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// The branch that every new project has, and the endpoint of every branch.
const PRODUCTION: &str = "production";
const PRIMARY: &str = "primary";

/// A daemon of this run's own; ended, with its computes, when dropped.
pub struct Daemon {
    process: Child,
    client: Client,
    runtime: Handle,
    home: PathBuf,
    /// How it is started.
    start: Start,
    /// Token of a client over HTTP.
    token: Option<String>,
    /// Project and branch behind each name.
    names: Mutex<HashMap<String, (String, String)>>,
}

impl Daemon {
    /// Starts `program serve` on an empty home, with `more` arguments.
    pub fn start(
        program: &Path,
        ground: &Ground,
        server: &Server,
        runtime: &Handle,
        more: &[String],
    ) -> Result<Daemon> {
        let home = ground.make("daemon")?;
        let sockets = ground.make("x")?;
        restrict(&sockets)?;
        let arguments = [OsString::from("--home"), home.clone().into_os_string()]
            .into_iter()
            .chain(
                ["serve", "--http-port=0", "--pg-port=0", "--owner=bench@localhost", "--pg-bin"]
                    .map(Into::into),
            )
            .chain([server.bin_dir.clone().into_os_string()])
            .chain(more.iter().map(Into::into))
            .collect();
        let log = ground.path().join("daemon.log");
        let start = Start { program: program.to_owned(), arguments, sockets: sockets.clone(), log };
        let process = start.spawn()?;
        let client = Client::new(Path::new("/nonexistent"));
        let names = Mutex::default();
        let token = None;
        let mut daemon = Daemon { process, client, runtime: runtime.clone(), home, start, token, names };
        daemon.await_answer(&sockets)?;
        Ok(daemon)
    }

    fn await_answer(&mut self, sockets: &Path) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(socket) = find_socket(&sockets.join("anabranch")) {
                self.client = Client::new(&socket);
                if self.runtime.block_on(self.client.status()).is_ok() {
                    return Ok(());
                }
            }
            let ended = self.process.try_wait().context("waiting for the daemon")?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.home.with_file_name("daemon.log")).unwrap_or_default();
                return Err(Failure(format!("the daemon did not come up: {}", log.trim())));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// From now on over HTTP with a token, as other programs come, and not over the daemon's socket.
    pub fn over_http(&mut self) -> Result<()> {
        let status = self.runtime.block_on(self.client.status())?;
        let address = status.http.ok_or_else(|| Failure("the daemon serves no HTTP".to_owned()))?;
        let wanted = NewToken { name: "bench".to_owned(), ..NewToken::default() };
        let made = self.runtime.block_on(self.client.create_token(&wanted))?;
        self.token = Some(made.token);
        self.use_http(&address)
    }

    fn use_http(&mut self, address: &str) -> Result<()> {
        let remote = Remote::new(address, self.token.clone()).context("reading the daemon's address")?;
        self.client = Client::at(remote);
        Ok(())
    }

    /// Ends the daemon with its computes and starts it again on the same home. Returns the moment of the
    /// start; it has answered since.
    pub fn restart(&mut self) -> Result<Instant> {
        compute::os::kill(self.process.id().cast_signed(), libc::SIGTERM).context("ending the daemon")?;
        self.process.wait().context("waiting for the daemon's end")?;
        let begin = Instant::now();
        self.process = self.start.spawn()?;
        let sockets = self.start.sockets.clone();
        self.await_answer(&sockets)?;
        if self.token.is_some() {
            let status = self.runtime.block_on(self.client.status())?;
            let address = status.http.ok_or_else(|| Failure("the daemon serves no HTTP".to_owned()))?;
            self.use_http(&address)?;
        }
        Ok(begin)
    }

    /// Asks for one branch.
    pub fn show(&self, branch: &str) -> Result<()> {
        let (project, branch) = self.place(branch)?;
        self.runtime.block_on(self.client.branch(&project, &branch))?;
        Ok(())
    }

    /// Asks for all branches of a project; returns how many there are.
    pub fn list(&self, project: &str) -> Result<usize> {
        Ok(self.runtime.block_on(self.client.branches(project))?.len())
    }

    /// Asks for the first page of them; returns how many are on it.
    pub fn first_page(&self, project: &str) -> Result<usize> {
        let path = format!("/api/2.0/postgres/projects/{project}/branches");
        let page = self.runtime.block_on(self.client.raw(Method::GET, &path, None))?;
        Ok(page["branches"].as_array().map_or(0, Vec::len))
    }

    /// Ends the compute of a branch; the next connection starts it.
    pub fn suspend(&self, branch: &str) -> Result<()> {
        let (project, branch) = self.place(branch)?;
        Ok(self.runtime.block_on(self.client.suspend_endpoint(&project, &branch, PRIMARY))?)
    }

    /// Gives an endpoint so many compute units. Its connections count from the next start.
    pub fn resize(&self, branch: &str, cu: u32) -> Result<()> {
        let (project, branch) = self.place(branch)?;
        let mask = ["spec.autoscaling_limit_min_cu", "spec.autoscaling_limit_max_cu"];
        let spec = serde_json::json!({"autoscaling_limit_min_cu": cu, "autoscaling_limit_max_cu": cu});
        let change = self.client.update_endpoint(&project, &branch, PRIMARY, &mask, spec);
        self.runtime.block_on(change)?;
        Ok(())
    }

    /// Data directory of a branch.
    pub fn data_dir(&self, branch: &str) -> Result<PathBuf> {
        let (project, branch) = self.place(branch)?;
        let branch = self.runtime.block_on(self.client.branch(&project, &branch))?;
        Ok(self.home.join("branches").join(branch.uid).join("pgdata"))
    }

    fn place(&self, name: &str) -> Result<(String, String)> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned().ok_or_else(|| Failure(format!("there is no branch {name}")))
    }

    fn remember(&self, name: &str, project: &str, branch: &str) {
        let place = (project.to_owned(), branch.to_owned());
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), place);
    }
}

/// How a daemon is started.
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    sockets: PathBuf,
    log: PathBuf,
}

impl Start {
    fn spawn(&self) -> Result<Child> {
        let log = std::fs::File::options().append(true).create(true).open(&self.log);
        let log = log.context("opening the daemon's log")?;
        let errors = log.try_clone().context("opening the daemon's log")?;
        Command::new(&self.program)
            .args(&self.arguments)
            .env("XDG_RUNTIME_DIR", &self.sockets)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .context(format!("starting {}", self.program.display()))
    }
}

/// The daemon refuses a session directory that others may write in.
fn restrict(directory: &Path) -> Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(directory, mode).context(format!("restricting {}", directory.display()))
}

fn find_socket(base: &Path) -> Option<PathBuf> {
    let homes = std::fs::read_dir(base).ok()?.flatten();
    homes.map(|home| home.path().join("api.sock")).find(|socket| socket.exists())
}

impl Site for Daemon {
    fn through(&self) -> &'static str {
        "daemon"
    }

    fn create_root(&self, name: &str) -> Result<Target> {
        self.runtime.block_on(self.client.create_project(name, None))?;
        self.remember(name, name, PRODUCTION);
        self.wake(name)
    }

    fn create(&self, parent: &str, child: &str) -> Result<()> {
        let (project, source) = self.place(parent)?;
        let new = NewBranch {
            project: project.clone(),
            id: child.to_owned(),
            given_name: None,
            source: Some(source),
            expiry: Expiry::Never,
            is_protected: false,
        };
        self.runtime.block_on(self.client.create_branch(&new))?;
        self.remember(child, &project, child);
        Ok(())
    }

    fn wake(&self, branch: &str) -> Result<Target> {
        let (project, branch) = self.place(branch)?;
        let connection = self.runtime.block_on(self.client.connection(&project, &branch))?;
        let credential = self.runtime.block_on(self.client.database_credential(&connection.endpoint))?;
        Ok(Target {
            host: connection.host,
            port: connection.port,
            role: connection.role,
            password: credential.token,
            database: connection.database,
        })
    }

    fn delete(&self, branch: &str) -> Result<()> {
        let (project, id) = self.place(branch)?;
        self.runtime.block_on(self.client.delete_branch(&project, &id, true, true))?;
        Ok(())
    }

    fn cut(&self, _child: &str) -> Result<Option<CutFacts>> {
        Ok(None)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ends its computes too; a second try would only wait longer.
        let asked = compute::os::kill(self.process.id().cast_signed(), libc::SIGTERM);
        if asked.is_err() || self.process.wait().is_err() {
            eprintln!("warning: the daemon (pid {}) could not be ended", self.process.id());
        }
        for name in ["daemon", "x"] {
            let _ = std::fs::remove_dir_all(self.home.with_file_name(name));
        }
    }
}
