//! Secrets that are random text: personal tokens and client secrets.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::secret::{Secret, hex};

/// Kinds of opaque secrets, told apart by their first letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opaque {
    /// What a person or program puts into `Authorization: Bearer`.
    Personal,
    /// What a service principal shows to the token endpoint.
    ClientSecret,
}

/// Hexadecimal digits that make a mistyped or cut secret known as such without a look-up, and let
/// scanners of source code tell a real one from a look-alike.
const CHECK: usize = 8;

impl Opaque {
    const ALL: [Opaque; 2] = [Opaque::Personal, Opaque::ClientSecret];

    /// What secrets of this kind begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Opaque::Personal => "ana_pat_",
            Opaque::ClientSecret => "ana_cs_",
        }
    }

    /// A new secret out of random bytes.
    pub fn make(self, random: [u8; 32]) -> Secret {
        let body = hex(&random);
        let check = check(self.prefix(), &body);
        Secret::new(format!("{}{body}{check}", self.prefix()))
    }

    /// The kind of a text that is whole; says nothing about whether anybody was given it.
    pub fn of(text: &str) -> Option<Opaque> {
        let kind = Opaque::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()))?;
        let rest = &text[kind.prefix().len()..];
        if rest.len() != 64 + CHECK || !rest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let (body, given) = rest.split_at(64);
        bool::from(check(kind.prefix(), body).as_bytes().ct_eq(given.as_bytes())).then_some(kind)
    }
}

/// Whether a text has the outer form of a signed token.
pub fn looks_signed(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn check(prefix: &str, body: &str) -> String {
    let digest = Sha256::new().chain_update(prefix).chain_update(body).finalize();
    hex(&digest[..CHECK / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        for kind in Opaque::ALL {
            let secret = kind.make([7; 32]);
            assert!(secret.expose().starts_with(kind.prefix()));
            assert_eq!(Opaque::of(secret.expose()), Some(kind));
        }
        let personal = Opaque::Personal.make([7; 32]);
        let disguised = personal.expose().replace("ana_pat_", "ana_cs_");
        assert_eq!(Opaque::of(&disguised), None, "the check covers the prefix");
    }

    #[test]
    fn damaged_ones_are_known() {
        let secret = Opaque::Personal.make([0xab; 32]);
        let text = secret.expose();
        for wrong in [
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
            text.replacen("abab", "abac", 1),
            text.to_uppercase(),
            String::new(),
            "ana_pat_".to_owned(),
            format!("ana_pat_{}", "é".repeat(36)),
        ] {
            assert_eq!(Opaque::of(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn signed_tokens_have_three_parts() {
        assert!(looks_signed("a.b.c"));
        assert!(!looks_signed("a.b"));
        assert!(!looks_signed(Opaque::Personal.make([1; 32]).expose()));
    }
}
