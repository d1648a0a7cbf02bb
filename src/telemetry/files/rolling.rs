//! One log file, and the files it was before.

use crate::model::LogRoller;
use crate::telemetry::clock::{self, civil};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file that is appended to.
pub(super) struct Rolling {
    path: PathBuf,
    file: File,
    length: u64,
    /// When its first line was written, in milliseconds since 1970.
    since: u64,
}

impl Rolling {
    /// Opens or makes the file; folders on the way are made.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let known = file.metadata()?;
        let changed = known.modified().unwrap_or_else(|_| SystemTime::now());
        let since = if known.len() > 0 { clock::millis_of(changed) } else { clock::unix_millis() };
        Ok(Rolling { path: path.to_owned(), file, length: known.len(), since })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines, to a new file if it is time for one. `now`: milliseconds since 1970.
    pub(super) fn write(&mut self, bytes: &[u8], roller: Option<&LogRoller>, now: u64) -> io::Result<()> {
        if let Some(roller) = roller
            && self.is_due(roller, bytes.len() as u64, now)
        {
            self.roll(roller, now)?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn is_due(&self, roller: &LogRoller, more: u64, now: u64) -> bool {
        if self.length == 0 {
            return false;
        }
        match roller {
            LogRoller::Hours(hours) => period(self.since, *hours) != period(now, *hours),
            LogRoller::Size { bytes, .. } => self.length + more > *bytes,
        }
    }

    /// Gives the file the name of its time and begins a new one.
    fn roll(&mut self, roller: &LogRoller, now: u64) -> io::Result<()> {
        match roller {
            LogRoller::Hours(hours) => {
                let c = civil(self.since);
                let mut name = format!("{}.{:04}-{:02}-{:02}", self.path.display(), c.year, c.month, c.day);
                if *hours < 24 {
                    name.push_str(&format!("_{:02}", c.hour));
                }
                fs::rename(&self.path, unused(&name))?;
            }
            LogRoller::Size { age, keep, compress, .. } => {
                let c = civil(now);
                let (stem, end) = self.halves();
                let stamp = format!(
                    "{stem}-{:04}-{:02}-{:02}T{:02}-{:02}-{:02}.{:03}{end}",
                    c.year, c.month, c.day, c.hour, c.minute, c.second, c.millis
                );
                let old = unused(&stamp);
                fs::rename(&self.path, &old)?;
                if *compress {
                    gzip(&old)?;
                }
                self.clear(*age, *keep, now);
            }
        }
        *self = Rolling::open(&self.path)?;
        Ok(())
    }

    /// The path before and from the dot of its ending.
    fn halves(&self) -> (String, String) {
        let whole = self.path.display().to_string();
        let name = whole.rfind('/').map_or(0, |slash| slash + 1);
        match whole.get(name..).and_then(|name| name.rfind('.')) {
            Some(dot) => {
                let (stem, end) = whole.split_at(name + dot);
                (stem.to_owned(), end.to_owned())
            }
            None => (whole, String::new()),
        }
    }

    /// Deletes old files that are too old or too many. What cannot be deleted stays.
    fn clear(&self, age: Duration, keep: usize, now: u64) {
        let (stem, _) = self.halves();
        let Some(folder) = self.path.parent() else { return };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let Some(stem) = Path::new(&stem).file_name().map(|name| format!("{}-", name.display())) else {
            return;
        };
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut old: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                // A year follows, so that another log's name is not taken for one of ours.
                let rest = name.strip_prefix(&stem).unwrap_or_default();
                rest.bytes().take(4).filter(u8::is_ascii_digit).count() == 4
            })
            .filter_map(|entry| {
                let changed = entry.metadata().ok()?.modified().ok()?;
                Some((clock::millis_of(changed), entry.path()))
            })
            .collect();
        old.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        for (at, (changed, path)) in old.into_iter().enumerate() {
            if (keep > 0 && at >= keep) || (!age.is_zero() && changed < oldest) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The number of a time's span of `hours`.
fn period(millis: u64, hours: u32) -> u64 {
    let hour = millis / 3_600_000;
    (hour / 24) * 24 + (hour % 24) / u64::from(hours.max(1))
}

/// `name`, or with `.1`, `.2` … behind it if there is such a file.
fn unused(name: &str) -> PathBuf {
    let names = std::iter::once(name.to_owned()).chain((1..).map(|n| format!("{name}.{n}")));
    names.map(PathBuf::from).find(|path| !path.exists()).unwrap_or_else(|| name.into())
}

fn gzip(path: &Path) -> io::Result<()> {
    let mut packed = path.as_os_str().to_owned();
    packed.push(".gz");
    let mut out = flate2::write::GzEncoder::new(File::create(packed)?, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut out)?;
    out.finish()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("mizzen-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn by_time_the_old_file_is_named_for_its_day() {
        let folder = folder("by-time");
        let path = folder.join("a.log");
        let roller = LogRoller::Hours(24);
        let mut file = Rolling::open(&path).unwrap();
        file.since = 1_795_191_757_901; // 2026-11-20T16:22:37
        file.write(b"one\n", Some(&roller), file.since + HOUR).unwrap();
        file.write(b"two\n", Some(&roller), file.since + 7 * HOUR).unwrap();
        assert_eq!(names(&folder), ["a.log"]);
        file.write(b"three\n", Some(&roller), file.since + 8 * HOUR).unwrap();
        assert_eq!(names(&folder), ["a.log", "a.log.2026-11-20"]);
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
        assert_eq!(fs::read(folder.join("a.log.2026-11-20")).unwrap(), b"one\ntwo\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn by_size_old_files_are_packed_and_at_most_so_many() {
        let folder = folder("by-size");
        let path = folder.join("a.log");
        let roller = LogRoller::Size { bytes: 10, age: Duration::from_secs(86_400), keep: 2, compress: true };
        let mut file = Rolling::open(&path).unwrap();
        fs::write(folder.join("a-b.log"), b"another log").unwrap();
        let start = clock::unix_millis();
        for at in 0..5 {
            file.write(b"7 bytes\n", Some(&roller), start + at * 1000).unwrap();
        }
        let names = names(&folder);
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(
            names.iter().filter(|name| name.starts_with("a-20") && name.ends_with(".log.gz")).count() == 2
        );
        assert_eq!(fs::read(&path).unwrap(), b"7 bytes\n");
        fs::remove_dir_all(folder).unwrap();
    }
}
