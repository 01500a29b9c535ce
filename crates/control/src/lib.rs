//! Projects, branches, endpoints and operations: what is wanted, and how the world is made to follow.
//!
//! Three floors. `db` holds the rows, `app` validates and decides, `reconcile` repeats until the
//! files and processes agree with the rows. Intended state is always written first, so a crash at
//! any step leaves something that the next round finishes or undoes.

pub mod app;
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
pub mod model;
pub mod names;
mod prepare;
mod reconcile;
mod scram;
mod signing;

pub use app::{Control, Settings};
pub use error::{Error, Refusal};
pub use front::{Domain, EndpointName, Front, LiveEndpoint, Place};
