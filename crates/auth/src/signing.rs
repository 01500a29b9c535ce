//! Keys that sign our tokens: ECDSA on P-256 with SHA-256 (`ES256`), which every OIDC library takes.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::claims::{Audience, Claims};
use crate::refusal::Refusal;
use crate::secret::Secret;

/// A token with more bytes is not looked at.
pub const LONGEST_TOKEN: usize = 16 << 10;

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random source failed.
    #[error("cannot make a signing key: the random source failed")]
    Random,
    /// Not a private key of the kind that we make.
    #[error("the signing key is damaged")]
    Damaged,
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// The public half of a key, as stored and published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Name of the key: its RFC 7638 thumbprint.
    pub kid: String,
    /// First coordinate, base64url.
    pub x: String,
    /// Second coordinate, base64url.
    pub y: String,
}

impl PublicKey {
    fn from_point(point: &[u8]) -> Result<PublicKey, KeyError> {
        // SEC 1: one byte 4, then both coordinates.
        if point.len() != 65 || point[0] != 4 {
            return Err(KeyError::Damaged);
        }
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        // The members in this order, without white space, are what RFC 7638 hashes.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Ok(PublicKey { kid: BASE64.encode(Sha256::digest(canonical)), x, y })
    }

    /// The key as a JSON Web Key.
    pub fn to_jwk(&self) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "kid": self.kid, "x": self.x, "y": self.y,
        })
    }

    fn decoding(&self) -> Result<DecodingKey, KeyError> {
        DecodingKey::from_ec_components(&self.x, &self.y).map_err(|_| KeyError::Damaged)
    }
}

/// A key that signs. Has no `Debug`.
pub struct SigningKey {
    public: PublicKey,
    pkcs8: Zeroizing<Vec<u8>>,
    encoding: EncodingKey,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// The random source failed.
    pub fn generate() -> Result<SigningKey, KeyError> {
        let random = ring::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| KeyError::Random)?;
        SigningKey::from_pkcs8(document.as_ref())
    }

    /// The key of a file.
    ///
    /// # Errors
    /// It is not a PKCS #8 document of a P-256 key.
    pub fn from_pkcs8(document: &[u8]) -> Result<SigningKey, KeyError> {
        let random = ring::rand::SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &random)
            .map_err(|_| KeyError::Damaged)?;
        Ok(SigningKey {
            public: PublicKey::from_point(pair.public_key().as_ref())?,
            pkcs8: Zeroizing::new(document.to_vec()),
            encoding: EncodingKey::from_ec_der(document),
        })
    }

    /// What to write to a private file.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// The key that signs now, and all keys whose tokens are still accepted.
pub struct Keyring {
    active: SigningKey,
    known: HashMap<String, DecodingKey>,
    published: Vec<PublicKey>,
}

impl Keyring {
    /// Signs with `active`, accepts that one and the `retired` ones.
    ///
    /// # Errors
    /// A retired key is damaged.
    pub fn new(active: SigningKey, retired: Vec<PublicKey>) -> Result<Keyring, KeyError> {
        let mut published = vec![active.public.clone()];
        published.extend(retired.into_iter().filter(|key| key.kid != active.public.kid));
        let known = published
            .iter()
            .map(|key| Ok((key.kid.clone(), key.decoding()?)))
            .collect::<Result<_, KeyError>>()?;
        Ok(Keyring { active, known, published })
    }

    /// Name of the key that signs.
    pub fn active(&self) -> &str {
        &self.active.public.kid
    }

    /// The document for `/oidc/jwks`, the key that signs first.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.published.iter().map(PublicKey::to_jwk).collect::<Vec<_>>()})
    }

    /// Signs a token.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn sign(&self, audience: Audience, claims: &Claims) -> Result<Secret, KeyError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(audience.header_type().to_owned());
        header.kid = Some(self.active.public.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.active.encoding)
            .map(Secret::new)
            .map_err(|error| KeyError::Sign(error.to_string()))
    }

    /// What a token says, if a key of ours signed it for this use and it has not expired.
    /// Revocation is the caller's to check.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(
        &self,
        token: &str,
        audience: Audience,
        issuer: &str,
        now: Timestamp,
    ) -> Result<Claims, Refusal> {
        let header = read_header(token)?;
        if header.alg != Algorithm::ES256 {
            return Err(Refusal::Algorithm);
        }
        let kid = header.kid.as_deref().unwrap_or_default();
        let key = self.known.get(kid).ok_or(Refusal::NotTrusted)?;
        let claims: Claims = decode(token, key, Algorithm::ES256, audience.as_str(), issuer)?;
        // Our own clock on both sides: no leeway.
        if claims.exp <= now.as_second() {
            return Err(Refusal::Expired);
        }
        Ok(claims)
    }
}

/// The header of a token. Headers that ask for extensions we do not know are refused, as RFC 7515
/// demands.
pub(crate) fn read_header(token: &str) -> Result<Header, Refusal> {
    if token.len() > LONGEST_TOKEN {
        return Err(Refusal::Malformed);
    }
    let part = token.split('.').next().unwrap_or_default();
    let bytes = BASE64.decode(part).map_err(|_| Refusal::Malformed)?;
    let fields: Value = serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)?;
    if fields.get("crit").is_some() {
        return Err(Refusal::Malformed);
    }
    // An algorithm that the library does not know (such as "none") ends here as well.
    jsonwebtoken::decode_header(token).map_err(|_| Refusal::Algorithm)
}

/// Signature, audience and issuer; times are left to the caller, whose clock may be another one
/// than the machine's.
pub(crate) fn decode<T: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
    audience: &str,
    issuer: &str,
) -> Result<T, Refusal> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.set_audience(&[audience]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    jsonwebtoken::decode::<T>(token, key, &validation).map(|data| data.claims).map_err(|error| {
        match error.kind() {
            ErrorKind::InvalidSignature => Refusal::NotTrusted,
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => Refusal::Algorithm,
            ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => Refusal::Purpose,
            _ => Refusal::Malformed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "anabranch:test";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn claims(audience: Audience) -> Claims {
        Claims {
            iss: ISSUER.into(),
            aud: audience.as_str().into(),
            sub: "ana@example.org".into(),
            uid: "pr-1".into(),
            kind: "user".into(),
            endpoint: Some("ep-1".into()),
            group: None,
            scope: None,
            iat: at(0).as_second(),
            exp: at(3600).as_second(),
            jti: "1".into(),
        }
    }

    fn ring() -> Keyring {
        Keyring::new(SigningKey::generate().unwrap(), Vec::new()).unwrap()
    }

    fn token(ring: &Keyring) -> String {
        ring.sign(Audience::Database, &claims(Audience::Database)).unwrap().expose().to_owned()
    }

    #[test]
    fn what_is_signed_is_accepted_until_it_expires() {
        let ring = ring();
        let token = token(&ring);
        let verify = |second| ring.verify(&token, Audience::Database, ISSUER, at(second));
        assert_eq!(verify(0), Ok(claims(Audience::Database)));
        assert!(verify(3599).is_ok());
        assert_eq!(verify(3600), Err(Refusal::Expired));
    }

    #[test]
    fn a_token_serves_one_use_at_one_home() {
        let ring = ring();
        let token = token(&ring);
        assert_eq!(ring.verify(&token, Audience::Api, ISSUER, at(0)), Err(Refusal::Purpose));
        assert_eq!(ring.verify(&token, Audience::Database, "anabranch:x", at(0)), Err(Refusal::Purpose));
        assert_eq!(ring_other(&token), Err(Refusal::NotTrusted));
    }

    fn ring_other(token: &str) -> Result<Claims, Refusal> {
        ring().verify(token, Audience::Database, ISSUER, at(0))
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let ring = ring();
        let token = token(&ring);
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last digit of a part carries bits that mean nothing; only strict decoders refuse
            // those, so what counts is that nothing else gets in.
            let outcome = ring.verify(&changed, Audience::Database, ISSUER, at(0));
            assert!(outcome.is_err() || outcome == Ok(claims(Audience::Database)), "{place}");
        }
    }

    #[test]
    fn other_algorithms_are_refused() {
        let ring = ring();
        let body = token(&ring).split('.').nth(1).unwrap().to_owned();
        let forged = |header: &str| format!("{}.{body}.", BASE64.encode(header));
        let kid = ring.active();
        for header in [
            r#"{"alg":"none"}"#.to_owned(),
            r#"{"alg":"None","typ":"JWT"}"#.to_owned(),
            format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"ES384","kid":"{kid}"}}"#),
        ] {
            let outcome = ring.verify(&forged(&header), Audience::Database, ISSUER, at(0));
            assert_eq!(outcome, Err(Refusal::Algorithm), "{header}");
        }
        // The public key as the secret of an HMAC: the classic confusion.
        let public = &ring.published[0];
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(public.kid.clone());
        let secret = EncodingKey::from_secret(public.x.as_bytes());
        let forged = jsonwebtoken::encode(&header, &claims(Audience::Database), &secret).unwrap();
        assert_eq!(ring.verify(&forged, Audience::Database, ISSUER, at(0)), Err(Refusal::Algorithm));
    }

    #[test]
    fn critical_extensions_are_refused() {
        let ring = ring();
        let body = token(&ring).split('.').nth(1).unwrap().to_owned();
        let header = format!(r#"{{"alg":"ES256","kid":"{}","crit":["b64"],"b64":false}}"#, ring.active());
        let forged = format!("{}.{body}.AAAA", BASE64.encode(header));
        assert_eq!(ring.verify(&forged, Audience::Database, ISSUER, at(0)), Err(Refusal::Malformed));
    }

    #[test]
    fn nonsense_is_refused() {
        let ring = ring();
        let long = "a".repeat(LONGEST_TOKEN + 1);
        for wrong in ["", ".", "..", "a.b.c", "é.é.é", &long, "e30.e30.e30"] {
            assert!(ring.verify(wrong, Audience::Database, ISSUER, at(0)).is_err(), "{wrong:.20}");
        }
    }

    #[test]
    fn rotation_keeps_live_tokens() {
        let old = ring();
        let token = token(&old);
        let retired = old.published.clone();
        let new = Keyring::new(SigningKey::generate().unwrap(), retired.clone()).unwrap();
        assert_ne!(new.active(), old.active());
        assert!(new.verify(&token, Audience::Database, ISSUER, at(0)).is_ok());
        let keys = new.jwks()["keys"].as_array().unwrap().clone();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0]["kid"], new.active());
        assert_eq!(keys[1]["kid"], old.active());
        assert!(keys.iter().all(|key| key.get("d").is_none()), "no private part is published");
        let later = Keyring::new(SigningKey::generate().unwrap(), Vec::new()).unwrap();
        assert_eq!(later.verify(&token, Audience::Database, ISSUER, at(0)), Err(Refusal::NotTrusted));
    }

    #[test]
    fn keys_come_back_from_their_files() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(again.public(), key.public());
        let kid = key.public().kid.clone();
        let first = Keyring::new(key, Vec::new()).unwrap();
        let second = Keyring::new(again, Vec::new()).unwrap();
        assert_eq!(second.active(), kid);
        assert!(second.verify(&token(&first), Audience::Database, ISSUER, at(0)).is_ok());
        assert!(SigningKey::from_pkcs8(b"nothing").is_err());
    }

    #[test]
    fn a_strangers_library_accepts_our_keys() {
        // The published document alone is enough to check a token.
        let ring = ring();
        let token = token(&ring);
        let keys = crate::external::KeySet::parse(ring.jwks().to_string().as_bytes()).unwrap();
        let claims = crate::external::verify(
            &token,
            &keys,
            &crate::external::Trust {
                issuer: ISSUER.into(),
                audience: Audience::Database.as_str().into(),
                algorithms: vec![crate::external::Alg::parse("ES256").unwrap()],
            },
            at(0),
        )
        .unwrap();
        assert_eq!(claims["sub"], "ana@example.org");
    }
}
