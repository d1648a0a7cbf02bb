//! Route tables of RDS, one virtual host after the other.
//!
//! Takes in the bytes of a RouteConfiguration and what its last accepted version was made of ([`Known`]); gives
//! out the model. Virtual hosts are cut out of the bytes and decoded one at a time. Those with the bytes they had
//! last time are taken over as they were translated then: one change among 10,000 costs one translation and a
//! comparison, and never is a whole table decoded at once. What is noted and refused does not depend on that.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use prost::Message as _;

use super::route::{check_unique, few_enough, frame, shared, virtual_host};
use super::route_action::Shared;
use super::{decode, fits, open, remark, resource_name};
use crate::model::{RouteConfig, VirtualHost};
use crate::proto::described::{Reader, Value};
use crate::proto::envoy::config::route::v3 as pb;
use crate::translate::finding::{Findings, Note, Path, Rejection, Translated};
use crate::translate::unknown::top_string;

/// `RouteConfiguration.virtual_hosts` and `VirtualHost.routes`.
const VIRTUAL_HOSTS: u32 = 2;
const ROUTES: u32 = 3;

/// What an accepted table was made of: what its next version need not have translated again.
#[derive(Clone, Debug)]
pub struct Known {
    bytes: Bytes,
    table: Arc<RouteConfig>,
    max_body: usize,
    /// By virtual host, ascending; their paths begin in it.
    notes: Vec<(usize, Note)>,
    /// Of virtual hosts from this one on not every note may be kept.
    noted: usize,
    /// Virtual hosts whose translation looked outside, ascending.
    outside: Vec<usize>,
}

/// Translates an `envoy.config.route.v3.RouteConfiguration`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn route(bytes: &[u8]) -> Result<Translated<RouteConfig>, Rejection> {
    let (Translated { model, notes }, known) = route_after(&Bytes::copy_from_slice(bytes), None)?;
    drop(known);
    Ok(Translated { model: Arc::unwrap_or_clone(model), notes })
}

/// Translates the version that follows `last`, and gives what its own successor can build upon.
///
/// # Errors
/// Everything that is wrong with it.
pub fn route_after(
    bytes: &Bytes,
    last: Option<&Known>,
) -> Result<(Translated<Arc<RouteConfig>>, Known), Rejection> {
    let mut out = Findings::default();
    let read = if fits(bytes, &mut out) { read(bytes, last, &mut out) } else { None };
    let known = match read {
        Some(read) if read.lost_notes => return route_after(bytes, None),
        Some(read) => Some(read.known),
        None => None,
    };
    let name = resource_name(bytes).unwrap_or_default();
    let Translated { model: known, notes } = out.verdict("RouteConfiguration", name, known)?;
    Ok((Translated { model: known.table.clone(), notes }, known))
}

struct Read {
    known: Known,
    /// A virtual host was taken over of which more had been noted than was kept, and there is room for it.
    lost_notes: bool,
}

fn read(bytes: &Bytes, last: Option<&Known>, out: &mut Findings) -> Option<Read> {
    let Some(cut) = Cut::of(bytes) else {
        match pb::RouteConfiguration::decode(&**bytes) {
            Err(error) => out.bad(&Path::ROOT, "", error),
            Ok(_) => out.bad(&Path::ROOT, "", "holds a group, which no field of this message is"),
        }
        return None;
    };
    let table: pb::RouteConfiguration = decode(&Path::ROOT, &cut.frame, out)?;
    if table.name.is_empty() {
        out.bad(&Path::ROOT.name("name"), "", "must not be empty");
    }
    let at = Path::ROOT.name("virtual_hosts");
    if !few_enough(&at, cut.hosts.iter().map(|host| count(host, ROUTES)).sum(), out) {
        return None;
    }
    let mut hosts = Hosts::new(shared(&table), last, cut.hosts.len());
    for (i, host) in cut.hosts.iter().enumerate() {
        hosts.read(i, host, out);
    }
    remark::<pb::RouteConfiguration>(&Path::ROOT, &cut.frame, out);
    if !hosts.same_names && hosts.models.len() == cut.hosts.len() {
        check_unique(&at, &hosts.models, out);
    }
    let table = Arc::new(frame(&Path::ROOT, &table, hosts.models, out));
    Some(Read {
        known: Known {
            bytes: bytes.clone(),
            table,
            max_body: hosts.shared.max_body,
            notes: hosts.notes,
            noted: hosts.noted,
            outside: hosts.outside,
        },
        lost_notes: hosts.lost_notes,
    })
}

/// A table's bytes: its virtual hosts, and all the rest in one piece.
struct Cut<'a> {
    frame: Vec<u8>,
    hosts: Vec<&'a [u8]>,
}

impl<'a> Cut<'a> {
    /// `None` for what only a decoder can judge.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut cut = Cut { frame: Vec::new(), hosts: Vec::new() };
        let mut reader = Reader::new(bytes);
        while !reader.rest().is_empty() {
            let before = reader.rest();
            match reader.field()? {
                (VIRTUAL_HOSTS, Value::Bytes(host)) => cut.hosts.push(host),
                _ => cut.frame.extend_from_slice(before.get(..before.len() - reader.rest().len())?),
            }
        }
        Some(cut)
    }
}

/// The virtual hosts of one table in the making.
struct Hosts<'a> {
    shared: Shared,
    last: Option<Last<'a>>,
    models: Vec<Arc<VirtualHost>>,
    /// Each has the name and the domains of the one that was in its place: no two are alike now either.
    same_names: bool,
    notes: Vec<(usize, Note)>,
    noted: usize,
    outside: Vec<usize>,
    lost_notes: bool,
}

impl<'a> Hosts<'a> {
    fn new(shared: Shared, last: Option<&'a Known>, count: usize) -> Self {
        // How long an answer may be is judged where it is translated.
        let last = last.filter(|known| known.max_body == shared.max_body).and_then(Last::new);
        Hosts {
            same_names: last.as_ref().is_some_and(|last| last.hosts.len() == count),
            shared,
            last,
            models: Vec::with_capacity(count),
            notes: Vec::new(),
            noted: usize::MAX,
            outside: Vec::new(),
            lost_notes: false,
        }
    }

    fn read(&mut self, i: usize, bytes: &[u8], out: &mut Findings) {
        if let Some(from) = self.last.as_mut().and_then(|last| last.find(bytes))
            && let Some(known) = self.last.as_ref().map(|last| last.known)
            && let Some(model) = known.table.virtual_hosts.get(from)
        {
            self.same_names &= from == i;
            self.models.push(model.clone());
            if from >= known.noted {
                self.lost_notes |= out.has_room_for_notes();
                self.noted = self.noted.min(i);
            }
            let first = known.notes.partition_point(|(host, _)| *host < from);
            let notes = known.notes.iter().skip(first).take_while(|(host, _)| *host == from);
            for (_, note) in notes {
                self.note(i, note.clone(), out);
            }
            return;
        }
        if let Some(model) = self.translate(i, bytes, out) {
            let was = self.last.as_ref().and_then(|last| last.known.table.virtual_hosts.get(i));
            self.same_names &= was.is_some_and(|was| was.name == model.name && was.domains == model.domains);
            self.models.push(match was {
                Some(was) if **was == model => was.clone(),
                _ => Arc::new(model),
            });
        }
    }

    fn translate(&mut self, i: usize, bytes: &[u8], out: &mut Findings) -> Option<VirtualHost> {
        let at = Path::ROOT.name("virtual_hosts");
        let at = at.index(i);
        let mut part = Findings::default();
        let host: Option<pb::VirtualHost> = open(&at, bytes, &mut part);
        let model = host.map(|host| virtual_host(&at, &host, &mut self.shared, &mut part));
        let (notes, outside) = out.absorb(part);
        if outside {
            self.outside.push(i);
        }
        if !notes.is_empty() {
            let start = format!("{at}.");
            for mut note in notes {
                if let Some(path) = note.path.strip_prefix(&start) {
                    note.path = path.to_owned();
                }
                self.note(i, note, out);
            }
        }
        model
    }

    /// `note` has a path that begins in virtual host `i`.
    fn note(&mut self, i: usize, note: Note, out: &mut Findings) {
        if !out.has_room_for_notes() {
            self.noted = self.noted.min(i);
            return;
        }
        out.add_note(Note { path: format!("virtual_hosts[{i}].{}", note.path), kind: note.kind.clone() });
        self.notes.push((i, note));
    }
}

/// The last version, to find things in.
struct Last<'a> {
    known: &'a Known,
    hosts: Vec<&'a [u8]>,
    /// The place after the one found last: where the next is, unless something came, went or moved.
    next: usize,
    by_name: Option<HashMap<&'a str, usize, RandomState>>,
}

impl<'a> Last<'a> {
    fn new(known: &'a Known) -> Option<Self> {
        let hosts = Cut::of(&known.bytes)?.hosts;
        Some(Last { known, hosts, next: 0, by_name: None })
    }

    /// The place of a virtual host with these bytes.
    fn find(&mut self, host: &[u8]) -> Option<usize> {
        let at = match self.hosts.get(self.next) {
            Some(next) if *next == host => self.next,
            next => {
                let name = top_string(host, 1)?;
                let at = match next {
                    Some(next) if top_string(next, 1) == Some(name) => self.next,
                    _ => *self.by_name().get(name)?,
                };
                self.next = at + 1;
                self.hosts.get(at).filter(|known| **known == host)?;
                at
            }
        };
        self.next = at + 1;
        self.known.outside.binary_search(&at).is_err().then_some(at)
    }

    fn by_name(&mut self) -> &HashMap<&'a str, usize, RandomState> {
        let named = |(at, host): (usize, &&'a [u8])| Some((top_string(host, 1)?, at));
        let hosts = &self.hosts;
        self.by_name.get_or_insert_with(|| hosts.iter().enumerate().filter_map(named).collect())
    }
}

/// How often the field `number` is in a message.
fn count(bytes: &[u8], number: u32) -> usize {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(|| reader.field()).filter(|(field, _)| *field == number).count()
}
