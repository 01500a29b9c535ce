//! What the end-to-end tests share: a home with an engine in it, connections, and a TPC-B load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc, missing_docs)]

pub mod daemon;
pub mod door;
pub mod files;
pub mod lab;
pub mod planted;
pub mod power;
pub mod processes;
pub mod tpcb;
