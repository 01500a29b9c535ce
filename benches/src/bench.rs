//! What every measurement needs.

use std::cell::RefCell;

use compute::install::{self, Archive, Request};
use compute::machine::Machine;
use compute::server::{DEFAULT_MAJOR, Server};
use tokio::runtime::{Handle, Runtime};

use crate::daemon::Daemon;
use crate::failure::{Context, Failure, Result};
use crate::ground::{self, Ground};
use crate::home::Home;
use crate::load::Generator;
use crate::options::Run;
use crate::plan::Plan;
use crate::raw::{self, Line, Writer};
use crate::session::{Session, Target};
use crate::site::Site;

/// A run: its place, its plan, its tools, its raw lines.
pub struct Bench {
    pub plan: Plan,
    pub server: Server,
    pub generator: Generator,
    options: Run,
    runtime: Runtime,
    out: RefCell<Writer>,
    // Goes last: what the others still have in it is in use until then.
    pub ground: Ground,
}

impl Bench {
    /// Prepares a run and writes its first line. `sized`: computes are to be held to sizes.
    pub fn prepare(options: Run, sized: bool) -> Result<Bench> {
        // Opened before root is given up: the file belongs to whoever asked for it.
        let file = std::fs::File::options().append(true).create(true).open(&options.out);
        let file = file.context(format!("opening {}", options.out.display()))?;
        let daemon = options.daemon.as_ref().map(|program| program.canonicalize()).transpose();
        let options = Run { daemon: daemon.context("looking for the daemon's program")?, ..options };
        let ground = Ground::prepare(options.dir.as_deref(), options.run_as.as_deref(), sized)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("starting threads")?;
        ground::watch_signals(runtime.handle())?;
        let server = find_server(&options)?;
        let generator = Generator::find(options.own_load, &server.bin_dir, &ground, runtime.handle())?;
        let plan = Plan::of(&options);
        let bench =
            Bench { plan, server, generator, options, runtime, out: RefCell::new(Writer::new(file)), ground };
        bench.keep(Line::Run(bench.circumstances()))?;
        Ok(bench)
    }

    /// The runtime of all connections.
    pub fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Keeps a raw line.
    pub fn keep(&self, line: Line) -> Result<()> {
        self.out.borrow_mut().push(line)
    }

    /// All raw lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.out.borrow().lines().to_vec()
    }

    pub fn connect(&self, target: &Target) -> Result<Session> {
        Session::connect(self.runtime(), target)
    }

    /// An empty home for branches: behind a daemon where one was asked for.
    pub fn site(&self) -> Result<Box<dyn Site>> {
        match &self.options.daemon {
            Some(_) => Ok(Box::new(self.daemon()?)),
            None => Ok(Box::new(self.home()?)),
        }
    }

    /// An empty home behind a daemon.
    pub fn daemon(&self) -> Result<Daemon> {
        self.daemon_with(&[])
    }

    /// An empty home behind a daemon started with more arguments.
    pub fn daemon_with(&self, more: &[String]) -> Result<Daemon> {
        let program = self.options.daemon.as_ref();
        let program = program
            .ok_or_else(|| Failure("this is measured behind a daemon: --daemon PROGRAM".to_owned()))?;
        Daemon::start(program, &self.ground, &self.server, self.runtime(), more)
    }

    /// An empty home in this process.
    pub fn home(&self) -> Result<Home> {
        Home::new(&self.ground, &self.server)
    }

    /// An empty home in this process whose computes can be given a size.
    pub fn sized_home(&self) -> Result<Home> {
        let home = self.home()?;
        home.engine().limit_with(self.ground.limiter().clone());
        Ok(home)
    }

    fn circumstances(&self) -> raw::Run {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        raw::Run {
            unix_time: now.map_or(0, |now| now.as_secs()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimised: !cfg!(debug_assertions),
            processor: from_proc("cpuinfo", "model name").unwrap_or_default(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_mib().unwrap_or(0),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            file_system: self.ground.file_system(),
            postgres: self.server.version(),
            load: self.generator.describe(),
            through: if self.options.daemon.is_some() { "daemon" } else { "engine" }.to_owned(),
            reductions: self.plan.reductions.clone(),
        }
    }
}

/// A server that lies where other users can run it; one is installed for good where there is none.
fn find_server(options: &Run) -> Result<Server> {
    let home = std::env::temp_dir().join(format!("ana-bench-servers-{}", compute::os::effective_uid()));
    std::fs::create_dir_all(&home).context(format!("making {}", home.display()))?;
    let hinted = |error: install::Error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Failure(format!("{error}{hint}"))
    };
    let request = Request {
        major: DEFAULT_MAJOR,
        bin_dir: options.pg_bin.clone(),
        home,
        archive: Archive::from_environment().map_err(hinted)?,
    };
    install::find_or_install(&Machine::this(), &request, &mut |note| eprintln!("{note}")).map_err(hinted)
}

fn from_proc(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{file}")).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_mib() -> Option<u64> {
    let text = from_proc("meminfo", "MemTotal")?;
    text.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}
