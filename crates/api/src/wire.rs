//! How times, durations and bodies are written on the wire.

use axum::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::ApiError;

/// Decimal seconds with an `s`: `60s`, `1.500s`.
pub(crate) fn parse_duration(field: &str, text: &str) -> Result<SignedDuration, ApiError> {
    let wrong =
        || ApiError::invalid(format!("Field '{field}' must be seconds such as \"3600s\", got '{text}'."));
    let digits = text.strip_suffix('s').ok_or_else(wrong)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let negative = whole.starts_with('-');
    if !is_number(whole.trim_start_matches('-'))
        || fraction.len() > 9
        || !(fraction.is_empty() || is_number(fraction))
    {
        return Err(wrong());
    }
    let seconds: i64 = whole.parse().map_err(|_| wrong())?;
    let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    Ok(SignedDuration::new(seconds, if negative { -nanos } else { nanos }))
}

/// The same, the other way round.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds.fract() == 0.0 { format!("{seconds:.0}s") } else { format!("{seconds:.3}s") }
}

/// RFC 3339, any offset.
pub(crate) fn parse_time(field: &str, text: &str) -> Result<Timestamp, ApiError> {
    text.parse().map_err(|_| {
        ApiError::invalid(format!(
            "Field '{field}' must be a time such as \"2030-01-31T12:00:00Z\", got '{text}'."
        ))
    })
}

/// A number that JSON shows without a fraction where it has none.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The body of a request. None at all means `{}`; keys we do not know are ignored.
pub(crate) fn parse_body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(text)
        .map_err(|error| ApiError::invalid(format!("the request body is not valid: {error}")))
}

/// The last segment of a resource name that must begin with `prefix`, e.g. the branch of
/// `projects/p/branches/b`.
pub(crate) fn parse_name(field: &str, prefix: &str, text: &str) -> Result<String, ApiError> {
    match text.strip_prefix(prefix) {
        Some(id) if !id.is_empty() && !id.contains('/') => Ok(id.to_owned()),
        _ => Err(ApiError::invalid(format!(
            "Field '{field}' must be a name such as '{prefix}ID', got '{text}'."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let parse = |text| parse_duration("ttl", text).ok();
        assert_eq!(parse("3600s"), Some(SignedDuration::from_secs(3600)));
        assert_eq!(parse("1.500s"), Some(SignedDuration::from_millis(1500)));
        assert_eq!(parse("-1.5s"), Some(SignedDuration::from_millis(-1500)));
        for wrong in
            ["", "s", "1", "1h", "1.s.", "+1s", "1e3s", "--1s", "99999999999999999999s", "1.0000000001s"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(duration(60.0), "60s");
        assert_eq!(duration(1.5), "1.500s");
    }

    #[test]
    fn names() {
        let parse = |text| parse_name("spec.source_branch", "projects/p/branches/", text).ok();
        assert_eq!(parse("projects/p/branches/b").as_deref(), Some("b"));
        for wrong in ["b", "projects/q/branches/b", "projects/p/branches/", "projects/p/branches/b/c"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
