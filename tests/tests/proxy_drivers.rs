//! The drivers that people use, against the front door. They are fetched once, by their own package
//! managers, into the directory of temporary files.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::door::{ANA, Door};

/// Where the drivers are kept between runs.
fn kept(name: &str) -> PathBuf {
    let uid = compute::os::effective_uid();
    let path = std::env::temp_dir().join(format!("ana-e2e-drivers-{uid}")).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Runs a program of the setting-up kind.
fn set_up(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

/// Installs what a file asks for, unless that was done before for the same file.
fn install(name: &str, wanted: &str, work: impl FnOnce(&Path)) -> PathBuf {
    let dir = kept(name);
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    let mark = dir.join("installed");
    if std::fs::read_to_string(&mark).is_ok_and(|before| before == wanted) {
        return dir;
    }
    work(&dir);
    std::fs::write(mark, wanted).unwrap();
    dir
}

/// Runs a script against a door and expects it to say that all is well.
async fn run_against_a_door(mut command: Command, last_line: &'static str) {
    let door = Door::new().await;
    door.config();
    let (_, ca) = door.proxy.certificates().authority().unwrap();
    command
        .env("PGHOST", door.main.ip().to_string())
        .env("PGPORT", door.main.port().to_string())
        .env("PGUSER", ANA)
        .env("PGPASSWORD", "good")
        .env("PGDATABASE", "postgres")
        .env("PGSSLROOTCERT", ca)
        .current_dir("/");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains(last_line), "{text}");
}

const PYTHON_DRIVERS: &str = include_str!("../python/requirements.txt");
const PYTHON_CHECKS: &str = include_str!("../python/test_drivers.py");
const NODE_DRIVERS: &str = include_str!("../node/package.json");
const NODE_CHECKS: &str = include_str!("../node/drivers.js");

/// The system's own Python: one of a version manager may lie where the tests' user cannot go.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_of_python() {
    e2e::lab::server(); // Root becomes an ordinary user.
    let dir = install("python", PYTHON_DRIVERS, |dir| {
        let wanted = dir.join("requirements.txt");
        std::fs::write(&wanted, PYTHON_DRIVERS).unwrap();
        set_up(Command::new(python()).args(["-m", "venv", "--clear"]).arg(dir.join("venv")).env("HOME", dir));
        set_up(
            Command::new(dir.join("venv/bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--no-input", "-r"])
                .arg(&wanted)
                .env("HOME", dir)
                .env("PIP_CACHE_DIR", dir.join("cache")),
        );
    });
    let script = dir.join("test_drivers.py");
    std::fs::write(&script, PYTHON_CHECKS).unwrap();
    let mut command = Command::new(dir.join("venv/bin/python"));
    command.arg(script).env("HOME", &dir);
    run_against_a_door(command, "all drivers: ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres() {
    e2e::lab::server();
    let dir = install("node", NODE_DRIVERS, |dir| {
        std::fs::write(dir.join("package.json"), NODE_DRIVERS).unwrap();
        set_up(
            Command::new("npm")
                .args(["install", "--silent", "--no-audit", "--no-fund"])
                .current_dir(dir)
                .env("HOME", dir)
                .env("npm_config_cache", dir.join("cache")),
        );
    });
    let script = dir.join("drivers.js");
    std::fs::write(&script, NODE_CHECKS).unwrap();
    let mut command = Command::new("node");
    command.arg(script).env("HOME", &dir);
    run_against_a_door(command, "node-postgres: all ok").await;
}
