//! The HTTP API: the Lakebase contract under `/api/2.0/postgres/`, our own calls under
//! `/api/anabranch/v1/`.
//!
//! The local command line comes over a unix socket and is known by its user id. TCP answers only
//! whether the daemon is alive: there are no tokens yet, so nobody else can be known.

mod error;
mod local;
mod page;
mod public;
mod resources;
mod routes;
mod wire;

pub use local::{AuthorityInfo, FrontInfo, Local, serve_local};
pub use public::{bind_public, serve_public};
