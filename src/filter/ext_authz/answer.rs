//! What an authorization service has decided, in either of its protocols.

use crate::filter::ask::{Heard, Told};
use crate::message::Datum;
use crate::model::{HttpAuthz, StringMatch};
use crate::util::protobuf::{Malformed, Value, fields};
use std::collections::BTreeMap;

/// How a header is put where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::filter) enum How {
    /// A further one, or the first.
    Append,
    /// Only where there is none.
    IfAbsent,
    /// In place of any.
    Replace,
    /// In place of one that is there.
    IfPresent,
    /// Behind what is there, in the same field; nothing where there is none.
    Extend,
}

/// A header of the service's.
pub(in crate::filter) type Change = (How, String, Vec<u8>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub kind: Kind,
    /// What becomes of the request.
    pub request: Vec<Change>,
    pub remove: Vec<String>,
    pub set_query: Vec<(String, String)>,
    pub remove_query: Vec<String>,
    /// What becomes of the response; of a refusal: its headers.
    pub response: Vec<Change>,
    /// Of a refusal; 0: what is configured.
    pub status: u16,
    pub body: Vec<u8>,
    pub metadata: BTreeMap<String, Datum>,
    /// It says what nobody can do.
    pub strange: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    Allowed,
    Denied,
    /// Nobody has decided.
    #[default]
    Failed,
}

/// What came by gRPC. An answer that cannot be read is none.
pub(super) fn of_grpc(heard: Heard) -> Decision {
    let decision = heard.ok().and_then(|told| {
        let status = told.trailer("grpc-status").or(told.header("grpc-status"));
        if told.status != 200 || status != Some(b"0") {
            return None;
        }
        let (&[flag, a, b, c, d], message) = told.body.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        if flag != 0 || length != message.len() {
            return None;
        }
        check_response(message).ok()
    });
    decision.unwrap_or_default()
}

fn check_response(message: &[u8]) -> Result<Decision, Malformed> {
    let mut decision = Decision { kind: Kind::Allowed, ..Decision::default() };
    let (mut ok, mut denied, mut failed) = (None, None, None);
    for (field, value) in fields(message)? {
        match field {
            1 => {
                decision.kind = if number(value)? == 0 { Kind::Allowed } else { Kind::Denied };
            }
            // One of three: the last counts.
            2 => (ok, denied, failed) = (None, Some(value.bytes()), None),
            3 => (ok, denied, failed) = (Some(value.bytes()), None, None),
            4 => decision.metadata = structure(value.bytes())?,
            5 => (ok, denied, failed) = (None, None, Some(value.bytes())),
            _ => {}
        }
    }
    match (decision.kind, failed) {
        (Kind::Allowed, _) => ok.map_or(Ok(()), |ok| consent(&mut decision, ok))?,
        (_, Some(failed)) => {
            decision.kind = Kind::Failed;
            refusal(&mut decision, failed)?;
        }
        (_, None) => {
            decision.status = 403;
            denied.map_or(Ok(()), |denied| refusal(&mut decision, denied))?;
        }
    }
    Ok(decision)
}

/// The first field of a message that has no other of interest: a `Status`, an `HttpStatus`.
fn number(message: Value<'_>) -> Result<u64, Malformed> {
    let fields = fields(message.bytes())?;
    Ok(fields.iter().rev().find(|(field, _)| *field == 1).map_or(0, |(_, code)| code.number()))
}

/// `OkHttpResponse`.
fn consent(decision: &mut Decision, message: &[u8]) -> Result<(), Malformed> {
    for (field, value) in fields(message)? {
        match field {
            2 => {
                let change = change(value, Of::Request, &mut decision.strange)?;
                decision.request.push(change);
            }
            // The older place, which wins.
            3 => decision.metadata = structure(value.bytes())?,
            5 => decision.remove.push(value.text()),
            6 => {
                let change = change(value, Of::Response, &mut decision.strange)?;
                decision.response.push(change);
            }
            7 => {
                let (mut key, mut text) = (String::new(), String::new());
                for (field, value) in fields(value.bytes())? {
                    match field {
                        1 => key = value.text(),
                        2 => text = value.text(),
                        _ => {}
                    }
                }
                decision.set_query.push((key, text));
            }
            8 => decision.remove_query.push(value.text()),
            _ => {}
        }
    }
    Ok(())
}

/// `DeniedHttpResponse`.
fn refusal(decision: &mut Decision, message: &[u8]) -> Result<(), Malformed> {
    for (field, value) in fields(message)? {
        match field {
            1 => {
                if let Ok(code @ 200..=599) = u16::try_from(number(value)?) {
                    decision.status = code;
                }
            }
            2 => {
                let (_, name, value) = change(value, Of::Response, &mut decision.strange)?;
                decision.response.push((How::Append, name, value));
            }
            3 => decision.body = value.bytes().to_vec(),
            _ => {}
        }
    }
    Ok(())
}

/// Whose header is changed.
#[derive(Clone, Copy)]
enum Of {
    Request,
    Response,
}

/// `HeaderValueOption`, as Envoy 1.40 reads it in these messages: of requests only the older `append` counts, and adds
/// to what is there; of responses the newer action too, which adds by default.
fn change(option: Value<'_>, of: Of, strange: &mut bool) -> Result<Change, Malformed> {
    let (mut name, mut text, mut append, mut action) = (String::new(), Vec::new(), None, 0);
    for (field, value) in fields(option.bytes())? {
        match field {
            1 => {
                for (field, value) in fields(value.bytes())? {
                    match field {
                        1 => name = value.text().to_ascii_lowercase(),
                        2 | 3 if !value.bytes().is_empty() => text = value.bytes().to_vec(),
                        _ => {}
                    }
                }
            }
            2 => {
                append =
                    Some(fields(value.bytes())?.iter().any(|(field, flag)| *field == 1 && flag.number() != 0))
            }
            3 => action = value.number(),
            _ => {}
        }
    }
    *strange |= append.is_none() && action > 3;
    let how = match (of, append, action) {
        (Of::Request, Some(true), _) => How::Extend,
        (Of::Request, _, _) | (Of::Response, Some(false), _) => How::Replace,
        (Of::Response, Some(true), _) | (Of::Response, None, 0) => How::Append,
        (Of::Response, None, 1) => How::IfAbsent,
        (Of::Response, None, 3) => How::IfPresent,
        (Of::Response, None, _) => How::Replace,
    };
    Ok((how, name, text))
}

/// Longest way into nested values.
const DEPTH: usize = 64;

fn structure(message: &[u8]) -> Result<BTreeMap<String, Datum>, Malformed> {
    map(message, 0)
}

fn map(message: &[u8], depth: usize) -> Result<BTreeMap<String, Datum>, Malformed> {
    let mut map = BTreeMap::new();
    for (field, entry) in fields(message)? {
        if field != 1 || depth > DEPTH {
            return Err(Malformed);
        }
        let (mut key, mut datum) = (String::new(), Datum::Null);
        for (field, item) in fields(entry.bytes())? {
            match field {
                1 => key = item.text(),
                2 => datum = value(item.bytes(), depth + 1)?,
                _ => {}
            }
        }
        map.insert(key, datum);
    }
    Ok(map)
}

fn value(message: &[u8], depth: usize) -> Result<Datum, Malformed> {
    let mut datum = Datum::Null;
    for (field, item) in fields(message)? {
        datum = match (field, item) {
            (2, Value::Double(number)) => Datum::Number(number),
            (3, text) => Datum::Text(text.text()),
            (4, flag) => Datum::Bool(flag.number() != 0),
            (5, inner) => Datum::Map(map(inner.bytes(), depth)?),
            (6, list) => {
                if depth > DEPTH {
                    return Err(Malformed);
                }
                let items = fields(list.bytes())?;
                let items = items.iter().map(|(_, item)| value(item.bytes(), depth + 1));
                Datum::List(items.collect::<Result<_, _>>()?)
            }
            _ => Datum::Null,
        };
    }
    Ok(datum)
}

/// What the service says is to be taken away.
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What came by HTTP: 200 is consent, 5xx no decision, anything else a refusal.
pub(super) fn of_http(config: &HttpAuthz, heard: Heard) -> Decision {
    let Ok(told) = heard else { return Decision::default() };
    match told.status {
        200 => http_consent(config, &told),
        500.. => Decision::default(),
        _ => http_refusal(config, told),
    }
}

fn meets(list: &[StringMatch], name: &str) -> bool {
    list.iter().any(|one| one.matches(name.as_bytes()))
}

fn http_consent(config: &HttpAuthz, told: &Told) -> Decision {
    let mut decision = Decision { kind: Kind::Allowed, ..Decision::default() };
    for (name, value) in &told.headers {
        if name == TO_REMOVE {
            let names = String::from_utf8_lossy(value).to_ascii_lowercase();
            let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
            decision.remove.extend(names.map(str::to_owned));
            continue;
        }
        if meets(&config.upstream, name) {
            decision.request.push((How::Replace, name.clone(), value.clone()));
        }
        if meets(&config.upstream_append, name) {
            decision.request.push((How::Extend, name.clone(), value.clone()));
        }
        if meets(&config.client_on_success, name) {
            decision.response.push((How::Append, name.clone(), value.clone()));
        }
        if meets(&config.metadata, name) {
            let text = Datum::Text(String::from_utf8_lossy(value).into_owned());
            decision.metadata.insert(name.clone(), text);
        }
    }
    decision
}

fn http_refusal(config: &HttpAuthz, told: Told) -> Decision {
    /// Given on in any case.
    const ALWAYS: &[&str] = &["www-authenticate", "location"];
    let passes = |name: &str| match &config.client {
        None => name != "host",
        Some(list) => meets(list, name) || ALWAYS.contains(&name),
    };
    let headers = told.headers.into_iter().filter(|(name, _)| passes(name));
    Decision {
        kind: Kind::Denied,
        status: if told.status < 200 { 403 } else { told.status },
        response: headers.map(|(name, value)| (How::Append, name, value)).collect(),
        body: told.body.to_vec(),
        ..Decision::default()
    }
}
