//! Where branches live while they are measured: in an engine of this process, or behind a daemon.

use crate::failure::Result;
use crate::raw::CutFacts;
use crate::session::Target;

/// Makes and removes branches in one way. Names are of lower-case letters, digits and hyphens.
pub trait Site {
    /// `engine` or `daemon`.
    fn through(&self) -> &'static str;

    /// A new cluster, running.
    fn create_root(&self, name: &str) -> Result<Target>;

    /// Creates a branch; returns when its durability was answered for. This is what is timed.
    fn create(&self, parent: &str, child: &str) -> Result<()>;

    /// How to connect to a branch. Where connecting does not start its server, this has.
    fn wake(&self, branch: &str) -> Result<Target>;

    /// Removes a branch and its data.
    fn delete(&self, branch: &str) -> Result<()>;

    /// What is known of the cut that made a branch.
    fn cut(&self, child: &str) -> Result<Option<CutFacts>>;
}
