//! The fuzz target of the whole HTTP/1 path, on inputs that are kept and on what little changes make of them.

#[path = "support/http1_proxy.rs"]
mod http1_proxy;

use mizzen::util::random::Random;

/// What a client sends, and what the server answers; empty: what a server should.
const KEPT: [(&str, &str); 16] = [
    ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", ""),
    ("GET / HTTP/1.1\r\nhost: h\r\n\r\nGET /b HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabcGET /c HTTP/1.1\r\nhost: h\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc", ""),
    ("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nab", ""),
    (
        "GET / HTTP/1.0\r\nhost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ),
    ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"),
    (
        "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz",
    ),
    (
        "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 204 None\r\n\r\n",
    ),
    ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nuntil the end"),
    (
        "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly",
        "HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nlate",
    ),
    ("HEAD / HTTP/1.1\r\nhost: h\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"),
    ("GET http://h/../a HTTP/1.1\r\nhost: h\r\ncookie: a\r\ncookie: b\r\n\r\n", "nonsense\r\n\r\n"),
];

#[test]
fn no_input_gets_through_that_is_not_whole() {
    let random = Random::seeded(11);
    for (sent, answer) in KEPT {
        for round in 0..24u64 {
            let step = [255, 0, 6][round as usize % 3];
            let mut bytes = [sent.as_bytes(), answer.as_bytes()].concat();
            // The share is in 256ths: padding in front of the answer makes it exact enough for any length.
            let share = match answer.len() {
                0 => 0,
                _ => (sent.len() * 256).div_ceil(bytes.len()).min(255),
            };
            for _ in 0..round / 3 {
                let at = random.next() as usize % bytes.len();
                match random.next() % 3 {
                    0 => bytes[at] = random.next() as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"\r\n :,0;\t"[random.next() as usize % 8]),
                }
            }
            http1_proxy::run(&[&[step, share as u8][..], &bytes].concat());
        }
    }
}
