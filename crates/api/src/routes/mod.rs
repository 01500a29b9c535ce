//! The routes, one module for each kind of resource.

mod branches;
mod credentials;
mod databases;
mod endpoints;
mod me;
mod oidc;
mod operations;
mod own;
mod permissions;
mod principals;
mod projects;
mod roles;

use axum::Router;

use crate::local::Local;

/// Every route, to be given its state.
pub(crate) fn all() -> Router<Local> {
    Router::new()
        .merge(projects::routes())
        .merge(branches::routes())
        .merge(endpoints::routes())
        .merge(roles::routes())
        .merge(databases::routes())
        .merge(operations::routes())
        .merge(own::routes())
        .merge(credentials::routes())
        .merge(me::routes())
        .merge(oidc::routes())
        .merge(permissions::routes())
        .merge(principals::routes())
}

/// The contract's base path.
const PG: &str = "/api/2.0/postgres";

/// Our own base path.
const OWN: &str = "/api/anabranch/v1";
