//! Update masks: which fields of a body are to be taken.

use control::app::Change;

use crate::error::ApiError;

/// A parsed mask. Rules of the contract, the lenient side of each: an empty mask and `*` take every
/// field that the body has, so does a path that names a group; a field that is named itself and that
/// the body lacks is reset, since some clients cannot send an empty list.
#[derive(Debug)]
pub(crate) struct Mask<'a> {
    paths: Vec<&'a str>,
}

impl<'a> Mask<'a> {
    /// `known` are the paths below `spec` that may be named, `fixed` those that exist and never change.
    ///
    /// # Errors
    /// The mask names something else.
    pub fn parse(text: &'a str, known: &[&str], fixed: &[&str]) -> Result<Mask<'a>, ApiError> {
        let paths: Vec<&str> = text.split(',').map(str::trim).filter(|path| !path.is_empty()).collect();
        for path in &paths {
            if fixed.contains(path) {
                return Err(fixed_field(path));
            }
            if !["*", "spec"].contains(path) && !known.contains(path) {
                return Err(ApiError::invalid(format!("Unknown field path in update_mask: '{path}'")));
            }
        }
        Ok(Mask { paths })
    }

    /// Whether the mask has this very path.
    pub fn names(&self, path: &str) -> bool {
        self.paths.contains(&path)
    }

    /// Whether the mask takes a field: by its own path, that of a group around it, or as a whole.
    pub fn reaches(&self, path: &str) -> bool {
        let around = |group: &&str| path.strip_prefix(*group).is_some_and(|rest| rest.starts_with('.'));
        self.paths.is_empty()
            || self.paths.iter().any(|named| *named == "*" || *named == path || around(named))
    }

    /// What is asked of a field with these paths (one, or several for members of a one-of) where the
    /// body says `given`.
    pub fn pick<T>(&self, paths: &[&str], given: Option<T>) -> Change<T> {
        match given {
            _ if !paths.iter().any(|path| self.reaches(path)) => Change::Keep,
            Some(value) => Change::Set(value),
            None if paths.iter().any(|path| self.names(path)) => Change::Reset,
            None => Change::Keep,
        }
    }
}

/// 400 for a field that is decided when its resource is made.
pub(crate) fn fixed_field(path: &str) -> ApiError {
    ApiError::invalid(format!("Field '{path}' cannot be changed."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["spec.a", "spec.b", "spec.group", "spec.group.x", "spec.group.y"];

    fn mask(text: &str) -> Mask<'_> {
        Mask::parse(text, KNOWN, &["spec.fixed"]).unwrap()
    }

    #[test]
    fn what_is_masked_changes_and_nothing_else() {
        let narrow = mask("spec.a, spec.group.x");
        assert_eq!(narrow.pick(&["spec.a"], Some(1)), Change::Set(1));
        assert_eq!(narrow.pick(&["spec.a"], None::<i32>), Change::Reset);
        assert_eq!(narrow.pick(&["spec.b"], Some(1)), Change::Keep);
        assert_eq!(narrow.pick(&["spec.group.x"], Some(1)), Change::Set(1));
        assert_eq!(narrow.pick(&["spec.group.y"], Some(1)), Change::Keep);
    }

    #[test]
    fn groups_take_what_the_body_has() {
        for text in ["", "*", "spec", "spec.group", "spec.a,spec.group"] {
            assert_eq!(mask(text).pick(&["spec.group.x"], Some(1)), Change::Set(1), "{text}");
            assert_eq!(mask(text).pick(&["spec.group.x"], None::<i32>), Change::Keep, "{text}");
        }
        assert_eq!(
            mask("spec.a").pick(&["spec.ab"], Some(1)),
            Change::Keep,
            "no path is a group by its letters"
        );
    }

    #[test]
    fn members_of_a_one_of_share_their_fate() {
        let paths = ["spec.a", "spec.b"];
        assert_eq!(mask("spec.b").pick(&paths, Some(1)), Change::Set(1));
        assert_eq!(mask("spec.b").pick(&paths, None::<i32>), Change::Reset);
        assert_eq!(mask("spec.group").pick(&paths, Some(1)), Change::Keep);
    }

    #[test]
    fn other_paths_are_refused() {
        for text in ["s,p,e,c", "spec.unknown", "display_name", "spec.a,spec.x", "spec.fixed", "**"] {
            assert!(Mask::parse(text, KNOWN, &["spec.fixed"]).is_err(), "{text}");
        }
    }
}
