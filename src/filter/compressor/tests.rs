//! What is compressed is what was, at every flush.

use super::coder::Coder;
use crate::model::Algorithm;
use proptest::prelude::*;
use std::io::{Read, Write};

const ALL: [Algorithm; 3] = [
    Algorithm::Gzip { level: 6 },
    Algorithm::Brotli { quality: 3, window: 18 },
    Algorithm::Zstd { level: 3, checksum: true },
];

fn decoded(algorithm: Algorithm, coded: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match algorithm {
        Algorithm::Gzip { .. } => {
            let _ = flate2::read::GzDecoder::new(coded).read_to_end(&mut out).unwrap();
        }
        Algorithm::Brotli { .. } => {
            let _ = brotli::Decompressor::new(coded, 4096).read_to_end(&mut out).unwrap();
        }
        Algorithm::Zstd { .. } => out = zstd::stream::decode_all(coded).unwrap(),
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn bodies_come_out_as_they_went_in(
        parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 0..6),
    ) {
        for algorithm in ALL {
            let (mut coder, mut coded) = (Coder::new(algorithm), Vec::new());
            for part in &parts {
                coded.extend_from_slice(&coder.write(part).unwrap());
            }
            coded.extend_from_slice(&coder.finish().unwrap());
            prop_assert_eq!(decoded(algorithm, &coded), parts.concat());
        }
    }
}

#[test]
fn each_part_can_be_read_when_it_has_come() {
    for algorithm in ALL {
        let mut coder = Coder::new(algorithm);
        let mut read = Vec::new();
        for round in 0..5u8 {
            let part = format!("data: event {round}\n\n");
            let coded = coder.write(part.as_bytes()).unwrap();
            read.push(coded);
            let all: Vec<u8> = read.concat();
            let plain = partial(algorithm, &all);
            assert!(plain.ends_with(part.as_bytes()), "{algorithm:?}: {:?}", String::from_utf8_lossy(&plain));
        }
    }
}

/// What can be read of a stream that has not ended.
fn partial(algorithm: Algorithm, coded: &[u8]) -> Vec<u8> {
    match algorithm {
        Algorithm::Gzip { .. } => {
            let mut writer = flate2::write::GzDecoder::new(Vec::new());
            writer.write_all(coded).unwrap();
            writer.flush().unwrap();
            writer.get_ref().clone()
        }
        Algorithm::Brotli { .. } => {
            let mut writer = brotli::DecompressorWriter::new(Vec::new(), 4096);
            writer.write_all(coded).unwrap();
            writer.flush().unwrap();
            writer.get_ref().clone()
        }
        Algorithm::Zstd { .. } => {
            let mut writer = zstd::stream::write::Decoder::new(Vec::new()).unwrap();
            writer.write_all(coded).unwrap();
            writer.flush().unwrap();
            writer.get_ref().clone()
        }
    }
}
