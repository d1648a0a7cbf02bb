//! Bodies made smaller, and large again.

use crate::model::Switch;
use serde::Serialize;

/// `Compressor`, and MOSN's `gzip`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compressor {
    pub algorithm: Algorithm,
    /// Of its library, for metric names.
    pub library: String,
    /// What it does with responses; `None` nothing.
    pub response: Option<Compression>,
    /// What it does with requests.
    pub request: Option<Compression>,
    /// Responses with a strong ETag are left alone; else they lose it.
    pub keep_etag: bool,
    pub remove_accept_encoding: bool,
    /// Codes of responses that are left alone.
    pub not_codes: Vec<u16>,
    /// Of encodings the client likes equally, this one is taken.
    pub choose_first: bool,
    /// Metric names have the direction in them.
    pub directions_in_names: bool,
}

/// Which bodies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compression {
    pub enabled: Switch,
    /// Least length in bytes, as `content-length` tells.
    pub least: u64,
    /// Media types, lower case; empty: a list of texts.
    pub types: Vec<String>,
}

/// How bodies are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Algorithm {
    /// Level 1 to 9.
    Gzip { level: u8 },
    /// Quality 0 to 11, window in bits.
    Brotli { quality: u8, window: u8 },
    /// Level 1 to 22.
    Zstd { level: u8, checksum: bool },
}

impl Algorithm {
    /// Its content coding.
    pub fn coding(self) -> &'static str {
        match self {
            Algorithm::Gzip { .. } => "gzip",
            Algorithm::Brotli { .. } => "br",
            Algorithm::Zstd { .. } => "zstd",
        }
    }

    /// What it is called in metric names.
    pub fn word(self) -> &'static str {
        match self {
            Algorithm::Brotli { .. } => "brotli",
            other => other.coding(),
        }
    }
}

/// `Decompressor`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decompressor {
    pub algorithm: Algorithm,
    pub library: String,
    pub request: Switch,
    pub response: Switch,
    /// Upstreams are told that the coding is welcome.
    pub advertise: bool,
    /// A body that grows more than this many times ends its stream.
    pub max_ratio: u32,
}
