//! JSON that requests carry, as metadata holds it.

use crate::message::Datum;
use serde_json::Value;

/// The value in `text`; `None` where it is no JSON. Whole numbers too are numbers with a point.
pub fn parse_json(text: &[u8]) -> Option<Datum> {
    serde_json::from_slice(text).ok().map(datum)
}

fn datum(value: Value) -> Datum {
    match value {
        Value::Null => Datum::Null,
        Value::Bool(value) => Datum::Bool(value),
        Value::Number(number) => Datum::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Datum::Text(text),
        Value::Array(list) => Datum::List(list.into_iter().map(datum).collect()),
        Value::Object(map) => Datum::Map(map.into_iter().map(|(key, value)| (key, datum(value))).collect()),
    }
}
