//! What our own signed tokens say.

use serde::{Deserialize, Serialize};

/// What a signed token is for; one kind is never accepted in place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Logging in to a database.
    Database,
    /// Calling the HTTP API.
    Api,
}

impl Audience {
    /// The value of the claim `aud`.
    pub fn as_str(self) -> &'static str {
        match self {
            Audience::Database => "anabranch:database",
            Audience::Api => "anabranch:api",
        }
    }

    /// The header `typ`, so that people who decode a token see what it is.
    pub(crate) fn header_type(self) -> &'static str {
        match self {
            Audience::Database => "JWT",
            Audience::Api => "at+jwt",
        }
    }
}

/// The claims of a signed token of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed: this home.
    pub iss: String,
    /// What for; see [`Audience`].
    pub aud: String,
    /// Name of the principal.
    pub sub: String,
    /// Identity of the principal for ever: the name may be given anew after a deletion.
    pub uid: String,
    /// Kind of the principal.
    pub kind: String,
    /// `uid` of the endpoint that a database token opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Group that the principal logs in as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Scopes of an access token, separated by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// When it was signed, seconds since 1970.
    pub iat: i64,
    /// When it expires, seconds since 1970.
    pub exp: i64,
    /// Identity of the token, by which it is revoked.
    pub jti: String,
}
