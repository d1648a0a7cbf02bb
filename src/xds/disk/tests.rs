use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("mizzen-disk-{}-{number}", std::process::id())))
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE_NAME)
    }

    fn mode(&self, path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn header() -> Header {
    Header {
        node_id: "sidecar~10.0.0.1~a.b~c".into(),
        node_cluster: "a.b".into(),
        ads_target: "unix:./etc/istio/proxy/XDS".into(),
        static_hash: 7,
    }
}

fn entry(kind: ResourceType, name: &str, version: &str, bytes: &'static [u8]) -> Entry {
    Entry {
        kind,
        name: name.into(),
        wire_name: None,
        version: version.into(),
        bytes: Bytes::from_static(bytes),
    }
}

fn entries() -> Vec<Entry> {
    let mut list: Vec<Entry> = ResourceType::ALL
        .into_iter()
        .flat_map(|kind| [entry(kind, "a", "1", b"\x0a\x01a"), entry(kind, "b", "", b"")])
        .collect();
    list[1].wire_name = Some("xdstp://else".into());
    list[2].wire_name = Some("".into());
    list
}

fn file_bytes() -> Vec<u8> {
    let mut out = Vec::new();
    format::write(&mut out, &header(), &entries(), SystemTime::UNIX_EPOCH + Duration::from_millis(12345))
        .unwrap();
    out
}

fn parse_bytes(data: &[u8]) -> Result<Loaded, LoadError> {
    parse(data, data.len() as u64, &header())
}

#[test]
fn what_was_saved_is_loaded_in_request_order() {
    let folder = Folder::new();
    assert_eq!(load(&folder.0, &header()).unwrap(), None);
    let mut shuffled = entries();
    shuffled.reverse();
    let before = SystemTime::now();
    let saved = save(&folder.0, &header(), shuffled, None).unwrap();
    assert!(saved.written);
    let loaded = load(&folder.0, &header()).unwrap().unwrap();
    assert_eq!(loaded.entries, entries());
    assert_eq!(loaded.digest, saved.digest);
    assert!(loaded.saved_at + Duration::from_millis(1) >= before && loaded.saved_at <= SystemTime::now());
    let raw = loaded.entries[1].clone().into_raw();
    assert_eq!(Entry::new(ResourceType::Runtime, raw), entries()[1]);
}

#[test]
fn folder_and_file_are_private_and_nothing_else_stays_behind() {
    let folder = Folder::new();
    let deep = folder.0.join("x/y");
    save(&deep, &header(), entries(), None).unwrap();
    assert_eq!(folder.mode(&deep), 0o700);
    assert_eq!(folder.mode(&folder.0), 0o700);
    assert_eq!(folder.mode(&deep.join(FILE_NAME)), 0o600);
    assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 1);
}

#[test]
fn equal_content_is_not_written_again_unless_the_file_went_away() {
    let folder = Folder::new();
    let first = save(&folder.0, &header(), entries(), None).unwrap();
    let inode = std::fs::metadata(folder.file()).unwrap().ino();
    let mut newer = entries();
    newer.reverse();
    newer[0].version = "2".into();
    let second = save(&folder.0, &header(), newer.clone(), Some(first.digest)).unwrap();
    assert_eq!(second, Saved { digest: first.digest, written: false });
    assert_eq!(std::fs::metadata(folder.file()).unwrap().ino(), inode);
    std::fs::remove_file(folder.file()).unwrap();
    assert!(save(&folder.0, &header(), newer.clone(), Some(first.digest)).unwrap().written);
    newer[0].bytes = Bytes::from_static(b"other");
    let third = save(&folder.0, &header(), newer, Some(first.digest)).unwrap();
    assert!(third.written && third.digest != first.digest);
}

#[test]
fn a_failed_write_leaves_the_former_file() {
    let folder = Folder::new();
    save(&folder.0, &header(), entries(), None).unwrap();
    // A folder in the place of the temporary file cannot be removed as a file.
    std::fs::create_dir(folder.0.join(temp_name())).unwrap();
    assert!(save(&folder.0, &header(), vec![], None).is_err());
    assert_eq!(load(&folder.0, &header()).unwrap().unwrap().entries, entries());
}

#[test]
fn leftovers_of_a_crash_go_once_they_are_old_and_never_block() {
    let folder = Folder::new();
    std::fs::create_dir(&folder.0).unwrap();
    let (old, young) = (folder.0.join("xds.snapshot.1.tmp"), folder.0.join("xds.snapshot.2.tmp"));
    let unrelated = folder.0.join("other.tmp");
    for path in [&old, &unrelated] {
        let file = File::create(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(120)).unwrap();
    }
    File::create(&young).unwrap();
    std::fs::write(folder.0.join(temp_name()), b"half a file").unwrap();
    save(&folder.0, &header(), entries(), None).unwrap();
    assert!(!old.exists() && young.exists() && unrelated.exists() && !folder.0.join(temp_name()).exists());
}

#[test]
fn a_temporary_file_that_is_a_link_is_replaced_not_followed() {
    let folder = Folder::new();
    std::fs::create_dir(&folder.0).unwrap();
    let victim = folder.0.join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    symlink(&victim, folder.0.join(temp_name())).unwrap();
    save(&folder.0, &header(), entries(), None).unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn links_pipes_and_folders_are_refused() {
    let folder = Folder::new();
    save(&folder.0, &header(), entries(), None).unwrap();
    let moved = folder.0.join("elsewhere");
    std::fs::rename(folder.file(), &moved).unwrap();
    symlink(&moved, folder.file()).unwrap();
    let refused = |folder: &Folder| {
        let error = load(&folder.0, &header()).unwrap_err();
        assert!(matches!(error, LoadError::NotRegular { .. }) && error.to_string().contains("snapshot"));
    };
    refused(&folder);
    std::fs::remove_file(folder.file()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.file(),
        rustix::fs::FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    refused(&folder);
    std::fs::remove_file(folder.file()).unwrap();
    std::fs::create_dir(folder.file()).unwrap();
    refused(&folder);
}

#[test]
fn a_file_of_another_user_is_refused() {
    assert!(check_owner(Path::new("x"), 5, 5).is_ok());
    let error = check_owner(Path::new("x"), 5, 6).unwrap_err();
    assert_eq!(error.to_string(), "snapshot x: owned by user 5, expected 6");
    // Only root may give a file away; elsewhere the line above has to do.
    if rustix::process::geteuid().is_root() {
        let folder = Folder::new();
        save(&folder.0, &header(), entries(), None).unwrap();
        std::os::unix::fs::chown(folder.file(), Some(65534), None).unwrap();
        let error = load(&folder.0, &header()).unwrap_err();
        assert!(matches!(error, LoadError::Owner { found: 65534, expected: 0, .. }));
    }
}

#[test]
fn a_file_above_the_limit_is_not_read() {
    let folder = Folder::new();
    save(&folder.0, &header(), entries(), None).unwrap();
    let bytes = std::fs::metadata(folder.file()).unwrap().len();
    assert!(load_within(&folder.0, &header(), bytes).is_ok());
    let error = load_within(&folder.0, &header(), bytes - 1).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { .. }) && error.to_string().contains("snapshot"));
}

#[test]
fn each_part_of_the_header_makes_a_file_foreign() {
    let data = file_bytes();
    let ours = header();
    let others = [
        ("node id", Header { node_id: "x".into(), ..ours.clone() }),
        ("node cluster", Header { node_cluster: "x".into(), ..ours.clone() }),
        ("ADS target", Header { ads_target: "x".into(), ..ours.clone() }),
        ("hash of the static resources", Header { static_hash: 8, ..ours }),
    ];
    for (name, expected) in others {
        let error = parse(&data[..], data.len() as u64, &expected).unwrap_err();
        assert!(error.to_string().starts_with("snapshot is foreign"), "{error}");
        assert!(matches!(error, LoadError::Foreign { field, .. } if field == name));
    }
}

#[test]
fn another_format_is_named_older_or_newer() {
    for (number, word) in [(0u32, "older"), (2, "newer")] {
        let mut data = file_bytes();
        data[8..12].copy_from_slice(&number.to_le_bytes());
        let error = parse_bytes(&data).unwrap_err();
        assert!(matches!(error, LoadError::Format { found } if found == number));
        assert!(error.to_string().contains("snapshot") && error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_file_cut_at_any_byte_is_truncated() {
    let data = file_bytes();
    assert_eq!(parse_bytes(&data).unwrap().entries, entries());
    for len in 0..data.len() {
        let error = parse_bytes(&data[..len]).unwrap_err();
        assert!(matches!(error, LoadError::Truncated { .. }), "{len}: {error}");
        assert!(error.to_string().contains("snapshot"));
    }
}

#[test]
fn any_flipped_bit_is_found() {
    let data = file_bytes();
    for at in 0..data.len() * 8 {
        let mut bad = data.clone();
        bad[at / 8] ^= 1 << (at % 8);
        let error = parse_bytes(&bad).expect_err("a flipped bit");
        assert!(error.to_string().contains("snapshot"), "{at}: {error}");
        assert!(!matches!(error, LoadError::Foreign { .. } | LoadError::Io { .. }), "{at}: {error}");
    }
}

#[test]
fn bytes_behind_the_end_and_other_files_are_damage() {
    let mut data = file_bytes();
    data.push(0);
    assert!(matches!(parse_bytes(&data), Err(LoadError::Damaged { .. })));
    let other = parse_bytes(b"{\"some\": \"json\", \"of\": \"another program\"}").unwrap_err();
    assert!(matches!(other, LoadError::NotASnapshot) && other.to_string().contains("snapshot"));
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    let mut data = file_bytes();
    let first_record = 20 + 8 + (4 + 22) + (4 + 3) + (4 + 26) + 8;
    assert_eq!(data[first_record], 5);
    data[first_record + 13..first_record + 17].copy_from_slice(&0xFFFF_FFFE_u32.to_le_bytes());
    assert!(matches!(parse_bytes(&data), Err(LoadError::Damaged { what: "a length runs past its end" })));
}

#[test]
fn the_writer_waits_for_quiet_but_not_for_ever() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut writer = Writer::new(PathBuf::from("/none"), header(), None);
    assert!(!writer.due(start + 100 * second) && writer.next_due().is_none());
    writer.mark_changed(start);
    assert!(!writer.due(start + second / 2));
    assert!(writer.due(start + second));
    for tenth in 0..50 {
        assert!(!writer.due(start + second * tenth / 10));
        writer.mark_changed(start + second * tenth / 10);
    }
    assert_eq!(writer.next_due(), Some(start + 5 * second));
    assert!(writer.due(start + 5 * second));
}

#[test]
fn one_write_at_a_time_and_failures_are_tried_again() {
    let folder = Folder::new();
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut writer = Writer::new(folder.0.clone(), header(), None);
    writer.mark_changed(start);
    let job = writer.begin();
    writer.mark_changed(start + second);
    assert!(!writer.due(start + 60 * second));
    let outcome = job.run(entries());
    assert!(outcome.as_ref().unwrap().written);
    writer.on_finished(start + 2 * second, &outcome);
    assert!(writer.due(start + 2 * second));
    let again = writer.begin().run(entries());
    assert!(!again.as_ref().unwrap().written);
    writer.on_finished(start + 3 * second, &again);
    assert_eq!(writer.next_due(), None);

    writer.mark_changed(start + 4 * second);
    let _job = writer.begin();
    writer.on_finished(start + 5 * second, &Err(io::Error::other("disk full")));
    assert!(!writer.due(start + 9 * second));
    assert!(writer.due(start + 10 * second));
}

#[test]
fn a_loaded_file_is_not_written_again_when_the_control_plane_repeats_it() {
    let folder = Folder::new();
    save(&folder.0, &header(), entries(), None).unwrap();
    let loaded = load(&folder.0, &header()).unwrap().unwrap();
    let mut writer = Writer::new(folder.0.clone(), header(), Some(loaded.digest));
    writer.mark_changed(Instant::now());
    assert!(!writer.begin().run(loaded.entries).unwrap().written);
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop::sample::select(&ResourceType::ALL[..]);
    let bytes = prop::collection::vec(any::<u8>(), 0..9000);
    (kind, any::<String>(), any::<Option<String>>(), any::<String>(), bytes).prop_map(
        |(kind, name, wire_name, version, bytes)| Entry {
            kind,
            name: name.into(),
            wire_name: wire_name.map(Into::into),
            version: version.into(),
            bytes: bytes.into(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_survives(
        list in prop::collection::vec(any_entry(), 0..12),
        (node_id, node_cluster, ads_target) in any::<(String, String, String)>(),
        static_hash in any::<u64>(),
        ms in 0u64..1 << 50,
    ) {
        let header = Header { node_id, node_cluster, ads_target, static_hash };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let mut data = Vec::new();
        format::write(&mut data, &header, &list, at).unwrap();
        let loaded = parse(&data[..], data.len() as u64, &header).unwrap();
        prop_assert_eq!(loaded.entries, list);
        prop_assert_eq!(loaded.saved_at, at);
    }

    #[test]
    fn any_damage_to_a_file_is_an_error_that_says_snapshot(
        at in any::<prop::sample::Index>(),
        junk in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let data = file_bytes();
        let at = at.index(data.len());
        let mut bad = data.clone();
        bad.splice(at..(at + junk.len()).min(data.len()), junk);
        prop_assume!(bad != data);
        let error = parse_bytes(&bad).unwrap_err();
        prop_assert!(error.to_string().contains("snapshot"));
    }
}
