//! The layers of `layered_runtime`.

use super::Finding;
use crate::model::{Layer, LayerSource, Runtime};
use crate::proto::envoy::config::bootstrap::v3::Bootstrap;
use crate::proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use crate::translate::envoy::runtime::{WRONG, layer};

/// The layers in order, later ones over earlier ones. What the resource of an RTDS layer says comes later.
pub(super) fn read(message: &Bootstrap, findings: &mut Vec<Finding>) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let given = message.layered_runtime.iter().flat_map(|runtime| &runtime.layers);
    for (index, given) in given.enumerate() {
        let at = format!("layered_runtime.layers[{index}]");
        if layers.iter().any(|other| other.name == given.name) {
            findings.push(Finding::error(format!("{at}.name"), &given.name, "given twice"));
        }
        let (source, values) = match &given.layer_specifier {
            Some(LayerSpecifier::StaticLayer(values)) => {
                let (values, wrong) = layer(values);
                let wrong =
                    wrong.iter().map(|key| Finding::error(format!("{at}.static_layer.{key}"), "", WRONG));
                findings.extend(wrong);
                (LayerSource::Static, values)
            }
            Some(LayerSpecifier::AdminLayer(_)) => (LayerSource::Admin, Runtime::default()),
            Some(LayerSpecifier::RtdsLayer(rtds)) => {
                let resource = if rtds.name.is_empty() { &given.name } else { &rtds.name };
                (LayerSource::Rtds(resource.clone()), Runtime::default())
            }
            Some(LayerSpecifier::DiskLayer(_)) => {
                let why = "not read: values come from static, admin and RTDS layers";
                findings.push(Finding::warning(format!("{at}.disk_layer"), "", why));
                continue;
            }
            None => {
                findings.push(Finding::error(at, "", "expected static_layer, admin_layer or rtds_layer"));
                continue;
            }
        };
        layers.push(Layer { name: given.name.clone(), source, values });
    }
    let admins = layers.iter().filter(|layer| layer.source == LayerSource::Admin).count();
    if admins > 1 {
        findings.push(Finding::error("layered_runtime.layers", "", "more than one admin_layer"));
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::json::decode_json;
    use prost::Message as _;

    #[test]
    fn layers_keep_their_order_and_what_is_wrong_is_named() {
        let document = serde_json::json!({"layered_runtime": {"layers": [
            {"name": "base", "static_layer": {"a": {"on": true}, "bad": [1]}},
            {"name": "far", "rtds_layer": {"name": "other", "rtds_config": {"ads": {}}}},
            {"name": "by hand", "admin_layer": {}},
            {"name": "base", "disk_layer": {"symlink_root": "/x"}}]}});
        let url = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";
        let message = Bootstrap::decode(&*decode_json(url, &document).unwrap()).unwrap();
        let mut findings = Vec::new();
        let layers = read(&message, &mut findings);
        let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, ["base", "far", "by hand"]);
        assert!(layers[0].values.flag("a.on", false));
        assert_eq!(layers[1].source, LayerSource::Rtds("other".into()));
        let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|line| line.contains("layers[0].static_layer.bad")), "{told:?}");
        assert!(
            told.iter().any(|line| line.contains("layers[3].name") && line.contains("twice")),
            "{told:?}"
        );
    }
}
