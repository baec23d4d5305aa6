//! Are tokens taken and refused as they should be?

use base64::Engine;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

/// A provider with one key of each of two kinds.
struct Provider {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

impl Provider {
    fn new() -> Provider {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Provider {
            ec: EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            random,
        }
    }

    fn keys(&self) -> Keys {
        let point = &self.ec.public_key().as_ref()[1..];
        let set = json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": encode(&point[..32]), "y": encode(&point[32..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "x": encode(self.ed.public_key().as_ref()) },
            { "kty": "oct", "kid": "shared", "k": "c2VjcmV0" },
        ] });
        Keys::parse(set.to_string().as_bytes()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            _ => self.ec.sign(&self.random, signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(&signature))
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn expected() -> Expected {
    Expected {
        issuer: "https://login".to_owned(),
        audiences: vec!["tiltyard".to_owned()],
        algorithms: vec![Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256],
        groups_claim: "groups".to_owned(),
    }
}

/// Good claims, with some put in their place; null takes one away.
fn claims(changes: Value) -> Value {
    let mut claims =
        json!({ "iss": "https://login", "aud": "tiltyard", "sub": "ada", "exp": NOW + 60, "groups": ["ml", "ops"] });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[test]
fn good_tokens_are_taken() {
    let provider = Provider::new();
    let keys = provider.keys();
    let check = |header: Value, changes: Value| {
        let token = provider.sign(&header, &claims(changes));
        assert!(looks_like(&token));
        let read = read(&token, &expected(), &keys, NOW).unwrap();
        assert_eq!((read.subject.as_str(), read.groups.join(" ").as_str()), ("ada", "ml ops"));
    };
    check(json!({ "alg": "ES256", "kid": "ec" }), json!({}));
    check(json!({ "alg": "EdDSA", "kid": "ed", "typ": "JWT" }), json!({}));
    // Without a key's name, all that fit are tried.
    check(json!({ "alg": "ES256" }), json!({ "aud": ["other", "tiltyard"] }));
    check(json!({ "alg": "ES256", "kid": "ec" }), json!({ "groups": "ml ops", "nbf": NOW + 59, "exp": NOW - 59 }));
}

#[test]
fn bad_tokens_are_refused_and_say_why() {
    let provider = Provider::new();
    let keys = provider.keys();
    let check = |header: Value, changes: Value, reason: &str| {
        let token = provider.sign(&header, &claims(changes));
        match read(&token, &expected(), &keys, NOW) {
            Err(Because(because)) => assert!(because.contains(reason), "{because}"),
            other => panic!("{reason}: {other:?}"),
        }
    };
    let header = || json!({ "alg": "ES256", "kid": "ec" });
    check(header(), json!({ "exp": NOW - 60 }), "it has expired");
    check(header(), json!({ "exp": null }), "no time of expiry");
    check(header(), json!({ "exp": "tomorrow" }), "no number of seconds");
    check(header(), json!({ "exp": -1 }), "no number of seconds");
    check(header(), json!({ "nbf": NOW + 61 }), "not good yet");
    check(header(), json!({ "iss": "https://login/" }), "another issuer");
    check(header(), json!({ "iss": null }), "another issuer");
    check(header(), json!({ "aud": "other" }), "another audience");
    check(header(), json!({ "aud": ["a", ["tiltyard"]] }), "another audience");
    check(header(), json!({ "aud": null }), "another audience");
    check(header(), json!({ "sub": null }), "names nobody");
    check(json!({ "alg": "none" }), json!({}), "not of a kind that is taken");
    check(json!({ "alg": "HS256", "kid": "shared" }), json!({}), "not of a kind that is taken");
    check(json!({ "alg": "es256", "kid": "ec" }), json!({}), "not of a kind that is taken");
    check(json!({ "kid": "ec" }), json!({}), "not of a kind that is taken");
    check(json!({ "alg": "ES384", "kid": "ec" }), json!({}), "not of a kind that is taken");
    check(json!({ "alg": "ES256", "kid": "ec", "crit": ["b64"] }), json!({}), "crit");
}

#[test]
fn a_key_is_for_its_own_kind_of_signature() {
    let provider = Provider::new();
    let keys = provider.keys();
    for header in [
        json!({ "alg": "RS256", "kid": "ec" }),
        json!({ "alg": "ES256", "kid": "ed" }),
        json!({ "alg": "ES256", "kid": "elsewhere" }),
    ] {
        let token = provider.sign(&header, &claims(json!({})));
        assert_eq!(read(&token, &expected(), &keys, NOW), Err(Refused::UnknownKey), "{header}");
    }
    // The key that a token brings along is not looked at.
    let stranger = Provider::new();
    let header = json!({ "alg": "ES256", "kid": "ec", "jwk": { "kty": "EC" }, "jku": "https://evil/jwks" });
    let token = stranger.sign(&header, &claims(json!({})));
    assert_eq!(read(&token, &expected(), &keys, NOW), Err(Because("its signature is wrong")));
}

#[test]
fn no_byte_of_a_token_can_be_changed() {
    let provider = Provider::new();
    let keys = provider.keys();
    let token = provider.sign(&json!({ "alg": "ES256", "kid": "ec" }), &claims(json!({})));
    assert!(read(&token, &expected(), &keys, NOW).is_ok());
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(read(&changed, &expected(), &keys, NOW).is_err(), "byte {at}");
    }
    for end in 0..token.len() {
        assert!(read(&token[..end], &expected(), &keys, NOW).is_err(), "cut at {end}");
    }
    assert!(read(&"a.b.c".repeat(10_000), &expected(), &keys, NOW).is_err());
}

#[test]
fn groups_are_found_where_providers_put_them() {
    let check = |claims: Value, path: &str, expected: &[&str]| {
        assert_eq!(groups(claims.as_object().unwrap(), path), expected, "{path} of {claims}");
    };
    check(json!({ "realm_access": { "roles": ["a", 1, "b"] } }), "realm_access.roles", &["a", "b"]);
    check(json!({ "https://example.com/groups": ["a"] }), "https://example.com/groups", &["a"]);
    check(json!({ "scope": "a b" }), "scope", &["a", "b"]);
    check(json!({ "groups": { "a": 1 } }), "groups", &[]);
    check(json!({}), "a.b.c", &[]);
}

#[test]
fn sets_of_keys_that_cannot_be_used_are_told() {
    let check = |set: &str, expected: &str| {
        let reason = Keys::parse(set.as_bytes()).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    };
    check("{", "no JSON");
    check("{}", "no list called keys");
    check(r#"{"keys": []}"#, "no public key");
    check(r#"{"keys": [{"kty": "oct", "k": "YQ"}]}"#, "no public key");
    check(r#"{"keys": [{"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}]}"#, "no public key");
    check(r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "YQ", "y": "YQ"}]}"#, "no public key");
}
