//! Errors as the contract has them: one table from refusals to status and code.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use control::clock::{SystemRandom, new_uuid};
use control::{Error, Refusal};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Vec<Value>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), details: Vec::new() }
    }

    /// 400: a value in the request is wrong.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", message)
    }

    /// 401: nothing was shown that says who calls.
    pub fn unauthenticated() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "a bearer token is needed here")
    }

    /// 404 for a path that names nothing we know.
    pub fn unroutable() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "resource not found")
    }

    /// 501 for a part of the contract that this version does not have.
    pub fn not_implemented(what: &str) -> ApiError {
        ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            "NOT_IMPLEMENTED",
            format!("{what} are not supported by this version"),
        )
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let trace = new_uuid(&SystemRandom).unwrap_or_default();
        let Error::Refused { refusal, message, hint } = error else {
            tracing::error!(%error, trace, "a call failed");
            let code = if error.is_damage() { "DATA_LOSS" } else { "INTERNAL_ERROR" };
            let mut answer = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, error.to_string());
            answer.details.push(request_info(&trace));
            return answer;
        };
        let (status, code) = match refusal {
            Refusal::InvalidParameter => (StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE"),
            Refusal::BadRequest | Refusal::ManagedByParent => (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
            Refusal::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Refusal::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
            Refusal::Busy => (StatusCode::CONFLICT, "RESOURCE_CONFLICT"),
            Refusal::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED"),
            Refusal::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
            Refusal::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
            Refusal::InvalidState => (StatusCode::BAD_REQUEST, "INVALID_STATE"),
            Refusal::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "TEMPORARILY_UNAVAILABLE"),
        };
        tracing::debug!(code, text = message, trace, "a call was refused");
        let message = match refusal {
            Refusal::NotFound => format!("{message} [TraceId: {trace}]"),
            _ => message,
        };
        let mut details = Vec::new();
        if refusal == Refusal::ManagedByParent {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "RESOURCE_CONFLICT",
                "domain": "databricks.com",
                "metadata": {"declarative_context": "MANAGED_BY_PARENT"},
            }));
        }
        if let Some(hint) = hint {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [{"description": hint, "url": ""}],
            }));
        }
        details.push(request_info(&trace));
        ApiError { status, code, message, details }
    }
}

fn request_info(trace: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/google.rpc.RequestInfo",
        "request_id": trace,
        "serving_data": "",
    })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error_code": self.code, "message": lasting(&self.message)});
        if !self.details.is_empty() {
            body["details"] = Value::Array(self.details);
        }
        (self.status, Json(body)).into_response()
    }
}

/// Phrases that make clients send a call again for minutes, and what stands in their place.
const CALLS_FOR_RETRY: &[(&str, &str)] = &[
    ("Timed out after ", "gave up after "),
    ("timed out after ", "gave up after "),
    ("deadline exceeded", "time is up"),
    ("Unexpected error", "Error"),
    ("Please try again later or try a faster operation.", ""),
    ("RPC token bucket limit has been exceeded", "too many calls"),
    ("does not have any associated worker environments", "has no workers"),
    ("There is no worker environment with id", "no worker with id"),
    ("Unknown worker environment", "unknown worker"),
    ("UnknownWorkerEnvironmentException", "unknown worker"),
    ("ClusterNotReadyException", "not ready"),
];

/// A text that tells no client to try again: what we answer is final, and what is worth a retry is
/// told by its status.
pub(crate) fn lasting(message: &str) -> String {
    CALLS_FOR_RETRY.iter().fold(message.to_owned(), |text, (phrase, instead)| text.replace(phrase, instead))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response) -> Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn nothing_permanent_calls_for_a_retry() {
        for text in [
            "Timed out after 60 s",
            "context deadline exceeded",
            "Unexpected error: x",
            "Please try again later or try a faster operation.",
            "RPC token bucket limit has been exceeded",
        ] {
            let shown = body(ApiError::invalid(text).into_response()).await;
            for (phrase, _) in CALLS_FOR_RETRY {
                assert!(!shown["message"].as_str().unwrap().contains(phrase), "{text}");
            }
        }
        let refusals = [
            Refusal::InvalidParameter,
            Refusal::BadRequest,
            Refusal::ManagedByParent,
            Refusal::NotFound,
            Refusal::AlreadyExists,
            Refusal::Busy,
            Refusal::NotImplemented,
        ];
        for refusal in refusals {
            let status = ApiError::from(Error::refused(refusal, "x")).status;
            assert!(status != 429 && status != 503, "{refusal:?} would hang clients for minutes");
        }
    }
}
