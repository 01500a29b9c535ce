//! The routes, one module for each kind of resource.

mod branches;
mod endpoints;
mod later;
mod operations;
mod own;
mod projects;
mod specs;
mod table;

use axum::Router;

use crate::local::Local;

#[cfg(test)]
pub(crate) use branches::BranchBody;
#[cfg(test)]
pub(crate) use endpoints::EndpointBody;
#[cfg(test)]
pub(crate) use projects::ProjectBody;
pub(crate) use table::{Call, Routes};

/// Every route with its description.
pub(crate) fn described() -> Routes {
    Routes::new()
        .merge(projects::routes())
        .merge(branches::routes())
        .merge(endpoints::routes())
        .merge(operations::routes())
        .merge(own::routes())
        .undocumented(later::routes())
}

/// Every route, to be given its state.
pub(crate) fn all() -> Router<Local> {
    described().into_router()
}

/// The contract's base path.
const PG: &str = "/api/2.0/postgres";

/// Our own base path.
const OWN: &str = "/api/anabranch/v1";
