//! Every resource that a real istiod sent is applied, or refused for a reason that names the field.
//!
//! `tests/golden/xds/*.pb` hold them as serialized DeltaDiscoveryResponses (each distinct resource once),
//! `verdicts.txt` what becomes of each. After a change that is meant to change verdicts, write it anew with
//! `MIZZEN_WRITE_GOLDEN=1 cargo test --test translate_envoy` and read the difference.

use std::fmt::Write;
use std::path::PathBuf;

use mizzen::proto;
use mizzen::proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use mizzen::translate::{NoteKind, Rejection, Translated, envoy};
use prost::Message;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xds")
}

fn resources(kind: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(folder().join(format!("{kind}.pb"))).unwrap();
    let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
    response.resources.into_iter().map(|r| (r.name, r.resource.unwrap().value)).collect()
}

fn line<T>(out: &mut String, name: &str, verdict: Result<Translated<T>, Rejection>) {
    match verdict {
        Ok(translated) => {
            writeln!(out, "ok {name}").unwrap();
            for note in translated.notes {
                let kind = match note.kind {
                    NoteKind::UnknownField => "unknown",
                    NoteKind::NoEffect => "no effect",
                    NoteKind::NotSpoken => "not spoken",
                    NoteKind::OwnStream { .. } => "own stream",
                };
                writeln!(out, "    {kind}: {}", note.path).unwrap();
            }
        }
        Err(rejection) => {
            assert_eq!(rejection.name.as_deref(), Some(name));
            writeln!(out, "refused {name}").unwrap();
            for finding in rejection.findings {
                assert!(!finding.path.is_empty(), "{name}: {finding}");
                writeln!(out, "    {finding}").unwrap();
            }
        }
    }
}

#[test]
fn captured_resources_meet_their_verdicts() {
    let mut text = String::new();
    for kind in ["cds", "eds", "lds", "rds"] {
        writeln!(text, "# {kind}").unwrap();
        for (name, bytes) in resources(kind) {
            assert_eq!(envoy::resource_name(&bytes), Some(name.as_str()));
            match kind {
                "cds" => line(&mut text, &name, envoy::cluster(&bytes)),
                "eds" => line(&mut text, &name, envoy::endpoints(&bytes)),
                "lds" => line(&mut text, &name, envoy::listener(&bytes)),
                _ => line(&mut text, &name, envoy::route(&bytes)),
            }
        }
    }
    let file = folder().join("verdicts.txt");
    if std::env::var_os("MIZZEN_WRITE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    for (ours, golden) in text.lines().zip(expected.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}

/// A resource is equal to itself after a second translation: an unchanged push makes no new generation.
#[test]
fn the_same_bytes_give_the_same_model() {
    for (_, bytes) in resources("rds") {
        if let (Ok(a), Ok(b)) = (envoy::route(&bytes), envoy::route(&bytes)) {
            assert_eq!(a, b);
        }
    }
}

/// The admin prints every captured resource, whatever extensions are inside.
#[test]
fn captured_resources_print_as_json() {
    for kind in ["cds", "eds", "lds", "rds"] {
        let bytes = std::fs::read(folder().join(format!("{kind}.pb"))).unwrap();
        let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
        for resource in response.resources {
            let json = proto::json::any_to_json(&resource.resource.unwrap());
            let key = if kind == "eds" { "cluster_name" } else { "name" };
            assert_eq!(json[key], resource.name.as_str());
        }
    }
}

/// Bytes from the network never panic, whatever they are: every prefix of small resources, and bit flips.
#[test]
fn damaged_resources_are_answered() {
    let translate: [fn(&[u8]) -> bool; 4] = [
        |b| envoy::cluster(b).is_ok(),
        |b| envoy::endpoints(b).is_ok(),
        |b| envoy::listener(b).is_ok(),
        |b| envoy::route(b).is_ok(),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below.max(1) as u64).unwrap()
    };
    for (translate, kind) in translate.iter().zip(["cds", "eds", "lds", "rds"]) {
        let all = resources(kind);
        for _ in 0..150 {
            let mut bytes = all[random(all.len())].1.clone();
            for _ in 0..=random(4) {
                let (at, bit) = (random(bytes.len()), random(8));
                bytes[at] ^= 1 << bit;
            }
            translate(&bytes);
            bytes.truncate(random(bytes.len()));
            translate(&bytes);
        }
    }
}
