//! The API over its unix socket, with the real engine and real PostgreSQL behind it.

// Helpers count as test code.
#![allow(clippy::unwrap_used)]

mod front;
mod lakebase;
mod life;
mod world;
