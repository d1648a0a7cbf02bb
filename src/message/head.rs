//! A request's head, seen without its protocol.

use std::borrow::Cow;

/// Read access to a request's head. Names given are the configured ones; each protocol compares them by its
/// own rule (HTTP without case, bolt with case).
pub trait Head {
    /// Host the client asked for; bolt has none.
    fn authority(&self) -> Option<&[u8]>;
    /// Path with query; bolt has none.
    fn path_and_query(&self) -> Option<&[u8]>;
    /// HTTP method; bolt has none.
    fn method(&self) -> Option<&[u8]>;
    /// The header's value; several occurrences joined with `,`. Pseudo headers (`:method`, `:path`,
    /// `:authority`, `:scheme`) work where the protocol has them.
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
    /// Gives `each` every occurrence of a header by itself; a protocol that cannot tell them apart gives the
    /// joined value.
    fn each_value(&self, name: &str, each: &mut dyn FnMut(&[u8])) {
        if let Some(value) = self.header(name) {
            each(&value);
        }
    }

    /// Gives `each` every field with its name in lower case, if the protocol has such a list; `false`: it has none.
    fn each_field(&self, each: &mut dyn FnMut(&str, &[u8])) -> bool {
        let _ = each;
        false
    }

    /// Whether this is a gRPC request.
    fn is_grpc(&self) -> bool {
        self.header("content-type").is_some_and(|v| {
            v.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
        })
    }
}
