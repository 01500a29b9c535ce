//! The daemon as users run it, in a process of its own: called over its socket, and killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use compute::os;
use compute::process::{self, PostmasterFile};
use serde_json::{Value, json};
use store::manifest::Manifest;
use store::moment;
use tokio_postgres::Client;
use tokio_postgres::config::SslMode;

use crate::lab::{connect_with, ground, place, server};

/// For what takes no time at all on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For what the daemon does behind an answer, with its rounds of two seconds.
const BEHIND: Duration = Duration::from_secs(10);

/// Project that the tests use.
pub const PROJECT: &str = "shop";

/// A home without a daemon; all of it is gone when dropped.
pub struct Home {
    pub path: PathBuf,
    /// Directory of the server's programs.
    pub bin_dir: PathBuf,
    /// Shared memory that computes of this home had: branch, key and id.
    segments: Mutex<BTreeSet<(String, i32, i32)>>,
}

/// A running daemon. Dropped, it is killed; its computes run on.
pub struct Daemon {
    process: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    socket: PathBuf,
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A branch that has a row.
#[derive(Debug, Clone)]
pub struct Row {
    pub uid: String,
    pub id: String,
    /// Not deleted.
    pub live: bool,
}

/// An operation as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub resource: String,
    pub uid: String,
}

/// The program under test as bytes: once we are another user, the build directory may be closed to us.
fn program(ana: &Path) -> &'static File {
    static PROGRAM: OnceLock<File> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| File::open(ana).unwrap());
    ground();
    program
}

impl Home {
    /// An empty home. `ana` is the program under test.
    pub fn new(ana: &Path) -> Home {
        let program = program(ana);
        let bin_dir = server().bin_dir;
        let path = place();
        for directory in ["user", "run"] {
            fs::create_dir(path.join(directory)).unwrap();
            fs::set_permissions(path.join(directory), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let mut bytes = vec![0; program.metadata().unwrap().len() as usize];
        program.read_exact_at(&mut bytes, 0).unwrap();
        let mut copy =
            File::options().write(true).create_new(true).mode(0o755).open(path.join("ana")).unwrap();
        copy.write_all(&bytes).unwrap();
        Home { path, bin_dir, segments: Mutex::default() }
    }

    /// The directory of all data.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn branch(&self, uid: &str) -> PathBuf {
        self.data().join("branches").join(uid)
    }

    /// Where the daemon keeps its sockets.
    fn run_directory(&self) -> Option<PathBuf> {
        let base = fs::read_dir(self.path.join("run/anabranch")).ok()?;
        base.flatten().next().map(|entry| entry.path())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path.join("ana"));
        command.args(arguments).current_dir("/").env_clear();
        for name in ["PATH", "ANABRANCH_LOG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
            .env("HOME", self.path.join("user"))
            .env("XDG_RUNTIME_DIR", self.path.join("run"))
            .env("ANABRANCH_HOME", self.data())
            .env("ANABRANCH_PG_BIN", &self.bin_dir)
            .env("ANABRANCH_PG_PORT", "0")
            .env("ANABRANCH_HTTP_PORT", "0");
        command
    }

    /// Runs a command of the program under test on this home: exit code, what it printed, what it said.
    pub fn ana(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Starts the daemon; returns once it answers, or stands still at the moment `still`, see
    /// [`store::moment`].
    pub fn start(&self, still: Option<&str>) -> Daemon {
        self.start_with(still, &[("ANABRANCH_NO_COMPACTION", "true")])
    }

    /// As [`Home::start`], and layers are merged in the background, whenever that may be.
    pub fn start_merging(&self, still: Option<&str>) -> Daemon {
        self.start_with(still, &[])
    }

    fn start_with(&self, still: Option<&str>, settings: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(&["serve"]);
        command
            .envs(still.map(|moment| (moment::VARIABLE, moment)))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard) = (BufReader::new(process.stderr.take().unwrap()).lines(), Arc::clone(&said));
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(line);
            }
        });
        let mut daemon = Daemon { process, said, reader: Some(reader), socket: PathBuf::new() };
        let begin = Instant::now();
        loop {
            if let Some(directory) = self.run_directory() {
                daemon.socket = directory.join("api.sock");
            }
            let answers = daemon.try_call("GET", "/health", "").is_ok_and(|answer| answer.status == 200);
            if answers || daemon.stands_still() {
                return daemon;
            }
            let ended = daemon.process.try_wait().unwrap();
            assert_eq!(ended, None, "the daemon ended: {:#?}", daemon.said());
            assert!(begin.elapsed() < PATIENCE, "the daemon does not answer: {:#?}", daemon.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Operations that have not ended, from the table of a running daemon: a caller whose call was cut
    /// off knows no names to ask for.
    pub fn running_operations(&self) -> Vec<Begun> {
        self.operations("done = 0")
    }

    /// All operations on a branch, oldest first.
    pub fn operations_on(&self, branch: &str) -> Vec<Begun> {
        self.operations(&format!("resource = 'projects/{PROJECT}/branches/{branch}'"))
    }

    /// All operations, oldest first.
    pub fn all_operations(&self) -> Vec<Begun> {
        self.operations("true")
    }

    fn operations(&self, condition: &str) -> Vec<Begun> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(self.data().join("meta.db"), flags).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        let sql = format!("SELECT resource, uid FROM operations WHERE {condition} ORDER BY create_time, uid");
        let mut statement = connection.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| Ok(Begun { resource: row.get(0)?, uid: row.get(1)? }));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// Connects to a branch whose compute runs as the daemon itself would, past the daemon.
    pub async fn connect_as_admin(&self, uid: &str) -> Client {
        connect_with(&self.sockets(uid), "postgres", &self.admin_password(uid)).await
    }

    /// Directory of the socket of a branch's compute.
    pub fn sockets(&self, uid: &str) -> PathBuf {
        self.run_directory().unwrap().join(uid)
    }

    pub fn admin_password(&self, uid: &str) -> String {
        let text = fs::read(self.data().join("keys").join(format!("{uid}.json"))).unwrap();
        let keys: Value = serde_json::from_slice(&text).unwrap();
        keys["candidates"][0]["admin_password"].as_str().unwrap().to_owned()
    }

    /// Remembers the shared memory of all computes that run, to be looked for once they are gone.
    pub fn note_shared_memory(&self) {
        for uid in names(&self.data().join("branches")) {
            let file = PostmasterFile::read(&self.branch(&uid).join("pgdata")).unwrap();
            if let Some((key, id)) = file.and_then(|file| file.shared_memory) {
                self.segments.lock().unwrap().insert((uid, key, id));
            }
        }
    }

    /// There is nothing half-made and nothing left over: each branch with a row has its directory, its
    /// layers and its keys, and whatever else there is belongs to one. Only where nothing is on its way.
    pub fn assert_tidy(&self, rows: &[Row]) {
        let all: BTreeSet<String> = rows.iter().map(|row| row.uid.clone()).collect();
        let live: BTreeSet<String> = rows.iter().filter(|row| row.live).map(|row| row.uid.clone()).collect();
        assert_eq!(names(&self.data().join("branches")), all, "directories of branches");
        let mut layers = BTreeSet::new();
        for uid in &all {
            let bytes = fs::read(self.branch(uid).join("manifest")).unwrap();
            let entries = Manifest::decode(&bytes).unwrap().entries;
            let name = |layer| store::layer::directory_name(layer).to_str().unwrap().to_owned();
            layers.extend(entries.iter().map(|entry| name(entry.layer)));
        }
        assert_eq!(crate::files::layers_in(&self.data().join("layers")), layers, "layers");
        let keys = all.iter().map(|uid| format!("{uid}.json")).collect();
        let mut kept = names(&self.data().join("keys"));
        // The daemon's own, whatever branches there are.
        for name in ["signing", "ca.key", "ca.pem"] {
            kept.remove(name);
        }
        assert_eq!(kept, keys, "keys");
        let mut sockets = names(&self.run_directory().unwrap());
        sockets.remove("api.sock");
        sockets.remove("api.key");
        assert!(sockets.is_subset(&all), "sockets {sockets:?} of branches {all:?}");
        let home = self.data().canonicalize().unwrap();
        let hash = store::path::fnv1a(home.join("layers").as_os_str().as_encoded_bytes());
        let mark = format!("-{hash:016x}-");
        let in_memory = names(Path::new("/dev/shm"));
        let caches: Vec<&str> = in_memory.iter().filter_map(|name| Some(name.split_once(&mark)?.1)).collect();
        let foreign = caches.iter().find(|uid| !live.contains(**uid));
        assert_eq!(foreign, None, "a cache of no live branch: {caches:?}, {live:?}");
        let running = self.running();
        assert!(running.values().all(|uid| live.contains(uid)), "processes {running:?} of {live:?}");
        for (uid, key, id) in self.segments.lock().unwrap().iter() {
            let data = self.branch(uid).join("pgdata");
            let file = if live.contains(uid) { PostmasterFile::read(&data).unwrap() } else { None };
            let in_use = file.and_then(|file| file.shared_memory) == Some((*key, *id));
            let gone = os::shared_memory(*id).is_none_or(|found| found.key != *key);
            assert!(in_use || gone, "shared memory {id} of branch {uid} was left behind");
        }
    }

    /// Processes at work in a branch's data directory, or one that was: process id and branch.
    fn running(&self) -> BTreeMap<i32, String> {
        let branches = self.data().canonicalize().unwrap().join("branches");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(directory) = fs::read_link(entry.path().join("cwd")) else { continue };
            let Ok(below) = directory.strip_prefix(&branches) else { continue };
            found.insert(pid, below.iter().next().unwrap().to_str().unwrap().to_owned());
        }
        found
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.note_shared_memory();
        for uid in names(&self.data().join("branches")) {
            let data = self.branch(&uid).join("pgdata");
            let _ = process::kill_all(&data);
            let _ = process::remove_stale_shared_memory(&data);
        }
        compute::engine::remove_caches(&self.data());
        let _ = fs::remove_dir_all(&self.path);
        // Empty once the last test is done.
        let _ = fs::remove_dir(ground());
    }
}

impl Daemon {
    /// Kills it and returns when it is gone.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// What it has said so far: log and moments.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Moments reached so far, in their order.
    pub fn moments(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.iter().filter_map(|line| line.strip_prefix(moment::REACHED)).map(str::to_owned).collect()
    }

    /// Whether it has reached the moment at which it goes no further.
    pub fn stands_still(&self) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.starts_with(moment::STANDING))
    }

    /// One request; `path` is below the contract's base unless it begins with `/api/` or is `/health`.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// As [`Daemon::call`], with an error where the daemon dies before it has answered.
    pub fn try_call(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        exchange(&self.socket, method, path, body)
    }

    /// A call whose answer somebody else may wait for.
    pub fn begin_call(&self, method: &str, path: &str, body: &str) -> mpsc::Receiver<io::Result<Answer>> {
        let (answered, answer) = mpsc::channel();
        let (socket, method) = (self.socket.clone(), method.to_owned());
        let (path, body) = (path.to_owned(), body.to_owned());
        std::thread::spawn(move || {
            // Nobody may be interested any more.
            let _ = answered.send(exchange(&socket, &method, &path, &body));
        });
        answer
    }

    /// Calls, waits until the daemon stands still and kills it there. Whether it stood still (the
    /// moment may not come as often as last time), and the answer, if one came.
    pub fn call_and_kill(mut self, method: &str, path: &str, body: &str) -> (bool, Option<Answer>) {
        let coming = self.begin_call(method, path, body);
        let mut answer = None;
        while answer.is_none() && !self.stands_still() {
            answer = coming.recv_timeout(Duration::from_millis(1)).ok().map(Result::unwrap);
        }
        // What is done behind the answer.
        let stood = self.comes_to_stand();
        self.kill();
        (stood, answer)
    }

    /// Waits for a moment that is about to come, or does not come.
    pub fn comes_to_stand(&self) -> bool {
        let begin = Instant::now();
        while !self.stands_still() && begin.elapsed() < BEHIND {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.stands_still()
    }

    /// Every branch that has a row.
    pub fn rows(&self) -> Vec<Row> {
        let answer = self.call("GET", &format!("/projects/{PROJECT}/branches?show_deleted=true"), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body.get("next_page_token"), None, "more branches than fit a page");
        let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
        let row = |row: &Value| Row {
            uid: text(row, "uid"),
            id: text(row, "branch_id"),
            live: row["status"]["current_state"] == "READY",
        };
        answer.body["branches"].as_array().unwrap().iter().map(row).collect()
    }

    /// The branch that is listed under this name.
    pub fn listed(&self, id: &str) -> Option<Row> {
        self.rows().into_iter().find(|row| row.live && row.id == id)
    }

    /// The operation; done, with either a response or an error.
    pub fn ended(&self, begun: &Begun) -> Answer {
        let answer = self.call("GET", &format!("/{}/operations/{}", begun.resource, begun.uid), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["done"], true, "{answer:?}");
        let (response, error) = (answer.body.get("response"), answer.body.get("error"));
        assert!(response.is_some() != error.is_some(), "{answer:?}");
        answer
    }

    /// Starts the compute of a branch.
    pub fn wake(&self, id: &str) {
        let path = format!("/api/anabranch/v1/projects/{PROJECT}/branches/{id}/wake");
        let answer = self.call("POST", &path, "");
        assert_eq!(answer.status, 200, "{answer:?} {:#?}", self.said());
    }

    /// A session on a branch as its owner, the way any client comes.
    pub async fn connect(&self, id: &str) -> Client {
        let path = format!("/api/anabranch/v1/projects/{PROJECT}/branches/{id}/connection");
        let place = self.call("GET", &path, "");
        assert_eq!(place.status, 200, "{place:?}");
        let text = |name: &str| place.body[name].as_str().unwrap();
        let body = json!({"endpoint": text("endpoint")}).to_string();
        let credential = self.call("POST", "/credentials", &body);
        assert_eq!(credential.status, 200, "{credential:?}");
        let mut config = tokio_postgres::Config::new();
        config.host(text("host")).port(place.body["port"].as_u64().unwrap().try_into().unwrap());
        config.user(text("role")).password(credential.body["token"].as_str().unwrap());
        config.dbname(text("database")).ssl_mode(SslMode::Require);
        let tls = client::tls::connector(Some(Path::new(text("ca_file")))).unwrap();
        let (client, connection) = config.connect(tls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the daemon said: {:#?}", self.said());
        }
    }
}

impl Answer {
    /// Whether the operation is done and went well.
    pub fn is_success(&self) -> bool {
        self.status == 200 && self.body["done"] == true && self.body.get("error").is_none()
    }

    /// The code of a refusal.
    pub fn error_code(&self) -> &str {
        self.body["error_code"].as_str().unwrap_or_default()
    }
}

fn exchange(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let own = path.starts_with("/api/") || path == "/health";
    let path = if own { path.to_owned() } else { format!("/api/2.0/postgres{path}") };
    let mut stream = UnixStream::connect(socket)?;
    let length = body.len();
    let key = fs::read_to_string(socket.with_extension("key"))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Anabranch-Key: {key}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut_off)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(cut_off)?;
    let body = serde_json::from_str(body).map_err(|_| cut_off())?;
    Ok(Answer { status, body })
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
