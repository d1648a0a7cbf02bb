use super::*;
use crate::cli::SampleClient;
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{Decoder, Kind};
use bytes::BytesMut;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(5);

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A server that lives as long as the test's runtime, and its address.
async fn server(name: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, Settings { name: name.into(), delay: Duration::ZERO }));
    address
}

fn client_of(addr: String) -> SampleClient {
    let (interval, timeout) = (Duration::ZERO, LIMIT);
    SampleClient { addr, repeat: false, interval, timeout, service: "echo".into() }
}

#[test]
fn the_server_echoes_and_says_its_name() {
    run(async {
        let mut client = Client::connect(&server("v1").await).await.unwrap();
        for content in ["one", "two"] {
            let answer =
                client.call(&[("service", "s"), ("k", "v")], content.as_bytes(), LIMIT).await.unwrap();
            assert_eq!(answer.status(), 0);
            assert_eq!(answer.content(), content.as_bytes());
            assert_eq!(answer.header(b"k"), Some(&b"v"[..]));
            assert_eq!(answer.header(SERVER_KEY.as_bytes()), Some(&b"v1"[..]));
        }
    });
}

/// Sends the bytes, ends the sending side, and returns what comes back.
async fn exchange(address: &str, bytes: &[u8]) -> Vec<(Kind, u32, u16)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    let mut buf = BytesMut::from(&got[..]);
    let mut decoder = Decoder::default();
    let frames = std::iter::from_fn(|| decoder.decode(&mut buf).unwrap());
    frames.map(|frame| (frame.kind(), frame.request_id(), frame.status())).collect()
}

#[test]
fn delayed_answers_do_not_hold_up_others() {
    run(async {
        let address = server("v1").await;
        let call = |id, delay: &'static str| {
            let pairs = [(DELAY_KEY.as_bytes(), delay.as_bytes())];
            bolt::request(id, b"", pairs, &b""[..], -1).unwrap().into_bytes()
        };
        let bytes = [call(1, "60"), call(2, "0"), call(3, "20"), bolt::heartbeat(4)].concat();
        let kinds = exchange(&address, &bytes).await;
        assert_eq!(
            kinds,
            [
                (Kind::Response, 2, 0),
                (Kind::HeartbeatAck, 4, 0),
                (Kind::Response, 3, 0),
                (Kind::Response, 1, 0)
            ]
        );
    });
}

#[test]
fn bad_bytes_end_the_connection_after_what_was_good() {
    run(async {
        let address = server("v1").await;
        let mut bytes = bolt::request(5, b"", [], &b""[..], -1).unwrap().into_bytes().to_vec();
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(exchange(&address, &bytes).await, [(Kind::Response, 5, 0)]);

        let mut lying =
            bolt::request(6, b"", [(&b"k"[..], &b"v"[..])], &b""[..], -1).unwrap().into_bytes().to_vec();
        lying[22] = 0x7f;
        lying.extend_from_slice(&bolt::heartbeat(7));
        let status = Status::CodecException.code();
        assert_eq!(
            exchange(&address, &lying).await,
            [(Kind::Response, 6, status), (Kind::HeartbeatAck, 7, 0)]
        );
    });
}

#[test]
fn the_client_fails_if_its_call_does() {
    run(async {
        run_client(client_of(server("v1").await)).await.unwrap();

        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = refused.local_addr().unwrap().to_string();
        drop(refused);
        let error = run_client(client_of(address.clone())).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("the call failed: cannot connect to {address}")));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(&bolt::reply(1, Status::NoProcessor)).await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        });
        let error = run_client(client_of(address)).await.unwrap_err();
        assert_eq!(error.to_string(), "the call failed: status 6 NO_PROCESSOR");
    });
}
