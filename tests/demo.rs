//! The demo as a newcomer runs it: the binary, real processes, its exit code and what it prints.

use std::process::Command;

#[test]
fn the_demo_breaks_nothing_and_says_so_in_plain_text() {
    let out = Command::new(env!("CARGO_BIN_EXE_mizzen")).arg("demo").output().expect("the binary runs");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}: {text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    assert!(!text.contains(['\x1b', '\r']), "stdout is no terminal: {text}");
    for row in [
        "route v1 -> v2 ",
        "endpoint of v2 swapped",
        "new filter chain",
        "a bad cluster among good ones",
        "control plane killed",
        "sidecar `client` restarted",
        "control plane back",
        "route v1 -> v2 by the new one",
    ] {
        let line =
            text.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row}: {text}"));
        assert!(line.contains(" 24/24 "), "{line}");
    }
    // The refusal names the bad cluster and its field.
    assert!(text.contains("cds: Cluster echo-broken: load_assignment.endpoints[0]"), "{text}");
    assert!(text.contains("nothing broke"), "{text}");
}
