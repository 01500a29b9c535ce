//! Names and identifiers of roles and databases, and writing them into statements.

use crate::error::Error;
use crate::names::is_id;

/// PostgreSQL cuts longer names, and then means somebody else's.
const MAX_NAME: usize = 63;

/// Longest identifier of an identity's role.
const MAX_WIDE_ID: usize = 128;

/// Checks a name that a role or database shall have in PostgreSQL.
///
/// # Errors
/// It is missing, too long, or has characters that no tool can show.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid(format!(
            "Field '{field}' is required, expected non-default value (not \"\")!"
        )));
    }
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "Field '{field}' must have 1 to {MAX_NAME} bytes and no control characters."
        )));
    }
    Ok(())
}

/// Checks an identifier given for a role. That of an identity may also be written as its name is.
///
/// # Errors
/// It does not match.
pub(crate) fn check_role_id(id: &str, is_identity: bool) -> Result<(), Error> {
    if (is_id(id) && id.len() >= 4) || (is_identity && is_segment(id)) {
        return Ok(());
    }
    Err(Error::invalid(
        "Field 'role_id' must be 4-63 characters, start with a lowercase letter, and contain only lowercase \
         letters, numbers and hyphens (RFC 1123).",
    ))
}

/// Checks an identifier given for a database.
///
/// # Errors
/// It does not match.
pub(crate) fn check_database_id(id: &str) -> Result<(), Error> {
    if is_id(id) && !id.ends_with('-') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Field database_id must match pattern ^[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?$, got '{id}'."
    )))
}

/// Whether the text can stand in a resource name as it is.
pub(crate) fn is_segment(id: &str) -> bool {
    (1..=MAX_WIDE_ID).contains(&id.len())
        && ![".", ".."].contains(&id)
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._@+".contains(&byte))
}

/// An identifier as SQL text.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value as SQL text that means the same whatever `standard_conforming_strings` says.
pub(crate) fn quote_literal(value: &str) -> String {
    format!(" E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_postgres_would_change_are_refused() {
        for good in ["a", "ana@example.org", "x\"; DROP ROLE y; --", "größe", &"a".repeat(63)] {
            assert!(check_name("spec.postgres_role", good).is_ok(), "{good}");
        }
        for bad in ["", "a\0b", "a\nb", &"a".repeat(64), &"ä".repeat(32)] {
            assert!(check_name("spec.postgres_role", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn identifiers_follow_the_contract() {
        for good in ["app-role", "role-0000ffff", "abcd", &"a".repeat(63)] {
            assert!(check_role_id(good, false).is_ok(), "{good}");
        }
        for bad in ["", "abc", "1abc", "App-role", "a_b_c", "ana@example.org", &"a".repeat(64)] {
            assert!(check_role_id(bad, false).is_err(), "{bad}");
        }
        for good in ["ana@example.org", "7d5b1a6e-0000-4000-8000-000000000000", "Data_Team", "abcd"] {
            assert!(check_role_id(good, true).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "..", "a b", "a?b", "a%2F", "ä", &"a".repeat(129)] {
            assert!(check_role_id(bad, true).is_err(), "{bad}");
        }
        for good in ["a", "app-db", &"a".repeat(63)] {
            assert!(check_database_id(good).is_ok(), "{good}");
        }
        for bad in ["", "app-", "1a", "App", "a_b", &"a".repeat(64)] {
            assert!(check_database_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn quoting_keeps_what_is_inside_inside() {
        assert_eq!(quote_identifier("ana@example.org"), "\"ana@example.org\"");
        assert_eq!(quote_identifier("a\"; DROP ROLE b; --"), "\"a\"\"; DROP ROLE b; --\"");
        assert_eq!(quote_literal("it's"), " E'it''s'");
        assert_eq!(quote_literal("\\'; DROP ROLE b; --"), " E'\\\\''; DROP ROLE b; --'");
    }
}
