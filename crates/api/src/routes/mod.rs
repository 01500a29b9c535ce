//! The routes, one module for each kind of resource.

mod backup;
mod branches;
mod browser;
mod credentials;
mod databases;
mod endpoints;
mod front;
mod later;
mod me;
mod oidc;
mod operations;
mod own;
mod permissions;
mod power;
mod principals;
mod projects;
mod roles;
mod scrub;
mod specs;
mod table;

use axum::Router;

use crate::local::Local;

#[cfg(test)]
pub(crate) use branches::BranchBody;
#[cfg(test)]
pub(crate) use databases::DatabaseBody;
#[cfg(test)]
pub(crate) use endpoints::EndpointBody;
#[cfg(test)]
pub(crate) use projects::ProjectBody;
#[cfg(test)]
pub(crate) use roles::RoleBody;
pub(crate) use table::{Call, Routes};

/// Every route with its description.
pub(crate) fn described() -> Routes {
    Routes::new()
        .merge(projects::routes())
        .merge(branches::routes())
        .merge(endpoints::routes())
        .merge(operations::routes())
        .merge(roles::routes())
        .merge(databases::routes())
        .merge(credentials::routes())
        .merge(permissions::routes())
        .merge(me::routes())
        .merge(oidc::routes())
        .merge(browser::routes())
        .merge(principals::routes())
        .merge(own::routes())
        .merge(backup::routes())
        .merge(front::routes())
        .merge(power::routes())
        .merge(scrub::routes())
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
