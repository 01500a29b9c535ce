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

    /// 404 for a path that names nothing we know.
    pub fn unroutable() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "resource not found")
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let Error::Refused { refusal, message, hint } = error else {
            tracing::error!(%error, "a call failed");
            return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", error.to_string());
        };
        let (status, code) = match refusal {
            Refusal::InvalidParameter => (StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE"),
            Refusal::BadRequest | Refusal::ManagedByParent => (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
            Refusal::PermissionDenied => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
            Refusal::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Refusal::AlreadyExists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
            Refusal::Busy => (StatusCode::CONFLICT, "RESOURCE_CONFLICT"),
            Refusal::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED"),
        };
        let trace = new_uuid(&SystemRandom).unwrap_or_default();
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
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.RequestInfo",
                "request_id": trace,
                "serving_data": "",
            }));
        }
        if let Some(hint) = hint {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [{"description": hint, "url": ""}],
            }));
        }
        ApiError { status, code, message, details }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error_code": self.code, "message": self.message});
        if !self.details.is_empty() {
            body["details"] = Value::Array(self.details);
        }
        (self.status, Json(body)).into_response()
    }
}
