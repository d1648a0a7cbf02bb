//! Small frames towards a client that reads nothing.

use super::limits::{frame, frames, raw};
use super::*;
use crate::stream::http::{FREE, MOST_SMALL};
use tokio::io::AsyncWriteExt;

/// How many bytes come one by one: far more than may wait in frames of their own.
const DRIPS: usize = 1000;

/// Sends as much as is taken until `stop`; `sent` counts.
async fn pour(mut respond: SendResponse<Bytes>, sent: Rc<Cell<usize>>, stop: Rc<Cell<bool>>) {
    let mut sink = respond.send_response(Response::new(()), false).unwrap();
    while !stop.get() {
        sink.reserve_capacity(16_384);
        let room = poll_fn(|cx| sink.poll_capacity(cx));
        let Ok(Some(Ok(room))) = tokio::time::timeout(Duration::from_millis(100), room).await else {
            continue;
        };
        sent.set(sent.get() + room);
        sink.send_data(vec![0; room].into(), false).unwrap();
    }
    let _ = sink.send_data(Bytes::new(), true);
}

/// Sends bytes one by one once there is `go`.
async fn drip(mut respond: SendResponse<Bytes>, go: Rc<Cell<bool>>, over: Rc<Cell<bool>>) {
    let mut sink = respond.send_response(Response::new(()), false).unwrap();
    while !go.get() {
        sleep(10).await;
    }
    for n in 0..DRIPS {
        sink.send_data(vec![n as u8].into(), n + 1 == DRIPS).unwrap();
        // The proxy has its turns: what waits together would leave together.
        sleep(1).await;
    }
    over.set(true);
}

#[test]
fn small_frames_that_a_client_does_not_read_are_few() {
    run(async {
        let (sent, go, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let cells = (sent.clone(), go.clone(), over.clone());
        let serve = move |request: Request<RecvStream>, respond| {
            let (sent, go, over) = cells.clone();
            async move {
                if request.uri().path() == "/pour" {
                    pour(respond, sent, over).await;
                } else {
                    drip(respond, go, over).await;
                }
            }
        };
        let proxy = Proxy::to(&[server(serve).await]).await;
        let mut stream = raw(proxy.address).await;
        let windows = [
            frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
            frame(8, 0, 0, &[0x7f, 0, 0, 0]),
            frame(1, 5, 1, b"\x82\x86\x04\x05/pour\x01\x03svc"),
            frame(1, 5, 3, b"\x82\x86\x04\x05/drip\x01\x03svc"),
        ];
        stream.write_all(&windows.concat()).await.unwrap();
        // Until the client's socket takes nothing more.
        let (mut before, mut still) = (0, 0);
        while still < 5 {
            sleep(100).await;
            let now = sent.get();
            still = if now > 0 && now == before { still + 1 } else { 0 };
            before = now;
        }
        go.set(true);
        while !over.get() {
            sleep(20).await;
        }
        let all = frames(&mut stream).await;
        let drops: Vec<_> = all.iter().filter(|(kind, id, _)| (*kind, *id) == (0, 3)).collect();
        let body: Vec<u8> = drops.iter().flat_map(|(_, _, payload)| payload.clone()).collect();
        assert_eq!(body, (0..DRIPS).map(|n| n as u8).collect::<Vec<_>>());
        let most = FREE as usize + MOST_SMALL;
        assert!(drops.len() <= most + 10, "{} frames", drops.len());
        assert!(drops.len() >= most, "{} frames: they never came to wait", drops.len());
    });
}
