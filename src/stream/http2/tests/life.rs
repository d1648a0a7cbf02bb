//! How long connections last, and who counts them.

use super::*;
use crate::stream::Bound;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn proxy_with(config: HttpManager, hosts: &[SocketAddr]) -> Proxy {
    Proxy::start(http(config), vec![route("/", Action::Route(action("up")))], &[cluster("up", hosts)]).await
}

#[test]
fn a_client_that_answers_no_ping_is_left() {
    run(async {
        let mut config = http_manager();
        let short = Duration::from_millis(50);
        config.http2.keepalive = Some(
            crate::model::Keepalive { interval: Some(short), timeout: short, jitter: 0, idle: None }.into(),
        );
        let proxy = proxy_with(config, &[server(echo).await]).await;
        let mut silent = limits::raw(proxy.address).await;
        let mut all = Vec::new();
        silent.read_to_end(&mut all).await.unwrap();
        let pings = all.windows(9).filter(|w| w[..5] == [0, 0, 8, 6, 0]).count();
        assert!(pings >= 1, "{all:?}");
        // One that answers stays, and is asked again and again.
        let mut client = Client::connect(proxy.address).await;
        sleep(400).await;
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(proxy.local.http_stats("in").downstream_cx_http2_active.get(), 1);
    });
}

#[test]
fn a_connection_ends_after_its_share_of_requests() {
    run(async {
        let mut config = http_manager();
        config.limits.per_connection = Some(3);
        let proxy = proxy_with(config, &[server(echo).await]).await;
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let ended = spawn_local(async move { connection.await.is_ok() });
        let mut client = Client(sender);
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status, 200);
        }
        drop(client);
        assert!(ended.await.unwrap(), "in order");
    });
}

#[test]
fn the_head_may_be_as_large_as_configured() {
    run(async {
        let mut config = http_manager();
        (config.http2.header_list, config.limits.max_headers) = (Some(200 * 1024), Some(2000));
        let proxy = proxy_with(config, &[server_with(large(), echo).await]).await;
        let mut client = Client::with(proxy.address, settings::client(&Http2Options::default())).await;
        let mut big = request("GET", "/");
        for i in 0..1500 {
            big.headers_mut().append("x", HeaderValue::from_str(&format!("{i:0>40}")).unwrap());
        }
        let (answer, _sink) = client.send(big, true).await;
        assert_eq!(got(answer).await.status, 200);
    });
}

fn large() -> h2::server::Builder {
    settings::server(
        &Http2Options { header_list: Some(400 * 1024), ..Http2Options::default() },
        settings::MAX_STREAMS,
    )
}

#[test]
fn a_connection_is_counted_by_whom_it_is_served() {
    run(async {
        let proxy = proxy_with(http_manager(), &[server(echo).await]).await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("/").await.status, 200);
        let handle = proxy.handle();
        let old = handle.bound().chain.clone();
        let config = HttpManager { stat_prefix: "other".into(), ..http_manager() };
        let chain = ChainSpec {
            model: old.model.clone(),
            tls: None,
            filter: http(config),
            filters: None,
            leftover: Default::default(),
        };
        handle.rebind(Bound::new(Arc::new(chain), None));
        assert_eq!(client.get("/").await.status, 200);
        let (one, two) = (proxy.local.http_stats("in"), proxy.local.http_stats("other"));
        let counts = |stats: &crate::telemetry::HttpStats| {
            (
                stats.downstream_rq_total.get(),
                stats.downstream_cx_total.get(),
                stats.downstream_cx_active.get(),
            )
        };
        assert_eq!((counts(&one), counts(&two)), ((1, 1, 0), (1, 0, 1)));
        drop(client);
        while two.downstream_cx_active.get() > 0 {
            sleep(10).await;
        }
        assert_eq!(two.downstream_cx_destroy.get(), 1);
    });
}

#[test]
fn a_response_of_too_many_fields_is_none() {
    run(async {
        let host = server(|_, mut respond: SendResponse<Bytes>| async move {
            let mut response = Response::new(());
            for i in 0..101 {
                response.headers_mut().append("x", HeaderValue::from(i));
            }
            drop(respond.send_response(response, true));
        })
        .await;
        let proxy = proxy_with(http_manager(), &[host]).await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("/").await.status, 502);
    });
}

#[test]
fn another_protocol_is_closed_in_order() {
    run(async {
        let config = HttpManager { codec: Codec::Http2, ..http_manager() };
        let proxy = proxy_with(config, &[server(echo).await]).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&[b'X'; 200]).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert!(all.is_empty());
    });
}

#[test]
fn heads_of_open_streams_are_bounded() {
    run(async {
        let host = server(|_, respond: SendResponse<Bytes>| async move {
            sleep(60_000).await;
            drop(respond);
        })
        .await;
        let proxy = proxy_with(http_manager(), &[host]).await;
        let mut client = Client::connect(proxy.address).await;
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let mut big = request("GET", "/");
            big.headers_mut().insert("x", HeaderValue::from_str(&"y".repeat(60_000)).unwrap());
            waiting.push(client.send(big, true).await);
        }
        // 69 heads of 60,000 bytes fit 4 MiB; the others are told to come later.
        let (last, _sink) = waiting.pop().unwrap();
        assert_eq!(last.await.unwrap_err().reason(), Some(h2::Reason::REFUSED_STREAM));
        let handle = proxy.handle();
        assert!((60..=69).contains(&handle.streams()), "{}", handle.streams());
        drop(waiting);
        while handle.streams() > 0 {
            sleep(10).await;
        }
        let (answer, _sink) = client.send(request("GET", "/"), true).await;
        sleep(50).await;
        assert_eq!(handle.streams(), 1, "room again");
        drop(answer);
    });
}
