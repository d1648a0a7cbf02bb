//! Header edits of route tables, virtual hosts, routes and weighted clusters.

use super::values::enumeration;
use crate::message::Fact;
use crate::model::{EditValue, Format, HeaderEdit, HeaderEdits};
use crate::proto::envoy::config::core::v3::HeaderValueOption;
use crate::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction as Action;
use crate::translate::finding::{Findings, Path};

/// The name of a header, in lower case.
pub(super) fn header_name(path: &Path<'_>, name: &str, out: &mut Findings) -> String {
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        out.bad(path, name, "is no name of a header");
    }
    name.to_ascii_lowercase()
}

/// Request or response edits, by the field names that begin with `side`: `request` or `response`.
pub(super) fn edits(
    path: &Path<'_>,
    side: &str,
    add: &[HeaderValueOption],
    remove: &[String],
    out: &mut Findings,
) -> HeaderEdits {
    if add.is_empty() && remove.is_empty() {
        return HeaderEdits::default();
    }
    let (add_field, remove_field) = (format!("{side}_headers_to_add"), format!("{side}_headers_to_remove"));
    let at = path.name(&add_field);
    let added = add.iter().enumerate().filter_map(|(i, option)| edit(&at.index(i), option, out)).collect();
    let at = path.name(&remove_field);
    for (i, name) in remove.iter().enumerate() {
        check_name(&at.index(i), name, out);
    }
    HeaderEdits { remove: remove.into(), edits: added }
}

/// One header to write.
pub(super) fn edit(path: &Path<'_>, option: &HeaderValueOption, out: &mut Findings) -> Option<HeaderEdit> {
    edit_knowing(&|fact| FACTS.contains(&fact), path, option, out)
}

/// One header to write when everything about its stream is known.
pub(super) fn late_edit(
    path: &Path<'_>,
    option: &HeaderValueOption,
    out: &mut Findings,
) -> Option<HeaderEdit> {
    edit_knowing(&|_| true, path, option, out)
}

fn edit_knowing(
    known: &dyn Fn(Fact) -> bool,
    path: &Path<'_>,
    option: &HeaderValueOption,
    out: &mut Findings,
) -> Option<HeaderEdit> {
    let at = path.name("header");
    let Some(header) = &option.header else {
        out.bad(&at, "", "no header");
        return None;
    };
    check_name(&at.name("key"), &header.key, out);
    let raw = std::str::from_utf8(&header.raw_value).ok();
    let text = match (header.value.is_empty(), raw) {
        (false, Some("")) => header.value.as_str(),
        (true, Some(raw)) => raw,
        (true, None) => {
            out.bad(&at.name("raw_value"), "", "must be UTF-8");
            return None;
        }
        (false, _) => {
            out.bad(&at, &header.key, "value and raw_value exclude each other");
            return None;
        }
    };
    let value = value(known, &at.name("value"), (&header.key, text), option.keep_empty_value, out)?;
    let action = action(path, option, out)?;
    // Envoy leaves out a header whose value is empty, unless told otherwise.
    if matches!(&value, EditValue::Text(text) if text.is_empty()) && !option.keep_empty_value {
        return None;
    }
    let name = header.key.clone();
    Some(match action {
        Action::AppendIfExistsOrAdd => HeaderEdit::Append { name, value },
        Action::AddIfAbsent => HeaderEdit::AddIfAbsent { name, value },
        Action::OverwriteIfExistsOrAdd => HeaderEdit::Set { name, value },
        Action::OverwriteIfExists => HeaderEdit::ReplaceIfPresent { name, value },
    })
}

fn action(path: &Path<'_>, option: &HeaderValueOption, out: &mut Findings) -> Option<Action> {
    let action = enumeration(&path.name("append_action"), option.append_action, out)?;
    match option.append {
        None => Some(action),
        Some(_) if action != Action::AppendIfExistsOrAdd => {
            out.bad(&path.name("append"), "", "append and append_action exclude each other");
            None
        }
        Some(true) => Some(Action::AppendIfExistsOrAdd),
        Some(false) => Some(Action::OverwriteIfExistsOrAdd),
    }
}

fn check_name(path: &Path<'_>, name: &str, out: &mut Findings) {
    if name.is_empty() {
        out.bad(path, "", "must not be empty");
    } else if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        out.bad(path, name, "pseudo headers and host cannot be edited (use a rewrite)");
    } else if !name.bytes().all(|b| b.is_ascii_graphic()) {
        out.bad(path, name, "not a header name");
    }
}

/// What is known of a stream when its headers are edited.
const FACTS: &[Fact] = &[
    Fact::Protocol,
    Fact::DownstreamRemoteAddress,
    Fact::DownstreamRemoteAddressWithoutPort,
    Fact::DownstreamRemotePort,
    Fact::DownstreamDirectRemoteAddress,
    Fact::DownstreamDirectRemoteAddressWithoutPort,
    Fact::DownstreamDirectRemotePort,
    Fact::DownstreamLocalAddress,
    Fact::DownstreamLocalAddressWithoutPort,
    Fact::DownstreamLocalPort,
    Fact::UpstreamHost,
    Fact::UpstreamRemoteAddress,
    Fact::UpstreamCluster,
    Fact::UpstreamClusterRaw,
    Fact::ResponseCode,
    Fact::RouteName,
    Fact::VirtualHostName,
];

/// A value with or without operators. Findings show the header's key: its value may be a credential.
fn value(
    known: &dyn Fn(Fact) -> bool,
    path: &Path<'_>,
    (key, text): (&str, &str),
    keep_empty: bool,
    out: &mut Findings,
) -> Option<EditValue> {
    if text.contains(['\0', '\r', '\n']) {
        out.bad(path, key, "must not hold NUL, CR or LF");
        return None;
    }
    let format = format_knowing(known, path, (key, text), out)?;
    Some(match format.as_literal() {
        Some(text) => EditValue::Text(text.into()),
        None => EditValue::Format { format, keep_empty },
    })
}

/// A format string for what is written while a request is on its way. `shown` stands for it in findings.
pub(super) fn format(path: &Path<'_>, shown: &str, text: &str, out: &mut Findings) -> Option<Format> {
    format_knowing(&|fact| FACTS.contains(&fact), path, (shown, text), out)
}

fn format_knowing(
    known: &dyn Fn(Fact) -> bool,
    path: &Path<'_>,
    (shown, text): (&str, &str),
    out: &mut Findings,
) -> Option<Format> {
    let format = match Format::parse(text) {
        Ok(format) => format,
        Err(error) => {
            out.bad(path, shown, error);
            return None;
        }
    };
    for fact in format.facts().filter(|fact| !known(*fact)) {
        out.bad(path, shown, format_args!("%{}%: not known when this is written", fact.word()));
    }
    Some(format)
}
