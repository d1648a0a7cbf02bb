//! Takes secrets out of JSON before anybody sees it.
//!
//! Works on names: below a key that means a secret every value goes, except where it merely says where the
//! secret lies. Messages of unknown type may hold anything, so theirs go when the type or the bytes look like
//! key material.

use serde_json::Value as Json;

const TEXT: &str = "[redacted]";
/// The same in base64, where bytes are expected.
const BYTES: &str = "W3JlZGFjdGVkXQ==";

/// Keys, without `_` and `-` and in lower case, below which everything is secret.
const SECRET: &[&str] = &[
    "accesstoken",
    "apikey",
    "authtoken",
    "clientsecret",
    "genericsecret",
    "hmacsecret",
    "idtoken",
    "passphrase",
    "password",
    "pkcs12",
    "privatekey",
    "refreshtoken",
    "secretaccesskey",
    "secretkey",
    "sessionticketkeys",
    "sessiontoken",
    "token",
    "tokensecret",
    "users",
];

/// Keys that say where a secret lies, not what it is.
const WHERE: &[&str] =
    &["@type", "environmentvariable", "filename", "name", "path", "sdsconfig", "watcheddirectory"];

/// Headers whose value is a secret.
const HEADERS: &[&str] = &["authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"];

/// Redacts in place.
pub fn redact(json: &mut Json) {
    match json {
        Json::Array(items) => items.iter_mut().for_each(redact),
        Json::Object(fields) => {
            let names_secret = ["key", "name", "header", "header_name"].iter().any(|k| {
                let name = fields.get(*k).and_then(Json::as_str).unwrap_or("").to_ascii_lowercase();
                HEADERS.contains(&name.as_str()) || name.ends_with("token") || name.ends_with("secret")
            });
            let opaque = fields.len() == 2 && fields.contains_key("@type");
            let suspect = opaque && fields.get("@type").and_then(Json::as_str).is_some_and(may_hold_keys);
            for (key, value) in fields.iter_mut() {
                let plain = plain(key);
                let secret_value =
                    names_secret && ["value", "rawvalue", "stringvalue"].contains(&plain.as_str());
                if SECRET.contains(&plain.as_str()) || secret_value {
                    erase(value, key);
                } else if suspect && key == "value" && value.is_string() {
                    *value = BYTES.into();
                } else {
                    redact(value);
                }
            }
        }
        Json::String(text) if holds_key(text) => {
            *text = if text.starts_with("LS0t") { BYTES } else { TEXT }.to_owned();
        }
        _ => {}
    }
}

fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

/// Replaces every text below `value`; `key` is the one it stands under.
fn erase(value: &mut Json, key: &str) {
    match value {
        Json::String(text) if !text.is_empty() => {
            *text = if plain(key).ends_with("bytes") { BYTES } else { TEXT }.to_owned();
        }
        Json::Array(items) => items.iter_mut().for_each(|item| erase(item, key)),
        Json::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                if !WHERE.contains(&plain(key).as_str()) {
                    erase(value, key);
                }
            }
        }
        _ => {}
    }
}

/// Whether a text is a private key, as PEM or as the base64 of PEM.
fn holds_key(text: &str) -> bool {
    // "-----BEGIN PRIVATE", "-----BEGIN RSA PRIVATE", "-----BEGIN EC PRIVATE", "-----BEGIN ENCRYPTED".
    const ENCODED: [&str; 4] = [
        "LS0tLS1CRUdJTiBQUklWQVRF",
        "LS0tLS1CRUdJTiBSU0EgUFJJVkFUR",
        "LS0tLS1CRUdJTiBFQyBQUklWQVRF",
        "LS0tLS1CRUdJTiBFTkNSWVBURUQ",
    ];
    text.contains("PRIVATE KEY-----") || ENCODED.iter().any(|start| text.starts_with(start))
}

/// Whether a message of this type, printed as bytes, may carry key material.
fn may_hold_keys(type_url: &str) -> bool {
    let name = type_url.to_ascii_lowercase();
    ["tls", "secret", "credential", "oauth", "auth", "transport_sockets", "generic", "sensitive", "vault"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_go_and_their_whereabouts_stay() {
        let mut json = json!({
            "tls_certificate": {
                "certificate_chain": {"inline_bytes": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0t"},
                "private_key": {"inline_bytes": "QUJD"},
                "password": {"filename": "/etc/pw"},
            },
            "session_ticket_keys": {"keys": [{"inline_string": "abc"}]},
            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": {"ads": {}}}],
            "token_bucket": {"fill_interval": "1s", "max_tokens": 3},
            "request_headers_to_add": [{"header": {"key": "Authorization", "value": "Bearer x"}}],
            "privateKey": "abc",
            "note": "-----BEGIN PRIVATE KEY-----\nabc",
            "plain": "token",
        });
        redact(&mut json);
        assert_eq!(
            json,
            json!({
                "tls_certificate": {
                    "certificate_chain": {"inline_bytes": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0t"},
                    "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
                    "password": {"filename": "/etc/pw"},
                },
                "session_ticket_keys": {"keys": [{"inline_string": "[redacted]"}]},
                "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": {"ads": {}}}],
                "token_bucket": {"fill_interval": "1s", "max_tokens": 3},
                "request_headers_to_add": [{"header": {"key": "Authorization", "value": "[redacted]"}}],
                "privateKey": "[redacted]",
                "note": "[redacted]",
                "plain": "token",
            })
        );
    }

    #[test]
    fn unknown_messages_that_may_hold_keys_lose_their_bytes() {
        let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
        let mut json = json!([{"@type": tls, "value": "QUJD"}, {"@type": "x/y.Other", "value": "QUJD"}]);
        redact(&mut json);
        assert_eq!(json[0]["value"], BYTES);
        assert_eq!(json[1]["value"], "QUJD");
    }
}
