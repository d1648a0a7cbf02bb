//! Times in format strings: `strftime` with sub-second digits, in UTC.

use super::FormatError;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A parsed time format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat(Box<[Item]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Text(Box<str>),
    Year,
    ShortYear,
    Month,
    MonthName,
    Day,
    PaddedDay,
    DayOfYear,
    Weekday,
    Hour,
    Minute,
    Second,
    /// Seconds since 1970.
    Epoch,
    /// So many digits of the second's fraction.
    Fraction(usize),
    Zone,
    ZoneName,
}

const DEFAULT: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// 1970 began on a Thursday.
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

impl TimeFormat {
    /// Parses `text`; empty is `2026-01-02T03:04:05.678Z`.
    ///
    /// # Errors
    /// A conversion that is not supported.
    pub fn parse(text: &str) -> Result<TimeFormat, FormatError> {
        let mut items = Vec::new();
        parse_into(if text.is_empty() { DEFAULT } else { text }, &mut items)?;
        Ok(TimeFormat(items.into()))
    }

    /// Appends `time`, which is not before 1970.
    pub fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day, day_of_year) = civil(days);
        for item in &self.0 {
            // Writing to a vector cannot fail.
            let _ = match item {
                Item::Text(text) => out.write_all(text.as_bytes()),
                Item::Year => write!(out, "{year:04}"),
                Item::ShortYear => write!(out, "{:02}", year % 100),
                Item::Month => write!(out, "{month:02}"),
                Item::MonthName => write!(out, "{}", name(&MONTHS, month - 1)),
                Item::Day => write!(out, "{day:02}"),
                Item::PaddedDay => write!(out, "{day:2}"),
                Item::DayOfYear => write!(out, "{day_of_year:03}"),
                Item::Weekday => write!(out, "{}", name(&WEEKDAYS, days % 7)),
                Item::Hour => write!(out, "{:02}", second / 3600),
                Item::Minute => write!(out, "{:02}", second / 60 % 60),
                Item::Second => write!(out, "{:02}", second % 60),
                Item::Epoch => write!(out, "{seconds}"),
                Item::Fraction(digits) => {
                    let all = format!("{:09}", since.subsec_nanos());
                    out.write_all(all.as_bytes().get(..*digits).unwrap_or_default())
                }
                Item::Zone => out.write_all(b"+0000"),
                Item::ZoneName => out.write_all(b"UTC"),
            };
        }
    }
}

fn name(names: &[&'static str], at: u64) -> &'static str {
    usize::try_from(at).ok().and_then(|at| names.get(at)).copied().unwrap_or_default()
}

fn parse_into(text: &str, items: &mut Vec<Item>) -> Result<(), FormatError> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            plain.push(c);
            continue;
        }
        let kind = chars.next();
        if kind == Some('%') {
            plain.push('%');
            continue;
        }
        if !plain.is_empty() {
            items.push(Item::Text(std::mem::take(&mut plain).into()));
        }
        let item = match kind {
            Some('Y') => Item::Year,
            Some('y') => Item::ShortYear,
            Some('m') => Item::Month,
            Some('b' | 'h') => Item::MonthName,
            Some('d') => Item::Day,
            Some('e') => Item::PaddedDay,
            Some('j') => Item::DayOfYear,
            Some('a') => Item::Weekday,
            Some('H') => Item::Hour,
            Some('M') => Item::Minute,
            Some('S') => Item::Second,
            Some('s') => Item::Epoch,
            Some('f') => Item::Fraction(9),
            Some('z') => Item::Zone,
            Some('Z') => Item::ZoneName,
            Some('F') => {
                parse_into("%Y-%m-%d", items)?;
                continue;
            }
            Some('T') => {
                parse_into("%H:%M:%S", items)?;
                continue;
            }
            Some(digit @ '1'..='9') if chars.as_str().starts_with('f') => {
                chars.next();
                Item::Fraction(digit as usize - '0' as usize)
            }
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                return Err(FormatError(format!("%{shown}: no such time conversion")));
            }
        };
        items.push(item);
    }
    if !plain.is_empty() {
        items.push(Item::Text(plain.into()));
    }
    Ok(())
}

/// Year, month, day and day of the year of a day counted from 1970.
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // Whole spans of 400 years, which are all alike, then year by year.
    let mut year = 1970 + days / 146_097 * 400;
    let mut left = days % 146_097;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let day_of_year = left + 1;
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1, day_of_year)
}
