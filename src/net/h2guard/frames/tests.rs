//! Frames found and counted however the bytes are cut.

use super::*;

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
    bytes.resize(FRAME_HEAD + payload, 0xff);
    bytes
}

/// The follower after `parts`, cut into pieces, and what it left of them.
fn followed(parts: &[Vec<u8>], piece: usize) -> (Follower, Vec<u8>) {
    let mut follower = Follower::after(PREFACE);
    let mut bytes = vec![b'P'; PREFACE];
    bytes.extend(parts.concat());
    let mut left = Vec::new();
    for piece in bytes.chunks_mut(piece) {
        let len = follower.follow(piece);
        left.extend_from_slice(&piece[..len]);
    }
    (follower, left.split_off(PREFACE))
}

#[test]
fn frames_are_counted_however_they_are_cut() {
    let mut parts = vec![frame(DATA, 0, 300), frame(DATA, 0, 0), frame(DATA, END_STREAM, 0)];
    parts.push(frame(DATA, PADDED, 7));
    parts.extend((0..50).map(|_| frame(SETTINGS, 0, 0)));
    parts.extend([frame(DATA, 0, 0), frame(DATA, 0, 0), frame(DATA, 0, 3), frame(DATA, 0, 0)]);
    parts.push(frame(PING, 0, 8));
    for piece in [1, 2, 8, 9, 10, 11, 100, 1000, 100_000] {
        let (follower, left) = followed(&parts, piece);
        assert_eq!(follower.counts, [1, 50, 0, 0, 4, 0], "pieces of {piece}");
        assert!(!follower.flooded && !follower.goaway && follower.greeted);
        // What is left differs only by the empty frames that were cut apart.
        let kept: Vec<_> = parts.iter().filter(|part| **part != frame(DATA, 0, 0)).cloned().collect();
        let apart = follower.empty_data as usize - 1;
        assert_eq!(left.len(), kept.concat().len() + apart * FRAME_HEAD, "pieces of {piece}");
        if apart == 0 {
            assert!(left == kept.concat());
        }
        let (_, again) = followed(&[left], 100_000);
        assert!(again == kept.concat(), "pieces of {piece}");
    }
    parts.extend((0..51).map(|_| frame(SETTINGS, 1, 0)));
    parts.push(frame(GOAWAY, 0, 8));
    let (follower, _) = followed(&parts, 3);
    assert!(follower.flooded && follower.goaway);
}

#[tokio::test(start_paused = true)]
async fn counts_begin_anew_every_second() {
    let mut follower = Follower::default();
    for _ in 0..3 {
        (0..1000).for_each(|_| assert_eq!(follower.follow(&mut frame(PING, 0, 8)), 17));
        tokio::time::advance(SECOND).await;
    }
    assert!(!follower.flooded);
}

#[test]
fn resets_are_found_in_what_leaves_however_it_is_cut() {
    let reset = |code: u32| {
        let mut bytes = frame(RST_STREAM, 0, 4);
        bytes[FRAME_HEAD..].copy_from_slice(&code.to_be_bytes());
        bytes
    };
    let parts = [frame(SETTINGS, 0, 30), reset(8), frame(DATA, 0, 700), reset(0x0102_0304), reset(5)];
    let mut bytes = vec![RST_STREAM; PREFACE];
    bytes.extend(parts.concat());
    for piece in [1, 2, 3, 8, 9, 12, 13, 14, 100, 10_000] {
        let (mut echo, mut codes) = (Echo::after(PREFACE), Vec::new());
        bytes.chunks(piece).for_each(|piece| echo.follow(piece, |code| codes.push(code)));
        assert_eq!(codes, [8, 0x0102_0304, 5], "pieces of {piece}");
    }
}

#[test]
fn provoked_resets_are_bounded_and_others_are_not() {
    let mut follower = Follower::default();
    // NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL: nothing the peer did wrong.
    (0..10_000).for_each(|n| follower.on_own_reset([0, 2, 7, 8][n % 4]));
    assert!(!follower.flooded);
    (0..200).for_each(|n| follower.on_own_reset([1, 3, 5, 6][n % 4]));
    assert!(!follower.flooded);
    follower.on_own_reset(5);
    assert!(follower.flooded);
}
