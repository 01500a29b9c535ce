//! What a libc call means for a tracked path or descriptor.
//!
//! The preload library asks this crate before it makes a system call. Three answers: *bypass* (not
//! ours: make the call as it is), done with a value, or failed with an errno. No `unsafe` here; the
//! whole of it runs under plain `cargo test` on a temporary directory.
#![forbid(unsafe_code)]

pub mod descriptors;
mod list;
mod names;
mod offered;
mod open;
mod read;
pub mod resolve;
mod sync;
pub mod tracker;
mod write;

pub use list::Listed;
pub use resolve::Target;
pub use store::errno::{Errno, Result};
pub use tracker::{NotAttached, Settings, Tracker};

/// Answer for a call: `None` is *bypass*.
pub type Outcome<T> = Option<Result<T>>;
