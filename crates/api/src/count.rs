//! Counts answers of the API, for the metrics.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::local::Local;

/// To be the outermost layer: what an outer one refuses is an answer too.
pub(crate) async fn count(State(local): State<Local>, request: Request, next: Next) -> Response {
    let method = match request.method().as_str() {
        method @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE") => method.to_owned(),
        // Whatever a caller sends must not become a label of its own.
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    local.control.metrics().count_response(&method, response.status().as_u16());
    response
}
