//! Heads and metadata put over what else is known of a stream, for format strings.

use crate::message::{Fact, Facts, Head, Headers, Metadata, Moment};
use crate::util::text::push_number;
use std::borrow::Cow;
use std::time::SystemTime;

/// See the module.
pub struct With<'a> {
    /// All but the heads.
    pub base: &'a dyn Facts,
    /// The request's head as it is now.
    pub request: &'a dyn Head,
    /// The response's.
    pub response: Option<&'a dyn Headers>,
    /// Its status.
    pub status: Option<u16>,
    /// What filters left.
    pub metadata: &'a Metadata,
}

impl Facts for With<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut first = None;
        self.request.each_value(name, &mut |value| {
            first.get_or_insert_with(|| value.to_vec());
        });
        first.map(Cow::Owned)
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.response?.value(name)
    }

    fn fact(&self, fact: Fact, out: &mut Vec<u8>) -> bool {
        match (fact, self.status) {
            (Fact::ResponseCode, Some(status)) => {
                push_number(status.into(), out);
                true
            }
            _ => self.base.fact(fact, out),
        }
    }

    fn time(&self, moment: Moment) -> Option<SystemTime> {
        self.base.time(moment)
    }

    fn dynamic_metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> bool {
        self.metadata.write(namespace, path, out)
    }

    fn filter_state(&self, key: &str) -> Option<&str> {
        self.metadata.state.get(key).or_else(|| self.base.filter_state(key))
    }
}
