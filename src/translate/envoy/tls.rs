//! Transport sockets: plaintext, or TLS with its certificates and what peers are checked against.

use std::sync::Arc;

use super::extension::Extension;
use super::tls_validation;
use super::values::{enumeration, not_empty};
use crate::model::{
    Certificate, Certificates, CommonTls, Data, DownstreamTls, Hidden, Secret, SecretRef, SecretSource,
    TlsVersion, TransportSocket, UpstreamTls,
};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use crate::tls::{self, Identity};
use crate::translate::finding::{Findings, Path};

/// Longest list of protocols, certificates or names.
const MOST: usize = 1_000;

/// What clients of a chain speak; `None` is plaintext.
pub(super) fn downstream(
    path: &Path<'_>,
    socket: Option<&core::TransportSocket>,
    out: &mut Findings,
) -> Option<Arc<DownstreamTls>> {
    let at = path.name("transport_socket");
    let at = at.name("typed_config");
    let extension = open(path, socket, out)?;
    if extension.is::<RawBuffer>() {
        return None;
    }
    if !extension.is::<pb::DownstreamTlsContext>() {
        let why = "this transport socket is not supported (nearest valid: raw_buffer, DownstreamTlsContext)";
        out.bad(&at, &extension.type_url, why);
        return None;
    }
    let context = extension.decode::<pb::DownstreamTlsContext>(&at, out)?;
    downstream_context(&at, &context, out).map(Arc::new)
}

fn downstream_context(
    path: &Path<'_>,
    context: &pb::DownstreamTlsContext,
    out: &mut Findings,
) -> Option<DownstreamTls> {
    use pb::downstream_tls_context::{OcspStaplePolicy, SessionTicketKeysType as Keys};
    let common = common(path, context.common_tls_context.as_ref(), TlsVersion::Tls13, out)?;
    if matches!(&common.certificates, Certificates::Given(list) if list.is_empty()) {
        let at = path.name("common_tls_context");
        out.bad(&at.name("tls_certificates"), "", "a server needs a certificate");
    }
    let mut tickets = true;
    match &context.session_ticket_keys_type {
        None => {}
        Some(Keys::DisableStatelessSessionResumption(disabled)) => tickets = !disabled,
        Some(Keys::SessionTicketKeys(_)) => {
            let why = "not supported: keys are made here and replaced every six hours (leave it out)";
            out.bad(&path.name("session_ticket_keys"), "", why);
        }
        Some(Keys::SessionTicketKeysSdsSecretConfig(_)) => {
            let why = "not supported: keys are made here and replaced every six hours (leave it out)";
            out.bad(&path.name("session_ticket_keys_sds_secret_config"), "", why);
        }
    }
    let policy = path.name("ocsp_staple_policy");
    let staple: OcspStaplePolicy = enumeration(&policy, context.ocsp_staple_policy, out)?;
    if staple == OcspStaplePolicy::MustStaple {
        let why = "OCSP responses are not stapled (nearest valid: LENIENT_STAPLING)";
        out.bad(&policy, staple.as_str_name(), why);
    }
    if context.session_timeout.is_some() {
        out.note(&path.name("session_timeout"));
    }
    if context.prefer_client_ciphers {
        out.note(&path.name("prefer_client_ciphers"));
    }
    if context.full_scan_certs_on_sni_mismatch.is_some() {
        out.note(&path.name("full_scan_certs_on_sni_mismatch"));
    }
    Some(DownstreamTls {
        common,
        require_client_certificate: context.require_client_certificate == Some(true),
        require_sni: context.require_sni == Some(true),
        tickets,
        stateful: !context.disable_stateful_session_resumption,
    })
}

/// What a cluster speaks to its hosts.
pub(super) fn upstream(
    path: &Path<'_>,
    socket: Option<&core::TransportSocket>,
    out: &mut Findings,
) -> Option<TransportSocket> {
    if socket.is_none() {
        return Some(TransportSocket::Plain);
    }
    let at = path.name("transport_socket");
    let at = at.name("typed_config");
    let extension = open(path, socket, out)?;
    if extension.is::<RawBuffer>() {
        return Some(TransportSocket::Plain);
    }
    if !extension.is::<pb::UpstreamTlsContext>() {
        let why = "this transport socket is not supported (nearest valid: raw_buffer, UpstreamTlsContext)";
        out.bad(&at, &extension.type_url, why);
        return None;
    }
    let context = extension.decode::<pb::UpstreamTlsContext>(&at, out)?;
    let common = common(&at, context.common_tls_context.as_ref(), TlsVersion::Tls12, out)?;
    if context.allow_renegotiation {
        out.bad(&at.name("allow_renegotiation"), true, "not supported (nearest valid false)");
    }
    if context.sni.len() > 255 {
        out.bad(&at.name("sni"), &context.sni, "longer than 255 bytes");
    }
    Some(TransportSocket::Tls(Arc::new(UpstreamTls {
        common,
        sni: context.sni,
        host_sni: context.auto_host_sni,
        check_sni: context.auto_sni_san_validation,
        max_session_keys: context.max_session_keys.unwrap_or(1),
    })))
}

fn open<'a>(
    path: &Path<'_>,
    socket: Option<&'a core::TransportSocket>,
    out: &mut Findings,
) -> Option<Extension<'a>> {
    use core::transport_socket::ConfigType;
    let socket = socket?;
    let at = path.name("transport_socket");
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        out.bad(&at, &socket.name, "transport sockets are known by type, but there is no typed_config");
        return None;
    };
    Extension::open(&at.name("typed_config"), any, out)
}

fn common(
    path: &Path<'_>,
    context: Option<&pb::CommonTlsContext>,
    newest: TlsVersion,
    out: &mut Findings,
) -> Option<CommonTls> {
    let path = path.name("common_tls_context");
    let empty = pb::CommonTlsContext::default();
    let context = context.unwrap_or(&empty);
    if context.key_log.is_some() {
        out.bad(&path.name("key_log"), "", "keys are never logged (leave it out)");
    }
    let none = pb::TlsParameters::default();
    let params = context.tls_params.as_ref().unwrap_or(&none);
    let at = path.name("tls_params");
    let (min, max) = versions(&at, params, newest, out)?;
    if !params.signature_algorithms.is_empty() {
        let why = "not supported: the library's list is used (leave it out)";
        out.bad(&at.name("signature_algorithms"), "", why);
    }
    let ciphers = listed(&at.name("cipher_suites"), &params.cipher_suites, tls::ciphers, out);
    let curves = listed(&at.name("ecdh_curves"), &params.ecdh_curves, tls::curves, out);
    let mut alpn = Vec::with_capacity(context.alpn_protocols.len());
    let list = path.name("alpn_protocols");
    for (i, name) in context.alpn_protocols.iter().enumerate() {
        // Some write the list into one entry.
        for name in name.split(',') {
            if name.is_empty() || name.len() > 255 {
                out.bad(&list.index(i), name, "a protocol's name has 1 to 255 bytes");
            }
            alpn.push(name.to_owned());
        }
    }
    let certificates = certificates(&path, context, out);
    let validation = tls_validation::validation_source(&path, context, out);
    Some(CommonTls { min, max, ciphers, curves, alpn, certificates: certificates?, validation: validation? })
}

fn versions(
    path: &Path<'_>,
    params: &pb::TlsParameters,
    newest: TlsVersion,
    out: &mut Findings,
) -> Option<(TlsVersion, TlsVersion)> {
    use pb::tls_parameters::TlsProtocol as Version;
    let mut read = |field: &str, number: i32, default: TlsVersion, lowest: bool| {
        let at = path.name(field);
        Some(match enumeration::<Version>(&at, number, out)? {
            Version::TlsAuto => default,
            Version::TlSv12 => TlsVersion::Tls12,
            Version::TlSv13 => TlsVersion::Tls13,
            old if lowest => {
                // Less than what is asked for is admitted: that takes nothing from anybody's safety.
                out.note(&at);
                let _ = old;
                TlsVersion::Tls12
            }
            old => {
                let why = "not spoken: TLS 1.2 is the oldest (nearest valid TLSv1_2)";
                out.bad(&at, old.as_str_name(), why);
                TlsVersion::Tls12
            }
        })
    };
    let (low, high) = ("tls_minimum_protocol_version", "tls_maximum_protocol_version");
    let min = read(low, params.tls_minimum_protocol_version, TlsVersion::Tls12, true)?;
    let max = read(high, params.tls_maximum_protocol_version, newest.max(min), false)?;
    if min > max {
        out.bad(&path.name(low), "", "above tls_maximum_protocol_version");
    }
    Some((min, max))
}

/// A list of names of which some are unknown: those are told and left out; a list of which nothing is left is
/// a fault.
fn listed(
    path: &Path<'_>,
    list: &[String],
    read: fn(&[String]) -> tls::Named,
    out: &mut Findings,
) -> Option<Vec<&'static str>> {
    if list.is_empty() {
        return None;
    }
    let named = read(list);
    for name in &named.unknown {
        out.not_spoken(&path.key(name));
    }
    if named.known.is_empty() {
        out.bad(path, list.join(","), "none of these is known");
    }
    Some(named.known)
}

fn certificates(path: &Path<'_>, context: &pb::CommonTlsContext, out: &mut Findings) -> Option<Certificates> {
    let list = path.name("tls_certificates");
    let secrets = path.name("tls_certificate_sds_secret_configs");
    for (path, count) in [
        (&list, context.tls_certificates.len()),
        (&secrets, context.tls_certificate_sds_secret_configs.len()),
    ] {
        if count > MOST {
            out.bad(path, count, format_args!("more than {MOST}"));
            return None;
        }
    }
    // As in the public API: what is written wins over what would be discovered.
    if !context.tls_certificates.is_empty() {
        let mut given = Vec::with_capacity(context.tls_certificates.len());
        for (i, message) in context.tls_certificates.iter().enumerate() {
            given.push(certificate(&list.index(i), message, out)?);
        }
        return Some(Certificates::Given(given));
    }
    let configs = &context.tls_certificate_sds_secret_configs;
    if configs.is_empty() {
        return Some(Certificates::Given(Vec::new()));
    }
    let read = |(i, config)| secret_ref(&secrets.index(i), config, out);
    let refs: Option<Vec<_>> = configs.iter().enumerate().map(read).collect();
    refs.map(Certificates::Sds)
}

/// A certificate with its key, read to see that it is good.
fn certificate(path: &Path<'_>, message: &pb::TlsCertificate, out: &mut Findings) -> Option<Certificate> {
    for (field, set) in [
        ("pkcs12", message.pkcs12.is_some()),
        ("password", message.password.is_some()),
        ("private_key_provider", message.private_key_provider.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (nearest valid: certificate_chain, private_key)");
            return None;
        }
    }
    if message.ocsp_staple.is_some() {
        out.note(&path.name("ocsp_staple"));
    }
    let (at_chain, at_key) = (path.name("certificate_chain"), path.name("private_key"));
    let chain = data(&at_chain, message.certificate_chain.as_ref(), out)?;
    let key = data(&at_key, message.private_key.as_ref(), out)?;
    if let (Some(chain), Some(key)) = (text(&at_chain, &chain, out), text(&at_key, &key, out))
        && let Err(error) = Identity::read(&chain, &key)
    {
        out.bad(path, "", error);
    }
    Some(Certificate { chain, key })
}

/// What a certificate, key or list is now. A file may be better later, but what is configured has to begin well.
pub(super) fn text(path: &Path<'_>, data: &Data, out: &mut Findings) -> Option<Vec<u8>> {
    match data {
        Data::Inline(text) => Some(text.bytes().to_vec()),
        Data::File(file) => {
            out.looked_outside();
            let read = std::fs::read(file);
            read.map_err(|error| out.bad(&path.name("filename"), file.display(), error)).ok()
        }
    }
}

/// What a secret holds.
pub(super) fn secret(message: &pb::Secret, out: &mut Findings) -> Option<Secret> {
    use pb::secret::Type;
    let root = Path::ROOT;
    match &message.r#type {
        Some(Type::TlsCertificate(inner)) => {
            certificate(&root.name("tls_certificate"), inner, out).map(Secret::Certificate)
        }
        Some(Type::ValidationContext(inner)) => {
            let read = tls_validation::validation(&root.name("validation_context"), inner, out)?;
            Some(Secret::Validation(Box::new(read)))
        }
        Some(Type::SessionTicketKeys(_)) => {
            out.bad(&root.name("session_ticket_keys"), "", "not supported (nearest valid: tls_certificate)");
            None
        }
        Some(Type::GenericSecret(_)) => {
            out.bad(&root.name("generic_secret"), "", "not supported (nearest valid: tls_certificate)");
            None
        }
        None => {
            out.bad(&root, "", "an empty secret (nearest valid: tls_certificate, validation_context)");
            None
        }
    }
}

/// Where a text comes from.
pub(super) fn data(path: &Path<'_>, source: Option<&core::DataSource>, out: &mut Findings) -> Option<Data> {
    use core::data_source::Specifier;
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::Filename(file)) => Some(Data::File(not_empty(path, file, out).into())),
        Some(Specifier::InlineBytes(bytes)) => Some(Data::Inline(Hidden::new(bytes))),
        Some(Specifier::InlineString(text)) => Some(Data::Inline(Hidden::new(text.as_bytes()))),
        Some(Specifier::EnvironmentVariable(name)) => match std::env::var(name) {
            Ok(text) => Some(Data::Inline(Hidden::new(text.as_bytes()))),
            Err(_) => {
                out.bad(&path.name("environment_variable"), name, "there is no such variable");
                None
            }
        },
        None => {
            out.bad(path, "", "is required (nearest valid: filename)");
            None
        }
    }
}

/// A secret by name.
pub(super) fn secret_ref(
    path: &Path<'_>,
    config: &pb::SdsSecretConfig,
    out: &mut Findings,
) -> Option<SecretRef> {
    use core::config_source::ConfigSourceSpecifier as Kind;
    let name = not_empty(&path.name("name"), &config.name, out);
    let at = path.name("sds_config");
    let Some(source) = &config.sds_config else {
        out.bad(&at, "", "static secrets are not supported (nearest valid: api_config_source)");
        return None;
    };
    let source = match &source.config_source_specifier {
        Some(Kind::Ads(_)) => SecretSource::Ads,
        Some(Kind::ApiConfigSource(api)) => {
            SecretSource::Cluster(sds_cluster(&at.name("api_config_source"), api, out)?)
        }
        _ => {
            out.bad(&at, "", "this source is not supported (nearest valid: api_config_source, ads)");
            return None;
        }
    };
    Some(SecretRef { name, source })
}

fn sds_cluster(path: &Path<'_>, api: &core::ApiConfigSource, out: &mut Findings) -> Option<String> {
    use core::api_config_source::ApiType;
    use core::grpc_service::TargetSpecifier;
    let kind = ApiType::try_from(api.api_type).ok();
    if !matches!(kind, Some(ApiType::Grpc | ApiType::DeltaGrpc)) {
        let word = kind.map_or("", |kind| kind.as_str_name());
        out.bad(&path.name("api_type"), word, "secrets come by gRPC (nearest valid: GRPC)");
    }
    let at = path.name("grpc_services");
    match api.grpc_services.first().and_then(|service| service.target_specifier.as_ref()) {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => {
            let at = at.index(0);
            let at = at.name("envoy_grpc");
            Some(not_empty(&at.name("cluster_name"), &grpc.cluster_name, out))
        }
        _ => {
            out.bad(&at, "", "one envoy_grpc with a cluster_name is needed");
            None
        }
    }
}
