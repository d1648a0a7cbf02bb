//! `header_to_metadata` and `set_metadata`.

use crate::message::Datum;
use crate::model::{
    FilterConfig, HeaderRule, HeaderToMetadata, MetadataEntry, MetadataValue, RuleSource, SetMetadata,
};
use crate::proto::envoy::extensions::filters::http::header_to_metadata::v3 as header;
use crate::proto::envoy::extensions::filters::http::set_metadata::v3 as set;
use crate::translate::envoy::route_rewrite::substitution;
use crate::translate::envoy::values::{enumeration, not_empty};
use crate::translate::finding::{Findings, Path};
use prost_types::{Struct, value::Kind};
use std::collections::BTreeMap;

/// Where values go that name no place.
const NAMESPACE: &str = "envoy.filters.http.header_to_metadata";

pub(super) fn header_to_metadata(
    path: &Path<'_>,
    config: &header::Config,
    out: &mut Findings,
) -> Option<FilterConfig> {
    if config.request_rules.is_empty() && config.response_rules.is_empty() {
        out.bad(path, "", "no rules (one of request_rules, response_rules)");
    }
    let mut rules = |field: &str, list: &[header::config::Rule]| -> Vec<HeaderRule> {
        let at = path.name(field);
        list.iter().enumerate().filter_map(|(i, one)| rule(&at.index(i), one, out)).collect()
    };
    let request = rules("request_rules", &config.request_rules);
    let response = rules("response_rules", &config.response_rules);
    let cookie = response.iter().position(|rule| matches!(rule.source, RuleSource::Cookie(_)));
    if let Some(at) = cookie {
        out.bad(
            &path.name("response_rules").index(at).name("cookie"),
            "",
            "responses have no cookies to read",
        );
    }
    Some(FilterConfig::HeaderToMetadata(HeaderToMetadata { request, response }))
}

fn rule(path: &Path<'_>, given: &header::config::Rule, out: &mut Findings) -> Option<HeaderRule> {
    let source = match (given.header.as_str(), given.cookie.as_str()) {
        ("", "") => {
            out.bad(path, "", "no source (one of header, cookie)");
            return None;
        }
        (name, "") => RuleSource::Header(name.to_ascii_lowercase()),
        ("", name) => RuleSource::Cookie(name.to_owned()),
        (name, _) => {
            out.bad(&path.name("cookie"), name, "header and cookie exclude each other");
            return None;
        }
    };
    if given.on_header_present.is_none() && given.on_header_missing.is_none() {
        out.bad(path, "", "nothing to do (one of on_header_present, on_header_missing)");
    }
    if given.remove && matches!(source, RuleSource::Cookie(_)) {
        out.bad(&path.name("remove"), true, "cookies cannot be removed");
    }
    let present = match &given.on_header_present {
        Some(pair) => Some(value(&path.name("on_header_present"), pair, out)?),
        None => None,
    };
    let missing = match &given.on_header_missing {
        Some(pair) => {
            let at = path.name("on_header_missing");
            let read = value(&at, pair, out)?;
            not_empty(&at.name("value"), &read.value, out);
            Some(read)
        }
        None => None,
    };
    Some(HeaderRule { source, present, missing, remove: given.remove })
}

fn value(path: &Path<'_>, pair: &header::config::KeyValuePair, out: &mut Findings) -> Option<MetadataValue> {
    use header::config::{ValueEncode, ValueType};
    let at = path.name("type");
    let number = match enumeration(&at, pair.r#type, out)? {
        ValueType::String => false,
        ValueType::Number => true,
        ValueType::ProtobufValue => {
            out.bad(&at, "PROTOBUF_VALUE", "not supported (nearest valid STRING)");
            return None;
        }
    };
    let rewrite = match &pair.regex_value_rewrite {
        Some(rewrite) => Some(substitution(&path.name("regex_value_rewrite"), rewrite, out)?),
        None => None,
    };
    let namespace = if pair.metadata_namespace.is_empty() { NAMESPACE } else { &pair.metadata_namespace };
    Some(MetadataValue {
        namespace: namespace.to_owned(),
        key: not_empty(&path.name("key"), &pair.key, out),
        value: pair.value.clone(),
        rewrite,
        number,
        base64: enumeration::<ValueEncode>(&path.name("encode"), pair.encode, out)? == ValueEncode::Base64,
    })
}

pub(super) fn set_metadata(
    path: &Path<'_>,
    config: &set::Config,
    out: &mut Findings,
) -> Option<FilterConfig> {
    let mut entries = Vec::new();
    if let Some(value) = &config.value {
        entries.push(MetadataEntry {
            namespace: not_empty(&path.name("metadata_namespace"), &config.metadata_namespace, out),
            overwrite: true,
            values: map(value),
        });
    }
    let at = path.name("metadata");
    for (i, entry) in config.metadata.iter().enumerate() {
        let at = at.index(i);
        if entry.typed_value.is_some() {
            out.bad(&at.name("typed_value"), "", "not supported (use value)");
        }
        let Some(value) = &entry.value else {
            out.bad(&at.name("value"), "", "is required");
            continue;
        };
        entries.push(MetadataEntry {
            namespace: not_empty(&at.name("metadata_namespace"), &entry.metadata_namespace, out),
            overwrite: entry.allow_overwrite,
            values: map(value),
        });
    }
    Some(FilterConfig::SetMetadata(SetMetadata { entries }))
}

fn map(value: &Struct) -> BTreeMap<String, Datum> {
    value.fields.iter().map(|(key, value)| (key.clone(), datum(value))).collect()
}

fn datum(value: &prost_types::Value) -> Datum {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Datum::Null,
        Some(Kind::NumberValue(number)) => Datum::Number(*number),
        Some(Kind::StringValue(text)) => Datum::Text(text.clone()),
        Some(Kind::BoolValue(flag)) => Datum::Bool(*flag),
        Some(Kind::StructValue(inner)) => Datum::Map(map(inner)),
        Some(Kind::ListValue(list)) => Datum::List(list.values.iter().map(datum).collect()),
    }
}
