//! What is asked of single fields.

/// What an update does to one field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// It stays.
    #[default]
    Keep,
    /// It gets this value.
    Set(T),
    /// It gets the value that a new thing would begin with.
    Reset,
}

impl<T> Change<T> {
    /// The value afterwards.
    pub fn applied(self, current: T, usual: T) -> T {
        match self {
            Change::Keep => current,
            Change::Set(value) => value,
            Change::Reset => usual,
        }
    }
}

impl<T> From<Option<T>> for Change<T> {
    fn from(given: Option<T>) -> Change<T> {
        given.map_or(Change::Keep, Change::Set)
    }
}
