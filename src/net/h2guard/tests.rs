//! What leaves, leaves together and in order.

use super::*;

#[tokio::test]
async fn small_writes_leave_together_and_large_ones_keep_their_order() {
    use tokio::io::AsyncReadExt;
    let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
    let wire = Wire::client(Conn::Unix(near));
    let mut expected = Vec::new();
    let mut sizes = [3usize, 5000, 100, 16_384, 16_384, 70_000, 9].iter().cycle().take(70);
    let reader = async {
        let mut got = vec![0; 70 / 7 * (3 + 5000 + 100 + 2 * 16_384 + 70_000 + 9)];
        far.read_exact(&mut got).await.unwrap();
        got
    };
    let writer = async {
        let mut io = wire.io();
        for (i, size) in sizes.by_ref().enumerate() {
            let part = vec![i as u8; *size];
            expected.extend_from_slice(&part);
            let mut rest = &part[..];
            while !rest.is_empty() {
                let n = std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, rest)).await.unwrap();
                rest = &rest[n..];
                assert!(wire.out.borrow().len() <= LIMIT + 70_000);
            }
        }
        std::future::poll_fn(|cx| wire.poll_flush(cx)).await.unwrap();
    };
    let (got, ()) = tokio::join!(reader, writer);
    assert!(got == expected);
    assert_eq!((wire.out.borrow().len(), wire.bytes().1), (0, expected.len() as u64));
}

#[tokio::test]
async fn what_found_nothing_is_not_asked_again_in_the_same_turn() {
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;
    let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
    let wire = Wire::client(Conn::Unix(near));
    let mut io = wire.io();
    let mut read = |cx: &mut Context<'_>| {
        let mut bytes = [0; 64];
        let mut buf = ReadBuf::new(&mut bytes);
        Pin::new(&mut io).poll_read(cx, &mut buf).map(|done| done.map(|()| buf.filled().len()))
    };
    assert!(poll_fn(|cx| Poll::Ready(read(cx).is_pending())).await);
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    far.write_all(&settings).await.unwrap();
    wire.repeat(true);
    assert!(poll_fn(|cx| Poll::Ready(read(cx).is_pending())).await);
    wire.repeat(false);
    assert_eq!(poll_fn(read).await.unwrap(), settings.len());
}
