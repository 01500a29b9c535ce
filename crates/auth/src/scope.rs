//! What a token may be used for; never more than its principal may do.

/// One right of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything that the principal may do.
    All,
    /// Looking at things.
    Read,
    /// Connecting to databases, and looking at what that takes.
    Connect,
}

impl Scope {
    /// All scopes, the widest first.
    pub const ALL: [Scope; 3] = [Scope::All, Scope::Read, Scope::Connect];

    /// The word stored, shown and asked for.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::All => "all-apis",
            Scope::Read => "read",
            Scope::Connect => "connect",
        }
    }

    /// The scope that a word means.
    pub fn parse(word: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    /// Whether a holder of this scope may pass on `other`.
    pub fn covers(self, other: Scope) -> bool {
        self == Scope::All || self == other
    }
}
