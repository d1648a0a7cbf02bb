//! The layers of `layered_runtime` that the file itself holds.

use crate::model::{Runtime, RuntimeValue};
use crate::proto::envoy::config::bootstrap::v3::Bootstrap;
use crate::proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// What the static layers say, later ones over earlier ones. Layers of other kinds say nothing here.
pub(super) fn read(message: &Bootstrap) -> Runtime {
    let mut all = Runtime::default();
    for layer in message.layered_runtime.iter().flat_map(|runtime| &runtime.layers) {
        if let Some(LayerSpecifier::StaticLayer(values)) = &layer.layer_specifier {
            add("", values, &mut all);
        }
    }
    all
}

/// Structs within structs are keys with dots, except those that are a `FractionalPercent`.
fn add(prefix: &str, values: &Struct, to: &mut Runtime) {
    for (name, value) in &values.fields {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &value.kind {
            Some(Kind::BoolValue(flag)) => to.set(key, RuntimeValue::Flag(*flag)),
            Some(Kind::NumberValue(number)) => to.set(key, RuntimeValue::Number(*number)),
            Some(Kind::StringValue(text)) => to.set(key, RuntimeValue::Text(text.clone())),
            Some(Kind::StructValue(inner)) => match fraction(inner) {
                Some(share) => to.set(key, share),
                None => add(&key, inner, to),
            },
            Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => {}
        }
    }
}

fn fraction(values: &Struct) -> Option<RuntimeValue> {
    let number = |value: &Value| match value.kind {
        Some(Kind::NumberValue(number)) if number >= 0.0 => Some(number as u32),
        _ => None,
    };
    let numerator = number(values.fields.get("numerator")?)?;
    let denominator = match values.fields.get("denominator").and_then(|value| value.kind.as_ref()) {
        None => 100,
        Some(Kind::StringValue(word)) => match word.as_str() {
            "HUNDRED" => 100,
            "TEN_THOUSAND" => 10_000,
            "MILLION" => 1_000_000,
            _ => return None,
        },
        Some(_) => return None,
    };
    Some(RuntimeValue::Fraction { numerator, denominator })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::envoy::config::bootstrap::v3::{LayeredRuntime, RuntimeLayer};

    fn object(fields: impl IntoIterator<Item = (&'static str, Kind)>) -> Struct {
        let field = |(name, kind): (&str, Kind)| (name.to_owned(), Value { kind: Some(kind) });
        Struct { fields: fields.into_iter().map(field).collect() }
    }

    #[test]
    fn nested_keys_get_dots_and_later_layers_win() {
        let layer = |values| RuntimeLayer {
            layer_specifier: Some(LayerSpecifier::StaticLayer(values)),
            ..RuntimeLayer::default()
        };
        let share = object([
            ("numerator", Kind::NumberValue(5.0)),
            ("denominator", Kind::StringValue("TEN_THOUSAND".into())),
        ]);
        let inner = object([("on", Kind::BoolValue(true)), ("share", Kind::StructValue(share))]);
        let layers = vec![
            layer(object([("a", Kind::StructValue(inner)), ("b.c", Kind::NumberValue(1.0))])),
            layer(object([("b.c", Kind::StringValue("x".into()))])),
        ];
        let message = Bootstrap { layered_runtime: Some(LayeredRuntime { layers }), ..Bootstrap::default() };
        let read = read(&message);
        assert!(read.flag("a.on", false));
        assert_eq!(read.fraction("a.share"), Some((5, 10_000)));
        assert_eq!(read.get("b.c"), Some(&RuntimeValue::Text("x".into())));
        assert_eq!(read.iter().count(), 3);
    }
}
