//! Branches in an engine of this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use compute::engine::{BOOTSTRAP_ROLE, BranchKey, Engine, StartOptions, StopMode};
use compute::limits::Limits;
use compute::server::Server;

use crate::failure::{Context, Failure, Result};
use crate::ground::Ground;
use crate::raw::CutFacts;
use crate::session::Target;
use crate::site::Site;

/// Password of every superuser here; nothing listens outside the run's own directory.
pub const PASSWORD: &str = "only-for-benches";

/// The daemon does the same work as often.
const MAINTENANCE: Duration = Duration::from_secs(2);

/// A home with its engine, maintained as the daemon would. Everything in it goes when it is dropped.
pub struct Home {
    engine: Arc<Engine>,
    server: Server,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Home {
    /// An empty home.
    pub fn new(ground: &Ground, server: &Server) -> Result<Home> {
        let path = ground.make("home")?;
        let shim = shim_image::install(&ground.make("run")?).context("unpacking the preload library")?;
        let engine = Arc::new(Engine::open(&path, &shim, &ground.make("s")?)?);
        let stop = Arc::new(AtomicBool::new(false));
        let keeper = keep(Arc::clone(&engine), Arc::clone(&stop))?;
        Ok(Home { engine, server: server.clone(), path, stop, keeper: Some(keeper) })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Directory of a branch.
    pub fn directory(&self, branch: &str) -> PathBuf {
        self.path.join("branches").join(branch)
    }

    /// Data directory of a branch.
    pub fn data_dir(&self, branch: &str) -> PathBuf {
        self.directory(branch).join("pgdata")
    }

    /// Starts a branch where it does not run.
    pub fn start(&self, branch: &str) -> Result<Target> {
        let key = key(branch)?;
        self.engine.start(&key, &self.server, &StartOptions::default())?;
        Ok(Target {
            host: self.engine.socket_dir(&key).to_string_lossy().into_owned(),
            port: compute::settings::SOCKET_PORT,
            role: BOOTSTRAP_ROLE.to_owned(),
            password: PASSWORD.to_owned(),
            database: "postgres".to_owned(),
        })
    }

    /// Gives a branch a size: at once where it was started with one, else with its next start.
    pub fn resize(&self, branch: &str, limits: Limits) -> Result<()> {
        Ok(self.engine.resize(&key(branch)?, limits)?)
    }

    /// Stops a branch cleanly.
    pub fn stop(&self, branch: &str) -> Result<()> {
        Ok(self.engine.stop(&key(branch)?, StopMode::Fast)?)
    }
}

/// The identity of a branch on disk.
pub fn key(branch: &str) -> Result<BranchKey> {
    BranchKey::new(branch).map_err(|text| Failure(format!("\"{text}\" cannot be the name of a branch")))
}

fn keep(engine: Arc<Engine>, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let work = move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(MAINTENANCE);
            // A branch may go away under it; whatever else fails shows in the measurement.
            if let Err(error) = engine.maintain() {
                eprintln!("note: maintenance: {error}");
            }
        }
    };
    std::thread::Builder::new().name("maintain".to_owned()).spawn(work).context("starting a thread")
}

impl Site for Home {
    fn through(&self) -> &'static str {
        "engine"
    }

    fn create_root(&self, name: &str) -> Result<Target> {
        self.engine.create_root(&key(name)?, &self.server, PASSWORD)?;
        self.start(name)
    }

    fn create(&self, parent: &str, child: &str) -> Result<()> {
        self.engine.create_child(&key(parent)?, &key(child)?)?;
        Ok(())
    }

    fn wake(&self, branch: &str) -> Result<Target> {
        self.start(branch)
    }

    fn delete(&self, branch: &str) -> Result<()> {
        Ok(self.engine.delete(&key(branch)?)?)
    }

    fn cut(&self, child: &str) -> Result<Option<CutFacts>> {
        let info = self.engine.cut_info(&key(child)?)?;
        Ok(Some(CutFacts {
            closed_us: info.closed_us,
            drain_us: info.drain_us,
            wal_bytes: info.end_lsn.0.saturating_sub(info.redo_lsn.0),
        }))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            let _ = keeper.join();
        }
        for key in self.engine.keys().unwrap_or_default() {
            if let Err(error) = self.engine.delete(&key) {
                eprintln!("warning: {error}");
            }
        }
        for name in ["home", "s", "run"] {
            let _ = std::fs::remove_dir_all(self.path.with_file_name(name));
        }
    }
}
