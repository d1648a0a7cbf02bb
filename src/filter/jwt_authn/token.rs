//! A token as it was sent: its parts and claims, and what they say about when and for whom it is good.

use super::keys::Alg;
use super::refusal::Refusal;
use crate::message::Datum;
use crate::model::{JwtProvider, parse_json};
use crate::util::base64;
use std::collections::BTreeMap;
use std::time::Duration;

/// A token that could be read. Nobody has looked at its signature yet.
#[derive(Debug)]
pub(super) struct Token {
    /// What is signed: header and payload as they were sent.
    pub signed: String,
    /// The payload as it was sent.
    pub payload_text: String,
    pub header: BTreeMap<String, Datum>,
    pub payload: BTreeMap<String, Datum>,
    pub alg: Alg,
    pub kid: Option<String>,
    pub issuer: String,
    subject: String,
    audiences: Vec<String>,
    not_before: Option<u64>,
    expires: Option<u64>,
    pub signature: Vec<u8>,
}

impl Token {
    /// Reads a token.
    pub(super) fn parse(text: &str) -> Result<Token, Refusal> {
        let mut parts = text.split('.');
        let (Some(head), Some(body), Some(sign), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::BadFormat);
        };
        if head.is_empty() || body.is_empty() || sign.is_empty() {
            return Err(Refusal::BadFormat);
        }
        let bytes = base64::decode_url(head.as_bytes()).ok_or(Refusal::HeaderBase64)?;
        let header = object(&bytes).ok_or(Refusal::HeaderJson)?;
        let Some(Datum::Text(alg)) = header.get("alg") else { return Err(Refusal::HeaderAlg) };
        let alg = Alg::named(alg).ok_or(Refusal::HeaderUnknownAlg)?;
        let kid = text_of(&header, "kid", Refusal::HeaderKid)?;
        let bytes = base64::decode_url(body.as_bytes()).ok_or(Refusal::PayloadBase64)?;
        let payload = object(&bytes).ok_or(Refusal::PayloadJson)?;
        let issuer = text_of(&payload, "iss", Refusal::PayloadIss)?.unwrap_or_default();
        let subject = text_of(&payload, "sub", Refusal::PayloadSub)?.unwrap_or_default();
        seconds(&payload, "iat", Refusal::PayloadIat, Refusal::PayloadIatRange)?;
        let not_before = seconds(&payload, "nbf", Refusal::PayloadNbf, Refusal::PayloadNbfRange)?;
        let expires = seconds(&payload, "exp", Refusal::PayloadExp, Refusal::PayloadExpRange)?;
        text_of(&payload, "jti", Refusal::PayloadJti)?;
        let audiences = audiences(&payload)?;
        let signature = base64::decode_url(sign.as_bytes()).ok_or(Refusal::SignatureBase64)?;
        let signed = format!("{head}.{body}");
        let payload_text = body.to_owned();
        Ok(Token {
            signed,
            payload_text,
            header,
            payload,
            alg,
            kid,
            issuer,
            subject,
            audiences,
            not_before,
            expires,
            signature,
        })
    }

    /// Whether what it claims is what `provider` may say now, which is so long after 1970. `audiences`: in place of the
    /// provider's own, if there are any.
    pub(super) fn check(
        &self,
        provider: &JwtProvider,
        audiences: &[String],
        now: Duration,
    ) -> Result<(), Refusal> {
        let now = now.as_secs();
        if provider.subjects.as_ref().is_some_and(|wanted| !wanted.matches(self.subject.as_bytes())) {
            return Err(Refusal::Verification);
        }
        let left = self.expires.map(|end| end.saturating_sub(now));
        let lives = match (provider.max_lifetime, left) {
            (Some(most), Some(left)) => left <= most.as_secs(),
            (Some(_), None) => false,
            (None, left) => left.is_some() || !provider.require_expiration,
        };
        if !lives {
            return Err(Refusal::Verification);
        }
        let skew = provider.clock_skew.as_secs();
        if self.not_before.is_some_and(|begin| now.saturating_add(skew) < begin) {
            return Err(Refusal::NotYetValid);
        }
        if self.expires.is_some_and(|end| now > end.saturating_add(skew)) {
            return Err(Refusal::Expired);
        }
        let wanted = if audiences.is_empty() { &provider.audiences } else { audiences };
        let meets = |wanted: &String| {
            let wanted = plain(wanted);
            self.audiences.iter().any(|given| plain(given) == wanted)
        };
        if wanted.is_empty() || wanted.iter().any(meets) { Ok(()) } else { Err(Refusal::Audience) }
    }

    /// The claim under `path`, whose keys have `.` between them, where it is a text, a number or a truth.
    pub(super) fn claim(&self, path: &str) -> Option<String> {
        let mut keys = path.split('.');
        let mut at = self.payload.get(keys.next()?)?;
        for key in keys {
            let Datum::Map(inner) = at else { return None };
            at = inner.get(key)?;
        }
        match at {
            Datum::Text(text) if !text.is_empty() => Some(text.clone()),
            Datum::Bool(value) => Some(value.to_string()),
            // As Envoy writes them: whole ones without a point, others with six digits behind it.
            Datum::Number(number) if *number >= 0.0 && number.fract() == 0.0 && *number < 1.8e19 => {
                Some(format!("{number:.0}"))
            }
            Datum::Number(number) => Some(format!("{number:.6}")),
            _ => None,
        }
    }
}

/// Envoy compares audiences without scheme and final slash.
fn plain(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

fn object(bytes: &[u8]) -> Option<BTreeMap<String, Datum>> {
    match parse_json(bytes)? {
        Datum::Map(map) => Some(map),
        _ => None,
    }
}

fn text_of(map: &BTreeMap<String, Datum>, key: &str, wrong: Refusal) -> Result<Option<String>, Refusal> {
    match map.get(key) {
        None => Ok(None),
        Some(Datum::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong),
    }
}

fn seconds(
    map: &BTreeMap<String, Datum>,
    key: &str,
    wrong: Refusal,
    outside: Refusal,
) -> Result<Option<u64>, Refusal> {
    match map.get(key) {
        None => Ok(None),
        Some(Datum::Number(number)) if (0.0..18_446_744_073_709_551_616.0).contains(number) => {
            Ok(Some(*number as u64))
        }
        Some(Datum::Number(_)) => Err(outside),
        Some(_) => Err(wrong),
    }
}

fn audiences(payload: &BTreeMap<String, Datum>) -> Result<Vec<String>, Refusal> {
    match payload.get("aud") {
        None => Ok(Vec::new()),
        Some(Datum::Text(one)) => Ok(vec![one.clone()]),
        Some(Datum::List(list)) => list
            .iter()
            .map(|one| match one {
                Datum::Text(text) => Ok(text.clone()),
                _ => Err(Refusal::PayloadAud),
            })
            .collect(),
        Some(_) => Err(Refusal::PayloadAud),
    }
}
