//! Scoped routes: the scopes of a connection manager, and the resources of SRDS.

use super::route;
use super::translate;
use super::values::{ads_source, not_empty};
use crate::model::{Extract, KeyFragment, RouteSource, ScopeSource, ScopeTable, ScopedRoute, ScopedRoutes};
use crate::proto::envoy::config::route::v3 as config;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use crate::translate::finding::{Findings, Path, Rejection, Translated};
use std::sync::Arc;

/// Translates an `envoy.config.route.v3.ScopedRouteConfiguration`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn scoped_route(bytes: &[u8]) -> Result<Translated<ScopedRoute>, Rejection> {
    translate::<config::ScopedRouteConfiguration, _>("ScopedRouteConfiguration", bytes, |message, out| {
        scope(&Path::ROOT, message, out)
    })
}

/// Routes by scope.
pub(super) fn scoped(path: &Path<'_>, scoped: &pb::ScopedRoutes, out: &mut Findings) -> Option<RouteSource> {
    use pb::scoped_routes::ConfigSpecifier as Kind;
    let rds_timeout = match &scoped.rds_config_source {
        // Tables that are written in their scopes need no source.
        None if !names_tables(scoped) => None,
        source => ads_source(&path.name("rds_config_source"), source.as_ref(), out),
    };
    let scopes = match &scoped.config_specifier {
        Some(Kind::ScopedRouteConfigurationsList(list)) => {
            let at = path.name("scoped_route_configurations_list");
            ScopeSource::Inline(inline(&at.name("scoped_route_configurations"), list, out))
        }
        Some(Kind::ScopedRds(srds)) => {
            let at = path.name("scoped_rds");
            if !srds.srds_resources_locator.is_empty() {
                let why = "not supported (leave it out)";
                out.bad(&at.name("srds_resources_locator"), &srds.srds_resources_locator, why);
            }
            let source = srds.scoped_rds_config_source.as_ref();
            let initial_fetch_timeout = ads_source(&at.name("scoped_rds_config_source"), source, out);
            ScopeSource::Srds { initial_fetch_timeout }
        }
        None => {
            out.bad(path, "", "no scopes (one of scoped_route_configurations_list, scoped_rds)");
            return None;
        }
    };
    let name = not_empty(&path.name("name"), &scoped.name, out);
    let at = path.name("scope_key_builder");
    let at = at.name("fragments");
    let fragments = scoped.scope_key_builder.as_ref().map(|key| key.fragments.as_slice()).unwrap_or_default();
    if fragments.is_empty() {
        out.bad(&at, "", "at least one is required");
    }
    let key =
        fragments.iter().enumerate().filter_map(|(i, part)| fragment(&at.index(i), part, out)).collect();
    Some(RouteSource::Scoped(Arc::new(ScopedRoutes { name, key, scopes, rds_timeout })))
}

fn names_tables(scoped: &pb::ScopedRoutes) -> bool {
    use pb::scoped_routes::ConfigSpecifier as Kind;
    match &scoped.config_specifier {
        Some(Kind::ScopedRouteConfigurationsList(list)) => {
            list.scoped_route_configurations.iter().any(|scope| !scope.route_configuration_name.is_empty())
        }
        _ => true,
    }
}

fn fragment(
    path: &Path<'_>,
    part: &pb::scoped_routes::scope_key_builder::FragmentBuilder,
    out: &mut Findings,
) -> Option<KeyFragment> {
    use pb::scoped_routes::scope_key_builder::fragment_builder::Type;
    use pb::scoped_routes::scope_key_builder::fragment_builder::header_value_extractor::ExtractType;
    let Some(Type::HeaderValueExtractor(from)) = &part.r#type else {
        out.bad(path, "", "no source (nearest valid: header_value_extractor)");
        return None;
    };
    let at = path.name("header_value_extractor");
    let header = not_empty(&at.name("name"), &from.name, out).to_ascii_lowercase();
    let extract = match &from.extract_type {
        Some(ExtractType::Index(index)) => {
            if *index > 0 && from.element_separator.is_empty() {
                out.bad(
                    &at.name("index"),
                    index,
                    "there is one element without element_separator (nearest valid 0)",
                );
            }
            Extract::Index(*index)
        }
        Some(ExtractType::Element(element)) => {
            let at = at.name("element");
            Extract::Element {
                separator: not_empty(&at.name("separator"), &element.separator, out),
                key: not_empty(&at.name("key"), &element.key, out),
            }
        }
        None => {
            out.bad(&at, "", "nothing is extracted (one of index, element)");
            return None;
        }
    };
    Some(KeyFragment { header, separator: from.element_separator.clone(), extract })
}

fn inline(
    path: &Path<'_>,
    list: &pb::ScopedRouteConfigurationsList,
    out: &mut Findings,
) -> Vec<Arc<ScopedRoute>> {
    let mut read: Vec<Arc<ScopedRoute>> = Vec::new();
    for (i, message) in list.scoped_route_configurations.iter().enumerate() {
        let at = path.index(i);
        let Some(scope) = scope(&at, message, out) else { continue };
        if let Some(other) = read.iter().find(|other| other.key == scope.key) {
            out.bad(&at.name("key"), &scope.name, format_args!("scope {} has the same key", other.name));
        }
        if read.iter().any(|other| other.name == scope.name) {
            out.bad(&at.name("name"), &scope.name, "is there twice");
        }
        read.push(Arc::new(scope));
    }
    if read.is_empty() {
        out.bad(path, "", "at least one is required");
    }
    read
}

fn scope(
    path: &Path<'_>,
    message: &config::ScopedRouteConfiguration,
    out: &mut Findings,
) -> Option<ScopedRoute> {
    use config::scoped_route_configuration::key::fragment::Type;
    let name = not_empty(&path.name("name"), &message.name, out);
    let at = path.name("key");
    let at = at.name("fragments");
    let mut key = Vec::new();
    for (i, part) in message.key.iter().flat_map(|key| &key.fragments).enumerate() {
        match &part.r#type {
            Some(Type::StringKey(text)) => key.push(text.clone()),
            None => out.bad(&at.index(i), "", "no text (nearest valid: string_key)"),
        }
    }
    if key.is_empty() {
        out.bad(&at, "", "at least one is required");
    }
    let routes = match (&message.route_configuration, message.route_configuration_name.as_str()) {
        (None, "") => {
            out.bad(path, "", "no routes (one of route_configuration_name, route_configuration)");
            return None;
        }
        (None, name) => ScopeTable::Rds(name.to_owned()),
        (Some(table), "") => {
            ScopeTable::Inline(Arc::new(route::table(&path.name("route_configuration"), table, out)?))
        }
        (Some(_), name) => {
            let why = "there is a route_configuration too (leave one of them out)";
            out.bad(&path.name("route_configuration_name"), name, why);
            return None;
        }
    };
    Some(ScopedRoute { name, key, routes })
}
