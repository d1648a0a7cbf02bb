//! Header matchers and header edits.

use super::read::{Context, Object};
use crate::model::{HeaderEdit, HeaderEdits, HeaderMatch, HeaderMatchKind, Regex, StringMatch};

/// `match.headers`. `rpc`: the match has nothing but headers; then a lone `service` may say `.*` for any value.
pub(super) fn matchers(ctx: &mut Context<'_>, of: &mut Object<'_>, rpc: bool) -> Vec<HeaderMatch> {
    let headers = of.objects(ctx, "headers");
    let lone = rpc && headers.len() == 1;
    headers.into_iter().filter_map(|header| matcher(ctx, header, rpc, lone)).collect()
}

fn matcher(ctx: &mut Context<'_>, mut header: Object<'_>, rpc: bool, lone: bool) -> Option<HeaderMatch> {
    let name = header.text(ctx, "name").unwrap_or_default();
    let value = header.text(ctx, "value").unwrap_or_default();
    let regex = header.flag(ctx, "regex").unwrap_or(false);
    if name.is_empty() {
        ctx.error(&header.at("name"), "", "missing");
        return None;
    }
    let kind = if lone && name == "service" && value == ".*" {
        HeaderMatchKind::Present(true)
    } else if regex {
        match Regex::search(value) {
            Ok(regex) => HeaderMatchKind::Text(StringMatch::Regex(regex)),
            Err(why) => {
                ctx.error(
                    &header.at("value"),
                    format!("{value:?}"),
                    format!("not a regular expression: {why}"),
                );
                return None;
            }
        }
    } else {
        if value == ".*" {
            let path = header.at("value");
            ctx.warn(&path, "\".*\"", "compared literally: set \"regex\": true for a pattern");
        }
        HeaderMatchKind::Text(StringMatch::Exact { value: value.to_owned(), ignore_case: false })
    };
    header.finish(ctx);
    let name = if name.eq_ignore_ascii_case("method") && !rpc { ":method" } else { name };
    Some(HeaderMatch { name: name.to_owned(), kind, invert: false, treat_missing_as_empty: false })
}

/// The two request keys of a level, then the two response keys.
pub(super) fn edits(ctx: &mut Context<'_>, of: &mut Object<'_>) -> (HeaderEdits, HeaderEdits) {
    let request = direction(ctx, of, "request_headers_to_add", "request_headers_to_remove");
    (request, direction(ctx, of, "response_headers_to_add", "response_headers_to_remove"))
}

fn direction(ctx: &mut Context<'_>, of: &mut Object<'_>, add: &str, remove: &str) -> HeaderEdits {
    let remove: Vec<String> =
        of.texts(ctx, remove).into_iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    let mut edits = Vec::new();
    for mut item in of.objects(ctx, add) {
        let append = item.flag(ctx, "append").unwrap_or(true);
        let Some(mut header) = item.object(ctx, "header") else {
            ctx.error(&item.at("header"), "", "missing; expected {\"key\", \"value\"}");
            continue;
        };
        let name = header.text(ctx, "key").unwrap_or_default().to_ascii_lowercase();
        let value = header.text(ctx, "value").unwrap_or_default().to_owned();
        if name.is_empty() {
            ctx.error(&header.at("key"), "", "missing");
            continue;
        }
        if value.len() > 2 && value.starts_with('%') && value.ends_with('%') {
            ctx.warn(&header.at("value"), &value, "taken literally: variables come later");
        }
        header.finish(ctx);
        item.finish(ctx);
        // MOSN removes last, the model first: what would be removed again is not added.
        if !remove.contains(&name) {
            edits.push(match append {
                true => HeaderEdit::Append { name, value: value.into() },
                false => HeaderEdit::Set { name, value: value.into() },
            });
        }
    }
    HeaderEdits { remove: remove.into(), edits: edits.into() }
}
