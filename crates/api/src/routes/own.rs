//! What the contract lacks: the daemon itself, space, connecting, waking, exporting.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use control::app::{AuditFilter, Caller, ComputeLine, LogFrom};
use control::model::{AuditEntry, Principal};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::OWN;
use super::table::{Routes, call};
use crate::error::ApiError;
use crate::local::Local;
use crate::resources::{object, time};
use crate::wire::{number, parse_body, parse_time};

pub(super) fn routes() -> Routes {
    let branch = format!("{OWN}/projects/{{project}}/branches/{{branch}}");
    let health = async || Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
    let document = async || Json(crate::openapi::document());
    Routes::new()
        .get(call("health", "/health", "Whether the daemon answers").answers("Health"), health)
        .get(call("openapi", format!("{OWN}/openapi.json"), "This document").answers("Document"), document)
        .get(
            call("metrics", "/metrics", "Figures for Prometheus")
                .answers("Metrics")
                .media("text/plain; version=0.0.4; charset=utf-8"),
            metrics,
        )
        .get(call("status", format!("{OWN}/status"), "What runs").answers("Status"), status)
        .post(
            call("shutdown", format!("{OWN}/shutdown"), "End the daemon, after the answer")
                .body("ShutdownRequest")
                .answers("Empty"),
            shutdown,
        )
        .get(
            call("audit", format!("{OWN}/audit"), "The last lines of the audit log, newest first")
                .query("limit", "integer", "How many; 100 by default")
                .query("since", "string", "Only lines from this time on")
                .query("principal", "string", "Only what this principal did")
                .query("action", "string", "Only this action, e.g. branch.create, or all of a kind: branch")
                .answers("AuditLog"),
            audit,
        )
        .get(call("usage", format!("{branch}/usage"), "Space of a branch").answers("Usage"), usage)
        .get(
            call("log", format!("{branch}/log"), "What a branch's server wrote into its log")
                .query("lines", "integer", "The last so many lines; 100 by default")
                .query("offset", "integer", "What came after an earlier answer; instead of `lines`")
                .answers("Log"),
            log,
        )
        .get(
            call("connection", format!("{branch}/connection"), "How the caller connects to a branch")
                .answers("Connection"),
            connection,
        )
        .post(
            call("wake", format!("{branch}/wake"), "Start a branch's compute and wait until it answers")
                .answers("Wake"),
            wake,
        )
        .post(
            call("export", format!("{branch}/export"), "Write a branch as a plain data directory")
                .body("ExportRequest")
                .answers("ExportLine")
                .media("application/x-ndjson"),
            export,
        )
}

async fn status(State(local): State<Local>) -> Result<Json<Value>, ApiError> {
    let status = local.control.status().await?;
    Ok(Json(json!({
        "version": status.version,
        "pid": status.pid,
        "home": status.home,
        "owner": status.owner,
        "postgres": {"version": status.postgres, "dir": status.postgres_dir},
        "http": local.http.map(|address| address.to_string()),
        "http_scheme": local.scheme(),
        "postgres_address": local.front.shared.map(|address| address.to_string()),
        "projects": status.projects,
        "computes": status.computes.iter().map(compute).collect::<Vec<_>>(),
        "host": {
            "computes": status.room.computes,
            "computes_waiting": status.room.waiting,
            "memory_reckoned_bytes": status.room.used,
            "memory_limit_bytes": status.room.memory,
            "sizes": status.sizes.as_str(),
            "sizes_enforced": status.sizes.is_enforced(),
            "isolation": if status.confined { "landlock" } else { "none" },
        },
        "warnings": status.warnings,
    })))
}

fn compute(line: &ComputeLine) -> Value {
    object([
        ("project", Some(json!(line.project))),
        ("branch", Some(json!(line.branch))),
        ("parent", line.parent.clone().map(Value::from)),
        ("state", Some(json!(line.state))),
        ("disabled", Some(json!(line.disabled))),
        ("pid", line.pid.map(Value::from)),
        ("host", line.address.map(|address| json!(address.host.to_string()))),
        ("port", line.address.map(|address| json!(address.port))),
        ("last_active_time", line.last_active.map(time)),
        ("connections", Some(json!(line.connections))),
        ("connections_waiting", Some(json!(line.waiting))),
        ("cu", line.cu.map(number)),
        ("min_cu", Some(number(line.cu_range.0))),
        ("max_cu", Some(number(line.cu_range.1))),
        ("memory_bytes", line.memory.map(Value::from)),
        ("idle_seconds", line.idle.map(|idle| json!(idle.as_secs()))),
        ("suspends_in_seconds", line.suspends_in.map(|left| json!(left.as_secs()))),
        ("kept_awake_by", line.kept_by.map(Value::from)),
    ])
}

#[derive(Deserialize)]
struct ShutdownBody {
    #[serde(default)]
    keep_computes: bool,
}

/// Answers at once; the daemon ends after the answer is out.
async fn shutdown(State(local): State<Local>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let body: ShutdownBody = parse_body(&body)?;
    local.shutdown.send_replace(Some(body.keep_computes));
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct AuditQuery {
    #[serde(default = "usual_limit")]
    limit: u32,
    since: Option<String>,
    principal: Option<String>,
    action: Option<String>,
}

fn usual_limit() -> u32 {
    100
}

async fn audit(State(local): State<Local>, Query(query): Query<AuditQuery>) -> Result<Json<Value>, ApiError> {
    let since = query.since.map(|text| parse_time("since", &text)).transpose()?;
    let filter = AuditFilter { since, principal: query.principal, action: query.action };
    let entries = local.control.audit_log(filter, query.limit).await?;
    Ok(Json(json!({"entries": entries.iter().map(audit_entry).collect::<Vec<_>>()})))
}

fn audit_entry(entry: &AuditEntry) -> Value {
    json!({
        "time": time(entry.time),
        "principal": entry.principal.name,
        "principal_kind": entry.principal.kind.as_str(),
        "action": entry.action,
        "target": entry.target,
        "result": entry.result,
        "detail": entry.detail,
    })
}

/// Figures for Prometheus.
async fn metrics(State(local): State<Local>) -> Result<Response, ApiError> {
    let text = local.control.metrics_text().await?;
    Ok(([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

#[derive(Deserialize)]
struct LogQuery {
    lines: Option<usize>,
    offset: Option<u64>,
}

async fn log(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Json<Value>, ApiError> {
    let from = match (query.lines, query.offset) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("only one of 'lines' and 'offset' can be set")),
        (lines, None) => LogFrom::Last(lines.unwrap_or(100)),
        (None, Some(offset)) => LogFrom::Offset(offset),
    };
    let piece = local.control.branch_log(project, branch, from).await?;
    Ok(Json(json!({"text": piece.text, "next_offset": piece.next})))
}

async fn usage(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let usage = local.control.usage(project, branch).await?;
    Ok(Json(json!({
        "own_bytes": usage.own_bytes,
        "shared_bytes": usage.shared_bytes,
        "logical_bytes": usage.logical_bytes,
    })))
}

async fn connection(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let info = local.control.connection_info(&caller, project, branch).await?;
    Ok(Json(object([
        ("host", Some(json!(info.place.host))),
        ("port", Some(json!(info.place.port))),
        ("role", Some(json!(info.role))),
        ("database", Some(json!(info.database))),
        ("endpoint", Some(json!(info.endpoint))),
        ("ca_file", local.front.authority.map(|authority| json!(authority.file))),
    ])))
}

async fn wake(
    State(local): State<Local>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let wake = local.control.wake(project, branch).await?;
    Ok(Json(json!({"duration_ms": wake.took.as_secs_f64() * 1000.0})))
}

#[derive(Deserialize)]
struct ExportBody {
    dir: PathBuf,
}

/// Answers with one JSON object a line: `{"done", "total"}` while it goes on, then
/// `{"finished": true}` or `{"error": …}`.
async fn export(
    State(local): State<Local>,
    Extension(principal): Extension<Principal>,
    Path((project, branch)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body: ExportBody = parse_body(&body)?;
    if !body.dir.is_absolute() {
        return Err(ApiError::invalid("Field 'dir' must be an absolute path."));
    }
    // What cannot begin is an ordinary error; only then the answer turns into a stream.
    local.control.branch(project.clone(), branch.clone()).await?;
    let (lines, reader) = mpsc::channel(16);
    let progress = lines.clone();
    tokio::spawn(async move {
        // A reader that is slow misses steps, and one that is gone does not stop the export.
        let report = move |done: u64, total: u64| {
            let _ = progress.try_send(json!({"done": done, "total": total}));
        };
        let outcome = local.control.export(principal, project, branch, body.dir, report).await;
        let last = match outcome {
            Ok(()) => json!({"finished": true}),
            Err(error) => json!({"error": error.to_string()}),
        };
        let _ = lines.send(last).await;
    });
    Ok(([("content-type", "application/x-ndjson")], Body::new(Lines { reader })).into_response())
}

/// A body of JSON lines as they come.
pub(super) struct Lines {
    pub(super) reader: mpsc::Receiver<Value>,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.reader.poll_recv(context).map(|line| Some(Ok(Frame::data(Bytes::from(format!("{}\n", line?))))))
    }
}
