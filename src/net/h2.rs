//! HTTP/2 settings, both sides, every number with its reason.
//!
//! With its defaults h2 ends whole connections under ordinary load; each departure from them below answers a
//! failure that was measured. What h2 cannot bound, [`super::Wire`] does.

use crate::model::Http2Options;
use std::time::Duration;

/// Flow-control window of a stream in bytes. A peer may send this much that the other side has not taken yet:
/// large enough that a path of 1 ms carries 256 MB/s per stream, small enough to be held per stream.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Flow-control window of a connection in bytes. With h2's 64 KB one unread body of 70 KB starves every
/// neighbour; 64 streams may stall here with their windows full before the others notice.
pub const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// What small DATA frames may cost above their bytes, which h2 counts as 256 less their length. By default 138
/// unread frames of 16 bytes end the connection; this lets a full connection window of them (1 M frames)
/// arrive, and the window is what bounds them.
const DATA_FRAME_BUDGET: usize = 256 * 1024 * 1024;

/// Bytes of one stream h2 may hold for writing, whatever window the peer gives: four frames, enough to keep a
/// socket busy between two turns of the connection's task.
const SEND_BUFFER: usize = 64 * 1024;

/// Largest header list in bytes unless configured, counted as RFC 9113 6.5.2 does.
pub const HEADER_LIST: u32 = 64 * 1024;

/// Most header fields of a request unless more are configured, every cookie crumb counted. Real users needed up to 1,000; a field costs
/// about 100 bytes of memory however few bytes it has on the wire.
pub const MAX_HEADERS: usize = 1000;

/// Streams a client may have open at once unless configured, and at most.
pub const MAX_STREAMS: u32 = 1024;

/// Streams that were reset here and are remembered, so that what their peer still sends is dropped silently.
/// A forgotten one costs an error each, and by default 4,400 cancelled streams end the connection. 2,000
/// cancels a second for [`RESET_MEMORY`] are 20,000.
const RESET_STREAMS: usize = 100_000;

/// How long a stream that was reset is remembered: longer than an answer takes to stop coming.
const RESET_MEMORY: Duration = Duration::from_secs(10);

/// Streams that may be opened and reset before they were looked at; by default 30 in one write end the
/// connection. Twice what [`super::Wire`] lets through in a second.
const UNSEEN_RESETS: usize = 10_000;

/// The server side of a connection.
pub fn server(options: &Http2Options, max_streams: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(stream_window(options))
        .initial_connection_window_size(connection_window(options))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(options.header_list.unwrap_or(HEADER_LIST))
        .max_concurrent_streams(max_streams.clamp(1, MAX_STREAMS))
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        // A count over the connection's life would end every old connection; the wire counts by the second.
        .max_local_error_reset_streams(None);
    builder
}

/// The client side of a connection.
pub fn client(options: &Http2Options) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(stream_window(options))
        .initial_connection_window_size(connection_window(options))
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(options.header_list.unwrap_or(HEADER_LIST))
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        // A connection many clients share must not end because 1,024 of them gave up in its life.
        .max_local_error_reset_streams(None);
    builder
}

fn stream_window(options: &Http2Options) -> u32 {
    options.initial_stream_window.unwrap_or(STREAM_WINDOW).min(MAX_WINDOW)
}

fn connection_window(options: &Http2Options) -> u32 {
    // 16 streams may stall before their neighbours do, however large a window was asked for.
    let wanted = options.initial_connection_window.unwrap_or(CONNECTION_WINDOW);
    wanted.max(stream_window(options).saturating_mul(16)).min(MAX_WINDOW)
}

/// The largest window there is, RFC 9113 6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;
