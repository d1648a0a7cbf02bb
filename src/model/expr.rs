//! Expressions about a stream that is over: the part of CEL that Istio documents for labels and log filters.
//!
//! Owns the parsed form and its evaluation over [`Attributes`]. Attribute paths, texts, numbers, `true`, `false`;
//! `==`, `!=`, `<`, `<=`, `>`, `>=`, `&&`, `||`, `!`, `?:`, `+`, `in`, `has(…)`, `string(…)`, `size(…)`, and the
//! methods `startsWith`, `endsWith`, `contains`, `matches`. Anything else is refused when it is read.

mod parse;
#[cfg(test)]
mod tests;

use crate::model::{Block, Regex};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;

pub use parse::ExprError;

/// A parsed expression. Equal texts are equal.
#[derive(Clone, Debug)]
pub struct Expr {
    text: String,
    root: Node,
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// By its path: `request.path`, `connection.mtls`, `node.id`.
    Named(&'static str),
    /// A header of the request, of the response, a trailer of the response; its name in lower case.
    RequestHeader(String),
    ResponseHeader(String),
    ResponseTrailer(String),
    /// Of the peer: whether it is the upstream's, and the field.
    Peer(bool, String),
    /// What filters left: namespace and path.
    Metadata(Vec<Box<str>>),
    /// A path in the node's metadata.
    Node(Vec<Box<str>>),
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Bool(bool),
    Int(i64),
    Text(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// Appends it as labels and logs have it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Value::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(text) => out.extend_from_slice(text),
        }
    }
}

/// What attributes are.
pub trait Attributes {
    /// The value of one; `None`: there is none.
    fn attribute<'a>(&'a self, attribute: &'a Attribute) -> Option<Value<'a>>;
}

#[derive(Clone, Debug)]
enum Node {
    Bool(bool),
    Int(i64),
    Text(String),
    Attribute(Attribute),
    Has(Attribute),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Compare(Relation, Box<Node>, Box<Node>),
    Sum(Box<Node>, Box<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Node>),
    Method(Method, Box<Node>, Box<Node>),
    Matches(Box<Node>, Regex),
    AsText(Box<Node>),
    Size(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    StartsWith,
    EndsWith,
    Contains,
}

impl Expr {
    /// Reads an expression.
    ///
    /// # Errors
    /// Bad syntax, an attribute or a function that is not known here, or too long.
    pub fn parse(text: &str) -> Result<Expr, ExprError> {
        Ok(Expr { text: text.to_owned(), root: parse::parse(text)? })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value; `None`: it has none, because an attribute is missing or types do not go together.
    pub fn value<'a>(&'a self, of: &'a dyn Attributes) -> Option<Value<'a>> {
        self.root.value(of)
    }

    /// Whether it is true.
    pub fn holds(&self, of: &dyn Attributes) -> bool {
        self.value(of) == Some(Value::Bool(true))
    }

    /// Calls `want` with every header it asks for.
    pub fn each_header(&self, want: &mut dyn FnMut(Block, &str)) {
        self.each(&mut |attribute| match attribute {
            Attribute::RequestHeader(name) => want(Block::Request, name),
            Attribute::ResponseHeader(name) => want(Block::Response, name),
            Attribute::ResponseTrailer(name) => want(Block::Trailer, name),
            Attribute::Named("request.useragent") => want(Block::Request, "user-agent"),
            Attribute::Named("request.referer") => want(Block::Request, "referer"),
            Attribute::Named("response.grpc_status") => want(Block::Trailer, "grpc-status"),
            _ => {}
        });
    }

    /// Calls `each` with every attribute in it.
    pub fn each(&self, each: &mut dyn FnMut(&Attribute)) {
        self.root.each(each);
    }
}

impl Node {
    fn value<'a>(&'a self, of: &'a dyn Attributes) -> Option<Value<'a>> {
        Some(match self {
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(number) => Value::Int(*number),
            Node::Text(text) => Value::Text(text.as_bytes().into()),
            Node::Attribute(attribute) => of.attribute(attribute)?,
            Node::Has(attribute) => Value::Bool(of.attribute(attribute).is_some()),
            Node::Not(inner) => Value::Bool(!inner.truth(of)?),
            Node::And(a, b) => Value::Bool(both(a.truth(of), b, of, false)?),
            Node::Or(a, b) => Value::Bool(both(a.truth(of), b, of, true)?),
            Node::Compare(relation, a, b) => Value::Bool(relation.holds(&a.value(of)?, &b.value(of)?)?),
            Node::Sum(a, b) => match (a.value(of)?, b.value(of)?) {
                (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(b)?),
                (Value::Text(a), Value::Text(b)) => Value::Text([a, b].concat().into()),
                _ => return None,
            },
            Node::Choice(condition, yes, no) => {
                if condition.truth(of)? {
                    yes.value(of)?
                } else {
                    no.value(of)?
                }
            }
            Node::In(item, list) => {
                let item = item.value(of)?;
                Value::Bool(list.iter().any(|other| other.value(of).is_some_and(|other| other == item)))
            }
            Node::Method(method, text, part) => match (text.value(of)?, part.value(of)?) {
                (Value::Text(text), Value::Text(part)) => Value::Bool(method.holds(&text, &part)),
                _ => return None,
            },
            Node::Matches(text, regex) => match text.value(of)? {
                Value::Text(text) => Value::Bool(regex.is_match(&text)),
                _ => return None,
            },
            Node::AsText(inner) => {
                let mut text = Vec::new();
                inner.value(of)?.write(&mut text);
                Value::Text(text.into())
            }
            Node::Size(inner) => match inner.value(of)? {
                Value::Text(text) => Value::Int(i64::try_from(text.len()).ok()?),
                _ => return None,
            },
        })
    }

    fn truth(&self, of: &dyn Attributes) -> Option<bool> {
        match self.value(of)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn each(&self, each: &mut dyn FnMut(&Attribute)) {
        match self {
            Node::Bool(_) | Node::Int(_) | Node::Text(_) => {}
            Node::Attribute(attribute) | Node::Has(attribute) => each(attribute),
            Node::Not(a) | Node::Matches(a, _) | Node::AsText(a) | Node::Size(a) => a.each(each),
            Node::And(a, b)
            | Node::Or(a, b)
            | Node::Compare(_, a, b)
            | Node::Sum(a, b)
            | Node::Method(_, a, b) => {
                a.each(each);
                b.each(each);
            }
            Node::Choice(a, b, c) => [a, b, c].into_iter().for_each(|node| node.each(each)),
            Node::In(a, list) => {
                a.each(each);
                list.iter().for_each(|node| node.each(each));
            }
        }
    }
}

/// `&&` and `||`: one side that decides is enough, whatever became of the other.
fn both(first: Option<bool>, second: &Node, of: &dyn Attributes, decides: bool) -> Option<bool> {
    if first == Some(decides) {
        return first;
    }
    match (first, second.truth(of)) {
        (_, Some(value)) if value == decides => Some(decides),
        (Some(_), second) => second,
        (None, _) => None,
    }
}

impl Relation {
    fn holds(self, a: &Value<'_>, b: &Value<'_>) -> Option<bool> {
        let order = match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            // Values of two types are never equal.
            _ if self == Relation::Equal => return Some(false),
            _ if self == Relation::NotEqual => return Some(true),
            _ => return None,
        };
        Some(match self {
            Relation::Equal => order == Ordering::Equal,
            Relation::NotEqual => order != Ordering::Equal,
            Relation::Less => order == Ordering::Less,
            Relation::AtMost => order != Ordering::Greater,
            Relation::More => order == Ordering::Greater,
            Relation::AtLeast => order != Ordering::Less,
        })
    }
}

impl Method {
    fn holds(self, text: &[u8], part: &[u8]) -> bool {
        match self {
            Method::StartsWith => text.starts_with(part),
            Method::EndsWith => text.ends_with(part),
            Method::Contains => part.is_empty() || text.windows(part.len()).any(|window| window == part),
        }
    }
}
