//! Projects, branches, endpoints and operations: what is wanted, and how the world is made to follow.
//!
//! Three floors. `db` holds the rows, `app` validates and decides, `reconcile` repeats until the
//! files and processes agree with the rows. Intended state is always written first, so a crash at
//! any step leaves something that the next round finishes or undoes.

mod admission;
pub mod app;
pub mod backup;
mod catalog;
pub mod clock;
mod computes;
pub mod db;
mod directory;
mod error;
mod front;
pub mod identity;
mod issuer_keys;
mod keys;
mod listener;
mod metrics;
pub mod model;
pub mod names;
mod prepare;
mod reconcile;
mod scram;
mod signing;

pub use admission::{Hosting, Room};
pub use app::{Control, Settings};
pub use computes::{Connection, ConnectionGuard};
pub use error::{ConnectError, Error, Refusal};
pub use front::{Domain, EndpointName, Front, LiveEndpoint, Place};
pub use metrics::Metrics;
