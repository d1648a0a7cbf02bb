//! Route tables written into listeners, which Envoy dumps among the static ones.
//!
//! Takes in listeners as the dump shows them; gives out an entry for each connection manager with a table of its own.

use super::entry::any_json;
use crate::admin::source::{Kind, Resource};
use crate::telemetry::clock::rfc3339;
use serde_json::{Map, Value as Json};

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TABLE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The tables in the version of a listener that is served.
pub(super) fn entries(listener: &Resource) -> Vec<Json> {
    let Some(version) = &listener.active else { return Vec::new() };
    let mut listener = any_json(Kind::Listener, &version.body);
    let updated = rfc3339(version.updated);
    let mut chains = list(listener.get_mut("filter_chains"));
    chains.extend(listener.get_mut("default_filter_chain").map(Json::take));
    let filters = chains.iter_mut().flat_map(|chain| list(chain.get_mut("filters")));
    filters
        .filter_map(|mut filter| table(filter.get_mut("typed_config")?))
        .map(|table| entry(table, &updated))
        .collect()
}

fn list(value: Option<&mut Json>) -> Vec<Json> {
    match value.map(Json::take) {
        Some(Json::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn table(config: &mut Json) -> Option<Map<String, Json>> {
    let is_manager = config.get("@type")?.as_str()?.ends_with(MANAGER);
    match config.get_mut("route_config").map(Json::take) {
        Some(Json::Object(fields)) if is_manager => Some(fields),
        _ => None,
    }
}

fn entry(fields: Map<String, Json>, updated: &str) -> Json {
    let mut table = Map::from_iter([("@type".to_owned(), Json::from(TABLE))]);
    table.extend(fields);
    let mut entry = Map::new();
    entry.insert("route_config".into(), Json::Object(table));
    entry.insert("last_updated".into(), updated.into());
    Json::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::source::{Body, Version};
    use crate::proto::envoy::config::{listener::v3 as pb, route::v3::RouteConfiguration};
    use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as http;
    use http::http_connection_manager::RouteSpecifier;
    use prost::{Message as _, Name as _};
    use std::time::SystemTime;

    fn chain(routes: RouteSpecifier) -> pb::FilterChain {
        let manager = http::HttpConnectionManager { route_specifier: Some(routes), ..Default::default() };
        let any = prost_types::Any {
            type_url: http::HttpConnectionManager::type_url(),
            value: manager.encode_to_vec(),
        };
        let config_type = Some(pb::filter::ConfigType::TypedConfig(any));
        pb::FilterChain {
            filters: vec![pb::Filter { name: "http".into(), config_type }],
            ..Default::default()
        }
    }

    #[test]
    fn tables_written_into_a_listener_are_entries_and_fetched_ones_are_not() {
        let own = |name: &str| {
            chain(RouteSpecifier::RouteConfig(RouteConfiguration { name: name.into(), ..Default::default() }))
        };
        let listener = pb::Listener {
            filter_chains: vec![own("a"), chain(RouteSpecifier::Rds(Default::default()))],
            default_filter_chain: Some(own("b")),
            ..Default::default()
        };
        let body = Body::Proto(listener.encode_to_vec().into());
        let version = Version { version: "1".into(), updated: SystemTime::UNIX_EPOCH, body };
        let found = entries(&Resource::active("l", false, version));
        let names: Vec<&Json> = found.iter().map(|entry| &entry["route_config"]["name"]).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(found[0]["route_config"]["@type"], TABLE);
        assert_eq!(found[0]["last_updated"], "1970-01-01T00:00:00.000Z");
    }
}
