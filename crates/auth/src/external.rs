//! Tokens of foreign OIDC issuers, such as a CI system that proves which repository a job runs for.

use jiff::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::refusal::Refusal;
use crate::signing::{decode, read_header};

/// Seconds that another machine's clock may be off.
const LEEWAY: i64 = 30;

/// More keys than this are not read from one document.
const MOST_KEYS: usize = 64;

/// A signature algorithm that an issuer may use. Symmetric ones do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alg(Algorithm);

impl Alg {
    const NAMES: [(&'static str, Algorithm); 9] = [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
        ("ES256", Algorithm::ES256),
        ("ES384", Algorithm::ES384),
        ("EdDSA", Algorithm::EdDSA),
    ];

    /// The algorithm of a name such as `RS256`; none for symmetric and unknown ones.
    pub fn parse(name: &str) -> Option<Alg> {
        Alg::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, alg)| Alg(alg))
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Alg::NAMES.into_iter().find(|(_, alg)| *alg == self.0).map_or("", |(name, _)| name)
    }
}

/// What a foreign token must agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Exact value of `iss`.
    pub issuer: String,
    /// Value that `aud` must be or contain.
    pub audience: String,
    /// Algorithms that are accepted.
    pub algorithms: Vec<Alg>,
}

/// A claim and the value it must have. A `*` at the end of the value stands for any rest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Condition {
    /// Name of the claim.
    pub claim: String,
    /// What it must be.
    pub value: String,
}

impl Condition {
    /// Reads `CLAIM=VALUE`.
    pub fn parse(text: &str) -> Option<Condition> {
        let (claim, value) = text.split_once('=')?;
        let good = !claim.is_empty() && !value.is_empty() && value != "*";
        good.then(|| Condition { claim: claim.to_owned(), value: value.to_owned() })
    }

    /// Whether the claims agree with it.
    pub fn holds(&self, claims: &Map<String, Value>) -> bool {
        match claims.get(&self.claim) {
            Some(Value::String(text)) => self.fits(text),
            Some(Value::Bool(truth)) => self.fits(&truth.to_string()),
            Some(Value::Number(number)) => self.fits(&number.to_string()),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(|text| self.fits(text)),
            _ => false,
        }
    }

    fn fits(&self, text: &str) -> bool {
        match self.value.strip_suffix('*') {
            Some(begin) => text.starts_with(begin),
            None => text == self.value,
        }
    }
}

/// The published keys of an issuer.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<Jwk>,
}

impl KeySet {
    /// Reads a JWKS document. Keys of kinds that we do not know are passed over, as are symmetric
    /// ones and those meant for encryption.
    pub fn parse(document: &[u8]) -> Option<KeySet> {
        let document: Value = serde_json::from_slice(document).ok()?;
        let keys = document.get("keys")?.as_array()?;
        let usable = |key: &Jwk| {
            !matches!(key.algorithm, AlgorithmParameters::OctetKey(_))
                && !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption))
        };
        let known = keys.iter().take(MOST_KEYS).filter_map(|key| serde_json::from_value(key.clone()).ok());
        Some(KeySet { keys: known.filter(usable).collect() })
    }

    /// Whether there is a key of this name.
    pub fn contains(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.common.key_id.as_deref() == Some(kid))
    }

    /// The key that a header means: the one of that name, or the only one there is.
    fn find(&self, kid: Option<&str>, alg: Algorithm) -> Option<&Jwk> {
        let key = match kid {
            Some(kid) => self.keys.iter().find(|key| key.common.key_id.as_deref() == Some(kid))?,
            None => match self.keys.as_slice() {
                [only] => only,
                _ => return None,
            },
        };
        let declared = key.common.key_algorithm;
        declared.is_none_or(|declared| same_algorithm(declared, alg)).then_some(key)
    }
}

fn same_algorithm(declared: KeyAlgorithm, alg: Algorithm) -> bool {
    format!("{declared:?}") == format!("{alg:?}")
}

/// Who a token says that it comes from, and the key it names. Not verified: only good for choosing
/// whose keys to check it with.
pub fn peek(token: &str) -> Option<Peek> {
    use base64::Engine as _;
    let header = read_header(token).ok()?;
    let body = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).ok()?;
    let claims: Map<String, Value> = serde_json::from_slice(&bytes).ok()?;
    Some(Peek { issuer: claims.get("iss")?.as_str()?.to_owned(), kid: header.kid })
}

/// See [`peek`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// Claim `iss`.
    pub issuer: String,
    /// Header `kid`.
    pub kid: Option<String>,
}

/// The claims of a foreign token that is sound: signed by one of the keys with an accepted
/// algorithm, from that issuer, for that audience, in its time.
///
/// # Errors
/// Why it is not accepted.
pub fn verify(
    token: &str,
    keys: &KeySet,
    trust: &Trust,
    now: Timestamp,
) -> Result<Map<String, Value>, Refusal> {
    let header = read_header(token)?;
    if !trust.algorithms.contains(&Alg(header.alg)) {
        return Err(Refusal::Algorithm);
    }
    let key = keys.find(header.kid.as_deref(), header.alg).ok_or(Refusal::NotTrusted)?;
    let key = DecodingKey::from_jwk(key).map_err(|_| Refusal::NotTrusted)?;
    let claims: Map<String, Value> = decode(token, &key, header.alg, &trust.audience, &trust.issuer)?;
    let now = now.as_second();
    let second = |claim: &str| claims.get(claim).map(|value| value.as_f64().ok_or(Refusal::Malformed));
    let end = second("exp").ok_or(Refusal::Malformed)??;
    if end + (LEEWAY as f64) <= now as f64 {
        return Err(Refusal::Expired);
    }
    for begin in ["nbf", "iat"] {
        if second(begin).transpose()?.is_some_and(|begin| begin - LEEWAY as f64 > now as f64) {
            return Err(Refusal::NotYetValid);
        }
    }
    Ok(claims)
}

#[cfg(test)]
#[path = "external_tests.rs"]
mod tests;
