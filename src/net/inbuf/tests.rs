use super::*;
use std::future::poll_fn;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_large_frame_leaves_no_memory_behind() {
    const FRAME: usize = 16 << 20;
    let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
    let (mut near, pool) = (Conn::Unix(near), ReadPool::new(2 * FRAME));
    let mut input = ReadBuffer::new(pool.clone());
    for round in 0..3u8 {
        let sent = vec![round; FRAME];
        let reading = async {
            let mut most = 0;
            while input.bytes.len() < FRAME {
                let filled = poll_fn(|cx| input.poll_fill(&mut near, cx)).await.unwrap();
                assert!(matches!(filled, Filled::Bytes(1..)));
                most = most.max(input.bytes.capacity());
            }
            assert!(most <= 2 * FRAME, "{most} bytes for one frame");
            assert!(pool.unfinished.get() > FRAME / 2, "it counts while it is unfinished");
            input.bytes.split_to(FRAME).freeze()
        };
        let (wrote, frame) = tokio::join!(far.write_all(&sent), reading);
        wrote.unwrap();
        assert!(frame == sent);
        input.settle();
        assert_eq!((input.bytes.capacity(), pool.unfinished.get()), (0, 0), "round {round}");
        // The frame alone holds its storage: nobody else points there.
        assert!(frame.is_unique());
        assert!(pool.chunk.borrow().capacity() <= LARGE);
    }
}
