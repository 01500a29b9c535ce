//! What a backup consists of, and making a home's `layers` and `branches` of it again. How branches of a
//! running home are captured: [`crate::engine::Engine::capture`].

mod layer;
mod pack;
mod restore;

pub use layer::LayerName;
pub(crate) use layer::write_layer;
pub use pack::{Sum, Writer, sum_of, sum_of_whole, unpack};
pub use restore::{restore_branch, restore_layer};
