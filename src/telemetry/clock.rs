//! Wall-clock text: RFC 3339 as the admin prints it, and the civil parts log formats are made of.

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in UTC, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: i64,
    /// 1–12.
    pub month: u32,
    /// 1–31.
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    /// 0–999.
    pub millis: u32,
}

/// Milliseconds since the Unix epoch; 0 before it.
pub fn unix_millis() -> u64 {
    millis_of(SystemTime::now())
}

/// Milliseconds from the Unix epoch to `time`; 0 before it.
pub fn millis_of(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// `2026-11-21T14:01:48.123Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let c = civil(millis_of(time));
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        c.year, c.month, c.day, c.hour, c.minute, c.second, c.millis
    )
}

/// The UTC parts of a Unix time in milliseconds.
pub fn civil(unix_millis: u64) -> Civil {
    let seconds = unix_millis / 1000;
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    // Days are counted from 0000-03-01, so that leap days end a year and months follow one formula.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let of_day = (seconds % 86_400) as u32;
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u32,
        day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32,
        hour: of_day / 3600,
        minute: of_day / 60 % 60,
        second: of_day % 60,
        millis: (unix_millis % 1000) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_instants() {
        let text = |s: u64| rfc3339(UNIX_EPOCH + Duration::from_millis(s));
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(1_795_191_757_901), "2026-11-20T16:22:37.901Z");
        assert_eq!(text(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(text(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
