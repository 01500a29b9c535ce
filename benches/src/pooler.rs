//! pgbouncer in front of a plain server, for comparison. Where the machine has none, there is no comparison.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use compute::machine::Machine;

use crate::failure::{Context, Failure, Result};
use crate::ground::Ground;
use crate::load::write_private;
use crate::plain::{LOOPBACK, Plain, free_port};
use crate::session::Target;

const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// Where Debian puts it, which is not on everybody's path.
const DEBIAN: &str = "/usr/sbin/pgbouncer";

/// A running pgbouncer; ended when dropped.
pub struct Pooler {
    process: Child,
    directory: PathBuf,
    target: Target,
    version: String,
}

impl Pooler {
    /// In front of `server`, which must have TLS; none where the program is not installed. Sessions are
    /// pooled, the mode that lets a client do what it may do without a pooler.
    pub fn start(ground: &Ground, server: &Plain) -> Result<Option<Pooler>> {
        let debian = PathBuf::from(DEBIAN);
        let found = Machine::this().program("pgbouncer").or_else(|| debian.exists().then_some(debian));
        let (Some(program), Some(tls)) = (found, server.tls()) else { return Ok(None) };
        let output = Command::new(&program).arg("--version").output().context("asking pgbouncer")?;
        let version = version_in(&String::from_utf8_lossy(&output.stdout));
        let directory = ground.make("pgbouncer")?;
        let behind = server.target();
        let users = directory.join("users");
        write_private(&users, &format!("\"{}\" \"{}\"\n", behind.role, behind.password))?;
        let port = free_port()?;
        let place = directory.display();
        let settings = format!(
            "[databases]\n\
             {database} = host={host} port={behind_port} dbname={database}\n\
             [pgbouncer]\n\
             listen_addr = {LOOPBACK}\n\
             listen_port = {port}\n\
             unix_socket_dir = {place}\n\
             auth_type = scram-sha-256\n\
             auth_file = {users}\n\
             pool_mode = session\n\
             max_client_conn = 1000\n\
             default_pool_size = 100\n\
             ignore_startup_parameters = extra_float_digits\n\
             client_tls_sslmode = require\n\
             client_tls_cert_file = {certificate}\n\
             client_tls_key_file = {key}\n\
             logfile = {place}/log\n\
             log_connections = 0\n\
             log_disconnections = 0\n",
            database = behind.database,
            host = behind.host,
            behind_port = behind.port,
            users = users.display(),
            certificate = tls.certificate.display(),
            key = tls.key.display(),
        );
        let file = directory.join("pgbouncer.ini");
        write_private(&file, &settings)?;
        let process = Command::new(&program)
            .arg("--quiet")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(format!("starting {}", program.display()))?;
        let target = Target { host: LOOPBACK.to_owned(), port, ..behind };
        let mut pooler = Pooler { process, directory, target, version };
        pooler.await_answer()?;
        Ok(Some(pooler))
    }

    /// How to connect.
    pub fn target(&self) -> Target {
        self.target.clone()
    }

    /// E.g. `1.18.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn await_answer(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect((LOOPBACK, self.target.port)).is_err() {
            let ended = self.process.try_wait().context("waiting for pgbouncer")?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                return Err(Failure(format!("pgbouncer did not come up: {}", log.trim())));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Its first line is `PgBouncer 1.18.0`.
fn version_in(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.split_whitespace().last().unwrap_or("of an unknown version").to_owned()
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found() {
        assert_eq!(version_in("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n"), "1.18.0");
        assert_eq!(version_in(""), "of an unknown version");
    }
}
