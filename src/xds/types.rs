//! The resource types of the aggregated stream.
//!
//! Owns the mapping between type URLs and [`ResourceType`], the order in which types are requested, and
//! which types are complete lists. A further type is one variant and one row here.

/// A resource type, in the order in which types are requested on a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// RTDS.
    Runtime,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// ECDS: filters by name.
    Extension,
    /// SRDS.
    ScopedRoute,
    /// RDS.
    Route,
}

impl ResourceType {
    /// Every type, in request order: what is referred to comes before what refers to it.
    pub const ALL: [Self; 7] = [
        Self::Runtime,
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Extension,
        Self::ScopedRoute,
        Self::Route,
    ];

    /// The full type URL, `type.googleapis.com/` included.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a URL, `None` for one this client does not ask for.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The message's own name, as error texts call a resource of this type.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Runtime => "Runtime",
            Self::Cluster => "Cluster",
            Self::Endpoint => "ClusterLoadAssignment",
            Self::Listener => "Listener",
            Self::Extension => "TypedExtensionConfig",
            Self::ScopedRoute => "ScopedRouteConfiguration",
            Self::Route => "RouteConfiguration",
        }
    }

    /// The field with a resource's own name: number 1 in each of these messages.
    #[must_use]
    pub const fn name_field(self) -> &'static str {
        match self {
            Self::Endpoint => "cluster_name",
            Self::Runtime
            | Self::Cluster
            | Self::Listener
            | Self::Extension
            | Self::ScopedRoute
            | Self::Route => "name",
        }
    }

    /// The short name in counters and metrics: `rtds`, `cds`, `eds`, `lds`, `ecds`, `srds`, `rds`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Runtime => "rtds",
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Extension => "ecds",
            Self::ScopedRoute => "srds",
            Self::Route => "rds",
        }
    }

    /// The gRPC methods of a stream of this type alone: state of the world, and delta.
    #[must_use]
    pub const fn methods(self) -> (&'static str, &'static str) {
        match self {
            Self::Runtime => (
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
            ),
            Self::Cluster => (
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            ),
            Self::Endpoint => (
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            ),
            Self::Listener => (
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            ),
            Self::Extension => (
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
            ),
            Self::ScopedRoute => (
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
            ),
            Self::Route => (
                "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
                "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            ),
        }
    }

    /// Whether the type is subscribed as a whole. Only then does absence from a state-of-the-world answer,
    /// or a removal, take the resource away; for the others the last good one stays, marked withdrawn.
    #[must_use]
    pub const fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRoute)
    }

    /// Position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// A value per resource type, without the bounds question an array index raises.
#[derive(Debug, Default)]
pub struct PerType<T> {
    runtime: T,
    cluster: T,
    endpoint: T,
    listener: T,
    extension: T,
    scoped: T,
    route: T,
}

impl<T> PerType<T> {
    /// One value per type, made by `make`.
    pub fn build(mut make: impl FnMut(ResourceType) -> T) -> Self {
        Self {
            runtime: make(ResourceType::Runtime),
            cluster: make(ResourceType::Cluster),
            endpoint: make(ResourceType::Endpoint),
            listener: make(ResourceType::Listener),
            extension: make(ResourceType::Extension),
            scoped: make(ResourceType::ScopedRoute),
            route: make(ResourceType::Route),
        }
    }

    /// The value of `kind`.
    pub const fn get(&self, kind: ResourceType) -> &T {
        match kind {
            ResourceType::Runtime => &self.runtime,
            ResourceType::Cluster => &self.cluster,
            ResourceType::Endpoint => &self.endpoint,
            ResourceType::Listener => &self.listener,
            ResourceType::Extension => &self.extension,
            ResourceType::ScopedRoute => &self.scoped,
            ResourceType::Route => &self.route,
        }
    }

    /// The value of `kind`, to change.
    pub const fn get_mut(&mut self, kind: ResourceType) -> &mut T {
        match kind {
            ResourceType::Runtime => &mut self.runtime,
            ResourceType::Cluster => &mut self.cluster,
            ResourceType::Endpoint => &mut self.endpoint,
            ResourceType::Listener => &mut self.listener,
            ResourceType::Extension => &mut self.extension,
            ResourceType::ScopedRoute => &mut self.scoped,
            ResourceType::Route => &mut self.route,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_types_are_one_to_one_and_unknown_ones_have_none() {
        for (index, kind) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
            assert!(kind.type_url().ends_with(&format!(".{}", kind.noun())));
            assert_eq!(kind.index(), index);
        }
        assert_eq!(ResourceType::from_type_url("envoy.config.cluster.v3.Cluster"), None);
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/envoy.api.v2.Cluster"), None);
    }
}
