//! Who somebody is: opaque secrets, signed tokens, and tokens of foreign issuers.
//!
//! Everything here is a rule without memory: time and random bytes are arguments, rows and files
//! belong to `control`. Two families of secrets exist. *Opaque* ones (personal tokens, client
//! secrets) are random and stored as digests only. *Signed* ones (database tokens, access tokens)
//! are stored nowhere: a signature of ours makes them valid until they expire.

mod claims;
pub mod external;
mod lifetime;
mod opaque;
mod refusal;
mod scope;
mod secret;
mod signing;

pub use claims::{Audience, Claims};
pub use lifetime::{ACCESS_SECONDS, DATABASE_SECONDS, LifetimeError, database_expiry};
pub use opaque::{Opaque, looks_signed};
pub use refusal::Refusal;
pub use scope::Scope;
pub use secret::{Digest, Secret};
pub use signing::{KeyError, Keyring, LONGEST_TOKEN, PublicKey, SigningKey};
