//! Why a token is not accepted. The texts go to whoever showed it, and never contain it.

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has no form that we know, or was damaged on the way.
    #[error("the token is malformed")]
    Malformed,
    /// Nobody was given it, or it was taken back.
    #[error("the token is unknown or was revoked")]
    Unknown,
    /// It is not signed by a key that we trust.
    #[error("the token is not signed by a trusted key")]
    NotTrusted,
    /// It is signed in a way that is not allowed.
    #[error("the token is signed with an algorithm that is not allowed")]
    Algorithm,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is meant for somebody or something else.
    #[error("the token is not meant for this use")]
    Purpose,
    /// It is sound, but nobody here is meant by what it says.
    #[error("the token's claims match no principal of this server")]
    NoPrincipal,
}
