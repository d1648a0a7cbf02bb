use super::*;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

fn path() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("mizzen-files-{}-{}.log", std::process::id(), NEXT.fetch_add(1, Relaxed));
    std::env::temp_dir().join(name).display().to_string()
}

fn read(path: &str) -> String {
    flush(Duration::from_secs(10));
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn lines_wait_until_they_are_many_or_flushed() {
    let path = path();
    let (sink, outlet) = (LogSink::File(path.clone()), Outlet::default());
    assert!(outlet.append(&sink, |out| out.extend_from_slice(b"one\n")), "somebody has to flush");
    assert!(!outlet.append(&sink, |out| out.extend_from_slice(b"two\n")));
    assert_eq!(read(&path), "");
    outlet.flush(true);
    assert_eq!(read(&path), "one\ntwo\n");
    assert!(outlet.append(&sink, |out| out.resize(CHUNK, b'x')));
    assert_eq!(read(&path).len(), 8 + CHUNK, "a large buffer does not wait");
    outlet.append(&sink, |out| out.extend_from_slice(b"last\n"));
    drop(outlet);
    assert!(read(&path).ends_with("last\n"), "what is left goes with the worker");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_renamed_file_is_left_at_a_reopen() {
    let path = path();
    let (sink, outlet) = (LogSink::File(path.clone()), Outlet::default());
    let write = |text: &str| {
        outlet.append(&sink, |out| out.extend_from_slice(text.as_bytes()));
        outlet.flush(false);
    };
    write("one\n");
    assert_eq!(read(&path), "one\n");
    let old = format!("{path}.old");
    std::fs::rename(&path, &old).unwrap();
    write("two\n");
    assert_eq!(read(&old), "one\ntwo\n");
    reopen();
    write("three\n");
    assert_eq!((read(&path).as_str(), read(&old).as_str()), ("three\n", "one\ntwo\n"));
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(old).unwrap();
}

#[test]
fn a_file_that_is_switched_off_gets_nothing() {
    let path = path();
    let (sink, outlet) = (LogSink::File(path.clone()), Outlet::default());
    let write = |text: &str| {
        outlet.append(&sink, |out| out.extend_from_slice(text.as_bytes()));
        outlet.flush(false);
    };
    write("one\n");
    assert!(set_enabled(&path, false));
    write("two\n");
    assert!(set_enabled(&path, true));
    write("three\n");
    assert_eq!(read(&path), "one\nthree\n");
    std::fs::remove_file(path).unwrap();
}
