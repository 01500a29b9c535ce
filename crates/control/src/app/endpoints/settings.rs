//! Size, suspension and PostgreSQL settings of computes: what may be asked for.

use std::collections::BTreeMap;

use compute::user_settings;

use crate::app::{Change, Control};
use crate::error::Error;
use crate::model::ComputeSettings;

/// Smallest and largest size in compute units, and how far apart the two limits of one compute may be.
const CU: std::ops::RangeInclusive<f64> = 0.5..=64.0;
const CU_SPREAD: f64 = 16.0;

/// Shortest and longest idle time until suspension, seconds.
const SUSPEND: std::ops::RangeInclusive<f64> = 60.0..=604_800.0;

/// Changes to compute settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateCompute {
    /// Smallest size.
    pub min_cu: Change<f64>,
    /// Largest size.
    pub max_cu: Change<f64>,
    /// Idle time until suspension in seconds; `Set(None)` means never.
    pub suspend_seconds: Change<Option<f64>>,
    /// PostgreSQL settings; taken as a whole.
    pub pg_settings: Change<BTreeMap<String, String>>,
}

impl UpdateCompute {
    /// The settings of something new, which begins with `usual`. One of the two limits given alone
    /// pulls the other along.
    ///
    /// # Errors
    /// A value is out of range.
    pub fn begin(self, usual: &ComputeSettings) -> Result<ComputeSettings, Error> {
        let (min_cu, max_cu) = match (&self.min_cu, &self.max_cu) {
            (Change::Set(min), Change::Set(max)) => (*min, *max),
            (Change::Set(min), _) => (*min, usual.max_cu.max(*min)),
            (_, Change::Set(max)) => (usual.min_cu.min(*max), *max),
            _ => (usual.min_cu, usual.max_cu),
        };
        let limits = UpdateCompute { min_cu: Change::Set(min_cu), max_cu: Change::Set(max_cu), ..self };
        limits.change(usual.clone(), usual)
    }

    /// The settings of something that has `current` ones; what is reset gets those of `usual`.
    ///
    /// # Errors
    /// A value is out of range.
    pub fn change(self, current: ComputeSettings, usual: &ComputeSettings) -> Result<ComputeSettings, Error> {
        let settings = ComputeSettings {
            min_cu: self.min_cu.applied(current.min_cu, usual.min_cu),
            max_cu: self.max_cu.applied(current.max_cu, usual.max_cu),
            suspend_seconds: self.suspend_seconds.applied(current.suspend_seconds, usual.suspend_seconds),
            pg_settings: self.pg_settings.applied(current.pg_settings, usual.pg_settings.clone()),
        };
        check(&settings)?;
        Ok(settings)
    }
}

fn check(settings: &ComputeSettings) -> Result<(), Error> {
    let (min, max) = (settings.min_cu, settings.max_cu);
    if !(CU.contains(&min) && CU.contains(&max) && min <= max) {
        return Err(Error::invalid(format!(
            "autoscaling limits must be between 0.5 and 64 CU, the smaller one first, got {min} and {max}"
        )));
    }
    if max - min > CU_SPREAD {
        return Err(Error::invalid(format!(
            "autoscaling limits must not be more than 16 CU apart, got {min} and {max}"
        )));
    }
    if settings.suspend_seconds.is_some_and(|seconds| !SUSPEND.contains(&seconds)) {
        return Err(Error::invalid("Field 'suspend_timeout_duration' must be between 60s and 604800s."));
    }
    Ok(())
}

impl Control {
    /// Lets the server itself judge settings before they are written down: one that it does not
    /// understand would keep the compute from starting. May block.
    pub(crate) fn check_pg_settings(&self, change: &Change<BTreeMap<String, String>>) -> Result<(), Error> {
        let Change::Set(settings) = change else { return Ok(()) };
        let settings: Vec<(String, String)> =
            settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        user_settings::check(&self.server, &settings, &self.settings.home).map_err(|error| match error {
            user_settings::Error::Wrong(text) => Error::invalid(format!("Field 'pg_settings': {text}")),
            user_settings::Error::Io(source) => Error::io("cannot ask PostgreSQL about its settings", source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(min: Option<f64>, max: Option<f64>) -> Option<(f64, f64)> {
        let update = UpdateCompute { min_cu: min.into(), max_cu: max.into(), ..UpdateCompute::default() };
        let settings = update.begin(&ComputeSettings::default()).ok()?;
        Some((settings.min_cu, settings.max_cu))
    }

    #[test]
    fn limits_of_size() {
        assert_eq!(begin(None, None), Some((1.0, 1.0)));
        assert_eq!(begin(Some(0.5), Some(4.0)), Some((0.5, 4.0)));
        assert_eq!(begin(Some(2.0), None), Some((2.0, 2.0)));
        assert_eq!(begin(None, Some(0.5)), Some((0.5, 0.5)));
        assert_eq!(begin(Some(48.0), Some(64.0)), Some((48.0, 64.0)));
        assert_eq!(begin(Some(0.1), None), None);
        assert_eq!(begin(Some(1.0), Some(17.5)), None);
        assert_eq!(begin(Some(60.0), Some(65.0)), None);
        assert_eq!(begin(Some(4.0), Some(2.0)), None);
        assert_eq!(begin(Some(f64::NAN), None), None);
    }

    #[test]
    fn an_update_touches_only_what_it_names() {
        let current =
            ComputeSettings { min_cu: 2.0, max_cu: 4.0, suspend_seconds: None, ..ComputeSettings::default() };
        let usual = ComputeSettings::default();
        let limit = |max| UpdateCompute { max_cu: Change::Set(max), ..UpdateCompute::default() };
        let changed = limit(8.0).change(current.clone(), &usual).unwrap();
        assert_eq!((changed.min_cu, changed.max_cu, changed.suspend_seconds), (2.0, 8.0, None));
        assert!(limit(1.0).change(current.clone(), &usual).is_err(), "the other limit does not move along");
        let reset = UpdateCompute { suspend_seconds: Change::Reset, ..UpdateCompute::default() };
        assert_eq!(reset.change(current, &usual).unwrap().suspend_seconds, usual.suspend_seconds);
    }

    #[test]
    fn limits_of_suspension() {
        let with = |seconds| {
            let update = UpdateCompute { suspend_seconds: Change::Set(seconds), ..UpdateCompute::default() };
            update.begin(&ComputeSettings::default()).map(|settings| settings.suspend_seconds).ok()
        };
        assert_eq!(with(None), Some(None));
        assert_eq!(with(Some(60.0)), Some(Some(60.0)));
        assert_eq!(with(Some(604_800.0)), Some(Some(604_800.0)));
        assert_eq!(with(Some(59.0)), None);
        assert_eq!(with(Some(604_801.0)), None);
    }
}
