//! The routes, one module for each kind of resource.

mod branches;
mod endpoints;
mod front;
mod operations;
mod own;
mod projects;

use axum::Router;

use crate::local::Local;

/// Every route, to be given its state.
pub(crate) fn all() -> Router<Local> {
    Router::new()
        .merge(projects::routes())
        .merge(branches::routes())
        .merge(endpoints::routes())
        .merge(operations::routes())
        .merge(own::routes())
        .merge(front::routes())
}

/// The contract's base path.
const PG: &str = "/api/2.0/postgres";

/// Our own base path.
const OWN: &str = "/api/anabranch/v1";
