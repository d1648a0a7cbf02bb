use super::*;
use crate::model::{
    Certificate, Certificates, CommonTls, Data, DownstreamTls, Hidden, SanKind, SanMatch, SecretRef,
    SecretSource, StringMatch, TlsVersion, UpstreamTls, Validation, ValidationSource,
};
use pki::{Ca, Leaf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

#[path = "../../tests/support/pki.rs"]
mod pki;

fn inline(text: &str) -> Data {
    Data::Inline(Hidden::new(text.as_bytes()))
}

fn certificate(leaf: &Leaf) -> Certificate {
    Certificate { chain: inline(&leaf.chain), key: inline(&leaf.key) }
}

fn roots(ca: &Ca) -> Validation {
    Validation { roots: Some(inline(&ca.pem)), ..Validation::default() }
}

fn common(leaf: Option<&Leaf>, validation: Option<Validation>, alpn: &[&str]) -> CommonTls {
    CommonTls {
        min: TlsVersion::Tls12,
        max: TlsVersion::Tls13,
        ciphers: None,
        curves: None,
        alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
        certificates: Certificates::Given(leaf.map(certificate).into_iter().collect()),
        validation: ValidationSource { given: validation, secret: None },
    }
}

fn server(common: CommonTls) -> DownstreamTls {
    let require_client_certificate = !common.validation.is_none();
    DownstreamTls { common, require_client_certificate, require_sni: false, tickets: true, stateful: true }
}

fn client(common: CommonTls) -> UpstreamTls {
    let sni = "outbound_.80_._.web.demo.svc.cluster.local".to_owned();
    UpstreamTls { common, sni, host_sni: false, check_sni: false, max_session_keys: 1 }
}

type Ends =
    (Result<(Stream<DuplexStream>, Session), TlsError>, Result<(Stream<DuplexStream>, Session), TlsError>);

async fn shake(server: &Server, client: &Client, wish: &Wish) -> Ends {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(server.accept(near), client.connect(far, wish, None))
}

async fn meet(server: DownstreamTls, client: UpstreamTls) -> Ends {
    let secrets = Secrets::default();
    let (server, client) = (secrets.server(&server.into(), false), secrets.client(&client.into()));
    shake(&server, &client, &Wish::default()).await
}

fn uri(matcher: &str) -> SanMatch {
    let matcher = StringMatch::Prefix { value: matcher.to_owned(), ignore_case: false };
    SanMatch { kind: Some(SanKind::Uri), matcher }
}

#[tokio::test]
async fn both_sides_show_and_check_spiffe_names() {
    let ca = Ca::new("root");
    let (a, b) = (ca.leaf(&["spiffe://td/ns/a/sa/a"]), ca.leaf(&["spiffe://td/ns/b/sa/b"]));
    let wants = |name: &str| Validation { names: vec![uri(name)], ..roots(&ca) };
    let alpn = ["istio", "h2"];
    let (near, far) = meet(
        server(common(Some(&a), Some(wants("spiffe://td/")), &["h2", "http/1.1"])),
        client(common(Some(&b), Some(wants("spiffe://td/ns/a/sa/a")), &alpn)),
    )
    .await;
    let ((mut near, session), (mut far, other)) = (near.unwrap(), far.unwrap());
    assert_eq!(session.server_name.as_deref(), Some("outbound_.80_._.web.demo.svc.cluster.local"));
    assert!(session.is_http2() && other.is_http2() && session.version == "TLSv1.3");
    let peer = session.verified_peer().unwrap().info().unwrap().clone();
    assert_eq!(peer.names(SanKind::Uri).collect::<Vec<_>>(), ["spiffe://td/ns/b/sa/b"]);
    assert_eq!(peer.subject, "CN=spiffe://td/ns/b/sa/b,O=Mizzen\\, tests");
    assert_eq!(session.local.unwrap().uri(), Some("spiffe://td/ns/a/sa/a"));
    far.write_all(b"hello").await.unwrap();
    far.flush().await.unwrap();
    let mut got = [0; 5];
    near.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn names_chains_and_pins_are_refused_for_their_own_reason() {
    let (ca, other) = (Ca::new("root"), Ca::new("another root"));
    let (a, b) = (ca.leaf(&["spiffe://td/a"]), ca.leaf(&["spiffe://td/b"]));
    let side = |validation: Validation| {
        meet(server(common(Some(&a), Some(validation), &[])), client(common(Some(&b), None, &[])))
    };
    let wrong = Validation { names: vec![uri("spiffe://other/")], ..roots(&ca) };
    assert_eq!(side(wrong).await.0.err(), Some(TlsError::Name));
    assert!(matches!(side(roots(&other)).await.0.err(), Some(TlsError::Chain(_))));
    let pinned = Validation { hashes: vec![[7; 32]], ..Validation::default() };
    assert_eq!(side(pinned).await.0.err(), Some(TlsError::Pin));
    assert!(side(Validation { accept_untrusted: true, ..roots(&other) }).await.0.is_ok());
    let revoked = Validation { crl: Some(inline(&ca.crl(&[b.serial]))), ..roots(&ca) };
    assert!(matches!(side(revoked).await.0.err(), Some(TlsError::Chain(_))));
    let not_revoked = Validation { crl: Some(inline(&ca.crl(&[a.serial]))), ..roots(&ca) };
    assert!(side(not_revoked).await.0.is_ok());
    // No certificate at all.
    let bare = meet(server(common(Some(&a), Some(roots(&ca)), &[])), client(common(None, None, &[]))).await;
    assert_eq!(bare.0.err(), Some(TlsError::NoCertificate));
    let old = ca.leaf_until(&["spiffe://td/old"], 2021);
    let expired = || meet(server(common(Some(&old), None, &[])), client(common(None, Some(roots(&ca)), &[])));
    assert!(matches!(expired().await.1.err(), Some(TlsError::Chain(_))));
    let lenient = Validation { allow_expired: true, ..roots(&ca) };
    let lenient = meet(server(common(Some(&old), None, &[])), client(common(None, Some(lenient), &[])));
    assert!(lenient.await.1.is_ok());
}

#[tokio::test]
async fn a_hostname_counts_only_where_it_is_asked_for() {
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["*.example.com"]);
    let secrets = Secrets::default();
    let server = secrets.server(&server(common(Some(&leaf), None, &[])).into(), false);
    let client = secrets.client(&client(common(None, Some(roots(&ca)), &[])).into());
    let wish = |sni: &str, check_name| Wish { sni: Some(sni.into()), check_name, ..Wish::default() };
    assert!(shake(&server, &client, &wish("www.example.com", true)).await.1.is_ok());
    assert!(shake(&server, &client, &wish("www.example.org", false)).await.1.is_ok());
    assert_eq!(shake(&server, &client, &wish("www.example.org", true)).await.1.err(), Some(TlsError::Name));
}

#[tokio::test]
async fn lists_of_protocols_without_overlap_go_on_without() {
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["a.test"]);
    let meet = |offered: &'static [&'static str]| {
        meet(server(common(Some(&leaf), None, &["h2", "http/1.1"])), client(common(None, None, offered)))
    };
    for offered in [&["istio"][..], &["istio-peer-exchange", "istio"], &[]] {
        let (near, far) = meet(offered).await;
        assert_eq!((near.unwrap().1.alpn, far.unwrap().1.alpn), (None, None), "{offered:?}");
    }
    let (near, _) = meet(&["istio", "http/1.1"]).await;
    assert_eq!(near.unwrap().1.alpn.as_deref(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn versions_ciphers_and_groups_are_kept_to() {
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["a.test"]);
    let mut near = common(Some(&leaf), None, &[]);
    near.max = TlsVersion::Tls12;
    near.ciphers = Some(vec!["ECDHE-ECDSA-AES128-GCM-SHA256"]);
    near.curves = Some(vec!["P-384"]);
    let (session, _) = meet(server(near.clone()), client(common(None, None, &[]))).await;
    let session = session.unwrap().1;
    let got = (session.version, session.cipher, session.curve);
    assert_eq!(got, ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", Some("P-384")));
    let mut far = common(None, None, &[]);
    far.min = TlsVersion::Tls13;
    assert!(matches!(meet(server(near), client(far)).await.0.err(), Some(TlsError::Connection(_))));
}

#[tokio::test]
async fn a_secret_that_has_not_come_or_is_no_good_never_opens_anything() {
    let ca = Ca::new("root");
    let (a, b) = (ca.leaf(&["spiffe://td/a"]), ca.leaf(&["spiffe://td/b"]));
    let secrets = Secrets::default();
    let name = |name: &str| SecretRef { name: name.into(), source: SecretSource::Cluster("sds".into()) };
    let sds = CommonTls {
        certificates: Certificates::Sds(vec![name("default")]),
        validation: ValidationSource { given: Some(Validation::default()), secret: Some(name("ROOTCA")) },
        ..common(None, None, &[])
    };
    let server = secrets.server(&server(sds).into(), true);
    let client = secrets.client(&client(common(Some(&b), Some(roots(&ca)), &[])).into());
    assert_eq!(secrets.needs(), [(name("ROOTCA"), Kind::Validation), (name("default"), Kind::Certificate)]);
    assert_eq!(secrets.missing_inbound(), 2);
    let try_it = async || shake(&server, &client, &Wish::default()).await;
    assert!(matches!(try_it().await.0.err(), Some(TlsError::NotReady(_))));
    secrets.put_certificate(&name("default"), certificate(&a), "1").unwrap();
    assert_eq!(try_it().await.0.err(), Some(TlsError::NotReady("ROOTCA".into())));
    secrets.put_validation(&name("ROOTCA"), roots(&ca), "1").unwrap();
    let (near, far) = try_it().await;
    let (near, mut far) = (near.unwrap().0, far.unwrap().0);
    assert_eq!(secrets.missing_inbound(), 0);
    // One that is no good leaves the last good one; a key of another certificate is no good.
    let mixed = Certificate { chain: inline(&a.chain), key: inline(&b.key) };
    let refused = secrets.put_certificate(&name("default"), mixed, "2").unwrap_err();
    assert!(refused.contains("does not belong"), "{refused}");
    assert!(try_it().await.0.is_ok());
    // Rotation: new handshakes take the new one, the open connection goes on.
    let new = ca.leaf(&["spiffe://td/a2"]);
    secrets.put_certificate(&name("default"), certificate(&new), "3").unwrap();
    let (_, session) = try_it().await.1.unwrap();
    let shown = session.peer.unwrap().info().unwrap().clone();
    assert_eq!(shown.names(SanKind::Uri).collect::<Vec<_>>(), ["spiffe://td/a2"]);
    far.write_all(b"x").await.unwrap();
    far.flush().await.unwrap();
    let mut near = near;
    near.read_exact(&mut [0]).await.unwrap();
    // With the root goes what was trusted before, resumption included.
    secrets.put_validation(&name("ROOTCA"), roots(&Ca::new("other")), "4").unwrap();
    assert!(matches!(try_it().await.0.err(), Some(TlsError::Chain(_))));
}

#[tokio::test]
async fn what_came_by_an_open_stream_is_there_for_whoever_wants_it_next() {
    let ca = Ca::new("root");
    let secrets = Secrets::default();
    let name = SecretRef { name: "default".into(), source: SecretSource::Cluster("sds".into()) };
    let sds = CommonTls { certificates: Certificates::Sds(vec![name.clone()]), ..common(None, None, &[]) };
    let model = Arc::new(server(sds));
    let first = secrets.server(&model, true);
    let need = (name.clone(), Kind::Certificate);
    let hold = secrets.hold(&need).unwrap();
    secrets.put_certificate(&name, certificate(&ca.leaf(&["spiffe://td/a"])), "1").unwrap();
    // Held, but nobody wants it: the stream is to end.
    drop(first);
    assert!(secrets.needs().is_empty() && secrets.status().is_empty());
    // Wanted again before it ended.
    let second = secrets.server(&model, true);
    assert_eq!((secrets.needs(), secrets.missing_inbound()), (vec![need.clone()], 0));
    drop((second, hold));
    assert!(secrets.hold(&need).is_none());
    let _third = secrets.server(&model, true);
    assert_eq!(secrets.missing_inbound(), 1, "nothing is kept without a stream");
}

#[tokio::test]
async fn sessions_resume_and_are_checked_again() {
    let ca = Ca::new("root");
    let (a, b) = (ca.leaf(&["a.test"]), ca.leaf(&["spiffe://td/b"]));
    let secrets = Secrets::default();
    let server = secrets.server(&server(common(Some(&a), Some(roots(&ca)), &[])).into(), false);
    let client = secrets.client(&client(common(Some(&b), Some(roots(&ca)), &[])).into());
    for round in 0..3 {
        let (near, far) = shake(&server, &client, &Wish::default()).await;
        let ((mut near, session), (mut far, _)) = (near.unwrap(), far.unwrap());
        assert_eq!(session.resumed, round > 0);
        assert!(session.verified_peer().is_some(), "a resumed session keeps its certificate");
        // Tickets come with the first data.
        near.write_all(b"x").await.unwrap();
        near.flush().await.unwrap();
        far.read_exact(&mut [0]).await.unwrap();
    }
}

#[tokio::test]
async fn files_are_read_again_when_they_change() {
    let folder = std::env::temp_dir().join(format!("mizzen-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    let ca = Ca::new("root");
    let write = |leaf: &Leaf| {
        std::fs::write(&chain, &leaf.chain).unwrap();
        std::fs::write(&key, &leaf.key).unwrap();
    };
    let secrets = Secrets::default();
    let files = Certificate { chain: Data::File(chain.clone()), key: Data::File(key.clone()) };
    let mut near = common(None, None, &[]);
    near.certificates = Certificates::Given(vec![files]);
    let server = secrets.server(&server(near).into(), false);
    let client = secrets.client(&client(common(None, None, &[])).into());
    let shown = async || {
        let (_, session) = shake(&server, &client, &Wish::default()).await.1.ok()?;
        session.peer.unwrap().info()?.names(SanKind::Dns).next().map(str::to_owned)
    };
    assert_eq!(shown().await, None, "no file yet");
    write(&ca.leaf(&["one.test"]));
    assert!(secrets.refresh_files());
    assert_eq!(shown().await.as_deref(), Some("one.test"));
    // Half a rotation: the key does not fit, the last good pair stays.
    let next = ca.leaf(&["two.example.test"]);
    std::fs::write(&chain, &next.chain).unwrap();
    secrets.refresh_files();
    assert_eq!(shown().await.as_deref(), Some("one.test"));
    assert!(secrets.status()[0].error.as_ref().is_some_and(|error| error.contains("does not belong")));
    std::fs::write(&key, &next.key).unwrap();
    secrets.refresh_files();
    assert_eq!(shown().await.as_deref(), Some("two.example.test"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn equal_models_share_a_context_and_nothing_secret_is_printed() {
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["a.test"]);
    let secrets = Secrets::default();
    let model = |leaf: &Leaf| Arc::new(server(common(Some(leaf), None, &[])));
    let first = secrets.server(&model(&leaf), false);
    assert!(Arc::ptr_eq(&first, &secrets.server(&model(&leaf), false)));
    assert!(!Arc::ptr_eq(&first, &secrets.server(&model(&ca.leaf(&["a.test"])), false)));
    let shown = format!("{:?}{}", model(&leaf), serde_json::to_string(&*model(&leaf)).unwrap());
    assert!(!shown.contains("PRIVATE") && !shown.contains(leaf.key.lines().nth(1).unwrap()));
}

#[test]
fn bad_pem_says_what_is_wrong() {
    let leaf = Ca::new("root").leaf(&["a.test"]);
    let read = |chain: &str, key: &str| Identity::read(chain.as_bytes(), key.as_bytes()).err().unwrap();
    assert_eq!(read("", &leaf.key), PemError::NoCertificate);
    assert_eq!(read(&leaf.chain, ""), PemError::NoKey);
    assert_eq!(read(&leaf.chain, &leaf.chain), PemError::NoKey);
    let encrypted = leaf.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert_eq!(read(&leaf.chain, &encrypted), PemError::Encrypted);
    assert!(matches!(read(&leaf.chain.replace("MII", "!!!"), &leaf.key), PemError::Broken(_)));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(read(garbage, &leaf.key), PemError::Certificate { at: 0, .. }));
    assert!(matches!(Trust::read(garbage.as_bytes(), None).err(), Some(PemError::Certificate { at: 0, .. })));
}

#[tokio::test]
async fn a_client_hello_is_understood_at_any_split() {
    let ca = Ca::new("root");
    let client =
        Secrets::default().client(&client(common(Some(&ca.leaf(&["x"])), None, &["istio", "h2"])).into());
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let sending = tokio::spawn(async move { drop(client.connect(near, &Wish::default(), None).await) });
    let mut bytes = vec![0; 16 * 1024];
    let count = far.read(&mut bytes).await.unwrap();
    drop(far);
    sending.await.unwrap();
    bytes.truncate(count);
    let hello = Hello {
        server_name: Some("outbound_.80_._.web.demo.svc.cluster.local".into()),
        alpn: vec!["istio".into(), "h2".into()],
    };
    assert_eq!(client_hello(&bytes), Heard::Tls(hello.clone()));
    for end in 0..bytes.len() {
        assert_eq!(client_hello(&bytes[..end]), Heard::More, "{end} bytes");
    }
    // The same message in small records.
    let mut records = Vec::new();
    for part in bytes[5..].chunks(7) {
        records.extend_from_slice(&[22, 3, 1, 0, part.len() as u8]);
        records.extend_from_slice(part);
    }
    assert_eq!(client_hello(&records), Heard::Tls(hello));
    for (text, verdict) in [
        (&b""[..], Heard::More),
        (b"GET / HTTP/1.1", Heard::NotTls),
        (b"\x16", Heard::More),
        (b"\x16\x02\x00\x00\x05", Heard::NotTls),
        (b"\x16\x03\x01\x00\x00", Heard::NotTls),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Heard::NotTls),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", Heard::NotTls),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Heard::NotTls),
    ] {
        assert_eq!(client_hello(text), verdict, "{text:?}");
    }
}
