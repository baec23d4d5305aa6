//! Is a signature believed only where each file is as it was signed, by a key that is trusted?

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

/// What the package model-signing wrote, and `make.py` there says how.
fn made() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signing")
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(made().join(name)).expect("tests/signing/make.py made it")
}

fn model() -> Vec<(&'static str, Vec<u8>)> {
    ["golden/first.json", "model.onnx", "weights.bin"].map(|name| (name, bytes(&format!("model/{name}")))).to_vec()
}

fn trusted(names: &[&str]) -> Keys {
    let mut keys = Keys::default();
    for name in names {
        keys.add(name, &bytes(name)).expect("a key");
    }
    keys
}

fn verify_files(bundle: &[u8], files: &[(&str, Vec<u8>)], trusted: &Keys) -> Result<Signed, Error> {
    let digest = |content: &[u8]| Digest::new(Sha256::digest(content).into());
    let files = files.iter().map(|(path, content)| File { path, size: content.len() as u64, digest: digest(content) });
    verify(bundle, files, trusted)
}

fn fails(bundle: &[u8], files: &[(&str, Vec<u8>)], keys: &[&str], expected: &str) {
    let error = verify_files(bundle, files, &trusted(keys)).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

/// The bundle with its JSON changed; `inside` changes what is signed, and so breaks the signature.
fn changed(name: &str, from: &str, to: &str, inside: bool) -> Vec<u8> {
    let text = String::from_utf8(bytes(name)).expect("JSON");
    if !inside {
        assert!(text.contains(from), "{from} is not in {name}");
        return text.replace(from, to).into_bytes();
    }
    let mut bundle: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let payload = bundle["dsseEnvelope"]["payload"].as_str().expect("a payload");
    let payload = String::from_utf8(BASE64_STANDARD.decode(payload).expect("Base64")).expect("JSON");
    assert!(payload.contains(from), "{from} is not in {payload}");
    bundle["dsseEnvelope"]["payload"] = BASE64_STANDARD.encode(payload.replace(from, to)).into();
    bundle.to_string().into_bytes()
}

#[test]
fn what_the_package_signs_holds() {
    let check = |bundle: &str, keys: &[&str], by: Signer| {
        let signed =
            verify_files(&bytes(bundle), &model(), &trusted(keys)).unwrap_or_else(|error| panic!("{bundle}: {error}"));
        assert_eq!((signed.by, signed.name.as_str(), signed.files), (by, "risk", 3), "{bundle}");
    };
    let key = |name: &str| Signer::Key(name.to_owned());
    check("p256.sig", &["p384.pub", "p256.pub"], key("p256.pub"));
    check("p384.sig", &["p384.pub", "p256.pub"], key("p384.pub"));
    check("shards.sig", &["p256.pub"], key("p256.pub"));
    check("certificate.sig", &["root.crt"], Signer::Certificate("Risk Team".into()));
    check("usage-only.sig", &["root.crt", "p256.pub"], Signer::Certificate("Fraud Team".into()));
}

#[test]
fn other_files_than_the_signed_ones_are_found() {
    let (p256, keys) = (bytes("p256.sig"), ["p256.pub"]);
    let mut files = model();
    files[1].1[0] ^= 1;
    fails(&p256, &files, &keys, "the files are not what the key p256.pub signed: model.onnx was changed");
    fails(&bytes("certificate.sig"), &files, &["root.crt"], "\"Risk Team\" signed: model.onnx was changed");
    files.remove(2);
    files.push(("more.bin", vec![]));
    fails(&p256, &files, &keys, "signed: model.onnx was changed, more.bin is not signed, weights.bin is missing");
    for n in ["a", "b", "c", "d"] {
        files.push((n, vec![]));
    }
    fails(&p256, &files, &keys, "a is not signed, b is not signed, c is not signed, d is not signed, and 3 more");
    // A path that the signer left out may still have a say in an answer.
    fails(&bytes("ignoring.sig"), &model(), &keys, "signed: weights.bin is not signed");
}

#[test]
fn a_signature_that_was_changed_or_is_anothers_does_not_hold() {
    let digest = Digest::new(Sha256::digest(&model()[1].1).into()).to_string();
    let other = Digest::new([7; 32]).to_string();
    let forged = "was not made with the key p256.pub, or was changed since";
    fails(&changed("p256.sig", &digest, &other, true), &model(), &["p256.pub"], forged);
    fails(&changed("p256.sig", "\"risk\"", "\"rusk\"", true), &model(), &["p256.pub"], forged);
    fails(&changed("p256.sig", r#""sig":"M"#, r#""sig":"N"#, false), &model(), &["p256.pub"], forged);
    let forged = "was not made with the certificate of \"Risk Team\"";
    fails(&changed("certificate.sig", "\"risk\"", "\"rusk\"", true), &model(), &["root.crt"], forged);
    let hinted: serde_json::Value = serde_json::from_slice(&bytes("p256.sig")).expect("JSON");
    let hint = hinted["verificationMaterial"]["publicKey"]["hint"].as_str().expect("a hint").to_owned();
    let without = changed("p256.sig", &format!("\"{hint}\""), "null", false);
    assert!(verify_files(&without, &model(), &trusted(&["p384.pub", "p256.pub"])).is_ok());
    fails(&without, &model(), &["p384.pub"], "was not made with the key p384.pub");
    let untrusted =
        format!("a key whose PEM has the SHA-256 {hint}, which is not trusted here: the keys that are: p384.pub");
    fails(&bytes("p256.sig"), &model(), &["p384.pub"], &untrusted);
    fails(&bytes("p256.sig"), &model(), &["root.crt"], "not trusted here: no key is");
    fails(
        &bytes("certificate.sig"),
        &model(),
        &["p256.pub"],
        "\"Risk Team\", which is not trusted here: the keys that are: p256.pub",
    );
}

#[test]
fn certificates_count_for_what_they_are_for_and_whom_they_lead_to() {
    fails(&bytes("server.sig"), &model(), &["root.crt"], "no trusted authority vouches for it (RequiredEkuNotFound");
    // Without the authority in between nothing leads to the root.
    let mut bundle: serde_json::Value = serde_json::from_slice(&bytes("certificate.sig")).expect("JSON");
    let chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"].as_array_mut().expect("a chain");
    let removed = chain.pop().expect("an authority");
    fails(bundle.to_string().as_bytes(), &model(), &["root.crt"], "no trusted authority vouches for it (UnknownIssuer");
    let chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"].as_array_mut().expect("a chain");
    *chain = vec![removed; 17];
    fails(bundle.to_string().as_bytes(), &model(), &["root.crt"], "1 to 16 certificates");
    *bundle.pointer_mut("/verificationMaterial/x509CertificateChain/certificates").expect("a chain") =
        serde_json::json!([{ "rawBytes": "AAAA" }]);
    fails(bundle.to_string().as_bytes(), &model(), &["root.crt"], "the signer's certificate is none");
}

#[test]
fn what_is_not_checked_here_says_what_to_do_instead() {
    fails(&bytes("blake3.sig"), &model(), &["p256.pub"], "digests files with blake3: sign again with sha256");
    fails(
        &bytes("small-shards.sig"),
        &model(),
        &["p256.pub"],
        "digests files in parts, as in \"weights.bin:1000:2000\": sign again by files",
    );
    let keyless = changed("p256.sig", "\"publicKey\"", "\"certificate\"", false);
    fails(&keyless, &model(), &["p256.pub"], "was made without a key, through Sigstore");
    let error = Keys::default().add("p521.pub", &bytes("p521.pub")).expect_err("not this curve");
    assert_eq!(error, "p521.pub: a key of a kind that is not checked here: expected ECDSA on P-256 or P-384");
    let error = Keys::default().add("x", b"nothing").expect_err("no key");
    assert_eq!(error, "x: no key in it: expected PEM with BEGIN PUBLIC KEY or BEGIN CERTIFICATE");
    fails(b"{}", &model(), &["p256.pub"], "expected a Sigstore bundle as the package model-signing writes it");
    fails(&changed("p256.sig", "v0.3", "v0.9", false), &model(), &["p256.pub"], "its media type is");
    fails(&changed("p256.sig", "vnd.in-toto", "vnd.out", false), &model(), &["p256.pub"], "its payload is");
    fails(&vec![b' '; SIGNATURE_BYTES_MAX + 1], &model(), &["p256.pub"], "expected at most 8388608");
}

proptest! {
    /// Whichever byte of a signature is another one, it does not hold for other files, and mostly not at all.
    #[test]
    fn no_changed_byte_makes_other_files_signed(at in any::<prop::sample::Index>(), to in any::<u8>(), name in 0usize..3) {
        let mut bundle = bytes(["p256.sig", "certificate.sig", "shards.sig"][name]);
        let at = at.index(bundle.len());
        bundle[at] = to;
        let mut files = model();
        files[1].1.push(0);
        prop_assert!(verify_files(&bundle, &files, &trusted(&["p256.pub", "root.crt"])).is_err());
    }
}
