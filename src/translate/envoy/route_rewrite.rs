//! What a route changes of a request's target: path and authority.

use super::extension::Extension;
use super::headers::format;
use super::matchers::search_regex;
use crate::model::{HostRewrite, PathMatch, PathRewrite, Regex};
use crate::proto::envoy::config::core::v3::TypedExtensionConfig;
use crate::proto::envoy::config::route::v3 as pb;
use crate::proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use crate::proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use crate::translate::finding::{Findings, Path};

/// The rewrite of the path, of which there is one at most. `matched` is how the route matches.
pub(super) fn path_rewrite(
    path: &Path<'_>,
    route: &pb::RouteAction,
    matched: Option<&PathMatch>,
    out: &mut Findings,
) -> Option<Box<PathRewrite>> {
    let given = [
        ("prefix_rewrite", !route.prefix_rewrite.is_empty()),
        ("regex_rewrite", route.regex_rewrite.is_some()),
        ("path_rewrite_policy", route.path_rewrite_policy.is_some()),
        ("path_rewrite", !route.path_rewrite.is_empty()),
    ];
    let mut given = given.iter().filter(|(_, set)| *set).map(|(field, _)| *field);
    let first = given.next()?;
    if let Some(second) = given.next() {
        out.bad(&path.name(second), "", format_args!("excludes {first}"));
        return None;
    }
    let rewrite = match first {
        "prefix_rewrite" => {
            if matches!(matched, Some(PathMatch::Template(_))) {
                let why = "goes with no path template (nearest valid: path_rewrite_policy)";
                out.bad(&path.name(first), &route.prefix_rewrite, why);
            }
            PathRewrite::Prefix(clean(&path.name(first), &route.prefix_rewrite, out))
        }
        "regex_rewrite" => {
            let (regex, text) = substitution(&path.name(first), route.regex_rewrite.as_ref()?, out)?;
            PathRewrite::Regex(regex, text)
        }
        "path_rewrite_policy" => {
            template(&path.name(first), route.path_rewrite_policy.as_ref()?, matched, out)?
        }
        _ => PathRewrite::Format(format(&path.name(first), &route.path_rewrite, &route.path_rewrite, out)?),
    };
    Some(Box::new(rewrite))
}

fn template(
    path: &Path<'_>,
    policy: &TypedExtensionConfig,
    matched: Option<&PathMatch>,
    out: &mut Findings,
) -> Option<PathRewrite> {
    let at = path.name("typed_config");
    let any = policy.typed_config.clone().unwrap_or_default();
    let extension = Extension::open(&at, &any, out)?;
    if !extension.is::<UriTemplateRewriteConfig>() {
        let why = "this rewrite is not supported (nearest valid: UriTemplateRewriteConfig)";
        out.bad(&at, &extension.type_url, why);
        return None;
    }
    let config = extension.decode::<UriTemplateRewriteConfig>(&at, out)?;
    let at = at.name("path_template_rewrite");
    let Some(PathMatch::Template(template)) = matched else {
        out.bad(&at, &config.path_template_rewrite, "needs a match by path template");
        return None;
    };
    match template.rewrite(&config.path_template_rewrite) {
        Ok(parts) => Some(PathRewrite::Template(parts)),
        Err(error) => {
            out.bad(&at, &config.path_template_rewrite, error);
            None
        }
    }
}

/// The rewrite of the authority.
pub(super) fn host_rewrite(
    path: &Path<'_>,
    route: &pb::RouteAction,
    out: &mut Findings,
) -> Option<Box<HostRewrite>> {
    use pb::route_action::HostRewriteSpecifier as Kind;
    let rewrite = match route.host_rewrite_specifier.as_ref()? {
        Kind::AutoHostRewrite(on) => on.then_some(HostRewrite::Auto)?,
        Kind::HostRewriteLiteral(host) if host.is_empty() => return None,
        Kind::HostRewriteLiteral(host) => {
            HostRewrite::Literal(clean(&path.name("host_rewrite_literal"), host, out))
        }
        Kind::HostRewriteHeader(name) if name.is_empty() => return None,
        Kind::HostRewriteHeader(name) => HostRewrite::Header(name.to_ascii_lowercase()),
        Kind::HostRewritePathRegex(rewrite) => {
            let (regex, text) = substitution(&path.name("host_rewrite_path_regex"), rewrite, out)?;
            HostRewrite::PathRegex(regex, text)
        }
        Kind::HostRewrite(text) if text.is_empty() => return None,
        Kind::HostRewrite(text) => HostRewrite::Format(format(&path.name("host_rewrite"), text, text, out)?),
    };
    Some(Box::new(rewrite))
}

/// A text that will stand in a header.
pub(super) fn clean(path: &Path<'_>, text: &str, out: &mut Findings) -> String {
    if text.contains(['\0', '\r', '\n']) {
        out.bad(path, text, "must not hold NUL, CR or LF");
    }
    text.to_owned()
}

/// Pattern and substitution.
pub(super) fn substitution(
    path: &Path<'_>,
    rewrite: &RegexMatchAndSubstitute,
    out: &mut Findings,
) -> Option<(Regex, String)> {
    let at = path.name("pattern");
    let Some(pattern) = &rewrite.pattern else {
        out.bad(&at, "", "no pattern");
        return None;
    };
    let regex = search_regex(&at, pattern, out)?;
    let at = path.name("substitution");
    let text = clean(&at, &rewrite.substitution, out);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            continue;
        }
        match rest.next() {
            Some('\\' | '0'..='9') => {}
            _ => {
                out.bad(&at, &text, "after a backslash comes a digit or a backslash");
                return None;
            }
        }
    }
    Some((regex, text))
}
