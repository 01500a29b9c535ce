//! Rules for identifiers, and resource names.

use crate::error::Error;

/// Longest identifier of a project, branch or endpoint.
pub const MAX_ID_LENGTH: usize = 63;

/// Checks an identifier given for `field` (`project_id`, `branch_id`, `endpoint_id`).
///
/// # Errors
/// It is missing, too long, or has other characters than lowercase letters, digits and hyphens.
pub fn check_id(field: &str, id: &str) -> Result<(), Error> {
    if id.is_empty() {
        return Err(Error::invalid(format!(
            "Field '{field}' is required, expected non-default value (not \"\")!"
        )));
    }
    if is_id(id) {
        return Ok(());
    }
    Err(Error::invalid(format!("Field {field} must match pattern ^[a-z][a-z0-9-]{{0,62}}$, got '{id}'.")))
}

/// Whether the text is 1 to 63 lowercase letters, digits and hyphens, beginning with a letter.
pub fn is_id(id: &str) -> bool {
    id.len() <= MAX_ID_LENGTH
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The identifier that stands for a name as people write it, e.g. that of a git branch:
/// `feature/Loyalty_Tier` is `feature-loyalty-tier`. A name that is too long is cut and gets a
/// short hash of the whole, so that two long names stay two identifiers.
pub fn normalise(name: &str) -> String {
    let mut id: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    if !id.starts_with(|first: char| first.is_ascii_lowercase()) {
        id = format!("b-{}", id.trim_start_matches('-'));
    }
    let id = id.trim_end_matches('-');
    if id.len() <= MAX_ID_LENGTH {
        return id.to_owned();
    }
    let tail = format!("-{:08x}", short_hash(name.as_bytes()));
    format!("{}{tail}", &id[..MAX_ID_LENGTH - tail.len()])
}

/// FNV-1a: stable across versions and machines, which the standard hasher does not promise.
pub fn short_hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        for good in ["a", "production", "ci-pr-42", "a-", &"a".repeat(63)] {
            assert!(check_id("branch_id", good).is_ok(), "{good}");
        }
        for bad in ["", "A", "1a", "-a", "a_b", "a/b", "ä", &"a".repeat(64)] {
            assert!(check_id("branch_id", bad).is_err(), "{bad}");
        }
        let text = check_id("project_id", "").unwrap_err().to_string();
        assert_eq!(text, "Field 'project_id' is required, expected non-default value (not \"\")!");
    }

    #[test]
    fn names_become_ids() {
        assert_eq!(normalise("feature/Loyalty_Tier"), "feature-loyalty-tier");
        assert_eq!(normalise("dev"), "dev");
        assert_eq!(normalise("42-fix"), "b-42-fix");
        assert_eq!(normalise("-x-"), "b-x");
        assert_eq!(normalise("größe"), "gr--e");
        assert!(is_id(&normalise("日本")));
        assert!(is_id(&normalise("")));
    }

    #[test]
    fn long_names_stay_apart() {
        let one = normalise(&format!("{}one", "x".repeat(80)));
        let two = normalise(&format!("{}two", "x".repeat(80)));
        assert_eq!(one.len(), MAX_ID_LENGTH);
        assert!(is_id(&one) && is_id(&two));
        assert_ne!(one, two);
    }
}
