use super::*;
use crate::protocol::bolt::Pair;
use bytes::BytesMut;
use proptest::prelude::*;

/// Text that likes to be awkward.
fn any_text(max: usize) -> impl Strategy<Value = Text> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Vec::new())),
        4 => "[a-cA-C]{1,2}".prop_map(|s| Some(s.into_bytes())),
        2 => proptest::sample::select(vec![
            "protocol", "Timeout", "host", "te", "x-mizzen-bolt", "x-mizzen-key-a", "x-mizzen-null-key", "%61",
            "a,b", "@", "?", "/", ":", " ", "x-envoy-", "classname", "service", "rpc_trace_context.sofaRpcId",
        ]).prop_map(text),
        2 => "[ -~]{0,12}".prop_map(|s| Some(s.into_bytes())),
        2 => proptest::collection::vec(any::<u8>(), 0..max).prop_map(Some),
    ]
}

fn any_pairs() -> impl Strategy<Value = Vec<(Text, Text)>> {
    proptest::collection::vec((any_text(12), any_text(24)), 0..14)
}

prop_compose! {
    fn any_frame()(
        cmd_type in 0u8..3, cmd_code: u16, version: u8, request_id: u32, codec: u8, timeout: i32,
        status in 0u16..30, class in any_text(20), pairs in any_pairs(),
        content in proptest::collection::vec(any::<u8>(), 0..50),
    ) -> Frame {
        let mut head = Head { cmd_type, cmd_code, version, request_id, codec, ..Head::REQUEST };
        if cmd_type == 0 { head.timeout_ms = 0; head.status = status } else { head.timeout_ms = timeout }
        frame(head, &class.unwrap_or_default(), &pairs, &content)
    }
}

/// Key as policies see it, and value, of every pair, in a fixed order.
fn folded<'a>(pairs: impl Iterator<Item = Pair<'a>>) -> Vec<(Text, Text)> {
    let mut all: Vec<_> =
        pairs.map(|(k, v)| (k.map(<[u8]>::to_ascii_lowercase), v.map(<[u8]>::to_vec))).collect();
    all.sort();
    all
}

proptest! {
    #[test]
    fn bolt_to_http2_to_bolt_is_identity(frame in any_frame()) {
        prop_assert_eq!(round_trip(&frame).into_bytes(), frame.into_bytes());
    }

    #[test]
    fn reordering_names_on_the_way_changes_nothing(frame in any_frame(), seed: u64) {
        let bytes = frame.into_bytes();
        let mut buf = BytesMut::from(&bytes[..]);
        let frame = crate::protocol::rpc::Decoder::default().decode(&mut buf).unwrap().unwrap();
        let (content, is_response) = (Bytes::copy_from_slice(frame.content()), frame.head().is_response());
        let headers = out(frame);
        let mut names: Vec<_> = headers.keys().cloned().collect();
        names.sort_by_key(|name| layout::sum(&[name.as_str().as_bytes(), &seed.to_le_bytes()].concat()));
        let mut shuffled = HeaderMap::new();
        for name in names {
            for value in headers.get_all(&name) {
                shuffled.append(name.clone(), value.clone());
            }
        }
        let frame = if is_response {
            http2_response_to_bolt(StatusCode::OK, &shuffled, content, true)
        } else {
            http2_request_to_bolt(&shuffled, content, true)
        };
        prop_assert_eq!(frame.unwrap().into_bytes(), bytes);
    }

    #[test]
    fn an_edit_touches_its_own_header_only(
        pairs in proptest::collection::vec(("[a-e]{1,3}|[A-E]{1,3}", "[ -~]{0,8}"), 0..8),
        edit in 0u8..3, name in "[a-e]{1,3}", value in "[!-~]{1,8}",
    ) {
        let all: Vec<_> = pairs.iter().map(|(k, v)| (text(k), text(v))).collect();
        let mut headers = out(frame(Head::REQUEST, b"", &all, b""));
        let header: HeaderName = name.parse().unwrap();
        match edit {
            0 => { headers.insert(header, HeaderValue::from_str(&value).unwrap()); }
            1 => { headers.append(header, HeaderValue::from_str(&value).unwrap()); }
            _ => { headers.remove(header); }
        }
        let mut expected: Vec<_> = pairs.iter()
            .filter(|(k, _)| edit == 1 || !k.eq_ignore_ascii_case(&name))
            .map(|(k, v)| (Some(k.as_bytes()), Some(v.as_bytes())))
            .collect();
        if edit < 2 {
            expected.push((Some(name.as_bytes()), Some(value.as_bytes())));
        }
        prop_assert_eq!(folded(back(&headers).headers()), folded(expected.into_iter()));
    }

    /// With any side channel at all, the map is what it would be without, but for case, order and the spellings
    /// HTTP cannot carry.
    #[test]
    fn no_side_channel_adds_drops_or_changes_a_header(
        flat in proptest::collection::vec(("[a-c]{1,2}", "[!-~]{0,6}"), 0..8),
        layout in "([?/]?([a-cA-C@%0-9:]{0,3}),){0,10}:?", sums in "[0-9a-f]{0,40}", honest: bool,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &flat {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let plain = back(&headers);
        let sums = if honest {
            let values = headers.values().flat_map(|value| layout::sum(value.as_bytes()));
            values.collect()
        } else {
            sums.into_bytes()
        };
        headers.insert("x-mizzen-bolt", HeaderValue::from_str(&layout).unwrap());
        headers.insert("x-mizzen-bolt-sums", HeaderValue::from_bytes(&sums).unwrap());
        // Nulls are empty on the flat side; escapes that stand for bytes HTTP cannot carry may be undone.
        let comparable = |frame: &Frame| {
            let mut pairs = folded(frame.headers().map(|(k, v)| (k, Some(v.unwrap_or_default()))));
            for (_, value) in &mut pairs {
                if !value.as_deref().is_some_and(names::is_plain_value) {
                    let mut escaped = Vec::new();
                    names::escape(value.as_deref().unwrap(), names::is_value_char, &mut escaped);
                    *value = Some(escaped);
                }
            }
            pairs.sort();
            pairs
        };
        prop_assert_eq!(comparable(&back(&headers)), comparable(&plain));
    }

    #[test]
    fn hostile_heads_never_panic(
        fields in proptest::collection::vec((proptest::sample::select(vec![
            "protocol", "cmdtype", "cmdcode", "version", "requestid", "codec", "timeout", "classname", "respstatus",
            "x-mizzen-bolt", "x-mizzen-bolt-sums", "x-mizzen-null-key", "x-mizzen-key-", "x-mizzen-key-%0", "a",
        ]), any_text(30)), 0..16),
        accept: bool,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            if let Ok(value) = HeaderValue::from_bytes(&value.unwrap_or_default()) {
                headers.append(name, value);
            }
        }
        let _ = http2_request_to_bolt(&headers, &b""[..], accept);
        let _ = http2_response_to_bolt(StatusCode::OK, &headers, &b""[..], accept);
    }
}
