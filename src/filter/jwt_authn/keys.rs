//! Sets of keys (RFC 7517) and what they say of signatures (RFC 7518, RFC 8037).

use super::refusal::Refusal;
use super::token::Token;
use crate::message::Datum;
use crate::model::parse_json;
use crate::util::base64;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use aws_lc_rs::{constant_time, hmac};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Length of an Ed25519 signature.
const ED25519_SIGNATURE: usize = 64;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alg {
    /// PKCS #1, or PSS.
    Rsa {
        pss: bool,
        bits: u16,
    },
    Ec(Curve),
    Hmac(u16),
    EdDsa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Alg {
    /// By its name in a token's header. `none` is no algorithm.
    pub(super) fn named(name: &str) -> Option<Alg> {
        Some(match name {
            "RS256" => Alg::Rsa { pss: false, bits: 256 },
            "RS384" => Alg::Rsa { pss: false, bits: 384 },
            "RS512" => Alg::Rsa { pss: false, bits: 512 },
            "PS256" => Alg::Rsa { pss: true, bits: 256 },
            "PS384" => Alg::Rsa { pss: true, bits: 384 },
            "PS512" => Alg::Rsa { pss: true, bits: 512 },
            "ES256" => Alg::Ec(Curve::P256),
            "ES384" => Alg::Ec(Curve::P384),
            "ES512" => Alg::Ec(Curve::P521),
            "HS256" => Alg::Hmac(256),
            "HS384" => Alg::Hmac(384),
            "HS512" => Alg::Hmac(512),
            "EdDSA" => Alg::EdDsa,
            _ => return None,
        })
    }
}

impl Curve {
    fn named(name: &str) -> Option<Curve> {
        Some(match name {
            "P-256" => Curve::P256,
            "P-384" => Curve::P384,
            "P-521" => Curve::P521,
            _ => return None,
        })
    }

    /// Bytes of one coordinate.
    fn width(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    fn algorithm(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Curve::P256 => &ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &ECDSA_P384_SHA384_FIXED,
            Curve::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// The keys of one provider. Keys of kinds that are not known are not in it.
#[derive(Default)]
pub(super) struct Keys(Vec<Key>);

struct Key {
    kid: Option<String>,
    /// The only algorithm it is for.
    alg: Option<Alg>,
    kind: Kind,
}

enum Kind {
    /// Modulus and exponent, without leading zeros.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Ec(Curve, ParsedPublicKey),
    Secret(Vec<u8>),
    Ed25519(ParsedPublicKey),
}

impl Keys {
    /// The set in this text, or the certificates by their keys' names; `None` if there is no usable key in it.
    pub(super) fn parse(text: &[u8]) -> Option<Keys> {
        let Datum::Map(set) = parse_json(text)? else { return None };
        let list = match set.get("keys") {
            Some(Datum::List(list)) => list,
            Some(_) => return None,
            None => return Keys::of_certificates(&set),
        };
        let keys = list.iter().filter_map(|key| match key {
            Datum::Map(key) => Key::read(key),
            _ => None,
        });
        let keys = Keys(keys.collect());
        (!keys.0.is_empty()).then_some(keys)
    }

    /// PEM certificates by `kid`. What is no certificate spoils all; keys other than RSA's are not in it.
    fn of_certificates(set: &BTreeMap<String, Datum>) -> Option<Keys> {
        let mut keys = Vec::new();
        for (kid, value) in set {
            let Datum::Text(pem) = value else { return None };
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok().filter(|_| !kid.is_empty())?;
            let (_, certificate) = X509Certificate::from_der(&der).ok()?;
            if let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() {
                let kind = rsa_key(key.modulus.to_vec(), key.exponent.to_vec());
                keys.push(Key { kid: Some(kid.clone()), alg: None, kind });
            }
        }
        (!keys.is_empty()).then_some(Keys(keys))
    }

    /// Whether one of them has signed the token.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Refusal> {
        let mut refusal = Refusal::NoSuchKey;
        for key in &self.0 {
            let other = |own: &String| token.kid.as_ref().is_some_and(|kid| kid != own);
            if key.kid.as_ref().is_some_and(other) || key.alg.is_some_and(|alg| alg != token.alg) {
                continue;
            }
            match key.kind.verify(token.alg, token.signed.as_bytes(), &token.signature) {
                Ok(true) => return Ok(()),
                Ok(false) => refusal = Refusal::Verification,
                Err(refused) => return Err(refused),
            }
        }
        Err(refusal)
    }
}

impl Key {
    fn read(key: &BTreeMap<String, Datum>) -> Option<Key> {
        let text = |name: &str| match key.get(name) {
            Some(Datum::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let bytes = |name: &str| base64::decode_url(text(name)?.as_bytes());
        let alg = match text("alg") {
            // For something else.
            Some(name) => Some(Alg::named(name)?),
            None => None,
        };
        let kind = match (text("kty")?, alg) {
            ("RSA", None | Some(Alg::Rsa { .. })) => rsa_key(bytes("n")?, bytes("e")?),
            ("EC", None | Some(Alg::Ec(_))) => {
                let of_alg = match alg {
                    Some(Alg::Ec(curve)) => Some(curve),
                    _ => None,
                };
                let named = match text("crv") {
                    Some(name) => Some(Curve::named(name)?),
                    None => None,
                };
                if of_alg.is_some() && named.is_some() && of_alg != named {
                    return None;
                }
                let curve = named.or(of_alg).unwrap_or(Curve::P256);
                let point = point(curve, bytes("x")?, bytes("y")?)?;
                Kind::Ec(curve, ParsedPublicKey::new(curve.algorithm(), point).ok()?)
            }
            ("oct", None | Some(Alg::Hmac(_))) => {
                Kind::Secret(bytes("k").filter(|secret| !secret.is_empty())?)
            }
            ("OKP", None | Some(Alg::EdDsa)) if text("crv") == Some("Ed25519") => {
                Kind::Ed25519(ParsedPublicKey::new(&ED25519, bytes("x")?).ok()?)
            }
            _ => return None,
        };
        Some(Key { kid: text("kid").map(str::to_owned), alg, kind })
    }
}

fn rsa_key(n: Vec<u8>, e: Vec<u8>) -> Kind {
    let strip = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    Kind::Rsa(RsaPublicKeyComponents { n: strip(n), e: strip(e) })
}

/// An uncompressed point (SEC 1, 2.3.3).
fn point(curve: Curve, x: Vec<u8>, y: Vec<u8>) -> Option<Vec<u8>> {
    let width = curve.width();
    let mut point = vec![4];
    for coordinate in [x, y] {
        let missing = width.checked_sub(coordinate.len())?;
        point.resize(point.len() + missing, 0);
        point.extend(coordinate);
    }
    Some(point)
}

impl Kind {
    /// A key is for signatures of its kind only, whatever the token says.
    fn verify(&self, alg: Alg, signed: &[u8], signature: &[u8]) -> Result<bool, Refusal> {
        Ok(match (self, alg) {
            (Kind::Rsa(key), Alg::Rsa { pss, bits }) => key.verify(rsa(pss, bits), signed, signature).is_ok(),
            (Kind::Ec(own, key), Alg::Ec(curve)) => {
                *own == curve && key.verify_sig(signed, signature).is_ok()
            }
            (Kind::Secret(secret), Alg::Hmac(bits)) => {
                let algorithm = match bits {
                    256 => hmac::HMAC_SHA256,
                    384 => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                let tag = hmac::sign(&hmac::Key::new(algorithm, secret), signed);
                constant_time::verify_slices_are_equal(tag.as_ref(), signature).is_ok()
            }
            (Kind::Ed25519(_), Alg::EdDsa) if signature.len() != ED25519_SIGNATURE => {
                return Err(Refusal::Ed25519Length);
            }
            (Kind::Ed25519(key), Alg::EdDsa) => key.verify_sig(signed, signature).is_ok(),
            _ => false,
        })
    }
}

fn rsa(pss: bool, bits: u16) -> &'static RsaParameters {
    match (pss, bits) {
        (false, 256) => &RSA_PKCS1_2048_8192_SHA256,
        (false, 384) => &RSA_PKCS1_2048_8192_SHA384,
        (false, _) => &RSA_PKCS1_2048_8192_SHA512,
        (true, 256) => &RSA_PSS_2048_8192_SHA256,
        (true, 384) => &RSA_PSS_2048_8192_SHA384,
        (true, _) => &RSA_PSS_2048_8192_SHA512,
    }
}
