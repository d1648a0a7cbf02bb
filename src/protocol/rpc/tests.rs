use super::*;
use crate::protocol::bolt::{Head, Pair, Status, encode, goaway, heartbeat, heartbeat_ack, reply, request};
use proptest::prelude::*;

fn decode_all(decoder: &mut Decoder, buf: &mut BytesMut) -> (Vec<Frame>, Option<DecodeError>) {
    let mut frames = Vec::new();
    loop {
        match decoder.decode(buf) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

fn decode_one(bytes: &[u8]) -> Frame {
    let mut buf = BytesMut::from(bytes);
    let frame = Decoder::default().decode(&mut buf).unwrap().unwrap();
    assert!(buf.is_empty());
    frame
}

/// The bytes of a commented hex file: everything behind `#` is comment.
fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/frames/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let digits: String = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().chars())
        .filter(|c| !c.is_whitespace())
        .collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn re_encode(frame: &Frame) -> Frame {
    encode(*frame.head(), frame.class(), frame.headers(), frame.content()).unwrap()
}

const GOLDEN: &[(&str, Kind)] = &[
    ("bolt_v1_request", Kind::Request),
    ("bolt_v1_request_no_header", Kind::Request),
    ("bolt_v1_oneway", Kind::Oneway),
    ("bolt_v1_response", Kind::Response),
    ("bolt_v1_heartbeat", Kind::Heartbeat),
    ("bolt_v1_heartbeat_ack", Kind::HeartbeatAck),
    ("bolt_v1_error_exception", Kind::Response),
    ("bolt_v1_error_unknown", Kind::Response),
    ("bolt_sofarpc_request", Kind::Request),
    ("bolt_sofarpc_request_baggage", Kind::Request),
    ("bolt_sofarpc_request_callback", Kind::Request),
    ("bolt_sofarpc_request_future", Kind::Request),
    ("bolt_sofarpc_request_generic", Kind::Request),
    ("bolt_sofarpc_request_object", Kind::Request),
    ("bolt_sofarpc_request_timeout", Kind::Request),
    ("bolt_sofarpc_oneway", Kind::Oneway),
    ("bolt_sofarpc_response", Kind::Response),
    ("bolt_sofarpc_no_service", Kind::Response),
    ("bolt_sofarpc_biz_exception", Kind::Response),
    ("bolt_sofarpc_heartbeat", Kind::Heartbeat),
    ("bolt_sofarpc_heartbeat_ack", Kind::HeartbeatAck),
];

#[test]
fn real_frames_decode_and_encode_to_the_same_bytes() {
    for (name, kind) in GOLDEN {
        let bytes = golden(name);
        let frame = decode_one(&bytes);
        assert_eq!(frame.kind(), *kind, "{name}");
        assert_eq!(&re_encode(&frame).into_bytes()[..], &bytes[..], "{name}");
        assert_eq!(&frame.into_bytes()[..], &bytes[..], "{name}");
    }
}

#[test]
fn a_real_request_reads_as_its_comments_say() {
    let frame = decode_one(&golden("bolt_v1_request"));
    assert_eq!((frame.request_id(), frame.timeout_ms(), frame.status()), (1, 5000, 0));
    assert_eq!(frame.class(), b"peer.Echo$Request");
    assert_eq!(frame.headers().collect::<Vec<_>>(), [(Some(&b"service"[..]), Some(&b"echo"[..]))]);
    assert_eq!(frame.content().len(), 68);
    assert_eq!(frame.len(), 126);

    let sofa = decode_one(&golden("bolt_sofarpc_request"));
    assert_eq!(sofa.headers().count(), 11);
    assert_eq!(sofa.header(b"service"), Some(&b"peer.Greeting:1.0"[..]));
    assert_eq!(sofa.header(b"rpc_trace_context.sofaPenAttrs"), Some(&b""[..]));
    assert_eq!(sofa.header(b"Service"), None, "keys have case");

    let failed = decode_one(&golden("bolt_v1_error_exception"));
    assert_eq!(Status::from_code(failed.status()), Some(Status::ServerException));
}

#[test]
fn frames_made_here_are_those_of_the_format() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&reply(3, Status::Success)), "0100000201000000030100000000000000000000");
    assert_eq!(hex(&reply(3, Status::CodecException)), "0100000201000000030100090000000000000000");
    assert_eq!(hex(&heartbeat(0x39)), hex(&golden("bolt_v1_heartbeat")));
    let asked = decode_one(&heartbeat(0x39));
    assert_eq!(hex(&heartbeat_ack(&asked)), hex(&golden("bolt_v1_heartbeat_ack")));
    assert_eq!(hex(&goaway(7)), "01010064010000000701000000000000000000000000");
    assert_eq!(decode_one(&goaway(7)).kind(), Kind::GoAway);
    let call = request(1, b"C", [(&b"k"[..], &b"v"[..])], &b"body"[..], -1).unwrap();
    assert_eq!(
        hex(&call.into_bytes()),
        "01010001010000000101ffffffff0001000a0000000443000000016b0000000176626f6479"
    );
}

#[test]
fn the_request_id_is_patched_in_place() {
    for name in ["bolt_v1_request", "bolt_v1_response"] {
        let mut frame = decode_one(&golden(name));
        frame.set_request_id(0xdead_beef);
        assert_eq!(frame.request_id(), 0xdead_beef);
        let again = decode_one(&frame.into_bytes());
        assert_eq!(again.request_id(), 0xdead_beef);
        assert_eq!(again.content(), decode_one(&golden(name)).content());
    }
}

#[test]
fn the_first_byte_decides() {
    let mut decoder = Decoder::default();
    for first in [0u8, 3, b'G', b'P', 0xda, 0xff] {
        let error = decoder.decode(&mut BytesMut::from(&[first][..])).unwrap_err();
        assert_eq!(error, DecodeError::Fatal { reason: Malformed::Protocol(first) });
        assert_eq!(error.reply_to(), None);
    }
    let error = decoder.decode(&mut BytesMut::from(&[2u8][..])).unwrap_err();
    assert_eq!(error, DecodeError::Fatal { reason: Malformed::BoltV2 });
    let error = decoder.decode(&mut BytesMut::from(&[1u8, 3][..])).unwrap_err();
    assert_eq!(error, DecodeError::Fatal { reason: Malformed::Type(3) });
}

#[test]
fn good_frames_in_front_of_garbage_come_out_first() {
    let mut buf = BytesMut::from(&golden("bolt_v1_request")[..]);
    buf.extend_from_slice(&golden("bolt_v1_heartbeat"));
    buf.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    let (frames, error) = decode_all(&mut Decoder::default(), &mut buf);
    assert_eq!(frames.iter().map(Frame::kind).collect::<Vec<_>>(), [Kind::Request, Kind::Heartbeat]);
    assert_eq!(error, Some(DecodeError::Fatal { reason: Malformed::Protocol(b'G') }));
}

#[test]
fn size_is_judged_by_the_header_alone() {
    let mut head = Head { request_id: 9, ..Head::REQUEST };
    head.content_len = i32::MAX as u32;
    let mut bytes = BytesMut::new();
    head.write(&mut bytes);
    let mut decoder = Decoder::default();
    let error = decoder.decode(&mut bytes).unwrap_err();
    assert_eq!(error.reply_to(), Some(9));
    assert!(matches!(
        error,
        DecodeError::Fatal { reason: Malformed::TooLarge { len: 2_147_483_669, limit: 16_777_216, .. } }
    ));

    // Exactly the limit passes, one byte more does not.
    let call = |len: usize| request(1, b"", [], &vec![0u8; len][..], 0).unwrap().into_bytes();
    let mut decoder = Decoder::new(100);
    assert!(decoder.decode(&mut BytesMut::from(&call(78)[..])).unwrap().is_some());
    assert!(decoder.decode(&mut BytesMut::from(&call(79)[..22])).is_err());
}

#[test]
fn need_tells_what_is_missing() {
    let bytes = golden("bolt_v1_request");
    let mut decoder = Decoder::default();
    for (have, need) in [(0, 0), (1, 19), (2, 20), (21, 1), (22, 104), (125, 1)] {
        let mut buf = BytesMut::from(&bytes[..have]);
        assert!(decoder.decode(&mut buf).unwrap().is_none());
        assert_eq!(decoder.need(), need, "with {have} bytes");
    }
    assert!(decoder.decode(&mut BytesMut::from(&bytes[..])).unwrap().is_some());
    assert_eq!(decoder.need(), 0);
}

/// A frame of the given type whose header block is these bytes.
fn with_block(cmd_type: u8, block: &[u8]) -> BytesMut {
    let header_len = block.len() as u16;
    let head = Head { cmd_type, request_id: 77, header_len, ..Head::REQUEST };
    let mut bytes = BytesMut::new();
    head.write(&mut bytes);
    bytes.extend_from_slice(block);
    bytes
}

#[test]
fn a_lying_header_block_costs_only_its_own_frame() {
    let lies: &[&[u8]] = &[
        b"\0\0\0",                           // fewer than four bytes left
        b"\0\0\0\x01",                       // key past the end
        b"\0\0\0\x01k",                      // no value
        b"\0\0\0\x01k\0\0",                  // value length cut
        b"\0\0\0\x01k\0\0\0\x02v",           // value past the end
        b"\0\0\0\x01k\0\0\0\x01v\0",         // one byte too many
        b"\x7f\xff\xff\xff\0\0\0\x01",       // key length over everything
        b"\xff\xff\xff\xfe\0\0\0\x01v",      // −2 is no length
        b"\xff\xff\xff\xff",                 // null key without a value
        b"\0\0\0\0\0\0\0\0\xff\xff\xff\xff", // good pair, then half of one
    ];
    for lie in lies {
        let mut buf = with_block(1, lie);
        buf.extend_from_slice(&golden("bolt_v1_request"));
        let mut decoder = Decoder::default();
        let error = decoder.decode(&mut buf).unwrap_err();
        assert_eq!(error, DecodeError::BadHeaderBlock { request_id: 77, kind: Kind::Request });
        assert_eq!(error.reply_to(), Some(77));
        let next = decoder.decode(&mut buf).unwrap().unwrap();
        assert_eq!(next.header(b"service"), Some(&b"echo"[..]), "the connection is healthy after {lie:?}");
    }
    let error = Decoder::default().decode(&mut with_block(2, b"\0")).unwrap_err();
    assert_eq!(error.reply_to(), None, "nobody waits for the answer to a one-way");
}

#[test]
fn nulls_are_pairs_like_any_other() {
    let null = b"\xff\xff\xff\xff";
    let block = [&null[..], b"\0\0\0\x01v", b"\0\0\0\x01k", null, null, null].concat();
    let frame = Decoder::default().decode(&mut with_block(1, &block)).unwrap().unwrap();
    let pairs: Vec<Pair<'_>> = frame.headers().collect();
    assert_eq!(pairs, [(None, Some(&b"v"[..])), (Some(&b"k"[..]), None), (None, None)]);
    assert_eq!(frame.header(b"k"), None);
    assert_eq!(message::Head::header(&frame, "k").as_deref(), Some(&b""[..]), "there, with nothing in it");
    assert_eq!(message::Head::header(&frame, "v"), None);
}

#[test]
fn routing_sees_duplicates_joined() {
    let pairs = [("k", "1"), ("K", "x"), ("k", "2")].map(|(k, v)| (k.as_bytes(), v.as_bytes()));
    let frame = request(1, b"", pairs, &b""[..], 0).unwrap();
    assert_eq!(message::Head::header(&frame, "k").as_deref(), Some(&b"1,2"[..]));
    assert_eq!(frame.header(b"k"), Some(&b"1"[..]));
}

#[test]
fn edits_touch_the_header_block_only() {
    let pairs = [("a", "1"), ("b", "2"), ("a", "3")].map(|(k, v)| (k.as_bytes(), v.as_bytes()));
    let frame = request(5, b"Class", pairs, &b"content"[..], 250).unwrap();
    let after = |edits: &[HeaderEdit<'_>]| {
        let edited = frame.edit_headers(edits.iter().copied()).unwrap();
        assert_eq!((edited.class(), edited.content()), (&b"Class"[..], &b"content"[..]));
        assert_eq!((edited.request_id(), edited.timeout_ms()), (5, 250));
        let edited = decode_one(&edited.into_bytes());
        let text = |t: Option<&[u8]>| String::from_utf8(t.unwrap().to_vec()).unwrap();
        edited.headers().map(|(k, v)| text(k) + &text(v)).collect::<Vec<_>>().join(" ")
    };
    use HeaderEdit::*;
    assert_eq!(after(&[]), "a1 b2 a3");
    assert_eq!(after(&[Remove(b"a")]), "b2");
    assert_eq!(after(&[Remove(b"A")]), "a1 b2 a3");
    assert_eq!(after(&[Append(b"b", b"4")]), "a1 b2 a3 b4");
    assert_eq!(after(&[AddIfAbsent(b"b", b"4"), AddIfAbsent(b"c", b"5")]), "a1 b2 a3 c5");
    assert_eq!(after(&[Set(b"a", b"9"), Set(b"d", b"8")]), "a9 b2 d8");
    assert_eq!(after(&[ReplaceIfPresent(b"a", b"9"), ReplaceIfPresent(b"d", b"8")]), "a9 b2");
    assert_eq!(after(&[Remove(b"a"), Remove(b"b")]), "");
}

#[test]
fn an_overflowing_edit_is_an_error() {
    let frame = request(1, b"", [], &b""[..], 0).unwrap();
    let fits = vec![b'v'; 65_535 - 9];
    assert_eq!(frame.edit_headers([HeaderEdit::Set(b"k", &fits)]).unwrap().header_block().len(), 65_535);
    let over = vec![b'v'; 65_535 - 8];
    let error = frame.edit_headers([HeaderEdit::Set(b"k", &over)]).unwrap_err();
    assert_eq!(error, HeaderOverflow { part: "header block", len: 65_536, max: 65_535 });
    assert!(request(1, &vec![0; 65_536], [], &b""[..], 0).is_err());
}

#[test]
fn frames_of_one_read_share_its_buffer() {
    let mut buf = BytesMut::with_capacity(4096);
    for _ in 0..4 {
        buf.extend_from_slice(&golden("bolt_v1_request"));
    }
    let range = buf.as_ptr_range();
    let (frames, error) = decode_all(&mut Decoder::default(), &mut buf);
    assert!(error.is_none());
    assert_eq!(frames.len(), 4);
    for frame in frames {
        assert!(range.contains(&frame.class().as_ptr()), "moved, not copied");
    }
}

fn any_text(max: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Vec::new())),
        6 => proptest::collection::vec(any::<u8>(), 0..max).prop_map(Some),
    ]
}

prop_compose! {
    fn any_frame()(
        cmd_type in 0u8..3, cmd_code in prop_oneof![0u16..3, Just(100), any::<u16>()], version: u8,
        request_id: u32, codec: u8, timeout: i32, status: u16,
        class in proptest::collection::vec(any::<u8>(), 0..40),
        pairs in proptest::collection::vec((any_text(20), any_text(40)), 0..12),
        content in proptest::collection::vec(any::<u8>(), 0..300),
    ) -> Vec<u8> {
        let mut head = Head { cmd_type, cmd_code, version, request_id, codec, ..Head::REQUEST };
        if cmd_type == 0 { head.timeout_ms = 0; head.status = status } else { head.timeout_ms = timeout }
        let pairs = pairs.iter().map(|(k, v)| (k.as_deref(), v.as_deref()));
        encode(head, &class, pairs, &content[..]).unwrap().into_bytes().to_vec()
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(
        frames in proptest::collection::vec(any_frame(), 1..6),
        cuts in proptest::collection::vec(1usize..200, 1..40),
    ) {
        let stream = frames.concat();
        let mut decoder = Decoder::default();
        let (mut buf, mut got, mut at) = (BytesMut::new(), Vec::new(), 0);
        let mut cuts = cuts.iter().cycle();
        while at < stream.len() {
            let end = (at + cuts.next().unwrap()).min(stream.len());
            buf.extend_from_slice(&stream[at..end]);
            at = end;
            let (frames, error) = decode_all(&mut decoder, &mut buf);
            prop_assert_eq!(error, None);
            prop_assert!(decoder.need() <= stream.len() - at, "need never asks for more than the frame has");
            got.extend(frames.into_iter().map(|frame| frame.into_bytes().to_vec()));
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn decode_then_encode_is_identity(bytes in any_frame()) {
        let frame = decode_one(&bytes);
        prop_assert_eq!(&re_encode(&frame).into_bytes()[..], &bytes[..]);
        prop_assert_eq!(&frame.edit_headers([]).unwrap().into_bytes()[..], &bytes[..]);
    }

    #[test]
    fn any_header_block_is_either_pairs_or_refused(block in proptest::collection::vec(
        prop_oneof![4 => 0u8..3, 1 => Just(0xff), 1 => any::<u8>()], 0..60,
    )) {
        match Decoder::default().decode(&mut with_block(1, &block)) {
            Ok(frame) => {
                let frame = frame.unwrap();
                let len: usize = frame.headers()
                    .map(|(k, v)| 8 + k.unwrap_or_default().len() + v.unwrap_or_default().len()).sum();
                prop_assert_eq!(len, block.len(), "no byte is skipped");
            }
            Err(error) => prop_assert_eq!(error.reply_to(), Some(77)),
        }
    }

    #[test]
    fn hostile_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), mut frame in any_frame(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
    ) {
        for (at, byte) in flips {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.append(&mut bytes);
        let mut buf = BytesMut::from(&frame[..]);
        let mut decoder = Decoder::new(1 << 20);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(frame)) => {
                    frame.headers().count();
                    prop_assert_eq!(re_encode(&frame).into_bytes(), frame.into_bytes());
                }
                Err(DecodeError::BadHeaderBlock { .. }) => {}
                Ok(None) | Err(DecodeError::Fatal { .. }) => break,
            }
        }
    }
}
