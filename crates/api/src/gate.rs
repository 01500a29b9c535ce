//! What stands in front of every route, on both listeners: the caller's rights, and errors in the
//! contract's form wherever they come from.

use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{RequestExt, Router};
use control::app::Caller;
use http_body_util::BodyExt;

use crate::error::ApiError;
use crate::local::Local;
use crate::routes;
use crate::rules::{self, Rule};

/// Longest request body, bytes.
pub(crate) const LONGEST_BODY: usize = 1 << 20;

/// As much of a library's own error text is passed on.
const LONGEST_TEXT: usize = 4096;

/// All routes behind the gate. Who calls must have been found out by the layers around it.
pub(crate) fn guarded(local: Local) -> Router {
    routes::all()
        .fallback(async || ApiError::unroutable())
        .method_not_allowed_fallback(async || method_not_allowed())
        .layer(axum::extract::DefaultBodyLimit::max(LONGEST_BODY))
        .layer(axum::middleware::from_fn_with_state(local.clone(), authorise))
        .layer(axum::middleware::map_response(shape_errors))
        .with_state(local)
}

/// The rule of the route that a request goes to; none for unknown paths and routes without a rule.
pub(crate) fn rule_of(request: &Request) -> Option<Rule> {
    rules::rule(request.method(), request.extensions().get::<MatchedPath>()?.as_str())
}

async fn authorise(State(local): State<Local>, mut request: Request, next: Next) -> Response {
    match check(&local, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn check(local: &Local, request: &mut Request) -> Result<(), ApiError> {
    let rule = rule_of(request);
    if rule == Some(Rule::Open) {
        return Ok(());
    }
    let caller = request.extensions().get::<Caller>().cloned().ok_or_else(ApiError::unauthenticated)?;
    let Some(template) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned())
    else {
        // Unknown to the router: its own answer says so.
        return Ok(());
    };
    let Some(rule) = rule else {
        return without_rule(local, &caller, request.method(), &template);
    };
    match rule {
        Rule::Open => {}
        Rule::Of(action) => local.control.authorise(&caller, action, None).await?,
        Rule::OnProject(action) => {
            let project = path_value(request, "project").await?;
            local.control.authorise(&caller, action, Some(project)).await?;
        }
        Rule::OnOperation => {
            let project = path_value(request, "project").await?;
            let operation = path_value(request, "operation").await?;
            local.control.authorise_operation(&caller, project, operation).await?;
        }
    }
    Ok(())
}

/// The owner gets the router's own answer; nobody else reaches what nobody thought about.
fn without_rule(local: &Local, caller: &Caller, method: &Method, template: &str) -> Result<(), ApiError> {
    if caller.token_id.is_none() && caller.identity.name == local.control.owner() {
        return Ok(());
    }
    if rules::knows(template) {
        return Err(method_not_allowed());
    }
    tracing::error!(%method, template, "a route has no rule");
    Err(ApiError::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", "this call is not open to tokens"))
}

async fn path_value(request: &mut Request, key: &str) -> Result<String, ApiError> {
    let parameters = request
        .extract_parts::<RawPathParams>()
        .await
        .map_err(|_| ApiError::invalid("the path is not valid UTF-8"))?;
    let found = parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned());
    found.ok_or_else(ApiError::unroutable)
}

fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "BAD_REQUEST", "method not allowed here")
}

/// Errors that the framework answers in plain text, in the contract's form.
async fn shape_errors(response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let code = match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "INVALID_PARAMETER_VALUE",
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
        StatusCode::FORBIDDEN => "PERMISSION_DENIED",
        status if status.is_server_error() => "INTERNAL_ERROR",
        _ => "BAD_REQUEST",
    };
    let bytes = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => axum::body::Bytes::new(),
    };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_TEXT)]).into_owned();
    let text = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the request body is longer than {LONGEST_BODY} bytes"),
        _ if text.is_empty() => status.canonical_reason().unwrap_or("error").to_owned(),
        _ => text,
    };
    let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
    ApiError::new(status, code, text).into_response()
}

/// A header's value out of text that is known to be one.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
