//! What may stand in a project's settings.

use crate::error::Error;
use crate::model::Tag;

/// How far back the past is kept where nobody says otherwise, seconds.
pub(super) const USUAL_HISTORY: f64 = 604_800.0;

pub(super) fn check_display_name(name: &str) -> Result<(), Error> {
    if (1..=256).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(Error::invalid("Field 'display_name' must have 1 to 256 characters."))
}

pub(super) fn check_history(seconds: f64) -> Result<(), Error> {
    if (172_800.0..=3_024_000.0).contains(&seconds) {
        return Ok(());
    }
    Err(Error::invalid("Field 'history_retention_duration' must be between 172800s and 3024000s."))
}

pub(super) fn check_tags(tags: &[Tag]) -> Result<(), Error> {
    for (place, tag) in tags.iter().enumerate() {
        if tag.key.is_empty() {
            return Err(Error::invalid("Field 'custom_tags' has a tag without a key."));
        }
        if tags[..place].iter().any(|other| other.key == tag.key) {
            return Err(Error::invalid(format!("Field 'custom_tags' has the key '{}' twice.", tag.key)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert!(check_display_name("ä").is_ok() && check_display_name(&"ä".repeat(256)).is_ok());
        assert!(check_display_name("").is_err() && check_display_name(&"a".repeat(257)).is_err());
        assert!(check_history(172_800.0).is_ok() && check_history(3_024_000.0).is_ok());
        assert!(check_history(172_799.0).is_err() && check_history(3_024_001.0).is_err());
        assert!(check_history(f64::NAN).is_err());
        let tag = |key: &str| Tag { key: key.into(), value: String::new() };
        assert!(check_tags(&[tag("a"), tag("b")]).is_ok());
        assert!(check_tags(&[tag("")]).is_err() && check_tags(&[tag("a"), tag("a")]).is_err());
    }
}
