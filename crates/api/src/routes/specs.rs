//! Parts that several specs share.

use std::collections::BTreeMap;

use control::app::{Change, UpdateCompute};
use serde::Deserialize;

use crate::error::ApiError;
use crate::mask::Mask;
use crate::wire::parse_duration;

/// Size and suspension.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ComputeSpec {
    pub autoscaling_limit_min_cu: Option<f64>,
    pub autoscaling_limit_max_cu: Option<f64>,
    pub suspend_timeout_duration: Option<String>,
    pub no_suspension: Option<bool>,
}

impl ComputeSpec {
    /// The one of two ways to say when a compute is suspended: seconds, or never. None where none is
    /// given.
    fn suspension(&self) -> Result<Option<Option<f64>>, ApiError> {
        match (&self.suspend_timeout_duration, self.no_suspension) {
            (Some(_), Some(_)) => Err(ApiError::invalid(
                "only one of 'suspend_timeout_duration' and 'no_suspension' can be set",
            )),
            (Some(text), None) => {
                Ok(Some(Some(parse_duration("suspend_timeout_duration", text)?.as_secs_f64())))
            }
            (None, Some(true)) => Ok(Some(None)),
            (None, Some(false)) => Err(ApiError::invalid("Field 'no_suspension' can only be true.")),
            (None, None) => Ok(None),
        }
    }

    /// What a new thing is to have.
    pub fn wanted(&self, pg_settings: Option<BTreeMap<String, String>>) -> Result<UpdateCompute, ApiError> {
        Ok(UpdateCompute {
            min_cu: self.autoscaling_limit_min_cu.into(),
            max_cu: self.autoscaling_limit_max_cu.into(),
            suspend_seconds: self.suspension()?.into(),
            pg_settings: pg_settings.into(),
        })
    }

    /// What the mask asks of the fields below `prefix`; `suspension` is the name of the pair, beside
    /// those of its members.
    pub fn masked(
        &self,
        mask: &Mask<'_>,
        prefix: &str,
        suspension: &[&str],
        pg_settings: Change<BTreeMap<String, String>>,
    ) -> Result<UpdateCompute, ApiError> {
        let at = |field: &str| format!("{prefix}.{field}");
        let members = [at("suspend_timeout_duration"), at("no_suspension")];
        let pair: Vec<&str> = suspension.iter().copied().chain(members.iter().map(String::as_str)).collect();
        Ok(UpdateCompute {
            min_cu: mask.pick(&[&at("autoscaling_limit_min_cu")], self.autoscaling_limit_min_cu),
            max_cu: mask.pick(&[&at("autoscaling_limit_max_cu")], self.autoscaling_limit_max_cu),
            suspend_seconds: mask.pick(&pair, self.suspension()?),
            pg_settings,
        })
    }
}

/// All of it as in a new thing.
pub(super) fn reset_compute() -> UpdateCompute {
    UpdateCompute {
        min_cu: Change::Reset,
        max_cu: Change::Reset,
        suspend_seconds: Change::Reset,
        pg_settings: Change::Reset,
    }
}

/// How many computes an endpoint has.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct GroupSpec {
    pub min: Option<i64>,
    pub max: Option<i64>,
    pub enable_readable_secondaries: Option<bool>,
}

impl GroupSpec {
    /// # Errors
    /// The limits differ or are below one; or there would be more computes than one.
    pub fn check(&self) -> Result<(), ApiError> {
        let (min, max) = (self.min.or(self.max).unwrap_or(1), self.max.or(self.min).unwrap_or(1));
        if min < 1 || min != max {
            return Err(ApiError::invalid(format!(
                "Fields 'group.min' and 'group.max' must be the same number, at least 1, got {min} and {max}."
            )));
        }
        if min > 1 { Err(ApiError::not_implemented("groups of more than one compute")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wanted(spec: Value) -> Option<UpdateCompute> {
        serde_json::from_value::<ComputeSpec>(spec).unwrap().wanted(None).ok()
    }

    #[test]
    fn suspension_is_one_of_two() {
        let suspend = |spec| wanted(spec).map(|update| update.suspend_seconds);
        assert_eq!(suspend(json!({})), Some(Change::Keep));
        assert_eq!(suspend(json!({"suspend_timeout_duration": "60s"})), Some(Change::Set(Some(60.0))));
        assert_eq!(suspend(json!({"no_suspension": true})), Some(Change::Set(None)));
        assert_eq!(suspend(json!({"no_suspension": false})), None);
        assert_eq!(suspend(json!({"no_suspension": true, "suspend_timeout_duration": "60s"})), None);
        assert_eq!(suspend(json!({"suspend_timeout_duration": "a minute"})), None);
        assert_eq!(
            suspend(json!({"suspend_timeout_duration": null, "no_suspension": null})),
            Some(Change::Keep)
        );
    }

    #[test]
    fn groups_have_one_compute() {
        let check = |group: Value| {
            let group: GroupSpec = serde_json::from_value(group).unwrap();
            group.check().is_ok()
        };
        assert!(check(json!({})) && check(json!({"min": 1, "max": 1})) && check(json!({"max": 1})));
        for wrong in [json!({"min": 0, "max": 0}), json!({"min": 1, "max": 2}), json!({"min": 2, "max": 2})] {
            assert!(!check(wrong.clone()), "{wrong}");
        }
    }
}
