//! Texts → documents: formats, merging, folders, dialects.

use super::{Dialect, Finding, in_file};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(super) const NEITHER: &str = "neither MOSN nor Envoy configuration: expected servers and cluster_manager, or \
     node, admin, static_resources and dynamic_resources";

/// Largest configuration file, in bytes.
const MAX_FILE: u64 = 512 << 20;

/// Reads and parses one file.
pub(super) fn read(path: &Path) -> Result<Value, Finding> {
    let fail = |why: String| in_file(Finding::error("", "", why), path);
    let size = std::fs::metadata(path).map_err(|e| fail(format!("cannot be read: {e}")))?.len();
    if size > MAX_FILE {
        return Err(fail(format!("larger than {MAX_FILE} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| fail("not UTF-8 text".to_owned()))?;
    parse(&text, is_yaml(path)).map_err(fail)
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("yaml") || ext.eq_ignore_ascii_case("yml"))
}

/// JSON, or YAML where the name or the first character says so. The result is an object.
pub(super) fn parse(text: &str, yaml: bool) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json = !yaml && text.trim_start().starts_with(['{', '[']);
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(why) if json && !looks_like_flow_yaml(text) => return Err(format!("not JSON: {why}")),
        Err(_) => yaml_value(text).map_err(|why| format!("not YAML: {why}"))?,
    };
    match value {
        Value::Object(_) => Ok(value),
        // An empty YAML document.
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        _ => Err("expected an object".to_owned()),
    }
}

/// `{node: {id: x}}`: a brace, then a key without quotes.
fn looks_like_flow_yaml(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('{').map(str::trim_start);
    inside.is_some_and(|rest| rest.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// YAML 1.2: `n` and `off` are strings. The parser's bounds are set for files of ten thousand clusters.
fn yaml_value(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_nodes: 20_000_000, max_events: 60_000_000, max_total_scalar_bytes: 512 << 20 },
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|why| why.to_string().lines().next().unwrap_or_default().to_owned())
}

/// The dialect by its top-level keys; `None` when nothing tells.
pub(super) fn dialect(document: &Value) -> Option<Dialect> {
    let map = document.as_object()?;
    let has =
        |wanted: &[&str]| map.keys().any(|key| wanted.iter().any(|name| key.eq_ignore_ascii_case(name)));
    let resources = has(&["static_resources", "staticResources", "dynamic_resources", "dynamicResources"]);
    let clusters = document
        .pointer("/cluster_manager/clusters")
        .or(document.pointer("/cluster_manager/clusters_configs"));
    if has(&["servers"]) {
        return Some(if resources { Dialect::Mix } else { Dialect::Mosn });
    }
    if clusters.is_some() && !resources {
        return Some(Dialect::Mosn);
    }
    let envoy = has(&["node", "admin", "layered_runtime", "layeredRuntime", "stats_config", "statsConfig"]);
    (resources || envoy).then_some(Dialect::Envoy)
}

/// Merges as protobuf does: scalars of `over` replace, lists append, objects merge.
pub(super) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                // Either spelling of a proto field names the same field.
                let held =
                    [key.clone(), snake(&key), camel(&key)].into_iter().find(|name| base.contains_key(name));
                match held.and_then(|name| base.get_mut(&name)) {
                    Some(held) => merge(held, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(base), Value::Array(over)) => base.extend(over),
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
}

pub(super) fn camel(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut upper = false;
    for c in key.chars() {
        match c {
            '_' => upper = true,
            _ if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            _ => out.push(c),
        }
    }
    out
}

fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Every JSON or YAML file of `name`, a folder as MOSN names it: from the working directory, else beside the
/// configuration file.
pub(super) fn folder(config: &Path, name: &str) -> Result<Vec<(String, Value)>, Vec<Finding>> {
    let beside = || config.parent().map(|dir| dir.join(name)).filter(|dir| dir.is_dir());
    let path = PathBuf::from(name);
    let path = if path.is_dir() { path } else { beside().unwrap_or(path) };
    let unreadable =
        |why: std::io::Error| vec![Finding::error("", name, format!("folder cannot be read: {why}"))];
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let known = is_yaml(&file) || file.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("json"));
        if known && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    let mut found = Vec::new();
    let mut documents = Vec::new();
    for file in files {
        match read(&file) {
            Ok(document) => documents.push((file.display().to_string(), document)),
            Err(finding) => found.push(finding),
        }
    }
    if found.is_empty() { Ok(documents) } else { Err(found) }
}
