//! Issuers of tokens, with keys of every kind.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self as sign, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa::KeySize};
use serde_json::{Value, json};

/// One key.
pub struct Issuer {
    pub kid: &'static str,
    alg: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Issuer {
    /// A new key for `alg`.
    pub fn new(alg: &'static str, kid: &'static str) -> Issuer {
        let key = match alg.get(..2).unwrap() {
            "RS" | "PS" => Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
            "ES" => Key::Ec(EcdsaKeyPair::generate(curve(alg).0).unwrap()),
            "Ed" => Key::Ed25519(Ed25519KeyPair::generate().unwrap()),
            _ => Key::Secret(format!("a secret of {kid}, which is long enough").into_bytes()),
        };
        Issuer { kid, alg, key }
    }

    /// One whose RSA key is this PKCS 8.
    pub fn of_rsa(pkcs8: &[u8], kid: &'static str) -> Issuer {
        Issuer { kid, alg: "RS256", key: Key::Rsa(RsaKeyPair::from_pkcs8(pkcs8).unwrap()) }
    }

    /// What others check its tokens with.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(key) => {
                let [n, e] = integers(key.public_key().as_ref());
                json!({"kty": "RSA", "n": url(n), "e": url(e)})
            }
            Key::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve(self.alg).1, "x": url(x), "y": url(y)})
            }
            Key::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": url(key.public_key().as_ref())}),
            Key::Secret(secret) => json!({"kty": "oct", "k": url(secret)}),
        };
        jwk["kid"] = self.kid.into();
        jwk["alg"] = self.alg.into();
        jwk
    }

    /// A token that claims this.
    pub fn token(&self, claims: &Value) -> String {
        self.token_of(&json!({"alg": self.alg, "kid": self.kid, "typ": "JWT"}), claims)
    }

    /// A token with a header of the test's choice.
    pub fn token_of(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", url(header.to_string().as_bytes()), url(claims.to_string().as_bytes()));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", url(&signature))
    }

    fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(key) => {
                let how: &'static dyn RsaEncoding = match self.alg {
                    "RS256" => &sign::RSA_PKCS1_SHA256,
                    "RS384" => &sign::RSA_PKCS1_SHA384,
                    "RS512" => &sign::RSA_PKCS1_SHA512,
                    "PS256" => &sign::RSA_PSS_SHA256,
                    "PS384" => &sign::RSA_PSS_SHA384,
                    _ => &sign::RSA_PSS_SHA512,
                };
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(how, &random, signed, &mut out).unwrap();
                out
            }
            Key::Ec(key) => key.sign(&random, signed).unwrap().as_ref().to_vec(),
            Key::Ed25519(key) => key.sign(signed).as_ref().to_vec(),
            Key::Secret(secret) => {
                let how = match self.alg {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(how, secret), signed).as_ref().to_vec()
            }
        }
    }
}

/// The set of these issuers' keys.
pub fn jwks(issuers: &[&Issuer]) -> String {
    json!({"keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>()}).to_string()
}

fn curve(alg: &str) -> (&'static EcdsaSigningAlgorithm, &'static str) {
    match alg {
        "ES256" => (&sign::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        "ES384" => (&sign::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        _ => (&sign::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
    }
}

/// The two integers of an `RSAPublicKey` (RFC 8017, A.1.1), without leading zeros.
fn integers(der: &[u8]) -> [&[u8]; 2] {
    fn item(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x80..=0x81 => (usize::from(der[2]), 3),
            _ => (usize::from(u16::from_be_bytes([der[2], der[3]])), 4),
        };
        der[head..].split_at(length)
    }
    let (inner, _) = item(der);
    let (n, rest) = item(inner);
    let (e, _) = item(rest);
    [n, e].map(|number| number.strip_prefix(&[0]).unwrap_or(number))
}

/// Base64 for URLs.
pub fn url(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = (at(0) << 16) | (at(1) << 8) | at(2);
        let digit = |shift: u32| {
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(bits >> shift & 63) as usize]
        };
        out.extend([18, 12, 6, 0].into_iter().take(group.len() + 1).map(digit));
    }
    String::from_utf8(out).unwrap()
}
