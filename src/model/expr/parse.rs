//! Text → expression.

use super::{Attribute, Method, Node, Relation};
use crate::model::Regex;

/// Bytes of an expression at most.
const LONGEST: usize = 8 * 1024;
/// Parentheses and operators within each other at most.
const DEEPEST: usize = 64;

/// Attributes without anything variable in them.
const NAMED: &[&str] = &[
    "connection.mtls",
    "connection.requested_server_name",
    "connection.subject_local_certificate",
    "connection.subject_peer_certificate",
    "connection.tls_version",
    "connection.uri_san_local_certificate",
    "connection.uri_san_peer_certificate",
    "destination.address",
    "destination.port",
    "node.cluster",
    "node.id",
    "request.duration",
    "request.host",
    "request.id",
    "request.method",
    "request.path",
    "request.protocol",
    "request.referer",
    "request.scheme",
    "request.size",
    "request.total_size",
    "request.url_path",
    "request.useragent",
    "response.code",
    "response.code_details",
    "response.flags",
    "response.grpc_status",
    "response.size",
    "response.total_size",
    "source.address",
    "source.port",
    "upstream.address",
    "upstream.local_address",
    "upstream.port",
    "upstream.request_attempt_count",
    "upstream.tls_version",
    "upstream.transport_failure_reason",
    "upstream.uri_san_local_certificate",
    "upstream.uri_san_peer_certificate",
    "xds.cluster_name",
    "xds.filter_chain_name",
    "xds.route_name",
    "xds.virtual_host_name",
];

/// Fields of a peer, and what Istio's earlier expressions called some of them.
const PEER: &[(&str, &str)] = &[
    ("app", "app"),
    ("canonical_revision", "revision"),
    ("canonical_service", "service"),
    ("cluster", "cluster"),
    ("cluster_id", "cluster"),
    ("identity", "identity"),
    ("name", "name"),
    ("namespace", "namespace"),
    ("revision", "revision"),
    ("service", "service"),
    ("type", "type"),
    ("version", "version"),
    ("workload", "workload"),
    ("workload_name", "workload"),
];

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(String);

fn error<T>(why: impl Into<String>) -> Result<T, ExprError> {
    Err(ExprError(why.into()))
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(i64),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

const SIGNS: &[&str] =
    &["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", "+", "(", ")", "[", "]", ".", ","];

fn tokens(text: &str) -> Result<Vec<Token>, ExprError> {
    let mut rest = text.trim_start();
    let mut found = Vec::new();
    while let Some(first) = rest.chars().next() {
        let (token, taken) = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Name(rest.get(..end).unwrap_or_default().to_owned()), end)
            }
            '0'..='9' => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let digits = rest.get(..end).unwrap_or_default();
                let Ok(number) = digits.parse() else { return error(format!("{digits} is too large")) };
                (Token::Number(number), end)
            }
            '\'' | '"' => quoted(rest, first)?,
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Token::Sign(sign), sign.len()),
                None => return error(format!("{first:?} is not understood")),
            },
        };
        found.push(token);
        rest = rest.get(taken..).unwrap_or_default().trim_start();
    }
    Ok(found)
}

fn quoted(rest: &str, quote: char) -> Result<(Token, usize), ExprError> {
    let (mut text, mut escaped) = (String::new(), false);
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => {
                text.push(match c {
                    'n' => '\n',
                    't' => '\t',
                    '\\' | '\'' | '"' => c,
                    _ => return error(format!("\\{c} is not understood")),
                });
                escaped = false;
            }
            '\\' => escaped = true,
            c if c == quote => return Ok((Token::Text(text), at + 1)),
            c => text.push(c),
        }
    }
    error("a text without end")
}

pub(super) fn parse(text: &str) -> Result<Node, ExprError> {
    if text.len() > LONGEST {
        return error(format!("longer than {LONGEST} bytes"));
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let node = parser.choice()?;
    match parser.next() {
        Token::End => Ok(node),
        other => error(format!("{} was not expected", shown(&other))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => name.clone(),
        Token::Text(text) => format!("{text:?}"),
        Token::Number(number) => number.to_string(),
        Token::Sign(sign) => (*sign).to_owned(),
        Token::End => "the end".to_owned(),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExprError> {
        if self.take(sign) {
            Ok(())
        } else {
            error(format!("{sign} was expected before {}", shown(self.peek())))
        }
    }

    /// Reads something in parentheses or after an operator.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, ExprError>) -> Result<T, ExprError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return error("too many parts within each other");
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn choice(&mut self) -> Result<Node, ExprError> {
        let condition = self.or()?;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.deeper(Parser::choice)?;
        self.expect(":")?;
        let no = self.deeper(Parser::choice)?;
        Ok(Node::Choice(condition.into(), yes.into(), no.into()))
    }

    fn or(&mut self) -> Result<Node, ExprError> {
        let mut node = self.and()?;
        while self.take("||") {
            node = Node::Or(node.into(), self.deeper(Parser::and)?.into());
        }
        Ok(node)
    }

    fn and(&mut self) -> Result<Node, ExprError> {
        let mut node = self.relation()?;
        while self.take("&&") {
            node = Node::And(node.into(), self.deeper(Parser::relation)?.into());
        }
        Ok(node)
    }

    fn relation(&mut self) -> Result<Node, ExprError> {
        const RELATIONS: &[(&str, Relation)] = &[
            ("==", Relation::Equal),
            ("!=", Relation::NotEqual),
            ("<=", Relation::AtMost),
            ("<", Relation::Less),
            (">=", Relation::AtLeast),
            (">", Relation::More),
        ];
        let node = self.sum()?;
        if let Some((_, relation)) = RELATIONS.iter().find(|(sign, _)| self.take(sign)) {
            let other = self.sum()?;
            return Ok(Node::Compare(*relation, node.into(), other.into()));
        }
        if *self.peek() == Token::Name("in".to_owned()) {
            self.at += 1;
            return self.within(node);
        }
        Ok(node)
    }

    /// What follows `in`: a list, or the headers among which the text is.
    fn within(&mut self, item: Node) -> Result<Node, ExprError> {
        if self.take("[") {
            let mut list = Vec::new();
            while !self.take("]") {
                list.push(self.deeper(Parser::choice)?);
                if !self.take(",") {
                    self.expect("]")?;
                    break;
                }
            }
            return Ok(Node::In(item.into(), list));
        }
        let path = self.path()?;
        match (item, path.as_slice()) {
            (Node::Text(name), [map, kind]) => Ok(Node::Has(attribute(&[map.clone(), kind.clone(), name])?)),
            _ => error("after `in` a list is expected, or headers with a text before"),
        }
    }

    fn sum(&mut self) -> Result<Node, ExprError> {
        let mut node = self.unary()?;
        while self.take("+") {
            node = Node::Sum(node.into(), self.deeper(Parser::unary)?.into());
        }
        Ok(node)
    }

    fn unary(&mut self) -> Result<Node, ExprError> {
        if self.take("!") {
            return Ok(Node::Not(self.deeper(Parser::unary)?.into()));
        }
        let mut node = self.primary()?;
        while let (Token::Sign("."), Some(Token::Name(name))) = (self.peek(), self.tokens.get(self.at + 1)) {
            let name = name.clone();
            self.at += 2;
            node = self.method(node, &name)?;
        }
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node, ExprError> {
        match self.peek().clone() {
            Token::Text(text) => {
                self.at += 1;
                Ok(Node::Text(text))
            }
            Token::Number(number) => {
                self.at += 1;
                Ok(Node::Int(number))
            }
            Token::Sign("(") => {
                self.at += 1;
                let node = self.deeper(Parser::choice)?;
                self.expect(")")?;
                Ok(node)
            }
            Token::Name(name) if self.tokens.get(self.at + 1) == Some(&Token::Sign("(")) => {
                self.at += 2;
                let node = self.deeper(|this| this.function(&name))?;
                self.expect(")")?;
                Ok(node)
            }
            Token::Name(name) if name == "true" || name == "false" => {
                self.at += 1;
                Ok(Node::Bool(name == "true"))
            }
            Token::Name(_) => {
                let path = self.path()?;
                attribute(&path).map(Node::Attribute)
            }
            other => error(format!("{} was not expected", shown(&other))),
        }
    }

    fn function(&mut self, name: &str) -> Result<Node, ExprError> {
        match name {
            "has" => {
                let path = self.path()?;
                attribute(&path).map(Node::Has)
            }
            "string" => Ok(Node::AsText(self.choice()?.into())),
            "size" => Ok(Node::Size(self.choice()?.into())),
            _ => error(format!("the function {name} is not known here")),
        }
    }

    fn method(&mut self, node: Node, name: &str) -> Result<Node, ExprError> {
        self.expect("(")?;
        let argument = self.deeper(Parser::choice)?;
        self.expect(")")?;
        let method = match (name, argument) {
            ("matches", Node::Text(pattern)) => {
                let regex = Regex::search(&pattern).map_err(|why| ExprError(format!("{pattern}: {why}")))?;
                return Ok(Node::Matches(node.into(), regex));
            }
            ("startsWith", argument) => Node::Method(Method::StartsWith, node.into(), argument.into()),
            ("endsWith", argument) => Node::Method(Method::EndsWith, node.into(), argument.into()),
            ("contains", argument) => Node::Method(Method::Contains, node.into(), argument.into()),
            _ => return error(format!("the method {name} is not known here")),
        };
        Ok(method)
    }

    /// Names and texts in brackets; what is followed by a parenthesis is a method and not part of it.
    fn path(&mut self) -> Result<Vec<String>, ExprError> {
        let Token::Name(first) = self.next() else { return error("an attribute was expected") };
        let mut path = vec![first];
        loop {
            let (after, behind) = (self.tokens.get(self.at + 1).cloned(), self.tokens.get(self.at + 2));
            match (self.peek(), after) {
                (Token::Sign("."), Some(Token::Name(name))) if behind != Some(&Token::Sign("(")) => {
                    path.push(name);
                    self.at += 2;
                }
                (Token::Sign("["), Some(Token::Text(text))) => {
                    path.push(text);
                    self.at += 2;
                    self.expect("]")?;
                }
                _ => return Ok(path),
            }
        }
    }
}

fn attribute(path: &[String]) -> Result<Attribute, ExprError> {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let boxed = |parts: &[&str]| parts.iter().map(|part| Box::from(*part)).collect::<Vec<_>>();
    let lower = |name: &str| name.to_ascii_lowercase();
    Ok(match parts.as_slice() {
        ["request", "headers", name] => Attribute::RequestHeader(lower(name)),
        ["response", "headers", name] => Attribute::ResponseHeader(lower(name)),
        ["response", "trailers", name] => Attribute::ResponseTrailer(lower(name)),
        ["metadata", "filter_metadata", rest @ ..] if !rest.is_empty() => Attribute::Metadata(boxed(rest)),
        ["node", "metadata", rest @ ..] | ["xds", "node", "metadata", rest @ ..] if !rest.is_empty() => {
            Attribute::Node(boxed(rest))
        }
        ["xds", "node", "id"] => Attribute::Named("node.id"),
        ["xds", "node", "cluster"] => Attribute::Named("node.cluster"),
        ["filter_state", peer, rest @ ..] | [peer, rest @ ..]
            if matches!(*peer, "upstream_peer" | "downstream_peer") =>
        {
            Attribute::Peer(*peer == "upstream_peer", peer_field(rest)?)
        }
        parts => {
            let joined = parts.join(".");
            match NAMED.iter().find(|name| **name == joined) {
                Some(name) => Attribute::Named(name),
                None => return error(format!("the attribute {joined} is not known here")),
            }
        }
    })
}

/// The name of a peer's field; `labels.` and a label's name.
fn peer_field(rest: &[&str]) -> Result<String, ExprError> {
    match rest {
        ["labels", label] | ["labels", label, "value"] => Ok(format!("labels.{label}")),
        [field] => match PEER.iter().find(|(name, _)| name == field) {
            Some((_, field)) => Ok((*field).to_owned()),
            None => error(format!("peers have no {field}")),
        },
        _ => error("a field of the peer is expected"),
    }
}
