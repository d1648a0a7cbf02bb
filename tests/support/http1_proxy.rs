//! A whole proxied HTTP/1 connection: any bytes of a client in any pieces, any answers of a server. The server never sees
//! what is no request, nor more requests than the client made; the client never sees what is no response; everything
//! ends in time.
use bytes::BytesMut;
use mizzen::cluster::Env;
use mizzen::net::{Conn, PeerAddress, ReadPool, Wheel};
use mizzen::proto::json::decode_json;
use mizzen::protocol::http1::{Asked, BodyDecoder, Framing, Limits, RequestDecoder, ResponseDecoder};
use mizzen::snapshot::builder::{Builder, Change, Options, Origin};
use mizzen::snapshot::{Snapshot, View};
use mizzen::stream::{Handle, Local, http1};
use mizzen::telemetry::Registry;
use mizzen::translate::envoy;
use mizzen::util::random::Random;
use serde_json::json;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{LocalSet, spawn_local};

/// No exchange takes longer, by the paused clock.
const LIMIT: Duration = Duration::from_secs(600);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn socket() -> PathBuf {
    std::env::temp_dir().join(format!("mizzen-fuzz-{}.sock", std::process::id()))
}

/// One listener before one server.
fn configuration() -> Arc<Snapshot> {
    static MADE: OnceLock<Arc<Snapshot>> = OnceLock::new();
    let make = || {
        const PREFIX: &str = "type.googleapis.com/envoy.";
        let http = json!({
            "@type": format!("{PREFIX}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "f", "request_timeout": "5s", "request_headers_timeout": "5s", "stream_idle_timeout": "5s",
            "normalize_path": true, "http_protocol_options": {"accept_http_10": true},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "common_http_protocol_options": {"idle_timeout": "5s"},
            "http_filters": [{"name": "r", "typed_config": {"@type": format!("{PREFIX}extensions.filters.http.router.v3.Router")}}],
            "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "5s"}}]}]}});
        let listener = json!({"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [{"name": "h", "typed_config": http}]}]});
        let cluster = json!({"name": "c", "type": "STATIC", "load_assignment": {"cluster_name": "c", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket().to_str().unwrap()}}}}]}]}});
        let cluster = decode_json(&format!("{PREFIX}config.cluster.v3.Cluster"), &cluster).unwrap();
        let listener = decode_json(&format!("{PREFIX}config.listener.v3.Listener"), &listener).unwrap();
        let changes = vec![
            Change::Cluster(Arc::new(envoy::cluster(&cluster).unwrap().model)),
            Change::Listener(Arc::new(envoy::listener(&listener).unwrap().model)),
        ];
        let mut builder = Builder::new(Options::default());
        assert!(builder.apply(Instant::now(), Origin::Static, changes).is_empty());
        builder.publish().unwrap()
    };
    MADE.get_or_init(make).clone()
}

fn limits() -> Limits {
    Limits { head_bytes: 1 << 20, max_headers: 1000, accept_http_10: true, ..Limits::default() }
}

/// Whole requests at the front of `bytes`, and whether what follows is no request.
fn requests(bytes: &[u8], limits: &Limits) -> (usize, bool) {
    let mut buf = BytesMut::from(bytes);
    let (mut heads, mut whole) = (RequestDecoder::default(), 0);
    loop {
        let mut body = match heads.decode(&mut buf, limits) {
            Ok(Some(head)) if head.upgrade || head.parts.method == http::Method::CONNECT => {
                return (whole + 1, false);
            }
            Ok(Some(head)) => BodyDecoder::new(head.framing),
            Ok(None) => return (whole, false),
            Err(_) => return (whole, true),
        };
        while !body.is_done() {
            match body.decode(&mut buf, limits) {
                Ok(Some(_)) => {}
                Ok(None) if body.is_done() => {}
                Ok(None) => return (whole, false),
                Err(_) => return (whole, true),
            }
        }
        whole += 1;
    }
}

/// A connection of the server: answers each whole request with what the input says, then as a server should.
async fn serve(mut io: UnixStream, answer: Rc<Vec<u8>>, seen: Rc<RefCell<usize>>) {
    let (mut bytes, mut answered) = (Vec::new(), 0);
    let mut room = [0; 8192];
    while let Ok(n @ 1..) = io.read(&mut room).await {
        bytes.extend_from_slice(&room[..n]);
        let (whole, broken) = requests(&bytes, &limits());
        assert!(!broken || answered > 0, "sent to a server: {}", bytes.escape_ascii());
        while answered < whole {
            answered += 1;
            *seen.borrow_mut() += 1;
            let reply = if answer.is_empty() { OK } else { &answer[..] };
            if io.write_all(reply).await.is_err() || !answer.is_empty() {
                return;
            }
        }
    }
}

/// What a client got is whole responses, the last one perhaps cut.
fn check_responses(mut got: BytesMut) {
    loop {
        let asked = Asked { head: false, connect: false, upgrade: true };
        let head = match ResponseDecoder::default().decode(&mut got, asked, &limits()) {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(fault) => panic!("sent to a client: {fault:?}: {}", got.escape_ascii()),
        };
        if head.is_interim() {
            continue;
        }
        // Those to HEAD, and those that end with the connection, end what can be told from here.
        if head.tunnel
            || matches!(head.framing, Framing::UntilClose)
            || !matches!(head.framing, Framing::Chunked)
        {
            return;
        }
        let mut body = BodyDecoder::new(head.framing);
        while !body.is_done() {
            match body.decode(&mut got, &limits()) {
                Ok(Some(_)) => {}
                Ok(None) if body.is_done() => {}
                Ok(None) => return,
                Err(fault) => panic!("sent to a client: {fault:?}"),
            }
        }
    }
}

async fn exchange(step: usize, sent: &[u8], answer: &[u8]) {
    let path = socket();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let (answer, seen) = (Rc::new(answer.to_vec()), Rc::new(RefCell::new(0)));
    let count = seen.clone();
    let server = spawn_local(async move {
        while let Ok((io, _)) = listener.accept().await {
            spawn_local(serve(io, answer.clone(), count.clone()));
        }
    });
    let wheel = Wheel::new();
    let ticking = spawn_local(wheel.clone().run());
    let env = Env {
        wheel,
        random: Random::seeded(1),
        reads: ReadPool::new(1 << 26),
        registry: Registry::default(),
    };
    let snapshot = configuration();
    let chain = snapshot.listeners["l"].chains[0].clone();
    let local = Local::new(Rc::new(env), View::new(snapshot));
    let (near, far) = UnixStream::pair().unwrap();
    let handle = Handle::new("l".into(), chain, PeerAddress::Unix, None);
    let proxy = spawn_local(http1::serve(Conn::Unix(near), BytesMut::new(), handle, local));
    let (mut from, mut to) = far.into_split();
    let reading = spawn_local(async move {
        let mut got = BytesMut::new();
        while matches!(from.read_buf(&mut got).await, Ok(1..)) {}
        got
    });
    for piece in sent.chunks(step) {
        if to.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    proxy.await.unwrap();
    let got = reading.await.unwrap();
    drop(to);
    server.abort();
    ticking.abort();
    let (made, _) = requests(sent, &limits());
    // A request may be tried again on a new connection.
    let most = if got.is_empty() { made.max(1) } else { made };
    assert!(*seen.borrow() <= 2 * most + 1, "{} requests came of {made}", seen.borrow());
    check_responses(got);
}

/// Runs one input: the length of pieces, the share of the rest that the client sends, and the rest; what is left of it
/// is the server's answer.
///
/// # Panics
/// Something is not as the module says.
pub fn run(data: &[u8]) {
    let [step, share, stream @ ..] = data else { return };
    let (sent, answer) = stream.split_at(stream.len() * usize::from(*share) / 256);
    let (sent, answer) = if *share == 0 { (stream, &[][..]) } else { (sent, answer) };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    let tasks = LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        let whole = tokio::time::timeout(LIMIT, exchange(usize::from(*step) + 1, sent, answer));
        whole.await.expect("an exchange that never ends");
    }));
}
