//! When log files are rotated: MOSN's `global_log_roller`.

use serde::Serialize;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum LogRoller {
    /// At the full multiples of so many hours of a day, 1 to 24; days are UTC's.
    Hours(u32),
    /// When the next line would make the file larger.
    Size {
        /// Bytes.
        bytes: u64,
        /// Old files are deleted at this age.
        age: Duration,
        /// Old files kept; 0: all.
        keep: usize,
        /// Old files are gzipped.
        compress: bool,
    },
}

/// A token that is none of a roller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected time=1..24, size=<MB>, age=<days>, keep=<n> or compress=on|off")]
pub struct RollerError(String);

impl Default for LogRoller {
    /// Once a day.
    fn default() -> Self {
        LogRoller::Hours(24)
    }
}

impl LogRoller {
    /// Parses tokens apart by blanks; `time` wins over the others. Empty: [`LogRoller::default`].
    ///
    /// # Errors
    /// The first token that is none.
    pub fn parse(text: &str) -> Result<LogRoller, RollerError> {
        let (mut hours, mut by_size) = (None, false);
        let (mut megabytes, mut days, mut keep, mut compress) = (1000, 7, 10, false);
        for token in text.split_whitespace() {
            let wrong = || RollerError(token.to_owned());
            let (key, value) = token.split_once('=').ok_or_else(wrong)?;
            let number = || value.parse::<u32>().map_err(|_| wrong());
            match key {
                "time" => hours = Some(number()?).filter(|hours| (1..=24).contains(hours)),
                "size" => megabytes = number()?,
                "age" => days = number()?,
                "keep" => keep = number()?,
                "compress" if matches!(value, "on" | "off") => compress = value == "on",
                _ => return Err(wrong()),
            }
            if key == "time" && hours.is_none() {
                return Err(wrong());
            }
            by_size |= key != "time";
        }
        Ok(match hours {
            Some(hours) => LogRoller::Hours(hours),
            None if !by_size => LogRoller::default(),
            None => LogRoller::Size {
                bytes: u64::from(megabytes.max(1)) << 20,
                age: Duration::from_secs(u64::from(days) * 86_400),
                keep: keep as usize,
                compress,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mosns_tokens() {
        assert_eq!(LogRoller::parse("").unwrap(), LogRoller::Hours(24));
        assert_eq!(LogRoller::parse("size=100 time=6").unwrap(), LogRoller::Hours(6));
        let size =
            LogRoller::Size { bytes: 100 << 20, age: Duration::from_secs(86_400), keep: 3, compress: true };
        assert_eq!(LogRoller::parse("size=100 age=1 keep=3  compress=on").unwrap(), size);
        for wrong in ["time=25", "time=0", "size", "size=x", "compress=yes", "weekly=1"] {
            assert!(LogRoller::parse(wrong).is_err(), "{wrong}");
        }
    }
}
