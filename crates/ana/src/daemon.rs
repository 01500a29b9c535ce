//! The daemon's options, shared by the commands that start it, and its files.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api::PublicUrl;
use control::Hosting;

use crate::duration;
use crate::failure::{Exit, Failure};
use crate::system;

/// A log of this size is put aside at the next start.
const LOG_LIMIT: u64 = 10 << 20;

/// How a daemon is to be started.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Port of the HTTP API on 127.0.0.1; the next free one where it is busy
    #[arg(long, default_value_t = 8432, env = "ANABRANCH_HTTP_PORT", value_name = "PORT")]
    pub http_port: u16,
    /// Address to listen on for the HTTP API; other than loopback only with --http-tls-cert
    #[arg(long, default_value = "127.0.0.1", env = "ANABRANCH_HTTP_LISTEN", value_name = "ADDRESS")]
    pub http_listen: IpAddr,
    /// Certificate, with its chain, of the HTTP API
    #[arg(long, env = "ANABRANCH_HTTP_TLS_CERT", value_name = "FILE", requires = "http_tls_key")]
    pub http_tls_cert: Option<PathBuf>,
    /// Private key of that certificate
    #[arg(long, env = "ANABRANCH_HTTP_TLS_KEY", value_name = "FILE", requires = "http_tls_cert")]
    pub http_tls_key: Option<PathBuf>,
    /// Address by which people know the HTTP API, e.g. https://ana.example.org; may be repeated
    #[arg(long, value_name = "URL", value_parser = PublicUrl::parse)]
    pub http_url: Vec<PublicUrl>,
    /// Port of PostgreSQL on each branch's own loopback address; 0 takes any
    #[arg(long, default_value_t = 5432, env = "ANABRANCH_PG_PORT", value_name = "PORT")]
    pub pg_port: u16,
    /// Address for connections that name their endpoint otherwise, e.g. by ENDPOINT.DOMAIN
    #[arg(long, default_value = "127.0.0.1", env = "ANABRANCH_PG_LISTEN", value_name = "ADDRESS")]
    pub pg_listen: IpAddr,
    /// Directory of the PostgreSQL programs to use
    #[arg(long, env = "ANABRANCH_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// User to run as, when started by root [default: anabranch, else postgres]
    #[arg(long, env = "ANABRANCH_RUN_AS", value_name = "USER")]
    pub run_as: Option<String>,
    /// E-mail address of the owner, at the first start [default: that of git]
    #[arg(long, value_name = "EMAIL")]
    pub owner: Option<String>,
    /// Endpoints are called ENDPOINT.DOMAIN; a wildcard record of DNS leads from there to --pg-listen
    #[arg(long, env = "ANABRANCH_DOMAIN", value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Certificate, with its chain, shown to clients of PostgreSQL [default: signed by an authority of
    /// the home's own]
    #[arg(long, env = "ANABRANCH_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate
    #[arg(long, env = "ANABRANCH_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Keep the data of deleted branches this long [default: 24h; 1h where they lived a day or less]
    #[arg(long, env = "ANABRANCH_DELETE_GRACE", value_name = "DURATION", value_parser = parse_grace)]
    pub delete_grace: Option<u64>,
    /// Memory for all computes together, e.g. 8GiB [default: what the host can spare]
    #[arg(long, env = "ANABRANCH_MEMORY", value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// Computes that may start at once [default: one for each processor]
    #[arg(long, env = "ANABRANCH_STARTS", value_name = "NUMBER")]
    pub starts: Option<NonZeroUsize>,
    /// How long a connection waits for room on a full host
    #[arg(long, default_value = "2m", env = "ANABRANCH_PATIENCE", value_name = "DURATION", value_parser = duration::parse)]
    pub patience: u64,
    /// Leave the layers of branches that were cut often as they are
    #[arg(long, env = "ANABRANCH_NO_COMPACTION")]
    pub no_compaction: bool,
    /// How lines of the daemon's log look
    #[arg(long, default_value = "text", env = "ANABRANCH_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How lines of the daemon's log look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Time, level, message, fields
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl Options {
    /// The options as arguments of `ana serve`.
    pub fn to_arguments(&self) -> Vec<String> {
        let mut arguments =
            vec![format!("--http-port={}", self.http_port), format!("--pg-port={}", self.pg_port)];
        arguments.push(format!("--http-listen={}", self.http_listen));
        arguments.push(format!("--pg-listen={}", self.pg_listen));
        if self.no_compaction {
            arguments.push("--no-compaction".to_owned());
        }
        if self.log_format == LogFormat::Json {
            arguments.push("--log-format=json".to_owned());
        }
        let given = [
            ("--pg-bin", self.pg_bin.as_ref().map(|dir| dir.display().to_string())),
            ("--run-as", self.run_as.clone()),
            ("--owner", self.owner.clone()),
            ("--http-tls-cert", absolute(self.http_tls_cert.as_deref())),
            ("--http-tls-key", absolute(self.http_tls_key.as_deref())),
            ("--domain", self.domain.clone()),
            ("--tls-cert", absolute(self.tls_cert.as_deref())),
            ("--tls-key", absolute(self.tls_key.as_deref())),
            ("--delete-grace", self.delete_grace.map(|seconds| format!("{seconds}s"))),
            ("--memory", self.memory.map(|bytes| bytes.to_string())),
            ("--starts", self.starts.map(|number| number.to_string())),
            ("--patience", Some(format!("{}s", self.patience))),
        ];
        arguments.extend(self.http_url.iter().map(|url| format!("--http-url={url}")));
        arguments.extend(given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))));
        arguments
    }

    /// What the host gives to computes.
    pub fn hosting(&self) -> Hosting {
        Hosting {
            memory: self.memory,
            starts: self.starts,
            patience: Duration::from_secs(self.patience),
            compaction: !self.no_compaction,
            ..Hosting::default()
        }
    }
}

/// Bytes, with a binary unit or none: `8GiB`, `512MB`, `1073741824`.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is no size; say for example 8GiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let value: u64 = digits.trim().parse().map_err(|_| wrong())?;
    value.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// The daemon runs in another directory.
fn absolute(path: Option<&Path>) -> Option<String> {
    let path = path?;
    Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string())
}

fn parse_grace(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s") { Ok(0) } else { duration::parse(text) }
}

/// Who owns a home where nobody was named: the person that git knows, else the login.
pub fn usual_owner() -> String {
    let from_git = Command::new("git")
        .args(["config", "user.email"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.trim().to_owned())
        .filter(|email| !email.is_empty());
    from_git.unwrap_or_else(|| {
        let uid = system::effective_uid();
        let login = compute::os::user_by_id(uid).ok().flatten().map(|user| user.name);
        format!("{}@localhost", login.unwrap_or_else(|| format!("user{uid}")))
    })
}

/// Makes a directory of the home, private to the user.
pub fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Failure::io(format!("cannot make {}", dir.display()), &error))
}

/// Keeps every other daemon out of the home for as long as the file is open.
pub fn lock(home: &Path) -> Result<File, Failure> {
    let path = home.join("run").join("daemon.lock");
    let failed = |error: std::io::Error| Failure::io(format!("cannot lock {}", path.display()), &error);
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Failure::new(
                Exit::Refused,
                format!("another daemon (pid {}) runs on {}", pid.trim(), home.display()),
            )
            .with_hint("use it, end it with: ana down, or choose another directory with --home"));
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// The daemon's log, when it runs in the background.
pub fn open_log(home: &Path) -> Result<File, Failure> {
    let path = log_path(home);
    if std::fs::metadata(&path).is_ok_and(|facts| facts.len() > LOG_LIMIT) {
        let _ = std::fs::rename(&path, path.with_extension("log.1"));
    }
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Failure::io(format!("cannot open {}", path.display()), &error))
}

/// Where the log lies.
pub fn log_path(home: &Path) -> PathBuf {
    home.join("daemon.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_daemon() {
        let home = std::env::temp_dir().join(format!("ana-lock-{}", std::process::id()));
        make_dir(&home.join("run")).unwrap();
        let held = lock(&home).unwrap();
        let refusal = lock(&home).unwrap_err();
        assert_eq!(refusal.exit, Exit::Refused);
        assert!(refusal.message.contains(&std::process::id().to_string()), "{}", refusal.message);
        drop(held);
        lock(&home).unwrap();
        std::fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("8GiB"), Ok(8 << 30));
        assert_eq!(parse_size("512MB"), Ok(512 << 20));
        assert_eq!(parse_size("1024"), Ok(1024));
        for wrong in ["", "GiB", "0", "-1", "8 parsecs", "99999999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn grace_may_be_nothing() {
        assert_eq!(parse_grace("0"), Ok(0));
        assert_eq!(parse_grace("0s"), Ok(0));
        assert_eq!(parse_grace("90m"), Ok(5400));
        assert!(parse_grace("soon").is_err());
    }
}
