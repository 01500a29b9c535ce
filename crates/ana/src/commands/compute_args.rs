//! Size and suspension of computes, as they are written on the command line.

use serde_json::{Value, json};

use crate::duration;

/// A size, or a range of sizes, in compute units: `2`, `0.5-4`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cu {
    min: f64,
    max: f64,
}

/// Idle time until suspension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspend {
    /// After so many seconds.
    After(u64),
    /// Never.
    Never,
}

/// How computes are to be sized and suspended.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct ComputeArgs {
    /// Size in compute units, or a range of sizes, e.g. 2 or 0.5-4
    #[arg(long, value_name = "CU", value_parser = parse_cu)]
    pub cu: Option<Cu>,
    /// Suspend after this idle time, e.g. 5m, or never
    #[arg(long, value_name = "DURATION|never", value_parser = parse_suspend)]
    pub suspend: Option<Suspend>,
}

impl ComputeArgs {
    /// Adds what was given to a spec and its mask; `prefix` is where the fields lie in the resource, and
    /// `suspension` the mask's name of the pair.
    pub fn add_to(self, spec: &mut Value, mask: &mut Vec<String>, prefix: &str, suspension: &str) {
        if let Some(cu) = self.cu {
            spec["autoscaling_limit_min_cu"] = json!(cu.min);
            spec["autoscaling_limit_max_cu"] = json!(cu.max);
            mask.push(format!("{prefix}.autoscaling_limit_min_cu"));
            mask.push(format!("{prefix}.autoscaling_limit_max_cu"));
        }
        match self.suspend {
            Some(Suspend::After(seconds)) => spec["suspend_timeout_duration"] = json!(format!("{seconds}s")),
            Some(Suspend::Never) => spec["no_suspension"] = json!(true),
            None => return,
        }
        mask.push(suspension.to_owned());
    }
}

fn parse_cu(text: &str) -> Result<Cu, String> {
    let wrong = || format!("\"{text}\" is no size; write for example 2 or 0.5-4");
    let number = |part: &str| part.parse::<f64>().ok().filter(|cu| cu.is_finite() && *cu > 0.0);
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let (min, max) = (number(min).ok_or_else(wrong)?, number(max).ok_or_else(wrong)?);
    if min > max { Err(wrong()) } else { Ok(Cu { min, max }) }
}

fn parse_suspend(text: &str) -> Result<Suspend, String> {
    if text == "never" { Ok(Suspend::Never) } else { duration::parse(text).map(Suspend::After) }
}

/// `NAME=VALUE`.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("\"{text}\" is not of the form NAME=VALUE")),
    }
}

/// A size, or a range of sizes, for people.
pub fn show_cu(min: f64, max: f64) -> String {
    if min == max { format!("{min} CU") } else { format!("{min}-{max} CU") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_cu("2"), Ok(Cu { min: 2.0, max: 2.0 }));
        assert_eq!(parse_cu("0.5-4"), Ok(Cu { min: 0.5, max: 4.0 }));
        for wrong in ["", "-", "4-2", "a", "1-", "-1", "0", "inf", "NaN", "1-2-3"] {
            assert!(parse_cu(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_cu(0.5, 4.0), "0.5-4 CU");
        assert_eq!(show_cu(2.0, 2.0), "2 CU");
    }

    #[test]
    fn only_what_was_given_is_masked() {
        let masked = |args: ComputeArgs| {
            let (mut spec, mut mask) = (json!({}), Vec::new());
            args.add_to(&mut spec, &mut mask, "spec", "spec.suspension");
            (spec, mask.join(","))
        };
        assert_eq!(masked(ComputeArgs::default()), (json!({}), String::new()));
        let args = ComputeArgs { cu: None, suspend: parse_suspend("never").ok() };
        assert_eq!(masked(args), (json!({"no_suspension": true}), "spec.suspension".to_owned()));
        let args = ComputeArgs { cu: parse_cu("1-2").ok(), suspend: parse_suspend("5m").ok() };
        let (spec, mask) = masked(args);
        assert_eq!(
            spec,
            json!({
                "autoscaling_limit_min_cu": 1.0, "autoscaling_limit_max_cu": 2.0, "suspend_timeout_duration": "300s",
            })
        );
        assert_eq!(mask.split(',').count(), 3);
    }
}
