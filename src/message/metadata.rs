//! What filters leave for each other about one stream: values by namespace and key.

use super::state::FilterState;
use std::collections::BTreeMap;

/// A value without a schema, as JSON has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// `null`
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Datum>),
    /// An object.
    Map(BTreeMap<String, Datum>),
}

impl Datum {
    /// Appends it as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Datum::Null => out.extend_from_slice(b"null"),
            Datum::Bool(true) => out.extend_from_slice(b"true"),
            Datum::Bool(false) => out.extend_from_slice(b"false"),
            Datum::Number(number) if number.is_finite() => {
                out.extend_from_slice(number.to_string().as_bytes())
            }
            Datum::Number(_) => out.extend_from_slice(b"null"),
            Datum::Text(text) => write_text(text, out),
            Datum::List(list) => {
                out.push(b'[');
                for (at, item) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Datum::Map(map) => write_map(map, out),
        }
    }

    fn child(&self, key: &str) -> Option<&Datum> {
        match self {
            Datum::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// Takes `other` in: maps are joined key by key, lists are appended to, anything else is replaced.
    pub fn merge(&mut self, other: &Datum) {
        match (self, other) {
            (Datum::Map(own), Datum::Map(other)) => merge_map(own, other),
            (Datum::List(own), Datum::List(other)) => own.extend(other.iter().cloned()),
            (own, other) => *own = other.clone(),
        }
    }
}

fn merge_map(own: &mut BTreeMap<String, Datum>, other: &BTreeMap<String, Datum>) {
    for (key, value) in other {
        match own.get_mut(key) {
            Some(held) => held.merge(value),
            None => drop(own.insert(key.clone(), value.clone())),
        }
    }
}

fn write_map(map: &BTreeMap<String, Datum>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (key, value)) in map.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(key, out);
        out.push(b':');
        value.write_json(out);
    }
    out.push(b'}');
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            control if control < ' ' => {
                out.extend_from_slice(format!("\\u{:04x}", control as u32).as_bytes())
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// A stream's dynamic metadata and filter state. Most streams have none, and then this allocates nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, BTreeMap<String, Datum>>,
    /// The filter state.
    pub state: FilterState,
}

impl Metadata {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.state.is_empty()
    }

    /// Everything in `namespace`.
    pub fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, Datum>> {
        self.values.get(namespace)
    }

    /// Sets one key.
    pub fn set(&mut self, namespace: &str, key: &str, value: Datum) {
        match self.values.get_mut(namespace) {
            Some(held) => drop(held.insert(key.to_owned(), value)),
            None => drop(self.values.insert(namespace.to_owned(), BTreeMap::from([(key.to_owned(), value)]))),
        }
    }

    /// Takes `values` into `namespace`, as [`Datum::merge`] does.
    pub fn merge(&mut self, namespace: &str, values: &BTreeMap<String, Datum>) {
        merge_map(self.values.entry(namespace.to_owned()).or_default(), values);
    }

    /// What is under `path`, which is not empty.
    pub fn find<S: AsRef<str>>(&self, namespace: &str, path: &[S]) -> Option<&Datum> {
        let (first, rest) = path.split_first()?;
        let start = self.values.get(namespace)?.get(first.as_ref())?;
        rest.iter().try_fold(start, |at, key| at.child(key.as_ref()))
    }

    /// Appends what is under `path` as format strings show it: a lone string as it is, anything else as JSON.
    /// `false` where there is nothing.
    pub fn write<S: AsRef<str>>(&self, namespace: &str, path: &[S], out: &mut Vec<u8>) -> bool {
        if path.is_empty() {
            return self.values.get(namespace).map(|all| write_map(all, out)).is_some();
        }
        match self.find(namespace, path) {
            None | Some(Datum::Null) => return false,
            Some(Datum::Text(text)) => out.extend_from_slice(text.as_bytes()),
            Some(other) => other.write_json(out),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_merged_and_written() {
        let mut metadata = Metadata::default();
        assert!(metadata.is_empty() && metadata.find("n", &["a"]).is_none());
        metadata.set("n", "a", Datum::Text("x\"y".into()));
        let inner = Datum::Map(BTreeMap::from([("k".into(), Datum::Number(1.0))]));
        metadata.merge("n", &BTreeMap::from([("m".into(), inner)]));
        let list = Datum::List(vec![Datum::Bool(true), Datum::Null]);
        metadata
            .merge("n", &BTreeMap::from([("m".into(), Datum::Map(BTreeMap::from([("l".into(), list)])))]));
        let text = |path: &[&str]| {
            let mut out = Vec::new();
            metadata.write("n", path, &mut out).then(|| String::from_utf8(out).unwrap())
        };
        assert_eq!(text(&["a"]).unwrap(), "x\"y");
        assert_eq!(text(&["m", "k"]).unwrap(), "1");
        assert_eq!(text(&[]).unwrap(), r#"{"a":"x\"y","m":{"k":1,"l":[true,null]}}"#);
        assert_eq!(text(&["m", "none"]), None);
    }
}
