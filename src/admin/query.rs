//! Query strings.

use crate::telemetry::text::{Kinds, Query as StatsQuery};
use regex_automata::{meta, util::syntax};

/// Decoded parameters, in order.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `a=b&c`; `%XX` is decoded, `+` stays (regular expressions have it).
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or("").split('&').filter(|p| !p.is_empty());
        Params(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether `key` is present and not `false`: `?usedonly` and `?usedonly=true`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v != "false" && v != "0")
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// `filter`, `usedonly`, `type` of `/stats`.
    ///
    /// # Errors
    /// What to tell the client.
    pub fn stats(&self) -> Result<StatsQuery, String> {
        let kinds = match self.get("type") {
            None | Some("All" | "") => Kinds::All,
            Some("Counters") => Kinds::Counters,
            Some("Gauges") => Kinds::Gauges,
            Some("Histograms") => Kinds::Histograms,
            Some("TextReadouts") => Kinds::TextReadouts,
            Some(_) => return Err("invalid &type= param".to_owned()),
        };
        let filter = self.get("filter").filter(|f| !f.is_empty()).map(regex).transpose()?;
        Ok(StatsQuery { used_only: self.flag("usedonly"), filter, kinds })
    }
}

/// Compiles a client's pattern, bounded in size.
///
/// # Errors
/// What to tell the client.
pub fn regex(pattern: &str) -> Result<meta::Regex, String> {
    let config = meta::Config::new().nfa_size_limit(Some(1 << 20)).hybrid_cache_capacity(1 << 20);
    meta::Builder::new()
        .configure(config)
        .syntax(syntax::Config::new())
        .build(pattern)
        .map_err(|e| format!("Invalid regex: \"{pattern}\": {e}"))
}

fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
        match (first, hex(after.first()), hex(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or(&[]);
            }
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_percent_and_keeps_plus() {
        let params = Params::parse(Some("usedonly&filter=%5Ea%2Bb+c%&x=1&x=2&off=false"));
        assert!(params.flag("usedonly"));
        assert!(!params.flag("off"));
        assert_eq!(params.get("filter"), Some("^a+b+c%"));
        assert_eq!(params.get("x"), Some("1"));
        assert_eq!(params.len(), 5);
    }

    #[test]
    fn bad_patterns_are_told() {
        assert!(Params::parse(Some("filter=(")).stats().is_err());
        assert!(Params::parse(Some("filter=(a{1000}){1000}")).stats().is_err());
        assert!(Params::parse(Some("type=Nonsense")).stats().is_err());
    }
}
