//! `Compressor` and `Decompressor`, with their libraries.

use super::disabled;
use crate::model::{Algorithm, Compression, Compressor, Decompressor, FilterConfig, RouteFilter, Switch};
use crate::proto::envoy::config::core::v3::{RuntimeFeatureFlag, TypedExtensionConfig};
use crate::proto::envoy::extensions::compression as library;
use crate::proto::envoy::extensions::filters::http::compressor::v3 as pb;
use crate::proto::envoy::extensions::filters::http::decompressor::v3 as de;
use crate::translate::envoy::extension::Extension;
use crate::translate::envoy::values::{enumeration, within};
use crate::translate::finding::{Findings, Path};

/// Least `content-length` if not set.
const LEAST: u32 = 30;
/// How many times a body may grow if not set.
const MAX_RATIO: u32 = 100;

pub(super) fn compressor(
    path: &Path<'_>,
    config: &pb::Compressor,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let at = path.name("compressor_library");
    let Some(given) = &config.compressor_library else {
        out.bad(&at, "", "is required");
        return None;
    };
    let algorithm = algorithm(&at, given, out)?;
    let request = config.request_direction_config.as_ref().and_then(|of| of.common_config.as_ref());
    // Requests are left alone unless something is said of them.
    let request = request.and_then(direction);
    let of = config.response_direction_config.as_ref();
    let (response, keep_etag, remove, codes) = match of {
        Some(of) => {
            let common = of.common_config.clone().unwrap_or_default();
            let codes = of.uncompressible_response_codes.iter();
            let codes = codes.filter_map(|code| u16::try_from(*code).ok()).collect();
            (direction(&common), of.disable_on_etag_header, of.remove_accept_encoding_header, codes)
        }
        None => {
            let common = pb::compressor::CommonDirectionConfig {
                enabled: config.runtime_enabled.clone(),
                min_content_length: config.content_length,
                content_type: config.content_type.clone(),
            };
            let remove = config.remove_accept_encoding_header;
            (direction(&common), config.disable_on_etag_header, remove, Vec::new())
        }
    };
    Some(FilterConfig::Compressor(Compressor {
        algorithm,
        library: given.name.clone(),
        response,
        request,
        keep_etag,
        remove_accept_encoding: remove,
        not_codes: codes,
        choose_first: config.choose_first,
        directions_in_names: of.is_some(),
    }))
}

fn switch(flag: Option<&RuntimeFeatureFlag>) -> Switch {
    Switch {
        on: flag.and_then(|flag| flag.default_value).unwrap_or(true),
        runtime_key: flag.map(|flag| flag.runtime_key.clone()).unwrap_or_default(),
    }
}

fn direction(common: &pb::compressor::CommonDirectionConfig) -> Option<Compression> {
    let enabled = switch(common.enabled.as_ref());
    (!enabled.is_dead()).then(|| Compression {
        enabled,
        least: common.min_content_length.unwrap_or(LEAST).into(),
        types: common.content_type.iter().map(|kind| kind.to_ascii_lowercase()).collect(),
    })
}

pub(super) fn of_route(
    path: &Path<'_>,
    config: &pb::CompressorPerRoute,
    out: &mut Findings,
) -> Option<RouteFilter> {
    use pb::compressor_per_route::Override;
    match &config.r#override {
        Some(Override::Disabled(is)) => return disabled(path, *is, out),
        Some(Override::Overrides(_)) => {
            out.bad(&path.name("overrides"), "", "not supported at routes (nearest valid: disabled)");
        }
        None => out.bad(path, "", "says nothing (nearest valid: disabled)"),
    }
    None
}

fn algorithm(path: &Path<'_>, given: &TypedExtensionConfig, out: &mut Findings) -> Option<Algorithm> {
    let at = path.name("typed_config");
    let any = given.typed_config.clone().unwrap_or_default();
    let extension = Extension::open(&at, &any, out)?;
    if extension.is::<library::gzip::compressor::v3::Gzip>() {
        use library::gzip::compressor::v3::gzip::CompressionLevel as Level;
        let gzip: library::gzip::compressor::v3::Gzip = extension.decode(&at, out)?;
        let level = enumeration::<Level>(&at.name("compression_level"), gzip.compression_level, out)?;
        let level = if level == Level::DefaultCompression { 6 } else { gzip.compression_level };
        return Some(Algorithm::Gzip { level: u8::try_from(level).ok()? });
    }
    if extension.is::<library::brotli::compressor::v3::Brotli>() {
        let brotli: library::brotli::compressor::v3::Brotli = extension.decode(&at, out)?;
        let quality = within(&at.name("quality"), brotli.quality.unwrap_or(3), 0, 11, out);
        let window = within(&at.name("window_bits"), brotli.window_bits.unwrap_or(18), 10, 24, out);
        return Some(Algorithm::Brotli {
            quality: u8::try_from(quality).ok()?,
            window: u8::try_from(window).ok()?,
        });
    }
    if extension.is::<library::zstd::compressor::v3::Zstd>() {
        let zstd: library::zstd::compressor::v3::Zstd = extension.decode(&at, out)?;
        if zstd.dictionary.is_some() {
            out.bad(&at.name("dictionary"), "", "not supported (leave it out)");
        }
        let level = within(&at.name("compression_level"), zstd.compression_level.unwrap_or(3), 1, 22, out);
        return Some(Algorithm::Zstd { level: u8::try_from(level).ok()?, checksum: zstd.enable_checksum });
    }
    out.bad(
        &at,
        &extension.type_url,
        "this compression is not supported (nearest valid: gzip, brotli, zstd)",
    );
    None
}

pub(super) fn decompressor(
    path: &Path<'_>,
    config: &de::Decompressor,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let at = path.name("decompressor_library");
    let Some(given) = &config.decompressor_library else {
        out.bad(&at, "", "is required");
        return None;
    };
    let (algorithm, max_ratio) = decoder(&at, given, out)?;
    let enabled = |common: Option<&de::decompressor::CommonDirectionConfig>| {
        switch(common.and_then(|common| common.enabled.as_ref()))
    };
    let request = config.request_direction_config.as_ref();
    let response = config.response_direction_config.as_ref();
    let ignores = |common: Option<&de::decompressor::CommonDirectionConfig>| {
        common.is_some_and(|common| common.ignore_no_transform_header)
    };
    let commons = [
        ("request_direction_config", request.and_then(|of| of.common_config.as_ref())),
        ("response_direction_config", response.and_then(|of| of.common_config.as_ref())),
    ];
    for (field, common) in commons {
        if ignores(common) {
            out.bad(
                &path.name(field),
                "",
                "ignore_no_transform_header is not supported (nearest valid false)",
            );
        }
    }
    Some(FilterConfig::Decompressor(Decompressor {
        algorithm,
        library: given.name.clone(),
        request: enabled(request.and_then(|of| of.common_config.as_ref())),
        response: enabled(response.and_then(|of| of.common_config.as_ref())),
        advertise: request.and_then(|of| of.advertise_accept_encoding).unwrap_or(true),
        max_ratio,
    }))
}

fn decoder(path: &Path<'_>, given: &TypedExtensionConfig, out: &mut Findings) -> Option<(Algorithm, u32)> {
    let at = path.name("typed_config");
    let any = given.typed_config.clone().unwrap_or_default();
    let extension = Extension::open(&at, &any, out)?;
    if extension.is::<library::gzip::decompressor::v3::Gzip>() {
        let gzip: library::gzip::decompressor::v3::Gzip = extension.decode(&at, out)?;
        let ratio = gzip.max_inflate_ratio.unwrap_or(MAX_RATIO);
        let ratio = within(&at.name("max_inflate_ratio"), ratio, 1, 1032, out);
        return Some((Algorithm::Gzip { level: 6 }, ratio));
    }
    if extension.is::<library::brotli::decompressor::v3::Brotli>() {
        return Some((Algorithm::Brotli { quality: 3, window: 18 }, MAX_RATIO));
    }
    if extension.is::<library::zstd::decompressor::v3::Zstd>() {
        let zstd: library::zstd::decompressor::v3::Zstd = extension.decode(&at, out)?;
        if !zstd.dictionaries.is_empty() {
            out.bad(&at.name("dictionaries"), "", "not supported (leave it out)");
        }
        return Some((Algorithm::Zstd { level: 3, checksum: false }, MAX_RATIO));
    }
    out.bad(
        &at,
        &extension.type_url,
        "this compression is not supported (nearest valid: gzip, brotli, zstd)",
    );
    None
}
