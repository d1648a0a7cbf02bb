//! The messages a dump consists of, and their lists.

use crate::admin::source::Kind;

/// A message of `envoy.admin.v3` with lists of resources.
pub(super) struct Section {
    pub name: &'static str,
    pub kind: Option<Kind>,
    pub lists: &'static [List],
}

pub(super) struct List {
    pub name: &'static str,
    /// The entry's message, within the section's.
    pub entry: &'static str,
    pub form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `StaticX`.
    Static,
    /// `DynamicX` of what serves.
    Active,
    /// `DynamicX` of what waits or was refused.
    Warming,
    /// `DynamicListener`: all states in one entry.
    States,
}

pub(super) const SECTIONS: &[Section] = &[
    Section {
        name: "ClustersConfigDump",
        kind: Some(Kind::Cluster),
        lists: &[
            List { name: "static_clusters", entry: "StaticCluster", form: Form::Static },
            List { name: "dynamic_active_clusters", entry: "DynamicCluster", form: Form::Active },
            List { name: "dynamic_warming_clusters", entry: "DynamicCluster", form: Form::Warming },
        ],
    },
    Section {
        name: "EndpointsConfigDump",
        kind: Some(Kind::Endpoint),
        lists: &[
            List { name: "static_endpoint_configs", entry: "StaticEndpointConfig", form: Form::Static },
            List { name: "dynamic_endpoint_configs", entry: "DynamicEndpointConfig", form: Form::States },
        ],
    },
    Section {
        name: "ListenersConfigDump",
        kind: Some(Kind::Listener),
        lists: &[
            List { name: "static_listeners", entry: "StaticListener", form: Form::Static },
            List { name: "dynamic_listeners", entry: "DynamicListener", form: Form::States },
        ],
    },
    Section {
        name: "EcdsConfigDump",
        kind: Some(Kind::Extension),
        lists: &[List { name: "ecds_filters", entry: "EcdsFilterConfig", form: Form::States }],
    },
    Section {
        name: "ScopedRoutesConfigDump",
        kind: Some(Kind::ScopedRoute),
        lists: &[List {
            name: "dynamic_scoped_route_configs",
            entry: "DynamicScopedRouteConfigs",
            form: Form::States,
        }],
    },
    Section {
        name: "RoutesConfigDump",
        kind: Some(Kind::Route),
        lists: &[
            List { name: "static_route_configs", entry: "StaticRouteConfig", form: Form::Static },
            List { name: "dynamic_route_configs", entry: "DynamicRouteConfig", form: Form::States },
        ],
    },
    Section {
        name: "SecretsConfigDump",
        kind: Some(Kind::Secret),
        lists: &[
            List { name: "static_secrets", entry: "StaticSecret", form: Form::Static },
            List { name: "dynamic_active_secrets", entry: "DynamicSecret", form: Form::Active },
            List { name: "dynamic_warming_secrets", entry: "DynamicSecret", form: Form::Warming },
        ],
    },
];
