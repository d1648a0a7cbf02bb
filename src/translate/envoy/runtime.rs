//! Runtime values: what a layer's struct says, key by key.
//!
//! Takes in the struct of a `Runtime` resource or of a bootstrap's static layer; gives out [`Runtime`]. Structs
//! within structs are keys with dots, except those that are a `FractionalPercent`.

use super::translate;
use super::values::not_empty;
use crate::model::{Runtime, RuntimeValue};
use crate::proto::envoy::service::runtime::v3 as pb;
use crate::translate::finding::{Path, Rejection, Translated};
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// Why a list or a null is refused.
pub const WRONG: &str = "expected a flag, a number, text, or an object of these";

/// Translates an `envoy.service.runtime.v3.Runtime`: its name and what it says.
///
/// # Errors
/// Everything that is wrong with it.
pub fn runtime(bytes: &[u8]) -> Result<Translated<(String, Runtime)>, Rejection> {
    translate::<pb::Runtime, _>("Runtime", bytes, |message, out| {
        let name = not_empty(&Path::ROOT.name("name"), &message.name, out);
        let none = Struct::default();
        let (values, wrong) = layer(message.layer.as_ref().unwrap_or(&none));
        let at = Path::ROOT.name("layer");
        for key in wrong {
            out.bad(&at.key(&key), "", WRONG);
        }
        Some((name, values))
    })
}

/// What a struct says, and the keys whose value is none.
pub fn layer(values: &Struct) -> (Runtime, Vec<String>) {
    let (mut all, mut wrong) = (Runtime::default(), Vec::new());
    add("", values, &mut all, &mut wrong);
    (all, wrong)
}

fn add(prefix: &str, values: &Struct, to: &mut Runtime, wrong: &mut Vec<String>) {
    for (name, value) in &values.fields {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match &value.kind {
            Some(Kind::BoolValue(flag)) => to.set(key, RuntimeValue::Flag(*flag)),
            Some(Kind::NumberValue(number)) => to.set(key, RuntimeValue::Number(*number)),
            Some(Kind::StringValue(text)) => to.set(key, RuntimeValue::Text(text.clone())),
            Some(Kind::StructValue(inner)) => match fraction(inner) {
                Some(share) => to.set(key, share),
                None => add(&key, inner, to, wrong),
            },
            Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => wrong.push(key),
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
    use prost::Message as _;

    fn object(fields: impl IntoIterator<Item = (&'static str, Kind)>) -> Struct {
        let field = |(name, kind): (&str, Kind)| (name.to_owned(), Value { kind: Some(kind) });
        Struct { fields: fields.into_iter().map(field).collect() }
    }

    #[test]
    fn nested_keys_get_dots_and_shares_stay_whole() {
        let share = object([
            ("numerator", Kind::NumberValue(5.0)),
            ("denominator", Kind::StringValue("TEN_THOUSAND".into())),
        ]);
        let inner = object([("on", Kind::BoolValue(true)), ("share", Kind::StructValue(share))]);
        let outer = object([("a", Kind::StructValue(inner)), ("b.c", Kind::NumberValue(1.0))]);
        let message = pb::Runtime { name: "r".into(), layer: Some(outer) };
        let (name, read) = runtime(&message.encode_to_vec()).unwrap().model;
        assert_eq!(name, "r");
        assert!(read.flag("a.on", false));
        assert_eq!(read.fraction("a.share"), Some((5, 10_000)));
        assert_eq!(read.iter().count(), 3);
    }

    #[test]
    fn what_is_no_value_is_refused_by_its_key() {
        let inner = object([("list", Kind::ListValue(prost_types::ListValue::default()))]);
        let layer = object([("a", Kind::StructValue(inner)), ("n", Kind::NullValue(0))]);
        let message = pb::Runtime { name: String::new(), layer: Some(layer) };
        let told = runtime(&message.encode_to_vec()).unwrap_err().to_string();
        for part in ["name: must not be empty", "layer[\"a.list\"]: expected", "layer[\"n\"]: expected"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
