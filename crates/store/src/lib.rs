//! The store: copy-on-write layers under a directory tree.
//!
//! Promise: a branch's files read as one directory tree; a write on one branch is never visible on
//! another; a cut makes a child that holds exactly what a prefix of all calls had done.
//!
//! The store knows nothing of PostgreSQL: paths, blocks, and a *stream* whose highest byte is noted.

pub mod errno;
pub mod failing;
pub mod fault;
pub mod files;
pub mod flatten;
pub mod gate;
pub mod home;
pub mod layer;
pub mod lengths;
pub mod manifest;
pub mod merge;
pub mod moment;
pub mod owned_lock;
pub mod path;
pub mod recorder;
pub mod shm;
pub mod stack;
pub mod sys;
pub mod verify;

pub use errno::{Errno, Result};
pub use path::RelPath;
