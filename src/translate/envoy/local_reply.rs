//! `local_reply_config`: what becomes of answers of the proxy's own.

use super::access_log::{log_filter, substitution};
use super::headers;
use super::values::within;
use crate::model::{HeaderEdits, LocalReplies, LogFormat, ReplyFormat, ReplyMapper};
use crate::proto::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source};
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use crate::translate::finding::{Findings, Path};

pub(super) fn replies(
    path: &Path<'_>,
    config: &pb::LocalReplyConfig,
    out: &mut Findings,
) -> Option<LocalReplies> {
    let at = path.name("mappers");
    let mappers = config.mappers.iter().enumerate().map(|(i, item)| mapper(&at.index(i), item, out));
    let mappers: Vec<_> = mappers.collect::<Vec<_>>().into_iter().flatten().collect();
    let format = format(&path.name("body_format"), config.body_format.as_ref(), out);
    Some(LocalReplies { mappers, format })
}

fn mapper(path: &Path<'_>, item: &pb::ResponseMapper, out: &mut Findings) -> Option<ReplyMapper> {
    let Some(filter) = &item.filter else {
        out.bad(&path.name("filter"), "", "is required");
        return None;
    };
    let status = item.status_code.map(|status| within(&path.name("status_code"), status, 200, 599, out));
    let at = path.name("headers_to_add");
    let edits = item
        .headers_to_add
        .iter()
        .enumerate()
        .filter_map(|(i, edit)| headers::late_edit(&at.index(i), edit, out));
    let headers = HeaderEdits { remove: Box::default(), edits: edits.collect() };
    let over = format(&path.name("body_format_override"), item.body_format_override.as_ref(), out);
    Some(ReplyMapper {
        filter: log_filter(&path.name("filter"), filter, out)?,
        status: status.and_then(|status| u16::try_from(status).ok()),
        body: item.body.as_ref().and_then(|body| text(&path.name("body"), body, out)),
        format: over,
        headers,
    })
}

fn text(path: &Path<'_>, body: &DataSource, out: &mut Findings) -> Option<String> {
    match &body.specifier {
        Some(data_source::Specifier::InlineString(text)) => Some(text.clone()),
        Some(data_source::Specifier::InlineBytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => {
            out.bad(path, "", "must be written here (nearest valid: inline_string)");
            None
        }
    }
}

fn format(
    path: &Path<'_>,
    given: Option<&SubstitutionFormatString>,
    out: &mut Findings,
) -> Option<ReplyFormat> {
    let given = given?;
    let format = substitution(path, Some(given), out)?;
    let content_type = match (given.content_type.as_str(), &format) {
        ("", LogFormat::Json(_)) => "application/json".to_owned(),
        ("", LogFormat::Text { .. }) => "text/plain".to_owned(),
        (told, _) => told.to_owned(),
    };
    Some(ReplyFormat { format, content_type })
}
