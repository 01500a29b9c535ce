use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{EncodingKey, Header};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://ci.example.org";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A foreign issuer with a key of its own.
struct Issuer {
    encoding: EncodingKey,
    alg: Algorithm,
    jwk: Value,
}

impl Issuer {
    fn ecdsa() -> Issuer {
        let random = ring::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "k", "use": "sig",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..]),
        });
        Issuer { encoding: EncodingKey::from_ec_der(document.as_ref()), alg: Algorithm::ES256, jwk }
    }

    fn ed25519() -> Issuer {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let jwk = json!({
            "kty": "OKP", "crv": "Ed25519", "kid": "k", "alg": "EdDSA",
            "x": BASE64.encode(pair.public_key().as_ref()),
        });
        Issuer { encoding: EncodingKey::from_ed_der(document.as_ref()), alg: Algorithm::EdDSA, jwk }
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(json!({"keys": [self.jwk]}).to_string().as_bytes()).unwrap()
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.alg);
        header.kid = Some("k".into());
        jsonwebtoken::encode(&header, claims, &self.encoding).unwrap()
    }
}

fn trust() -> Trust {
    let algorithms = ["ES256", "EdDSA"].map(|name| Alg::parse(name).unwrap()).to_vec();
    Trust { issuer: ISSUER.into(), audience: "anabranch".into(), algorithms }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": ["other", "anabranch"], "sub": "repo:acme/shop:ref:refs/heads/main",
        "repository": "acme/shop", "run_number": 7, "iat": at(0).as_second(), "nbf": at(0).as_second(),
        "exp": at(300).as_second(),
    })
}

#[test]
fn sound_tokens_are_accepted_in_their_time() {
    for issuer in [Issuer::ecdsa(), Issuer::ed25519()] {
        let token = issuer.token(&claims());
        let verify = |second| verify(&token, &issuer.keys(), &trust(), at(second));
        assert_eq!(verify(0).unwrap()["repository"], "acme/shop");
        assert!(verify(329).is_ok(), "clocks may differ a little");
        assert_eq!(verify(330), Err(Refusal::Expired));
        assert!(verify(-30).is_ok());
        assert_eq!(verify(-31), Err(Refusal::NotYetValid));
    }
}

#[test]
fn each_claim_is_checked() {
    let issuer = Issuer::ecdsa();
    let with = |key: &str, value: Option<Value>| {
        let mut claims = claims();
        match value {
            Some(value) => claims[key] = value,
            None => drop(claims.as_object_mut().unwrap().remove(key)),
        }
        verify(&issuer.token(&claims), &issuer.keys(), &trust(), at(0)).map(drop)
    };
    assert_eq!(with("x", Some(json!(1))), Ok(()));
    assert_eq!(with("nbf", None), Ok(()), "optional");
    assert_eq!(with("iss", Some(json!("https://ci.example.org/"))), Err(Refusal::Purpose));
    assert_eq!(with("aud", Some(json!("else"))), Err(Refusal::Purpose));
    for needed in ["iss", "aud", "sub", "exp"] {
        assert!(with(needed, None).is_err(), "{needed}");
    }
    assert!(with("exp", Some(json!("never"))).is_err());
    assert!(with("nbf", Some(json!("soon"))).is_err());
}

#[test]
fn algorithms_are_pinned() {
    let issuer = Issuer::ed25519();
    let only = |name| Trust { algorithms: vec![Alg::parse(name).unwrap()], ..trust() };
    let token = issuer.token(&claims());
    assert!(verify(&token, &issuer.keys(), &only("EdDSA"), at(0)).is_ok());
    assert_eq!(verify(&token, &issuer.keys(), &only("RS256"), at(0)), Err(Refusal::Algorithm));
    for symmetric in ["HS256", "HS384", "HS512", "none", ""] {
        assert_eq!(Alg::parse(symmetric), None, "{symmetric}");
    }
    assert_eq!(Alg::parse("PS384").unwrap().as_str(), "PS384");
}

#[test]
fn a_key_serves_the_algorithm_it_declares() {
    let mut issuer = Issuer::ecdsa();
    issuer.jwk["alg"] = json!("ES384");
    let token = issuer.token(&claims());
    assert_eq!(verify(&token, &issuer.keys(), &trust(), at(0)), Err(Refusal::NotTrusted));
    issuer.jwk["alg"] = json!("ES256");
    assert!(verify(&token, &issuer.keys(), &trust(), at(0)).is_ok());
}

#[test]
fn keys_are_found_by_name() {
    let (mine, other) = (Issuer::ecdsa(), Issuer::ecdsa());
    let token = mine.token(&claims());
    assert_eq!(verify(&token, &other.keys(), &trust(), at(0)), Err(Refusal::NotTrusted));
    assert_eq!(verify(&token, &KeySet::default(), &trust(), at(0)), Err(Refusal::NotTrusted));
    // Without a name only a single key will do.
    let nameless = jsonwebtoken::encode(&Header::new(mine.alg), &claims(), &mine.encoding).unwrap();
    assert!(verify(&nameless, &mine.keys(), &trust(), at(0)).is_ok());
    let mut second = other.jwk.clone();
    second["kid"] = json!("k2");
    let both = KeySet::parse(json!({"keys": [mine.jwk, second]}).to_string().as_bytes()).unwrap();
    assert_eq!(verify(&nameless, &both, &trust(), at(0)), Err(Refusal::NotTrusted));
    assert!(verify(&token, &both, &trust(), at(0)).is_ok());
}

#[test]
fn documents_of_others_are_read_with_care() {
    let good = Issuer::ecdsa().jwk;
    let mut encryption = good.clone();
    encryption["kid"] = json!("e");
    encryption["use"] = json!("enc");
    let document = json!({"keys": [
        {"kty": "new", "kid": "n"},
        {"kty": "oct", "kid": "o", "k": "c2VjcmV0"},
        encryption,
        good,
    ]});
    let keys = KeySet::parse(document.to_string().as_bytes()).unwrap();
    assert!(keys.contains("k"));
    for passed_over in ["n", "o", "e"] {
        assert!(!keys.contains(passed_over), "{passed_over}");
    }
    for wrong in ["", "{}", "[]", r#"{"keys":{}}"#, "null"] {
        assert!(KeySet::parse(wrong.as_bytes()).is_none(), "{wrong}");
    }
}

#[test]
fn conditions() {
    let Value::Object(claims) = claims() else { unreachable!() };
    for (text, holds) in [
        ("repository=acme/shop", true),
        ("repository=acme/shop2", false),
        ("repository=acme/sho", false),
        ("sub=repo:acme/shop:*", true),
        ("sub=repo:acme/shop2:*", false),
        ("aud=anabranch", true),
        ("run_number=7", true),
        ("environment=prod", false),
        ("environment=*x", false),
    ] {
        assert_eq!(Condition::parse(text).unwrap().holds(&claims), holds, "{text}");
    }
    for wrong in ["", "=", "a=", "=b", "a", "sub=*"] {
        assert_eq!(Condition::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn peeking_trusts_nothing() {
    let issuer = Issuer::ecdsa();
    let peeked = peek(&issuer.token(&claims())).unwrap();
    assert_eq!(peeked, Peek { issuer: ISSUER.into(), kid: Some("k".into()) });
    assert_eq!(peek("a.b.c"), None);
}
