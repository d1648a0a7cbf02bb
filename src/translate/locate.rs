//! Where in a JSON message a value does not fit.

use super::mosn::{Finding, join};
use crate::proto::json::decode_json_lenient;
use crate::proto::{descriptor, message_name};
use prost_reflect::Kind;
use serde_json::{Value, json};

/// The finding for `json`, which was refused as a message of `type_url` because of `why`: the deepest field
/// that is refused when it stands alone.
pub fn locate(type_url: &str, json: &Value, why: &str) -> Finding {
    let mut path = String::new();
    let mut type_url = type_url.to_owned();
    let mut json = json;
    let mut why = why.to_owned();
    while let Some(step) = refused_field(&type_url, json) {
        path = join(&path, &step.path);
        json = step.value;
        why = step.why;
        match step.type_url {
            Some(inner) => type_url = inner,
            None => break,
        }
    }
    if let Some((second, both)) = clash(&type_url, json) {
        return Finding::error(join(&path, &second), "", both);
    }
    let value = match json {
        Value::Object(_) | Value::Array(_) => String::new(),
        scalar => scalar.to_string(),
    };
    Finding::error(path, value, why)
}

struct Step<'a> {
    path: String,
    value: &'a Value,
    why: String,
    /// The type of the value when it is a message, to look further inside.
    type_url: Option<String>,
}

/// The second of two fields that exclude each other, each good by itself, and what is wrong with both.
fn clash(type_url: &str, json: &Value) -> Option<(String, String)> {
    let map = json.as_object()?;
    let inner = map.get("@type").and_then(Value::as_str);
    let type_url = if message_name(type_url) == "google.protobuf.Any" { inner? } else { type_url };
    let desc = descriptor(type_url)?;
    let mut chosen: Vec<(String, &String)> = Vec::new();
    for key in map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key) {
        let field = desc.get_field_by_json_name(key).or_else(|| desc.get_field_by_name(key));
        let Some(group) = field.and_then(|field| field.containing_oneof()) else { continue };
        let group = group.name().to_owned();
        if let Some((_, first)) = chosen.iter().find(|(other, _)| *other == group) {
            return Some((key.clone(), format!("{first} is set as well: {group} may hold only one of them")));
        }
        chosen.push((group, key));
    }
    None
}

fn refused_field<'a>(type_url: &str, json: &'a Value) -> Option<Step<'a>> {
    let map = json.as_object()?;
    // An `Any` is looked into as what it holds.
    let inner = map.get("@type").and_then(Value::as_str);
    let type_url = if message_name(type_url) == "google.protobuf.Any" { inner? } else { type_url };
    let desc = descriptor(type_url)?;
    for (key, value) in map.iter().filter(|(key, _)| *key != "@type") {
        let refused = |value: Value| decode_json_lenient(type_url, &json!({ key: value })).err();
        let Some(error) = refused(value.clone()) else { continue };
        let field = desc.get_field_by_json_name(key).or_else(|| desc.get_field_by_name(key))?;
        let message = match field.kind() {
            Kind::Message(message) if !field.is_map() => Some(message.full_name().to_owned()),
            _ => None,
        };
        let step = |path: String, value: &'a Value, why: String| Step {
            path,
            value,
            why,
            type_url: message.clone(),
        };
        let items = value.as_array().filter(|_| field.is_list()).into_iter().flatten().enumerate();
        for (at, item) in items {
            if let Some(error) = refused(json!([item])) {
                return Some(step(format!("{key}[{at}]"), item, error.to_string()));
            }
        }
        return Some(step(key.clone(), value, error.to_string()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_fields_that_exclude_each_other_the_second_is_named() {
        let both = json!({"routeConfig": {"name": "a"}, "stat_prefix": "s", "rds": {"routeConfigName": "b"}});
        let type_url = "type.googleapis.com/mizzen.v1.RpcProxy";
        assert!(decode_json_lenient(type_url, &both).is_err());
        let found = locate(type_url, &both, "no").to_string();
        assert!(found.contains("is set as well") && found.starts_with('r'), "{found}");
        let one = locate(type_url, &json!({"stat_prefix": 7}), "no");
        assert_eq!((one.path.as_str(), one.value.as_str()), ("stat_prefix", "7"));
    }
}
