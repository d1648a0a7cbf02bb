//! `/runtime` and `/runtime_modify`.

use super::query::Params;
use super::reply::{self, Reply};
use super::server::Context;
use crate::model::{Layer, Runtime};
use http::StatusCode;
use serde_json::{Map, Value as Json, json};
use tokio::sync::oneshot;

/// Layers by name, and per key what each of them says and what holds.
pub(super) fn json(layers: &[Layer]) -> Json {
    let all = Runtime::layered(layers.iter().map(|layer| &layer.values));
    let mut entries = Map::new();
    for (key, value) in all.iter() {
        let said = layers.iter().map(|layer| layer.values.get(key).map(ToString::to_string));
        let said: Vec<String> = said.map(Option::unwrap_or_default).collect();
        entries.insert(key.to_owned(), json!({ "layer_values": said, "final_value": value.to_string() }));
    }
    let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    json!({ "layers": names, "entries": entries })
}

/// Every parameter is a key of the admin layer.
pub(super) async fn modify(context: &Context, params: &Params) -> Reply {
    let changes: Vec<_> = params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    if changes.is_empty() {
        let usage = "usage: /runtime_modify?key1=value1&key2=value2\nuse an empty value to remove a key\n";
        return reply::text(StatusCode::BAD_REQUEST, usage);
    }
    let (sender, answer) = oneshot::channel();
    (context.source.modify_runtime)(changes, sender);
    match answer.await {
        Ok(true) => reply::ok(),
        _ => reply::text(StatusCode::SERVICE_UNAVAILABLE, "runtime has no admin layer\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LayerSource, RuntimeValue};

    #[test]
    fn each_key_tells_what_its_layers_say() {
        let layer = |name: &str, values: &[(&str, RuntimeValue)]| {
            let mut all = Runtime::default();
            values.iter().for_each(|(key, value)| all.set(*key, value.clone()));
            Layer { name: name.into(), source: LayerSource::Static, values: all }
        };
        let share = RuntimeValue::Fraction { numerator: 5, denominator: 10_000 };
        let layers = [
            layer("base", &[("a", RuntimeValue::Flag(true)), ("s", share)]),
            layer("far", &[("a", RuntimeValue::Text("x".into())), ("n", RuntimeValue::Number(2.0))]),
        ];
        let share = "{\"numerator\":5,\"denominator\":\"TEN_THOUSAND\"}";
        assert_eq!(
            json(&layers),
            json!({"layers": ["base", "far"], "entries": {
                "a": {"layer_values": ["true", "x"], "final_value": "x"},
                "n": {"layer_values": ["", "2"], "final_value": "2"},
                "s": {"layer_values": [share, ""], "final_value": share}}})
        );
    }
}
