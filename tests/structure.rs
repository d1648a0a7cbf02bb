//! The rules of the house that no compiler checks: who may use whom, how long a file may get, what lies in the
//! repository, which crates may be named. Each failure names the file and the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[path = "structure/source.rs"]
mod source;

use source::{Source, files, mask, sources, tokens};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with everything that was found, not only the first of it.
#[track_caller]
fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Plain data and leaf helpers, open to everyone above.
const BASE: &[&str] = &["util", "message", "model", "telemetry"];

/// What each module directly under the crate root may use besides itself. Lower never uses higher; a module that
/// is missing here is an error, so that a new one finds its place before it grows.
const MAY_USE: &[(&str, &[&[&str]])] = &[
    ("util", &[]),
    ("message", &[]),
    ("model", &[&["util", "message"]]),
    ("telemetry", &[&["util", "message", "model"]]),
    // A codec sees bytes and heads, never configuration.
    ("protocol", &[&["util", "message", "telemetry"]]),
    // Routes and filters see heads, never a protocol.
    ("router", &[BASE]),
    ("filter", &[BASE, &["router"]]),
    ("tls", &[BASE]),
    ("net", &[BASE, &["tls"]]),
    ("cluster", &[BASE, &["protocol", "router", "tls", "net"]]),
    ("snapshot", &[BASE, &["protocol", "router", "tls", "net", "filter", "cluster"]]),
    ("stream", &[BASE, &["protocol", "router", "tls", "net", "filter", "cluster", "snapshot"]]),
    ("listener", &[BASE, &["protocol", "router", "tls", "net", "filter", "cluster", "snapshot", "stream"]]),
    (
        "worker",
        &[BASE, &["protocol", "router", "tls", "net", "filter", "cluster", "snapshot", "stream", "listener"]],
    ),
    // The side chain: foreign dialects become the model here and nowhere else.
    ("proto", &[&["util"]]),
    ("translate", &[BASE, &["proto", "tls"]]),
    ("xds", &[BASE, &["proto", "translate", "tls"]]),
    ("bootstrap", &[BASE, &["proto", "translate", "xds", "cli"]]),
    // Readers beside the request path.
    ("control", &[BASE, &["protocol", "net", "tls", "cluster", "snapshot"]]),
    (
        "admin",
        &[BASE, &["proto", "xds", "router", "tls", "net", "cluster", "snapshot", "control", "bootstrap"]],
    ),
    // Programs of their own.
    ("cli", &[&["util", "model", "telemetry"]]),
    ("sample", &[BASE, &["protocol", "cli"]]),
    ("demo", &[BASE, &["proto", "protocol", "cli", "sample", "xds", "bootstrap", "app"]]),
];

/// Knows every subsystem.
const WIRING: &[&str] = &["app", "main", "lib"];

#[test]
fn lower_modules_never_use_higher_ones() {
    let sources = sources(root());
    let modules: BTreeSet<&str> = sources.iter().map(Source::top).collect();
    let table: BTreeMap<&str, BTreeSet<&str>> = MAY_USE
        .iter()
        .map(|(name, uses)| (*name, uses.iter().copied().flatten().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !WIRING.contains(&source.top())) {
        let Some(allowed) = table.get(source.top()) else {
            wrong.push(format!("{}: `{}` has no row in the table", source.path, source.top()));
            continue;
        };
        for path in source.own_paths() {
            let used = path[0].as_str();
            if used != source.top() && modules.contains(used) && !allowed.contains(used) {
                wrong.push(format!("{}: crate::{}", source.path, path.join("::")));
            }
        }
    }
    none("a module uses one that its row of the layering table does not name", &wrong);
}

#[test]
fn the_layering_table_has_no_circle() {
    let mut left: Vec<_> = MAY_USE.to_vec();
    loop {
        let before = left.len();
        let open: BTreeSet<&str> = left.iter().map(|(name, _)| *name).collect();
        left.retain(|(_, uses)| uses.iter().copied().flatten().any(|used| open.contains(used)));
        if left.len() == before {
            break;
        }
    }
    let names: Vec<_> = left.iter().map(|(name, _)| (*name).to_owned()).collect();
    none("these modules may use each other in a circle", &names);
}

/// Crates and types that only some modules may name: `(names, modules they are for or not for, why)`.
enum Places {
    Only(&'static [&'static str]),
    Never(&'static [&'static str]),
}

const NAMES: &[(&[&str], Places, &str)] = &[
    (
        &["prost", "prost_types", "prost_reflect", "tonic", "tonic_prost"],
        Places::Only(&["proto", "xds", "translate", "bootstrap", "admin", "demo", "app"]),
        "the wire format of the control plane ends where the model begins",
    ),
    (
        &["serde", "serde_json", "serde_saphyr"],
        Places::Never(&[
            "message", "protocol", "router", "net", "cluster", "filter", "stream", "listener", "worker",
        ]),
        "workers parse no configuration",
    ),
    (
        &["tokio", "socket2", "rustix", "hyper", "h2"],
        Places::Never(&["util", "message", "model", "router", "translate"]),
        "data and look-ups do no I/O",
    ),
    (&["tokio", "socket2", "rustix"], Places::Never(&["protocol"]), "codecs have no sockets and no clock"),
    (
        &["Mutex", "RwLock", "parking_lot"],
        Places::Never(&["worker", "stream", "cluster", "listener", "protocol", "filter", "router"]),
        "no lock on the request path",
    ),
    (
        &["anyhow"],
        Places::Only(&["main", "app", "bootstrap", "admin", "cli", "demo", "sample"]),
        "below the top, callers branch on errors",
    ),
];

#[test]
fn crates_and_locks_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources(root()) {
        for (names, places, why) in NAMES {
            let forbidden = match places {
                Places::Only(modules) => !modules.contains(&source.top()),
                Places::Never(modules) => modules.contains(&source.top()),
            };
            for name in names.iter().filter(|name| forbidden && source.names(name)) {
                wrong.push(format!("{}: {name} ({why})", source.path));
            }
        }
    }
    none("a name in a module that must not know it", &wrong);
}

#[test]
fn the_xds_state_and_the_state_file_know_no_network() {
    let mut wrong = Vec::new();
    for source in sources(root()) {
        let sans_io = ["src/xds/state", "src/xds/held", "src/xds/message", "src/xds/disk"];
        if sans_io.iter().any(|prefix| source.path.starts_with(prefix)) {
            for name in ["tokio", "tonic", "prost", "proto"] {
                if source.names(name) {
                    wrong.push(format!("{}: {name}", source.path));
                }
            }
        }
    }
    none("the protocol's state is without I/O and without generated types", &wrong);
}

#[test]
fn only_one_file_names_the_backoff_crate() {
    let users: Vec<String> = sources(root())
        .iter()
        .filter(|source| source.uses_crate("backoff"))
        .map(|source| source.path.clone())
        .collect();
    assert_eq!(users, ["src/util/backoff.rs"], "backoff is unmaintained: one file is to be replaced with it");
}

/// Hard limit of code lines in a file: comments, blank lines and tests not counted.
const MOST_LINES: usize = 500;

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for source in sources(root()) {
        if source.code_lines() > MOST_LINES {
            wrong.push(format!("{}: {} lines of code", source.path, source.code_lines()));
        }
    }
    for file in files(root(), "tests", ".rs") {
        let lines = mask(&std::fs::read_to_string(&file).unwrap());
        let lines = lines.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines of code", file.display()));
        }
    }
    none("a file of more than 500 lines of code has two subjects", &wrong);
}

#[test]
fn long_tests_have_a_file_of_their_own() {
    let mut wrong = Vec::new();
    for source in sources(root()) {
        let lines = source.inline_test_lines();
        if lines > 150 {
            wrong.push(format!("{}: {lines} lines of tests", source.path));
        }
    }
    none("a test module of more than 150 lines belongs into a file `tests.rs`", &wrong);
}

#[test]
fn every_module_opens_by_saying_what_it_is() {
    let mut wrong = Vec::new();
    for source in sources(root()) {
        let opening = source.text.lines().take_while(|line| line.starts_with("//!")).count();
        // A test module is named by the module it tests.
        if !source.is_test && !(1..=30).contains(&opening) {
            wrong.push(format!("{}: {opening} lines of //! at its top", source.path));
        }
    }
    none("a module opens with //! of 1 to 30 lines", &wrong);
}

#[test]
fn no_unsafe_code() {
    let manifest = read("Cargo.toml");
    assert!(
        manifest.contains("unsafe_code = \"forbid\""),
        "Cargo.toml forbids unsafe code for the whole crate"
    );
    let wrong: Vec<String> = sources(root())
        .iter()
        .filter(|source| source.names("unsafe"))
        .map(|source| source.path.clone())
        .collect();
    none("unsafe code", &wrong);
}

#[test]
fn nothing_is_left_to_be_done() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK")];
    let mut wrong = Vec::new();
    for (folder, ending) in [
        ("src", ".rs"),
        ("tests", ".rs"),
        ("proto", ".proto"),
        ("tests", ".py"),
        (".ci", ""),
        ("configs", ""),
    ] {
        for file in files(root(), folder, ending) {
            // Captured bytes and dumps are text of others.
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for (number, line) in text.lines().enumerate() {
                let mark = tokens(line).into_iter().find(|word| marks.contains(word));
                if let Some(mark) = mark {
                    wrong.push(format!("{}:{}: {mark}", file.display(), number + 1));
                }
            }
        }
    }
    let macros = ["todo", "unimplemented"];
    for source in sources(root()) {
        let tokens = tokens(&source.code);
        if tokens.windows(2).any(|pair| macros.contains(&pair[0]) && pair[1] == "!") {
            wrong.push(format!("{}: an unfinished body", source.path));
        }
    }
    none("what is unfinished is not on main", &wrong);
}

#[test]
fn the_top_level_holds_what_the_readme_names() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "build.rs",
        "configs",
        "deploy",
        "proto",
        "src",
        "tests",
    ];
    let found: BTreeSet<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let extra: Vec<String> = found.iter().filter(|name| !allowed.contains(&name.as_str())).cloned().collect();
    none("not a place for files at the top level", &extra);
    let missing: Vec<String> =
        allowed.iter().filter(|name| !found.contains(**name)).map(|name| (*name).to_owned()).collect();
    none("missing at the top level", &missing);
}

/// `(name, version, names of direct dependencies)` of each package in Cargo.lock.
fn locked() -> Vec<(String, String, Vec<String>)> {
    let text = read("Cargo.lock");
    let mut packages = Vec::new();
    for block in text.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = block.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split('"').nth(1).unwrap_or_default().to_owned()
        };
        let list = block.split("dependencies = [").nth(1).unwrap_or_default();
        let list = list.split(']').next().unwrap_or_default();
        // An entry is a name, with a version behind it only where there are several.
        let names =
            list.split('"').skip(1).step_by(2).map(|entry| entry.split(' ').next().unwrap().to_owned());
        packages.push((value("name = "), value("version = "), names.collect()));
    }
    packages
}

#[test]
fn crates_that_were_decided_against_are_not_direct_dependencies() {
    let banned = [
        "axum",
        "dashmap",
        "parking_lot",
        "once_cell",
        "async-trait",
        "rand",
        "serde_yml",
        "serde_yaml",
        "libc",
    ];
    let packages = locked();
    let (_, _, direct) = packages.iter().find(|(name, _, _)| name == "mizzen").expect("mizzen in Cargo.lock");
    let wrong: Vec<String> = direct.iter().filter(|name| banned.contains(&name.as_str())).cloned().collect();
    none("design §8 names what is used instead", &wrong);
    // Anything that needs more than a C compiler and make, or a second TLS library, wherever it comes from.
    let anywhere = ["openssl-sys", "native-tls", "ring", "cmake", "bindgen", "protobuf-src", "boring-sys"];
    let wrong: Vec<String> = packages
        .iter()
        .map(|(name, _, _)| name.clone())
        .filter(|name| anywhere.contains(&name.as_str()))
        // A lock names what may be chosen, too: hickory-proto and webpki have ring as an option that nobody
        // chooses, and aws-lc-sys turns to cmake only where it has no bindings of its own: not on our targets.
        .filter(|name| {
            let users =
                packages.iter().filter(|(_, _, uses)| uses.contains(name)).map(|(user, ..)| user.as_str());
            let excepted = [("ring", &["hickory-proto", "rustls-webpki"][..]), ("cmake", &["aws-lc-sys"])];
            let users: Vec<&str> = users.collect();
            !excepted.iter().any(|(excepted, by)| name == excepted && users == *by)
        })
        .collect();
    none("Cargo.lock has a crate that cannot be built with gcc and make alone", &wrong);
}

#[test]
fn a_crate_locked_twice_is_one_that_was_accepted() {
    let accepted = read(".cargo/deny.toml");
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version, _) in locked() {
        versions.entry(name).or_default().insert(version);
    }
    let wrong: Vec<String> = versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
        .filter(|(name, _)| {
            !accepted.contains(&format!("\"{name}@")) && !accepted.contains(&format!("\"{name}\""))
        })
        .map(|(name, versions)| format!("{name}: {versions:?}"))
        .collect();
    none("locked twice, and .cargo/deny.toml does not say why", &wrong);
}

#[test]
fn every_lock_entry_comes_from_the_public_registry() {
    let text = read("Cargo.lock");
    let wrong: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("source = "))
        .filter(|line| *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"")
        .map(str::to_owned)
        .collect();
    none("a dependency that does not come from crates.io", &wrong);
}
