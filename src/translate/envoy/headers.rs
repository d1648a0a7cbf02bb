//! Header edits of route tables, virtual hosts, routes and weighted clusters.

use super::values::enumeration;
use crate::model::{HeaderEdit, HeaderEdits};
use crate::proto::envoy::config::core::v3::HeaderValueOption;
use crate::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction as Action;
use crate::translate::finding::{Findings, Path};

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
    HeaderEdits { remove: remove.to_vec(), edits: added }
}

fn edit(path: &Path<'_>, option: &HeaderValueOption, out: &mut Findings) -> Option<HeaderEdit> {
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
    let value = literal(&at.name("value"), &header.key, text, out)?;
    let action = action(path, option, out)?;
    // Envoy leaves out a header whose value is empty, unless told otherwise.
    if value.is_empty() && !option.keep_empty_value {
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

/// A value without substitutions: `%%` is a percent sign, any other `%` would be a command. Findings show the
/// header's key: its value may be a credential.
fn literal(path: &Path<'_>, key: &str, text: &str, out: &mut Findings) -> Option<String> {
    if text.contains(['\0', '\r', '\n']) {
        out.bad(path, key, "must not hold NUL, CR or LF");
        return None;
    }
    let plain = text.replace("%%", "\0");
    if plain.contains('%') {
        out.bad(path, key, "substitution commands are not supported (%% stands for a percent sign)");
        return None;
    }
    Some(plain.replace('\0', "%"))
}
