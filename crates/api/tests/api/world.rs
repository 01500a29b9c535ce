//! A daemon inside the test: real engine, real PostgreSQL, the API on a unix socket; only the clock
//! is the test's own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use api::{AuthorityInfo, FrontInfo, Local};
use compute::engine::{BranchKey, ComputeState, DEFAULT_DATABASE, Engine};
use compute::install::{self, Request};
use compute::limits::{Limiter, Means};
use compute::machine::Machine;
use compute::run_as;
use compute::server::{DEFAULT_MAJOR, Server};
use control::clock::{Clock, SystemClock, SystemRandom};
use control::{Control, Hosting, Settings};
use jiff::{SignedDuration, Timestamp};
use proxy::{Certificates, Doorman, Patience};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres_rustls::MakeRustlsConnect;

pub const OWNER: &str = "ana@example.org";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The machine's clocks, each moved by hand.
pub struct TestClock {
    real: SystemClock,
    moved: Mutex<(SignedDuration, Duration)>,
}

impl TestClock {
    fn new() -> Arc<TestClock> {
        Arc::new(TestClock { real: SystemClock::new(), moved: Mutex::default() })
    }

    /// Time goes by.
    pub fn pass(&self, time: Duration) {
        let mut moved = self.moved.lock().unwrap();
        moved.0 += SignedDuration::try_from(time).unwrap();
        moved.1 += time;
    }

    /// Somebody sets the wall clock.
    pub fn jump(&self, by: SignedDuration) {
        self.moved.lock().unwrap().0 += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.real.now() + self.moved.lock().unwrap().0
    }

    fn steady(&self) -> Duration {
        self.real.steady() + self.moved.lock().unwrap().1
    }
}

/// One home and its daemon; all of it is gone when dropped.
pub struct World {
    pub dir: PathBuf,
    pub control: Arc<Control>,
    pub engine: Arc<Engine>,
    pub clock: Arc<TestClock>,
    pub certificates: Arc<Certificates>,
    hosting: Hosting,
    end: watch::Sender<bool>,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// What a finished operation left behind.
    pub fn response(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.body["done"], true, "{self:?}");
        assert_eq!(self.body.get("error"), None, "{self:?}");
        &self.body["response"]
    }

    /// Checks that it is this refusal.
    pub fn refuses(&self, status: u16, code: &str, text: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.body["error_code"], code, "{self:?}");
        assert!(self.body["message"].as_str().unwrap().contains(text), "{self:?}");
    }
}

impl World {
    /// An empty home.
    pub async fn new() -> World {
        World::hosted(Hosting::default()).await
    }

    /// An empty home on a host that gives this much.
    pub async fn hosted(hosting: Hosting) -> World {
        let dir = ground().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(dir.join("home")).unwrap();
        World::open(dir, TestClock::new(), hosting).await
    }

    /// A home with project `shop`.
    pub async fn with_shop() -> World {
        World::new().await.shop().await
    }

    /// The same home with project `shop`.
    pub async fn shop(self) -> World {
        let world = self;
        let answer = world.post("/projects?project_id=shop", "{}").await;
        assert_eq!(answer.body["done"], true, "{answer:?}");
        assert_eq!(answer.body.get("error"), None, "{answer:?}");
        world
    }

    async fn open(dir: PathBuf, clock: Arc<TestClock>, hosting: Hosting) -> World {
        let shim = shim_image::install(&dir.join("run")).unwrap();
        let engine = Arc::new(Engine::open(&dir.join("home"), &shim, &dir.join("s")).unwrap());
        engine.limit_with(limiter());
        let hosting_kept = hosting.clone();
        let settings = Settings {
            home: dir.join("home"),
            pg_port: 0,
            owner: OWNER.to_owned(),
            delete_grace: None,
            // Rounds come when the test asks for them.
            round: Duration::from_secs(3600),
            domain: None,
            hosting,
        };
        let random = Arc::new(SystemRandom);
        let control =
            Control::open(settings, Arc::clone(&engine), server(), Arc::clone(&clock) as _, random).unwrap();
        let certificates = Arc::new(Certificates::own(&dir.join("home/keys"), None).unwrap());
        Doorman::install(&control, Arc::clone(&certificates), Patience::default()).unwrap();
        control.run().await.unwrap();
        let (shutdown, _) = watch::channel(None);
        let (end, mut ended) = watch::channel(false);
        let local = Local {
            control: Arc::clone(&control),
            owner_uid: compute::os::effective_uid(),
            http: None,
            https: false,
            front: front_of(&certificates),
            shutdown,
        };
        let socket = dir.join("api.sock");
        let server = tokio::spawn(async move {
            let end = async move {
                let _ = ended.wait_for(|end| *end).await;
            };
            api::serve_local(local, &socket, end).await
        });
        let world = World {
            certificates,
            dir,
            control,
            engine,
            clock,
            hosting: hosting_kept,
            end,
            server: Some(server),
        };
        while UnixStream::connect(world.dir.join("api.sock")).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world
    }

    /// The daemon ends without a word, and the next one opens the same home.
    pub async fn restart(self) -> World {
        self.end_and_open(true).await
    }

    /// The daemon ends with all its computes, and the next one opens the same home.
    pub async fn restart_asleep(self) -> World {
        self.end_and_open(false).await
    }

    async fn end_and_open(mut self, keep_computes: bool) -> World {
        self.control.shut_down(keep_computes).await.unwrap();
        self.end.send_replace(true);
        self.server.take().unwrap().await.unwrap().unwrap();
        let (dir, clock) = (std::mem::take(&mut self.dir), Arc::clone(&self.clock));
        let hosting = self.hosting.clone();
        drop(self);
        World::open(dir, clock, hosting).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.call("POST", path, body, "").await
    }

    pub async fn patch(&self, path: &str, body: &str) -> Answer {
        self.call("PATCH", path, body, "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "", "").await
    }

    /// One request; `path` is below the contract's base unless it begins with `/api/`.
    pub async fn call(&self, method: &str, path: &str, body: &str, header: &str) -> Answer {
        let path =
            if path.starts_with("/api/") { path.to_owned() } else { format!("/api/2.0/postgres{path}") };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let socket = self.dir.join("api.sock");
        let answer = tokio::task::spawn_blocking(move || exchange(&socket, &request)).await.unwrap();
        if answer.status == 200
            && let Some(why) = crate::schema::misfit(method, &path, &answer.body)
        {
            panic!("{method} {path} is not as documented: {why}");
        }
        answer
    }

    /// Makes a branch of `shop` and expects that to succeed; gives the branch.
    pub async fn branch(&self, id: &str, spec: &str) -> Value {
        let answer = self.post(&format!("/projects/shop/branches?branch_id={id}"), spec).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["done"], true, "{answer:?}");
        assert_eq!(answer.body.get("error"), None, "{answer:?}");
        answer.body["response"].clone()
    }

    /// A session on a branch of `shop` as its owner, the way any client comes.
    pub async fn connect(&self, branch: &str) -> tokio_postgres::Client {
        self.try_connect(branch).await.unwrap()
    }

    pub async fn try_connect(&self, branch: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = self.config(branch).await.connect(self.tls()).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// TLS that trusts the home's own authority.
    pub fn tls(&self) -> MakeRustlsConnect {
        let (_, file) = self.certificates.authority().unwrap();
        client::tls::connector(Some(file)).unwrap()
    }

    pub async fn config(&self, branch: &str) -> tokio_postgres::Config {
        let info = self.connection(branch).await;
        let token = self.credential(branch).await;
        let mut config = tokio_postgres::Config::new();
        config
            .host(info["host"].as_str().unwrap())
            .port(u16::try_from(info["port"].as_u64().unwrap()).unwrap())
            .user(info["role"].as_str().unwrap())
            .password(token)
            .dbname(info["database"].as_str().unwrap());
        config
    }

    /// `uid` of a branch of `shop`.
    pub async fn uid(&self, branch: &str) -> String {
        let answer = self.get(&format!("/projects/shop/branches/{branch}")).await;
        answer.body["uid"].as_str().unwrap().to_owned()
    }

    /// Whether the compute of a branch of `shop` runs.
    pub async fn is_awake(&self, branch: &str) -> bool {
        let key = BranchKey::new(self.uid(branch).await).unwrap();
        matches!(self.engine.state(&key).unwrap(), ComputeState::Running { .. })
    }

    /// A session on the server of a branch of `shop` in any role, past the front door.
    pub async fn connect_as(
        &self,
        branch: &str,
        role: &str,
        password: &str,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let awake = self.post(&format!("/api/anabranch/v1/projects/shop/branches/{branch}/wake"), "").await;
        assert_eq!(awake.status, 200, "{awake:?}");
        let key = BranchKey::new(self.uid(branch).await).unwrap();
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.engine.socket_dir(&key)).user(role).password(password).dbname(database);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A session as the daemon itself opens it for the identity whose role this is.
    pub async fn connect_for_identity(
        &self,
        branch: &str,
        role: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let password = self.control.backend_password(&self.uid(branch).await, role).unwrap();
        self.connect_as(branch, role, password.expose(), DEFAULT_DATABASE).await
    }

    /// A session as the real superuser, past the daemon: it is not counted as a connection.
    pub async fn superuser(&self, branch: &BranchKey, database: &str) -> tokio_postgres::Client {
        let mut config: tokio_postgres::Config = self.superuser_conninfo(branch, database).parse().unwrap();
        config.application_name("test");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub fn superuser_conninfo(&self, branch: &BranchKey, database: &str) -> String {
        let keys = std::fs::read_to_string(self.dir.join(format!("home/keys/{branch}.json"))).unwrap();
        let keys: Value = serde_json::from_str(&keys).unwrap();
        let password = keys["candidates"][0]["admin_password"].as_str().unwrap();
        let socket = self.engine.socket_dir(branch);
        format!("host={} port=5432 user=anabranch password={password} dbname={database}", socket.display())
    }

    pub async fn connection(&self, branch: &str) -> Value {
        let answer = self.get(&format!("/api/anabranch/v1/projects/shop/branches/{branch}/connection")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// A token with which the owner logs in to a branch of `shop`.
    pub async fn credential(&self, branch: &str) -> String {
        let endpoint = format!(r#"{{"endpoint":"projects/shop/branches/{branch}/endpoints/primary"}}"#);
        let answer = self.post("/credentials", &endpoint).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["token"].as_str().unwrap().to_owned()
    }
}

/// What the API tells of the front door.
pub fn front_of(certificates: &Certificates) -> FrontInfo {
    let authority = certificates.authority().map(|(certificate, file)| AuthorityInfo {
        certificate: certificate.to_owned(),
        file: file.to_owned(),
    });
    FrontInfo { authority, shared: None }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.dir.as_os_str().is_empty() {
            return;
        }
        for entry in std::fs::read_dir(self.dir.join("home/branches")).into_iter().flatten().flatten() {
            let _ = compute::process::kill_all(&entry.path().join("pgdata"));
            let _ = compute::process::remove_stale_shared_memory(&entry.path().join("pgdata"));
        }
        compute::engine::remove_caches(&self.dir.join("home"));
        let _ = std::fs::remove_dir_all(&self.dir);
        // Empty once the last test is done.
        let _ = std::fs::remove_dir(ground());
    }
}

fn exchange(socket: &Path, request: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = with_key(socket, request);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    Answer { status, body: serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")) }
}

/// A request that shows the daemon's key.
pub fn with_key(socket: &Path, request: &str) -> String {
    let key = std::fs::read_to_string(socket.with_extension("key")).unwrap();
    request.replacen("\r\n", &format!("\r\nX-Anabranch-Key: {key}\r\n"), 1)
}

/// A directory for all homes of this process. Root becomes an ordinary user on the way: PostgreSQL
/// does not run as root.
fn ground() -> &'static Path {
    static GROUND: OnceLock<PathBuf> = OnceLock::new();
    GROUND.get_or_init(|| {
        server();
        std::env::temp_dir().join(format!("ana-api-{}", std::process::id()))
    })
}

fn server() -> Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let user = run_as::choose(None).unwrap().map(|choice| choice.user);
            let server = find_server(user.as_ref());
            let ground = std::env::temp_dir().join(format!("ana-api-{}", std::process::id()));
            std::fs::create_dir_all(&ground).unwrap();
            prepare_limiter(&ground, user.as_ref());
            if let Some(user) = user {
                std::os::unix::fs::chown(&ground, Some(user.uid), Some(user.gid)).unwrap();
                become_user(user.uid, user.gid);
            }
            server
        })
        .clone()
}

/// What holds the computes of this process to their sizes. Root makes it ready before it becomes an
/// ordinary user, and a shell that stays root clears it away once this process has ended.
fn limiter() -> Limiter {
    server();
    LIMITER.get().unwrap().clone()
}

static LIMITER: OnceLock<Limiter> = OnceLock::new();

fn prepare_limiter(ground: &Path, user: Option<&compute::os::User>) {
    let limiter = Limiter::prepare(ground, user);
    if limiter.means() == Means::GroupsV1 && user.is_some() {
        let mut command = std::process::Command::new("sh");
        let name = compute::limits::group_name(ground);
        command
            .args(["-c", "read end; sleep 1; rmdir /sys/fs/cgroup/*/$0/* /sys/fs/cgroup/*/$0 2>/dev/null"]);
        command.arg(name).stdin(std::process::Stdio::piped());
        compute::os::detach(&mut command, 64);
        let child = command.spawn().unwrap();
        // Its pipe closes with this process.
        std::mem::forget(child);
    }
    assert!(LIMITER.set(limiter).is_ok());
}

/// The server that all tests of the workspace share; below the build directory where the servers'
/// user gets there.
fn find_server(user: Option<&compute::os::User>) -> Server {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-home");
    let shared = std::env::temp_dir().join("anabranch-test-home-0");
    let reached = |home: &PathBuf| {
        std::fs::create_dir_all(home).unwrap();
        user.is_none_or(|user| compute::os::as_user(user, || home.join(".").exists()).unwrap())
    };
    let home = [build, shared].into_iter().find(reached).unwrap().canonicalize().unwrap();
    let request = Request { major: DEFAULT_MAJOR, bin_dir: None, home, archive: None };
    install::find_or_install(&Machine::this(), &request, &mut |note| eprintln!("{note}")).unwrap()
}

/// The test harness has threads already, so this is the libc call that changes all of them.
#[allow(unsafe_code)]
fn become_user(uid: u32, gid: u32) {
    // SAFETY: plain system calls without pointers to anything but an empty list.
    let done = unsafe { libc::setgroups(0, std::ptr::null()) | libc::setgid(gid) | libc::setuid(uid) };
    assert_eq!(done, 0, "could not become user {uid}");
}
