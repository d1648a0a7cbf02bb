//! Times in format strings: `strftime` with sub-second digits, in UTC.

use super::FormatError;
use crate::util::text::push_number;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// A parsed time format.
#[derive(Clone, Debug)]
pub struct TimeFormat {
    items: Box<[Item]>,
    /// One number for all copies of it.
    id: u64,
}

impl PartialEq for TimeFormat {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl Eq for TimeFormat {}

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
        static FORMATS: AtomicU64 = AtomicU64::new(1);
        Ok(TimeFormat { items: items.into(), id: FORMATS.fetch_add(1, Relaxed) })
    }

    /// Appends `time`, which is not before 1970.
    pub fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        LAST.with_borrow_mut(|last| {
            if (last.format, last.second) != (self.id, since.as_secs()) {
                last.fill(self, since.as_secs());
            }
            let start = out.len();
            out.extend_from_slice(&last.text);
            for (at, count) in &last.fractions {
                let unit = 10u32.pow(9 - *count as u32);
                let place = out.get_mut(start + at..start + at + count);
                digits_at((since.subsec_nanos() / unit).into(), place.unwrap_or_default());
            }
        });
    }
}

/// The text of one second in one format: times of the same second differ in its fraction only.
struct Second {
    format: u64,
    second: u64,
    text: Vec<u8>,
    /// Where digits of the fraction stand, and how many.
    fractions: Vec<(usize, usize)>,
}

thread_local! {
    /// The text that was wanted last. No format has the number 0.
    static LAST: RefCell<Second> =
        const { RefCell::new(Second { format: 0, second: 0, text: Vec::new(), fractions: Vec::new() }) };
}

impl Second {
    fn fill(&mut self, format: &TimeFormat, seconds: u64) {
        (self.format, self.second) = (format.id, seconds);
        self.text.clear();
        self.fractions.clear();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day, day_of_year) = civil(days);
        let out = &mut self.text;
        for item in &format.items {
            match item {
                Item::Text(text) => out.extend_from_slice(text.as_bytes()),
                Item::Year => digits(year, 4, out),
                Item::ShortYear => digits(year % 100, 2, out),
                Item::Month => digits(month, 2, out),
                Item::MonthName => out.extend_from_slice(name(&MONTHS, month - 1).as_bytes()),
                Item::Day => digits(day, 2, out),
                Item::PaddedDay if day < 10 => {
                    out.push(b' ');
                    digits(day, 1, out);
                }
                Item::PaddedDay => digits(day, 2, out),
                Item::DayOfYear => digits(day_of_year, 3, out),
                Item::Weekday => out.extend_from_slice(name(&WEEKDAYS, days % 7).as_bytes()),
                Item::Hour => digits(second / 3600, 2, out),
                Item::Minute => digits(second / 60 % 60, 2, out),
                Item::Second => digits(second % 60, 2, out),
                Item::Epoch => push_number(seconds, out),
                Item::Fraction(count) => {
                    let count = (*count).min(9);
                    self.fractions.push((out.len(), count));
                    digits(0, count, out);
                }
                Item::Zone => out.extend_from_slice(b"+0000"),
                Item::ZoneName => out.extend_from_slice(b"UTC"),
            }
        }
    }
}

/// The last `count` digits of `value`, with zeros in front, at most nine.
fn digits(value: u64, count: usize, out: &mut Vec<u8>) {
    let mut text = [b'0'; 9];
    if let Some(place) = text.get_mut(..count.min(9)) {
        digits_at(value, place);
        out.extend_from_slice(place);
    }
}

/// As many of the last digits of `value` as there is room for.
fn digits_at(mut value: u64, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
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
    // Whole spans of 400 years, which are all alike; then as many years as there must be, then one by one.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    let sure = left / 366;
    let before = |year: u64| year / 4 - year / 100 + year / 400;
    left -= sure * 365 + before(year + sure - 1) - before(year - 1);
    year += sure;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_of_one_second_differ_in_their_fraction() {
        let formats = ["%S.%3f", "%6f|%S|%1f"].map(|text| TimeFormat::parse(text).unwrap());
        let written = |format: &TimeFormat, nanos: u64| {
            let mut out = b">".to_vec();
            format.write(UNIX_EPOCH + Duration::from_nanos(nanos), &mut out);
            String::from_utf8(out).unwrap()
        };
        let [short, long] = &formats;
        for (nanos, want) in [
            (1_000_000_000, [">01.000", ">000000|01|0"]),
            (1_987_654_321, [">01.987", ">987654|01|9"]),
            (2_007_000_000, [">02.007", ">007000|02|0"]),
        ] {
            assert_eq!([short, long, short, long].map(|f| written(f, nanos)), [want, want].concat()[..]);
        }
    }

    #[test]
    fn days_are_those_of_a_calendar_that_is_turned_page_by_page() {
        let format = TimeFormat::parse("%Y-%m-%d %j %a %e %y %H:%M:%S.%3f %s").unwrap();
        let (mut year, mut month, mut day, mut of_year) = (1970, 1, 1, 1);
        for days in 0..150_000u64 {
            let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            if days % 7 == 0 || !(2..=27).contains(&day) {
                let time = UNIX_EPOCH + Duration::new(days * 86_400 + 3_723, 45_678_901);
                let mut out = Vec::new();
                format.write(time, &mut out);
                let weekday = WEEKDAYS[(days % 7) as usize];
                let (short, seconds) = (year % 100, days * 86_400 + 3_723);
                let want = format!(
                    "{year:04}-{month:02}-{day:02} {of_year:03} {weekday} {day:2} {short:02} 01:02:03.045 {seconds}"
                );
                assert_eq!(String::from_utf8(out).unwrap(), want);
            }
            let february = if leap { 29 } else { 28 };
            let length = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
            (day, of_year) = (day + 1, of_year + 1);
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month, of_year) = (year + 1, 1, 1);
            }
        }
    }
}
