//! The HTTP API: the Lakebase contract under `/api/2.0/postgres/`, our own calls under
//! `/api/anabranch/v1/`.
//!
//! The local command line comes over a unix socket and is known by its user id. Over TCP everybody
//! shows a token. Behind that both get the same routes, and one gate in front of all of them decides
//! who may do what (`rules` is its table).

mod error;
mod gate;
mod listen;
mod local;
mod mask;
pub mod openapi;
mod page;
mod public;
mod resources;
mod routes;
mod rules;
mod throttle;
mod wire;

pub use listen::Tls;
pub use local::{AuthorityInfo, FrontInfo, Local, serve_local};
pub use public::{Public, PublicUrl, bind_public, serve_public};
pub use rules::{RouteRule, route_rules};
