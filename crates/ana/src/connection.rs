//! How to reach a branch, and the ways to write that down.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use client::{Client, Connection};
use control::names::short_hash;
use tokio_postgres::config::SslMode;

use crate::failure::{Exit, Failure, about};

/// What is wanted of a connection, beside the branch.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Role; the caller's where absent.
    pub role: Option<String>,
    /// Database; the branch's first one where absent.
    pub database: Option<String>,
    /// Whether to log in, so that a password is needed.
    pub password: bool,
}

/// How to reach a branch. The password is a token that is good for an hour.
pub async fn of_branch(
    client: &Client,
    project: &str,
    branch: &str,
    wish: Wish,
) -> Result<Connection, Failure> {
    let about_it = |error| about(error, project, branch);
    let mut connection = client.connection(project, branch).await.map_err(about_it)?;
    let own_role = wish.role.is_none_or(|role| {
        let own = role == connection.role;
        connection.role = role;
        own
    });
    if let Some(database) = wish.database {
        connection.database = database;
    }
    if wish.password && own_role {
        let credential = client.database_credential(&connection.endpoint).await.map_err(about_it)?;
        connection.password = Some(credential.token);
    }
    if let Some(file) = connection.ca_file.take() {
        let certificate = client.authority().await?.certificate;
        connection.ca_file = Some(certificate_file(&file, &certificate)?);
    }
    Ok(connection)
}

/// A file with the authority's certificate that whoever runs this can read: the daemon's own where
/// possible, else a copy. The daemon may run as somebody else, or on another host.
fn certificate_file(daemons: &str, certificate: &str) -> Result<String, Failure> {
    let holds = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text == certificate);
    if holds(Path::new(daemons)) {
        return Ok(daemons.to_owned());
    }
    let dir = cache_dir()?.join("anabranch");
    let path = dir.join(format!("ca-{:08x}.pem", short_hash(certificate.as_bytes())));
    if !holds(&path) {
        write_private(&path, certificate)?;
    }
    Ok(path.display().to_string())
}

/// A file with the password that libpq finds by `PGPASSFILE`; none where there is no password.
pub fn passfile(connection: &Connection) -> Result<Option<String>, Failure> {
    let Some(password) = &connection.password else { return Ok(None) };
    let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
    let whose = format!("{}:{}:*:{}", escape(&connection.host), connection.port, escape(&connection.role));
    let name = format!("pgpass-{:08x}", short_hash(whose.as_bytes()));
    let path = cache_dir()?.join("anabranch").join(name);
    write_private(&path, &format!("{whose}:{}\n", escape(password)))?;
    Ok(Some(path.display().to_string()))
}

/// Writes a file that only this user can read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = path.with_extension(format!("{}.part", std::process::id()));
    let written = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // What an earlier run of the same number left might be open to others.
        let _ = std::fs::remove_file(&beside);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&beside, path)
    };
    written().map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}

fn cache_dir() -> Result<PathBuf, Failure> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .ok_or_else(|| {
            Failure::new(Exit::Outside, "HOME is not set, so there is no place for files about servers")
                .with_hint("set HOME; `ana ca` prints the servers' certificate")
        })
}

/// The mode of TLS for a connection, and the file that goes with it.
fn tls(connection: &Connection) -> Vec<(&'static str, &str)> {
    match &connection.ca_file {
        Some(file) => vec![("sslmode", "verify-full"), ("sslrootcert", file)],
        None => vec![("sslmode", "require")],
    }
}

fn host_in_uri(connection: &Connection) -> String {
    if connection.host.contains(':') { format!("[{}]", connection.host) } else { connection.host.clone() }
}

fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value).replace("%2F", "/")))
        .collect();
    pairs.join("&")
}

/// A URI that `psql` and every driver accept as it is.
pub fn uri(connection: &Connection) -> String {
    let user = percent_encode(&connection.role);
    let login = match &connection.password {
        Some(password) => format!("{user}:{}", percent_encode(password)),
        None => user,
    };
    format!(
        "postgresql://{login}@{}:{}/{}?{}",
        host_in_uri(connection),
        connection.port,
        percent_encode(&connection.database),
        query(&tls(connection))
    )
}

/// The URI of Java programs.
pub fn jdbc(connection: &Connection) -> String {
    let mut pairs = vec![("user", connection.role.as_str())];
    pairs.extend(connection.password.as_deref().map(|password| ("password", password)));
    pairs.extend(tls(connection));
    format!(
        "jdbc:postgresql://{}:{}/{}?{}",
        host_in_uri(connection),
        connection.port,
        percent_encode(&connection.database),
        query(&pairs)
    )
}

/// Keys and values as libpq takes them in one string.
pub fn dsn(connection: &Connection) -> String {
    let port = connection.port.to_string();
    let mut pairs = vec![
        ("host", connection.host.as_str()),
        ("port", &port),
        ("user", &connection.role),
        ("dbname", &connection.database),
    ];
    pairs.extend(connection.password.as_deref().map(|password| ("password", password)));
    pairs.extend(tls(connection));
    let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
    pairs.join(" ")
}

/// The variables that libpq and many drivers read.
pub fn variables(connection: &Connection) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("PGHOST", connection.host.clone()),
        ("PGPORT", connection.port.to_string()),
        ("PGUSER", connection.role.clone()),
        ("PGDATABASE", connection.database.clone()),
    ];
    variables.extend(connection.password.clone().map(|password| ("PGPASSWORD", password)));
    for (name, value) in tls(connection) {
        let name = if name == "sslmode" { "PGSSLMODE" } else { "PGSSLROOTCERT" };
        variables.push((name, value.to_owned()));
    }
    variables
}

/// Variables as lines for a shell, to be read with `eval` or `set -a`.
pub fn environment(variables: &[(&str, String)]) -> String {
    let quote = |value: &str| format!("'{}'", value.replace('\'', "'\\''"));
    let lines: Vec<String> =
        variables.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
    lines.join("\n")
}

/// Settings of the driver that this program itself uses.
pub fn config(connection: &Connection) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&connection.host)
        .port(connection.port)
        .user(&connection.role)
        .dbname(&connection.database)
        .ssl_mode(if is_socket(connection) { SslMode::Disable } else { SslMode::Require })
        .application_name("ana");
    if let Some(password) = &connection.password {
        config.password(password);
    }
    config
}

/// Whether the host is the directory of a unix socket.
fn is_socket(connection: &Connection) -> bool {
    connection.host.starts_with('/')
}

fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection {
            host: "127.64.1.2".into(),
            port: 5432,
            role: "ana+x@example.org".into(),
            database: "databricks_postgres".into(),
            password: Some("p/ä:@?'".into()),
            ca_file: Some("/home/a b/keys/ca.pem".into()),
            ..Connection::default()
        }
    }

    #[test]
    fn uris_are_encoded_and_read_back() {
        let text = uri(&connection());
        assert_eq!(
            text,
            "postgresql://ana%2Bx%40example.org:p%2F%C3%A4%3A%40%3F%27@127.64.1.2:5432/databricks_postgres\
             ?sslmode=verify-full&sslrootcert=/home/a%20b/keys/ca.pem"
        );
        // Drivers that are told of the certificate elsewhere know no `sslrootcert`.
        let read: tokio_postgres::Config = text.split('?').next().unwrap().parse().unwrap();
        assert_eq!(read.get_user(), Some("ana+x@example.org"));
        assert_eq!(read.get_password(), Some("p/ä:@?'".as_bytes()));
        assert_eq!(read.get_ports(), [5432]);
    }

    #[test]
    fn other_forms() {
        assert_eq!(
            jdbc(&connection()),
            "jdbc:postgresql://127.64.1.2:5432/databricks_postgres?user=ana%2Bx%40example.org\
             &password=p/%C3%A4%3A%40%3F%27&sslmode=verify-full&sslrootcert=/home/a%20b/keys/ca.pem"
        );
        let text = dsn(&connection());
        assert!(text.contains(r"password='p/ä:@?\'' sslmode='verify-full'"), "{text}");
        let read: tokio_postgres::Config = text.split(" sslmode").next().unwrap().parse().unwrap();
        assert_eq!(read.get_password(), Some("p/ä:@?'".as_bytes()));
        let text = environment(&variables(&connection()));
        assert!(text.contains("PGPASSWORD='p/ä:@?'\\'''\n"), "{text}");
        assert!(text.ends_with("PGSSLROOTCERT='/home/a b/keys/ca.pem'"), "{text}");
    }

    #[test]
    fn without_password_or_authority() {
        let connection = Connection {
            host: "::1".into(),
            port: 1,
            role: "o".into(),
            database: "d".into(),
            ..Connection::default()
        };
        assert_eq!(uri(&connection), "postgresql://o@[::1]:1/d?sslmode=require");
        assert!(!environment(&variables(&connection)).contains("PGPASSWORD"));
    }
}
