//! Any bytes as the last good snapshot: the reader never panics and never takes more memory than there are bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mizzen::util::hash::xxh64;
use mizzen::xds::disk::{Entry, FORMAT, Header, parse};
use mizzen::xds::types::ResourceType;

/// The length field made true, so that the records behind it are reached.
fn with_length(data: &[u8]) -> Vec<u8> {
    let mut file = b"MZNSNAP\n".to_vec();
    file.extend(FORMAT.to_le_bytes());
    file.extend((data.len() as u64 + 20).to_le_bytes());
    file.extend(data);
    file
}

/// A header that matches, so that the records behind it are reached.
fn with_header(data: &[u8]) -> Vec<u8> {
    let mut file = b"MZNSNAP\n".to_vec();
    file.extend(FORMAT.to_le_bytes());
    file.extend((data.len() as u64 + 20 + 20 + 8).to_le_bytes());
    file.extend([0; 20]);
    file.extend(xxh64(&file, 0).to_le_bytes());
    file.extend(data);
    file
}

fuzz_target!(|data: &[u8]| {
    let header = Header::default();
    for file in [data.to_vec(), with_length(data), with_header(data)] {
        if let Ok(loaded) = parse(&file[..], file.len() as u64, &header) {
            for entry in loaded.entries {
                let kind: ResourceType = entry.kind;
                assert_eq!(Entry::new(kind, entry.clone().into_raw()), entry);
            }
        }
    }
});
