//! Limits, time limits and drains.

use super::*;
use crate::stream::Drain;

const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

async fn ok() -> Server {
    Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
}

fn short(limits: RequestLimits) -> HttpManager {
    HttpManager { limits, ..http_manager() }
}

#[test]
fn slow_heads_and_bodies_are_408() {
    run(async {
        let server = ok().await;
        let soon = Some(Duration::from_millis(60));
        let limits = RequestLimits { headers_timeout: soon, ..RequestLimits::default() };
        let proxy = proxy_with(short(limits), server.address).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nho").await;
        let all = client.rest().await;
        assert_eq!((status(&all), field(&all, "connection")), (408, Some("close")));
        let limits = RequestLimits { request_timeout: soon, ..RequestLimits::default() };
        let proxy = proxy_with(short(limits), server.address).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(GET).await;
        assert_eq!(status(&client.message(2).await.unwrap().0), 200);
        client.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab").await;
        let answer = client.rest().await;
        // The server answers at once, which is as good; if not, time is up.
        assert!(matches!(status(&answer), 200 | 408), "{answer}");
    });
}

#[test]
fn a_connection_ends_after_its_share() {
    run(async {
        let limits = RequestLimits { per_connection: Some(2), ..RequestLimits::default() };
        let proxy = proxy_with(short(limits), ok().await.address).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(GET).await;
        assert_eq!(field(&client.message(2).await.unwrap().0, "connection"), None);
        client.send(GET).await;
        assert_eq!(field(&client.message(2).await.unwrap().0, "connection"), Some("close"));
        assert_eq!(client.rest().await, "");

        let config = HttpManager { idle_timeout: Some(Duration::from_millis(50)), ..http_manager() };
        let proxy = proxy_with(config, ok().await.address).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(GET).await;
        client.message(2).await.unwrap();
        assert_eq!(client.rest().await, "");
        assert_eq!(proxy.local.http_stats("in").downstream_cx_idle_timeout.get(), 1);
    });
}

#[test]
fn a_drain_tells_at_the_next_response_and_closes_nothing_idle() {
    run(async {
        let proxy = proxy(&ok().await).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(GET).await;
        client.message(2).await.unwrap();
        proxy.handle().drain(Drain::Told);
        sleep(50).await;
        client.send(&format!("{GET}{GET}")).await;
        assert_eq!(field(&client.message(2).await.unwrap().0, "connection"), None, "another request is here");
        assert_eq!(field(&client.message(2).await.unwrap().0, "connection"), Some("close"));
        assert_eq!(client.rest().await, "");
        assert_eq!(proxy.local.http_stats("in").downstream_cx_drain_close.get(), 1);

        let mut client = Peer::connect(proxy.address).await;
        client.send(GET).await;
        client.message(2).await.unwrap();
        proxy.handle().drain(Drain::Leaving);
        assert_eq!(client.rest().await, "", "idle, it ends with the process");
    });
}

#[test]
fn what_is_served_when_time_is_up_is_cut() {
    run(async {
        let server = Server::start(|mut peer| async move {
            peer.head().await;
            peer.fill().await;
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(GET).await;
        while server.connections.get() == 0 {
            sleep(5).await;
        }
        proxy.handle().drain(Drain::Told);
        sleep(20).await;
        proxy.handle().drain(Drain::Now);
        assert_eq!(client.rest().await, "");
    });
}
