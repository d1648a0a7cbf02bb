//! What becomes of answers of the proxy's own (`local_reply_config`).

use super::{LogFilter, LogFormat};
use crate::message::Fact;
use crate::model::{Block, EditValue, HeaderEdits};
use serde::Serialize;

/// The mappers of a connection manager, the first that fits counts, and the form of all others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalReplies {
    pub mappers: Vec<ReplyMapper>,
    /// `None`: the body as it is.
    pub format: Option<ReplyFormat>,
}

/// What becomes of the answers that a filter fits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplyMapper {
    pub filter: LogFilter,
    /// 200 to 599.
    pub status: Option<u16>,
    pub body: Option<String>,
    /// Instead of that of all.
    pub format: Option<ReplyFormat>,
    pub headers: HeaderEdits,
}

/// What a body is made like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplyFormat {
    /// JSON without a line end.
    pub format: LogFormat,
    pub content_type: String,
}

impl LocalReplies {
    /// Calls `ask` with every fact and `want` with every header that filters, formats and headers ask for.
    pub(super) fn each(&self, ask: &mut dyn FnMut(Fact), want: &mut dyn FnMut(Block, &str)) {
        let own = self.mappers.iter().filter_map(|mapper| mapper.format.as_ref());
        for format in own.chain(&self.format) {
            format.format.each(ask, want);
        }
        for mapper in &self.mappers {
            mapper.filter.each_header(want);
            for edit in &mapper.headers.edits {
                if let EditValue::Format { format, .. } = edit.value() {
                    format.facts().for_each(&mut *ask);
                    format.each_header(want);
                }
            }
        }
    }
}
