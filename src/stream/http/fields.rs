//! HTTP heads as filters change them.

use super::head::{RequestHead, joined, with_authority};
use crate::message::{Head, Headers, Request};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, request};
use std::borrow::Cow;

/// The fields of a head, or trailers.
pub(super) struct Fields<'a>(pub &'a mut HeaderMap);

impl Headers for Fields<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        joined(self.0, name)
    }

    fn each(&self, each: &mut dyn FnMut(&str, &[u8])) {
        self.0.iter().for_each(|(name, value)| each(name.as_str(), value.as_bytes()));
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        if let Some((name, value)) = field(name, value) {
            // A map that is full keeps what it has.
            let _ = self.0.try_insert(name, value);
        }
    }

    fn append(&mut self, name: &str, value: &[u8]) {
        if let Some((name, value)) = field(name, value) {
            let _ = self.0.try_append(name, value);
        }
    }

    fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }
}

fn field(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
}

/// A request's head.
pub(super) struct Changing<'a>(pub &'a mut request::Parts);

impl Head for Changing<'_> {
    fn authority(&self) -> Option<&[u8]> {
        self.0.uri.authority().map(|authority| authority.as_str().as_bytes())
    }

    fn path_and_query(&self) -> Option<&[u8]> {
        self.0.uri.path_and_query().map(|path| path.as_str().as_bytes())
    }

    fn method(&self) -> Option<&[u8]> {
        Some(self.0.method.as_str().as_bytes())
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            let value = RequestHead(self.0).header(name).map(Cow::into_owned);
            return value.map(Cow::Owned);
        }
        joined(&self.0.headers, name)
    }

    fn each_value(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        RequestHead(self.0).each_value(name, each);
    }
}

impl Headers for Changing<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header(name)
    }

    fn each(&self, each: &mut dyn FnMut(&str, &[u8])) {
        self.0.headers.iter().for_each(|(name, value)| each(name.as_str(), value.as_bytes()));
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        match name {
            ":path" => self.set_path(value),
            ":method" => {
                if let Ok(method) = Method::from_bytes(value) {
                    self.0.method = method;
                }
            }
            ":authority" | "host" => {
                if let Ok(authority) = Authority::try_from(value)
                    && let Some(uri) = with_authority(&self.0.uri, authority)
                {
                    self.0.uri = uri;
                }
            }
            name if name.starts_with(':') => {}
            name => Fields(&mut self.0.headers).set(name, value),
        }
    }

    fn append(&mut self, name: &str, value: &[u8]) {
        if name.starts_with(':') || name == "host" {
            self.set(name, value);
        } else {
            Fields(&mut self.0.headers).append(name, value);
        }
    }

    fn remove(&mut self, name: &str) -> bool {
        !name.starts_with(':') && self.0.headers.remove(name).is_some()
    }
}

impl Changing<'_> {
    /// What is no path leaves the one that is there.
    fn set_path(&mut self, value: &[u8]) {
        let Ok(path) = PathAndQuery::try_from(value) else { return };
        if !path.as_str().starts_with('/') {
            return;
        }
        let mut parts = self.0.uri.clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            self.0.uri = uri;
        }
    }
}

impl Request for Changing<'_> {
    fn head(&self) -> &dyn Head {
        self
    }
}
