//! Runtime values: switches and numbers by name, that change how the proxy acts without being a resource.
//!
//! One layer is what a bootstrap's static layer or an RTDS resource says; [`Runtime::layered`] puts layers over
//! each other. A key that nobody sets has the default of whoever asks. Each worker thread goes by the values of
//! the snapshot it serves from ([`go_by`]): shares and numbers with a key look there when they are needed, so that
//! new values change no other configuration.

use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// Values by key.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Runtime {
    values: BTreeMap<String, RuntimeValue>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RuntimeValue {
    Flag(bool),
    Number(f64),
    Text(String),
    /// A `FractionalPercent`.
    Fraction {
        numerator: u32,
        denominator: u32,
    },
}

/// One source of values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    /// As the bootstrap calls it.
    pub name: String,
    pub source: LayerSource,
    /// What it says now.
    pub values: Runtime,
}

/// Where a layer's values come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum LayerSource {
    /// The bootstrap, or the command line.
    Static,
    /// `POST /runtime_modify`.
    Admin,
    /// The `Runtime` resource of this name.
    Rtds(String),
}

impl fmt::Display for RuntimeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuntimeValue::Flag(flag) => flag.fmt(f),
            RuntimeValue::Number(number) => number.fmt(f),
            RuntimeValue::Text(text) => f.write_str(text),
            RuntimeValue::Fraction { numerator, denominator } => {
                let word = match denominator {
                    100 => "HUNDRED",
                    10_000 => "TEN_THOUSAND",
                    _ => "MILLION",
                };
                write!(f, "{{\"numerator\":{numerator},\"denominator\":\"{word}\"}}")
            }
        }
    }
}

/// A switch, that runtime may override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// What holds while runtime says nothing.
    pub on: bool,
    /// Empty: none.
    pub runtime_key: String,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        match self.runtime_key.as_str() {
            "" => self.on,
            key => flag_now(key, self.on),
        }
    }

    /// Whether it is off for good.
    pub fn is_dead(&self) -> bool {
        !self.on && self.runtime_key.is_empty()
    }
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        Switch { on, runtime_key: String::new() }
    }
}

thread_local! {
    static CURRENT: RefCell<Arc<Runtime>> = RefCell::default();
}

/// From now on this thread goes by `runtime`.
pub fn go_by(runtime: &Arc<Runtime>) {
    let old = CURRENT.with(|current| current.replace(runtime.clone()));
    drop(old);
}

/// The share that the runtime of this thread has for `key`, as numerator and denominator.
pub fn fraction_now(key: &str) -> Option<(u32, u32)> {
    CURRENT.with(|current| current.borrow().fraction(key))
}

/// The number that the runtime of this thread has for `key`.
pub fn number_now(key: &str) -> Option<f64> {
    CURRENT.with(|current| current.borrow().number(key))
}

/// The switch that the runtime of this thread has for `key`.
pub fn flag_now(key: &str, default: bool) -> bool {
    CURRENT.with(|current| current.borrow().flag(key, default))
}

/// Requests whose target has a fragment are refused; otherwise it is cut off. Default yes.
pub const REJECT_FRAGMENT: &str = "envoy.reloadable_features.http_reject_path_with_fragment";
/// A change of CA certificates, names or revocation lists ends open connections of clients that it refuses, and
/// those to hosts. Default no.
pub const CLOSE_REVOKED: &str = "mizzen.tls.close_revoked";
/// Clients may write HTTP/1 leniently, on every listener. Default no.
pub const LENIENT_HTTP1: &str = "mizzen.http1.lenient";

impl Runtime {
    /// Sets one value.
    pub fn set(&mut self, key: impl Into<String>, value: RuntimeValue) {
        self.values.insert(key.into(), value);
    }

    /// Sets nothing for `key` any more.
    pub fn unset(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// All layers in one: what a later one says wins.
    pub fn layered<'a>(layers: impl IntoIterator<Item = &'a Runtime>) -> Runtime {
        let mut all = Runtime::default();
        for layer in layers {
            all.values.extend(layer.values.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        all
    }

    /// The value of `key`, if it is set.
    pub fn get(&self, key: &str) -> Option<&RuntimeValue> {
        self.values.get(key)
    }

    /// All values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RuntimeValue)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A switch; text counts if it says `true` or `false`, anything else is as if it were not set.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        match self.values.get(key) {
            Some(RuntimeValue::Flag(value)) => *value,
            Some(RuntimeValue::Text(text)) if text.eq_ignore_ascii_case("true") => true,
            Some(RuntimeValue::Text(text)) if text.eq_ignore_ascii_case("false") => false,
            _ => default,
        }
    }

    /// Whether there is a key that begins with `prefix`.
    pub fn has_any(&self, prefix: &str) -> bool {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.values.range::<str, _>(from).next().is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// A number; text counts if it is one.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            RuntimeValue::Number(value) => Some(*value),
            RuntimeValue::Text(text) => text.parse().ok(),
            RuntimeValue::Flag(_) | RuntimeValue::Fraction { .. } => None,
        }
    }

    /// A share, as numerator and denominator; a plain number is one of 100.
    pub fn fraction(&self, key: &str) -> Option<(u32, u32)> {
        match self.values.get(key)? {
            RuntimeValue::Fraction { numerator, denominator } => Some((*numerator, *denominator)),
            _ => {
                let share = self.number(key)?;
                (0.0..=f64::from(u32::MAX)).contains(&share).then_some((share as u32, 100))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_layer_wins_and_what_nobody_sets_has_the_default_of_who_asks() {
        let layer = |values: &[(&str, RuntimeValue)]| {
            let mut layer = Runtime::default();
            values.iter().for_each(|(key, value)| layer.set(*key, value.clone()));
            layer
        };
        let low = layer(&[("a", RuntimeValue::Flag(true)), ("b", RuntimeValue::Number(7.0))]);
        let high =
            layer(&[("a", RuntimeValue::Text("FALSE".into())), ("c", RuntimeValue::Text("2.5".into()))]);
        let all = Runtime::layered([&low, &high]);
        assert!(!all.flag("a", true));
        assert!(all.flag("b", true) && !all.flag("b", false) && all.flag("none", true));
        assert_eq!((all.number("b"), all.number("c"), all.number("a")), (Some(7.0), Some(2.5), None));
        assert_eq!(all.fraction("b"), Some((7, 100)));
        assert!(all.has_any("") && all.has_any("b") && !all.has_any("ab") && !all.has_any("d"));
        let share = layer(&[("s", RuntimeValue::Fraction { numerator: 3, denominator: 10_000 })]);
        assert_eq!((share.fraction("s"), share.number("s")), (Some((3, 10_000)), None));
        assert_eq!(layer(&[("n", RuntimeValue::Number(-1.0))]).fraction("n"), None);
    }
}
