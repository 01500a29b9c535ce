//! What a client is told when it is turned away: PostgreSQL's own error message, always fatal.

/// SQLSTATEs that the proxy answers with.
pub mod sqlstate {
    /// `sqlserver_rejected_establishment_of_sqlconnection`
    pub const CONNECTION_REJECTED: &str = "08004";
    /// `protocol_violation`
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// `feature_not_supported`
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// `invalid_authorization_specification`
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// `invalid_password`
    pub const INVALID_PASSWORD: &str = "28P01";
    /// `invalid_catalog_name`
    pub const UNKNOWN: &str = "3D000";
    /// `too_many_connections`
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// `object_not_in_prerequisite_state`
    pub const NOT_IN_STATE: &str = "55000";
    /// `query_canceled`, which PostgreSQL also uses for a login that takes too long
    pub const TIMEOUT: &str = "57014";
    /// `admin_shutdown`
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// `cannot_connect_now`
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// `internal_error`
    pub const INTERNAL: &str = "XX000";
}

/// A fatal error for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// One line: what was wrong, with what.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { sqlstate, message: message.into(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Refusal {
        Refusal { hint: Some(hint.into()), ..self }
    }

    /// Plain text where only encrypted connections are served.
    pub fn not_encrypted() -> Refusal {
        Refusal::new(sqlstate::INVALID_AUTHORIZATION, "the connection is not encrypted, and must be").with_hint(
            "set sslmode=require, or sslmode=verify-full with sslrootcert= the certificate that `ana ca` prints",
        )
    }

    /// The one answer to every login that is not let in, whatever the reason, so that it tells nothing
    /// about which roles there are.
    pub fn login_failed(user: &str) -> Refusal {
        Refusal::new(
            sqlstate::INVALID_PASSWORD,
            format!("password authentication failed for user \"{user}\""),
        )
        .with_hint(
            "the password is a token for this endpoint and the role of its holder, not older than an hour; \
             `ana url BRANCH` prints a connection string with a fresh one",
        )
    }

    /// Too many logins of this kind went wrong.
    pub fn login_throttled(user: &str, seconds: u64) -> Refusal {
        Refusal::login_failed(user)
            .with_hint(format!("too many logins failed; wait {seconds} s before the next one"))
    }

    /// The endpoint has as many sessions as its size allows.
    pub fn too_many_connections(limit: usize) -> Refusal {
        Refusal::new(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already").with_hint(format!(
            "the size of this endpoint allows {limit} connections; close some, use a pool, or enlarge it"
        ))
    }

    /// No endpoint is called so.
    pub fn unknown_endpoint(name: &str) -> Refusal {
        Refusal::new(sqlstate::UNKNOWN, format!("endpoint \"{name}\" does not exist"))
            .with_hint("`ana branch list` shows the branches, `ana url BRANCH` where they are reached")
    }

    /// Two ways to name an endpoint name two of them.
    pub fn conflict(first: &str, second: &str) -> Refusal {
        Refusal::new(
            sqlstate::CONNECTION_REJECTED,
            format!("the connection names two endpoints: {first} and {second}"),
        )
        .with_hint("remove endpoint= from the options, or connect to that endpoint's own address")
    }

    /// Nothing says which endpoint is meant.
    pub fn no_endpoint() -> Refusal {
        Refusal::new(sqlstate::CONNECTION_REJECTED, "the connection does not say which endpoint is meant")
            .with_hint(
                "connect to the endpoint's own address, add options=endpoint=PROJECT/BRANCH, \
                 or use a token made for one endpoint",
            )
    }

    /// The client broke the protocol.
    pub fn violation(message: impl Into<String>) -> Refusal {
        Refusal::new(sqlstate::PROTOCOL_VIOLATION, message)
    }

    /// Something of ours failed; the log says what.
    pub fn internal() -> Refusal {
        Refusal::new(sqlstate::INTERNAL, "the connection could not be made because of an internal error")
            .with_hint("the daemon's log says more")
    }

    /// The message as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = vec![(b'S', "FATAL"), (b'V', "FATAL"), (b'C', self.sqlstate), (b'M', &self.message)];
        fields.extend(self.hint.as_deref().map(|hint| (b'H', hint)));
        let mut body = Vec::new();
        for (tag, text) in fields {
            body.push(tag);
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.push(0);
        }
        body.push(0);
        crate::wire::message(b'E', &body)
    }
}
