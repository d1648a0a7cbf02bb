//! Answers of the proxy's own, as the manager's configuration has them.

use super::ended::Ended;
use super::{Record, keep};
use crate::cluster::{Cluster, Host};
use crate::model::{Block, LogFormat, ReplyFormat};
use crate::router::EditPlan;
use crate::stream::{Handle, Local};
use std::time::SystemTime;
use tokio::time::Instant;

/// What an answer of our own has become.
pub struct Rewritten {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// What the body is; `None`: as before.
    pub content_type: Option<String>,
    /// What is done to its headers; every value is known.
    pub headers: EditPlan,
}

impl Record {
    /// What becomes of an answer of our own with this status and body; `None`: it goes as it is.
    pub fn rewrite(
        &mut self,
        (local, handle): (&Local, &Handle),
        (cluster, host): (Option<&Cluster>, Option<&Host>),
        status: u16,
        body: &[u8],
    ) -> Option<Rewritten> {
        let logs = self.logs.clone()?;
        let replies = logs.replies()?;
        self.status = status;
        self.own_body = keep(&mut self.text, body);
        let mapper = replies
            .mappers
            .iter()
            .find(|mapper| ended(self, local, handle, (cluster, host)).satisfies(&mapper.filter));
        let format = mapper.and_then(|mapper| mapper.format.as_ref()).or(replies.format.as_ref());
        if mapper.is_none() && format.is_none() {
            return None;
        }
        let mut new_body = body.to_vec();
        if let Some(other) = mapper.and_then(|mapper| mapper.body.as_ref()) {
            new_body = other.clone().into_bytes();
            self.own_body = keep(&mut self.text, &new_body);
        }
        self.status = mapper.and_then(|mapper| mapper.status).unwrap_or(status);
        let facts = ended(self, local, handle, (cluster, host));
        if let Some(ReplyFormat { format, .. }) = format {
            new_body.clear();
            match format {
                LogFormat::Text { format, omit_empty } => {
                    format.write(&facts, if *omit_empty { b"" } else { b"-" }, &mut new_body);
                }
                LogFormat::Json(template) => template.write(&facts, &mut new_body),
            }
        }
        let edits = mapper.map(|mapper| EditPlan::of_levels(&[&mapper.headers])).unwrap_or_default();
        Some(Rewritten {
            status: self.status,
            content_type: format.map(|format| format.content_type.clone()),
            headers: edits.resolved(Block::Response, &facts).into_owned(),
            body: new_body,
        })
    }

    /// Writes lines of another kind than the last, if the logs are told to.
    pub fn note(
        &mut self,
        kind: crate::model::LogKind,
        (local, handle): (&std::rc::Rc<Local>, &Handle),
        upstream: (Option<&Cluster>, Option<&Host>),
    ) {
        let Some(logs) = self.logs.clone() else { return };
        let own = std::mem::replace(&mut self.kind, kind);
        super::write_lines(local, &logs, &ended(self, local, handle, upstream));
        self.kind = own;
    }
}

fn ended<'a>(
    record: &'a Record,
    local: &'a Local,
    handle: &'a Handle,
    (cluster, host): (Option<&'a Cluster>, Option<&'a Host>),
) -> Ended<'a> {
    let (now, wall) = (Instant::now(), SystemTime::now());
    Ended {
        record,
        handle: Some(handle),
        cluster,
        host,
        now,
        wall,
        random: &local.env.random,
        node: local.env.registry.node(),
    }
}
