//! Text that must not be seen.

/// A password. Has neither `Debug` nor `Display`, so that it cannot slip into a log.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes charge of `text`.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The text, for the one place that hands it out.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
