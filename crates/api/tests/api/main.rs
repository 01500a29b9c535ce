//! The API over its unix socket and over TCP, with the real engine and real PostgreSQL behind it.

// Helpers count as test code.
#![allow(clippy::unwrap_used)]

mod access;
mod browser;
mod catalog;
mod contract;
mod crowd;
mod damage;
mod databases;
mod front;
mod lakebase;
mod life;
mod login;
mod logins;
mod roles;
mod schema;
mod size;
mod sleep;
mod tls;
mod web;
mod world;
