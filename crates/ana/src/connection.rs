//! Connection strings.

use client::Connection;

/// A URI that `psql` and every driver accept as it is.
pub fn uri(connection: &Connection) -> String {
    let user = percent_encode(&connection.role);
    let login = match &connection.password {
        Some(password) => format!("{user}:{}", percent_encode(password)),
        None => user,
    };
    let host = if connection.host.contains(':') {
        format!("[{}]", connection.host)
    } else {
        connection.host.clone()
    };
    format!("postgresql://{login}@{host}:{}/{}", connection.port, percent_encode(&connection.database))
}

/// Settings of the driver that this program itself uses.
pub fn config(connection: &Connection) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&connection.host)
        .port(connection.port)
        .user(&connection.role)
        .dbname(&connection.database)
        .application_name("ana");
    if let Some(password) = &connection.password {
        config.password(password);
    }
    config
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

    #[test]
    fn uris_are_encoded_and_read_back() {
        let connection = Connection {
            host: "127.64.1.2".into(),
            port: 5432,
            role: "ana+x@example.org".into(),
            database: "databricks_postgres".into(),
            password: Some("p/ä:@?".into()),
        };
        let text = uri(&connection);
        assert_eq!(
            text,
            "postgresql://ana%2Bx%40example.org:p%2F%C3%A4%3A%40%3F@127.64.1.2:5432/databricks_postgres"
        );
        let read: tokio_postgres::Config = text.parse().unwrap();
        assert_eq!(read.get_user(), Some("ana+x@example.org"));
        assert_eq!(read.get_password(), Some("p/ä:@?".as_bytes()));
        assert_eq!(read.get_ports(), [5432]);
    }

    #[test]
    fn without_password() {
        let connection = Connection {
            host: "::1".into(),
            port: 1,
            role: "o".into(),
            database: "d".into(),
            password: None,
        };
        assert_eq!(uri(&connection), "postgresql://o@[::1]:1/d");
    }
}
