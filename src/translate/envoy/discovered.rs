//! Extensions that come by a resource of their own (`ExtensionConfiguration`, ECDS).
//!
//! A listener is translated with the extensions that are there, put in where it names them. One that names what
//! has not come is incomplete: its translation says for what it waits.

use super::extension::{Extension, refuse_discovery};
use super::values::ads_source;
use crate::proto::envoy::config::core::v3::{ExtensionConfigSource, TypedExtensionConfig};
use crate::proto::message_name;
use crate::translate::finding::{Findings, Path, Rejection};
use prost_types::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The extensions that are there, by name. Copies are cheap.
#[derive(Clone, Debug, Default)]
pub struct Extensions(Arc<BTreeMap<String, Any>>);

impl Extensions {
    /// Those, and the `TypedExtensionConfig` in `bytes`.
    ///
    /// # Errors
    /// The bytes are no such message, or it says nothing.
    pub fn with(&self, bytes: &[u8]) -> Result<Extensions, Rejection> {
        let mut out = Findings::default();
        let read = super::open::<TypedExtensionConfig>(&Path::ROOT, bytes, &mut out);
        let known = read.and_then(|read| {
            let at = Path::ROOT.name("typed_config");
            if read.typed_config.is_none() {
                out.bad(&at, "", "is required");
            }
            let mut all = (*self.0).clone();
            all.insert(read.name.clone(), read.typed_config?);
            Some(Extensions(Arc::new(all)))
        });
        let name = super::resource_name(bytes).unwrap_or_default();
        out.verdict("TypedExtensionConfig", name, known).map(|translated| translated.model)
    }

    /// Those that `keep` accepts by name.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        if self.0.keys().any(|name| !keep(name)) {
            Arc::make_mut(&mut self.0).retain(|name, _| keep(name));
        }
    }
}

/// What a listener has to do with extensions by discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Those it names, and how long each may be waited for; `None`: for ever.
    pub wanted: Vec<(String, Option<Duration>)>,
    /// Those of them that have not come and without which it cannot serve.
    pub missing: Vec<String>,
}

/// What a translation goes by.
#[derive(Clone, Debug, Default)]
pub(in crate::translate) struct Discovering {
    /// `None`: nothing is discovered here.
    pub held: Option<Extensions>,
    /// It was waited for long enough: defaults stand in for what has not come.
    pub late: bool,
    pub found: Wants,
}

/// The extension that is called `name`, if it has come, else its default, where that may stand in. `check`: notes
/// what is wrong with an extension, and gives whether its type can be served at all.
pub(super) fn discover(
    path: &Path<'_>,
    name: &str,
    source: &ExtensionConfigSource,
    check: &dyn Fn(&Path<'_>, &Extension<'_>, &mut Findings) -> bool,
    out: &mut Findings,
) -> Option<Extension<'static>> {
    let quiet = |url: &str| check(&Path::ROOT, &Extension::named(url), &mut Findings::default());
    if !source.type_urls.iter().any(|url| quiet(url)) {
        refuse_discovery(path, source, out);
        return None;
    }
    let at = path.name("config_discovery");
    let Some(held) = out.discovering.held.clone() else {
        out.bad(&at, name, "extensions are not discovered here (nearest valid: typed_config)");
        return None;
    };
    let limit = ads_source(&at.name("config_source"), source.config_source.as_ref(), out);
    let of_type = |at: &Path<'_>, any: &Any, out: &mut Findings| {
        let extension = Extension::open(at, any, out)?.into_owned();
        let is = |url: &String| message_name(url) == message_name(&extension.type_url);
        if !source.type_urls.iter().any(is) {
            out.bad(at, &extension.type_url, "is none of type_urls");
            return None;
        }
        Some(extension)
    };
    let default = source.default_config.as_ref();
    let default = default.and_then(|any| {
        let at = at.name("default_config");
        let extension = of_type(&at, any, out)?;
        check(&at, &extension, out).then_some(extension)
    });
    out.discovering.found.wanted.push((name.to_owned(), limit));
    if let Some(any) = held.0.get(name) {
        return of_type(&at, any, out);
    }
    if source.apply_default_config_without_warming || out.discovering.late {
        if default.is_some() {
            return default;
        }
        if source.apply_default_config_without_warming {
            out.bad(&at.name("default_config"), "", "is required to be applied without warming");
        }
    }
    out.discovering.found.missing.push(name.to_owned());
    None
}
