//! Keys, tokens and what is required of them.

use super::keys::Keys;
use super::remote::{Known, Remote};
use super::*;
use crate::filter::ask::Told;
use crate::message::{Failure, Headers};
use crate::model::{RemoteJwks, StringMatch, TokenHeader};
use issuers::{Issuer, jwks, url};
use serde_json::json;
use std::time::Duration;

#[path = "../../../tests/support/jwt.rs"]
mod issuers;

const ALGS: &[&str] = &[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384",
    "HS512", "EdDSA",
];

fn keys(text: &str) -> Keys {
    Keys::parse(text.as_bytes()).unwrap()
}

#[test]
fn every_algorithm_is_checked_by_a_key_of_its_kind_only() {
    let issuers: Vec<Issuer> = ALGS.iter().map(|alg| Issuer::new(alg, alg)).collect();
    let all = jwks(&issuers.iter().collect::<Vec<_>>());
    let set = keys(&all);
    for issuer in &issuers {
        let text = issuer.token(&json!({"iss": "i"}));
        let token = Token::parse(&text).unwrap();
        assert_eq!(set.verify(&token), Ok(()), "{}", issuer.kid);
        let (signed, _) = text.rsplit_once('.').unwrap();
        let mut forged = Token::parse(&text).unwrap();
        forged.signed = signed.replacen('.', "x.", 1);
        assert_eq!(set.verify(&forged), Err(Refusal::Verification), "{}", issuer.kid);
        // The right algorithm, without the name of a key: all are tried.
        let anonymous = issuer.token_of(&json!({"alg": issuer.kid}), &json!({}));
        assert_eq!(set.verify(&Token::parse(&anonymous).unwrap()), Ok(()), "{}", issuer.kid);
    }
    // A public key is no secret: what is signed with its text by HMAC is refused, whatever the set says of it.
    let rsa = Issuer::new("RS256", "k");
    let mut public = rsa.jwk();
    public.as_object_mut().unwrap().remove("alg");
    let set = keys(&json!({"keys": [public]}).to_string());
    let confused = Issuer::new("HS256", "k").token(&json!({}));
    assert_eq!(set.verify(&Token::parse(&confused).unwrap()), Err(Refusal::Verification));
    let other = Issuer::new("RS256", "other").token(&json!({}));
    assert_eq!(set.verify(&Token::parse(&other).unwrap()), Err(Refusal::NoSuchKey));
}

#[test]
fn certificates_by_the_names_of_their_keys_are_a_set() {
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let pem = CertificateParams::default().self_signed(&pair).unwrap().pem();
    let other = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let issuer = Issuer::of_rsa(pair.serialized_der(), "k");
    let token = issuer.token(&json!({}));
    let verify = |set: serde_json::Value| keys(&set.to_string()).verify(&Token::parse(&token).unwrap());
    // A key of another kind is of no use to anybody.
    assert_eq!(verify(json!({"k": pem, "other": other})), Ok(()));
    assert_eq!(verify(json!({"l": pem})), Err(Refusal::NoSuchKey));
    let none = |set: serde_json::Value| Keys::parse(set.to_string().as_bytes()).is_none();
    assert!(none(json!({"k": pem, "l": "no certificate"})) && none(json!({"k": pem, "": pem})));
    assert!(none(json!({"k": other})) && none(json!({"k": 1})) && none(json!({})));
    // Chains within keys say nothing: what counts is the key.
    assert!(none(json!({"keys": [{"kty": "RSA", "kid": "k", "x5c": [pem]}]})));
}

#[test]
fn keys_of_unknown_kinds_are_passed_over_and_a_set_without_any_is_none() {
    let good = Issuer::new("ES256", "good");
    let set = json!({"keys": [{"kty": "future", "kid": "x"}, {"kty": "EC", "crv": "P-999", "x": "", "y": ""}, 7,
        {"kty": "RSA", "n": "!", "e": "AQAB"}, {"kty": "OKP", "crv": "X25519", "x": "AA"}, good.jwk()]});
    let token = good.token(&json!({}));
    assert_eq!(keys(&set.to_string()).verify(&Token::parse(&token).unwrap()), Ok(()));
    for none in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":{}}"#, r#"{"keys":[{"kty":"future"}]}"#] {
        assert!(Keys::parse(none.as_bytes()).is_none(), "{none}");
    }
}

#[test]
fn tokens_that_cannot_be_read_say_why() {
    let of =
        |header: &str, payload: &str| format!("{}.{}.AA", url(header.as_bytes()), url(payload.as_bytes()));
    let alg = r#"{"alg":"RS256"}"#;
    for (text, refusal) in [
        ("a.b".to_owned(), Refusal::BadFormat),
        ("a.b.c.d".to_owned(), Refusal::BadFormat),
        ("..".to_owned(), Refusal::BadFormat),
        ("!.b.c".to_owned(), Refusal::HeaderBase64),
        (of("x", "{}"), Refusal::HeaderJson),
        (of("{}", "{}"), Refusal::HeaderAlg),
        (of(r#"{"alg":"none"}"#, "{}"), Refusal::HeaderUnknownAlg),
        (of(r#"{"alg":"RS256","kid":1}"#, "{}"), Refusal::HeaderKid),
        (of(alg, "[]"), Refusal::PayloadJson),
        (of(alg, r#"{"iss":1}"#), Refusal::PayloadIss),
        (of(alg, r#"{"exp":"1"}"#), Refusal::PayloadExp),
        (of(alg, r#"{"nbf":-1}"#), Refusal::PayloadNbfRange),
        (of(alg, r#"{"aud":[1]}"#), Refusal::PayloadAud),
        (format!("{}!", of(alg, "{}")), Refusal::SignatureBase64),
    ] {
        assert_eq!(Token::parse(&text).err(), Some(refusal), "{text}");
    }
    assert_eq!(Refusal::Missing.details(), "jwt_authn_access_denied{Jwt_is_missing}");
}

fn provider(name: &str, issuer: &str, keys: String) -> JwtProvider {
    JwtProvider {
        name: name.into(),
        issuer: issuer.into(),
        audiences: Vec::new(),
        subjects: None,
        require_expiration: false,
        max_lifetime: None,
        keys: JwksSource::Local(keys),
        forward: false,
        from_headers: vec![TokenHeader { name: "authorization".into(), prefix: "Bearer ".into() }],
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        payload_header: String::new(),
        pad_payload_header: false,
        payload_in_metadata: String::new(),
        header_in_metadata: String::new(),
        failure_in_metadata: String::new(),
        space_delimited: Vec::new(),
        clock_skew: Duration::from_secs(60),
        cache: None,
        claim_headers: Vec::new(),
        clear_route_cache: false,
    }
}

#[test]
fn claims_hold_for_their_time_their_audience_and_their_subject() {
    let issuer = Issuer::new("HS256", "k");
    let now = Duration::from_secs(1_000_000);
    let check = |claims: serde_json::Value, change: &dyn Fn(&mut JwtProvider)| {
        let mut provider = provider("p", "i", String::new());
        change(&mut provider);
        Token::parse(&issuer.token(&claims)).unwrap().check(&provider, &[], now)
    };
    let same = |_: &mut JwtProvider| {};
    assert_eq!(check(json!({}), &same), Ok(()));
    assert_eq!(check(json!({"exp": 999_941}), &same), Ok(()), "within the skew");
    assert_eq!(check(json!({"exp": 999_939}), &same), Err(Refusal::Expired));
    assert_eq!(check(json!({"exp": 0}), &same), Err(Refusal::Expired));
    assert_eq!(check(json!({"nbf": 1_000_060}), &same), Ok(()));
    assert_eq!(check(json!({"nbf": 1_000_061}), &same), Err(Refusal::NotYetValid));
    assert_eq!(check(json!({}), &|p| p.require_expiration = true), Err(Refusal::Verification));
    let short = |p: &mut JwtProvider| p.max_lifetime = Some(Duration::from_secs(100));
    assert_eq!(check(json!({"exp": 1_000_100}), &short), Ok(()));
    assert_eq!(check(json!({"exp": 1_000_101}), &short), Err(Refusal::Verification));
    assert_eq!(check(json!({}), &short), Err(Refusal::Verification));
    let web = |p: &mut JwtProvider| p.audiences = vec!["web".into(), "https://other/".into()];
    assert_eq!(check(json!({}), &web), Err(Refusal::Audience));
    assert_eq!(check(json!({"aud": ["x", "web"]}), &web), Ok(()));
    assert_eq!(check(json!({"aud": "http://other"}), &web), Ok(()), "compared as Envoy does");
    let named = |p: &mut JwtProvider| {
        p.subjects = Some(StringMatch::Prefix { value: "spiffe://a/".into(), ignore_case: false });
    };
    assert_eq!(check(json!({"sub": "spiffe://a/b"}), &named), Ok(()));
    assert_eq!(check(json!({"sub": "x"}), &named), Err(Refusal::Verification));
    assert_eq!(check(json!({}), &named), Err(Refusal::Verification));
}

/// A request with these headers.
struct Asked(Vec<(&'static str, String)>);

impl Head for Asked {
    fn authority(&self) -> Option<&[u8]> {
        Some(b"host")
    }
    fn path_and_query(&self) -> Option<&[u8]> {
        Some(b"/")
    }
    fn method(&self) -> Option<&[u8]> {
        Some(b"GET")
    }
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (_, value) = self.0.iter().find(|(key, _)| *key == name)?;
        Some(value.as_bytes().into())
    }
    fn each_value(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        self.0.iter().filter(|(key, _)| *key == name).for_each(|(_, value)| each(value.as_bytes()));
    }
}

impl Headers for Asked {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header(name)
    }
    fn each(&self, each: &mut dyn FnMut(&str, &[u8])) {
        self.0.iter().for_each(|(name, value)| each(name, value.as_bytes()));
    }
    fn set(&mut self, _: &str, _: &[u8]) {}
    fn append(&mut self, _: &str, _: &[u8]) {}
    fn remove(&mut self, _: &str) -> bool {
        false
    }
}

impl Request for Asked {
    fn head(&self) -> &dyn Head {
        self
    }
}

fn judged(config: &JwtAuthn, required: &JwtRequirement, tokens: &[&str]) -> Result<Vec<usize>, Refusal> {
    let rule = FilterRule::new(FilterConfig::JwtAuthn(Box::new(config.clone())));
    let checker = Checker::of(config, &rule).unwrap();
    let headers = tokens.iter().map(|token| ("authorization", format!("Bearer {token}"))).collect();
    let request = Asked(headers);
    let mut judge = Judge {
        config,
        sources: &checker.sources,
        request: &request,
        now: Duration::from_secs(1_000_000),
        waited: &[],
        remembered: &|_, _| None,
        good: Vec::new(),
        new: Vec::new(),
        refused: Vec::new(),
    };
    match judge.judge(required) {
        Ok(()) => Ok(judge.good.iter().map(|good| good.provider).collect()),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::Keys(_)) => panic!("no keys are remote"),
    }
}

#[test]
fn requirements_are_met_by_the_tokens_they_name() {
    use JwtRequirement::{All, AllowMissing, AllowMissingOrFailed, Any, Provider};
    let (a, b) = (Issuer::new("HS256", "a"), Issuer::new("HS256", "b"));
    let config = JwtAuthn {
        providers: vec![provider("a", "a", jwks(&[&a])), provider("b", "b", jwks(&[&b]))],
        ..JwtAuthn::default()
    };
    let (of_a, of_b) = (a.token(&json!({"iss": "a"})), b.token(&json!({"iss": "b"})));
    let stranger = a.token(&json!({"iss": "c"}));
    let forged = b.token(&json!({"iss": "a"}));
    let old = a.token(&json!({"iss": "a", "exp": 1}));
    let one = |number| Provider(number, Vec::new());
    let judge = |required: &JwtRequirement, tokens: &[&str]| judged(&config, required, tokens);

    assert_eq!(judge(&one(0), &[]), Err(Refusal::Missing));
    assert_eq!(judge(&one(0), &[&of_a]), Ok(vec![0]));
    assert_eq!(judge(&one(0), &[&of_b]), Err(Refusal::UnknownIssuer));
    assert_eq!(judge(&one(0), &[&forged]), Err(Refusal::NoSuchKey));
    assert_eq!(judge(&one(0), &[&of_a, &old]), Err(Refusal::Expired), "one bad token spoils the others");
    assert_eq!(judge(&Provider(0, vec!["x".into()]), &[&of_a]), Err(Refusal::Audience));

    // What istiod sends: a good token or none.
    let optional = Any(vec![one(0), AllowMissing]);
    assert_eq!(judge(&optional, &[]), Ok(vec![]));
    assert_eq!(judge(&optional, &[&of_a]), Ok(vec![0]));
    assert_eq!(judge(&optional, &[&old]), Err(Refusal::Expired), "never a bad one");
    assert_eq!(judge(&optional, &[&stranger]), Err(Refusal::UnknownIssuer));
    assert_eq!(judge(&optional, &["x"]), Err(Refusal::BadFormat));

    let either = Any(vec![one(0), one(1)]);
    assert_eq!(judge(&either, &[&of_b]), Ok(vec![1]));
    assert_eq!(judge(&either, &[]), Err(Refusal::Missing));
    assert_eq!(judge(&either, &[&old]), Err(Refusal::Expired), "what fails tells more than a stranger");
    assert_eq!(judge(&All(vec![one(0), optional.clone()]), &[&of_a]), Ok(vec![0]), "said once");
    assert_eq!(judge(&All(vec![one(0), one(1)]), &[&of_a]), Err(Refusal::UnknownIssuer));

    assert_eq!(judge(&AllowMissing, &[]), Ok(vec![]));
    assert_eq!(judge(&AllowMissing, &[&of_b]), Ok(vec![1]), "by its issuer");
    assert_eq!(judge(&AllowMissing, &[&of_a, &old]), Err(Refusal::Expired));
    assert_eq!(judge(&AllowMissingOrFailed, &[&old, &of_b, "x"]), Ok(vec![1]));
    assert_eq!(judge(&Any(vec![one(0), AllowMissingOrFailed]), &[&old]), Ok(vec![]));
}

#[test]
fn a_local_set_without_keys_admits_nobody() {
    let issuer = Issuer::new("HS256", "a");
    let config = JwtAuthn { providers: vec![provider("a", "a", "{}".into())], ..JwtAuthn::default() };
    let token = issuer.token(&json!({"iss": "a"}));
    let required = JwtRequirement::Provider(0, Vec::new());
    assert_eq!(judged(&config, &required, &[&token]), Err(Refusal::NoValidKeys));
}

#[tokio::test(start_paused = true)]
async fn remote_keys_are_fetched_by_one_kept_when_there_are_no_newer_ones_and_seldom_asked_for_twice() {
    let spec = RemoteJwks {
        cluster: "c".into(),
        authority: "h".into(),
        path: "/keys".into(),
        timeout: Duration::from_secs(1),
        lifetime: Duration::from_secs(300),
        eager: None,
        retries: (0, Duration::ZERO, Duration::ZERO),
    };
    let remote = Remote::new(spec);
    let good = || {
        let set = jwks(&[&Issuer::new("HS256", "a")]);
        Ok(Told { status: 200, body: set.into(), ..Told::default() })
    };
    let failed = || Err(Failure::before(Reason::ConnectFailed));
    assert!(matches!(remote.known(None), Known::Wanted));
    let turn = remote.turn().ok().unwrap();
    assert_eq!((turn.ask().path.as_str(), turn.ask().cluster.as_str()), ("/keys", "c"));
    let mut until = remote.turn().err().unwrap();
    assert!(futures_pending(&mut until.0), "somebody fetches");
    // Given up, the turn goes on.
    drop(turn);
    until.0.await;
    let before = remote.ended();
    assert!(!remote.turn().ok().unwrap().heard(failed()));
    assert!(matches!(remote.known(None), Known::Last(None)), "nobody tries again at once");
    tokio::time::advance(Duration::from_millis(1001)).await;
    assert!(matches!(remote.known(None), Known::Wanted));
    assert!(matches!(remote.known(Some(before)), Known::Last(None)), "who waited has seen it fail");
    for bad in
        [Told { status: 500, ..Told::default() }, Told { status: 200, body: "{}".into(), ..Told::default() }]
    {
        assert!(!remote.turn().ok().unwrap().heard(Ok(bad)));
    }
    assert!(remote.turn().ok().unwrap().heard(good()));
    assert!(matches!(remote.known(None), Known::Fresh(_)));
    assert!(!remote.may_refresh(), "for an unknown key, once in ten seconds");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(remote.may_refresh());
    tokio::time::advance(Duration::from_secs(291)).await;
    assert!(matches!(remote.known(None), Known::Wanted), "too old");
    assert!(matches!(remote.known(Some(0)), Known::Fresh(_)), "not for whom they came");
    assert!(!remote.turn().ok().unwrap().heard(failed()));
    assert!(matches!(remote.known(None), Known::Last(Some(_))), "old ones are better than none");
}

fn futures_pending(future: &mut std::pin::Pin<Box<dyn Future<Output = ()>>>) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    future.as_mut().poll(&mut cx).is_pending()
}
