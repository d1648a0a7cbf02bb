//! Durations as text: Go's `1h2m3.5s` and protobuf's `0.5s`.
//!
//! Takes in the strings of both configuration dialects, gives out nanoseconds or `Duration`. Both forms are
//! parsed in integers: no rounding, an overflow is an error and never a wrap.

use std::time::Duration;

/// Why a duration text was refused. The text of the error says what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is empty.
    #[error("empty; expected a number with a unit, such as 300ms, 1.5s or 1h2m")]
    Empty,
    /// A number is missing where one has to stand.
    #[error("expected a number, such as in 300ms, 1.5s or 1h2m")]
    NoNumber,
    /// A number without a unit.
    #[error("unit missing; expected one of ns, us, ms, s, m, h")]
    NoUnit,
    /// A unit that does not exist.
    #[error("unknown unit; expected one of ns, us, ms, s, m, h")]
    UnknownUnit,
    /// Not the protobuf form.
    #[error("expected seconds with a trailing s, such as 0.25s or 15s, at most nine decimals")]
    NotProto,
    /// Larger than can be held: about 292 years for Go, 10,000 years for protobuf.
    #[error("too long")]
    TooLong,
    /// A negative duration where none can be used.
    #[error("negative; expected zero or more")]
    Negative,
}

/// Parses Go's form (`300ms`, `1h2m`, `-1.5s`, `.5s`, `0`) into signed nanoseconds.
///
/// # Errors
/// [`DurationError`] when the text is not of that form or beyond ±2^63 ns.
pub fn parse_go_nanos(text: &str) -> Result<i64, DurationError> {
    let (negative, mut rest) = match text.as_bytes().first() {
        None => return Err(DurationError::Empty),
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        Some(_) => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (term, after) = go_term(rest)?;
        total = total.checked_add(term).filter(|sum| *sum <= 1 << 63).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| DurationError::TooLong)
}

/// Parses Go's form into a `Duration`.
///
/// # Errors
/// As [`parse_go_nanos`], and [`DurationError::Negative`] below zero.
pub fn parse_go(text: &str) -> Result<Duration, DurationError> {
    let nanos = parse_go_nanos(text)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError::Negative)
}

/// One `number unit` pair of Go's form in nanoseconds, and the text behind it.
fn go_term(text: &str) -> Result<(i128, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(end);
    let scale: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err(DurationError::NoUnit),
        _ => return Err(DurationError::UnknownUnit),
    };
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let mut nanos = whole.checked_mul(scale).filter(|v| *v <= 1 << 63).ok_or(DurationError::TooLong)?;
    // Eighteen decimals of an hour are far below a nanosecond; what is finer than that is cut off, as Go does.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let mut parts: i128 = 0;
    for digit in fraction.bytes() {
        parts = parts * 10 + i128::from(digit - b'0');
    }
    nanos += parts * scale / fraction.bytes().fold(1, |power, _| power * 10);
    Ok((nanos, after))
}

/// Parses protobuf's JSON form (`0.5s`, `15s`, `-1s`) into seconds and nanoseconds of one sign.
///
/// # Errors
/// [`DurationError::NotProto`] or [`DurationError::TooLong`].
pub fn parse_proto_parts(text: &str) -> Result<(i64, i32), DurationError> {
    let number = text.strip_suffix('s').ok_or(DurationError::NotProto)?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (whole, rest) = split_digits(number);
    let fraction = match rest.strip_prefix('.') {
        Some(fraction) => fraction,
        None if rest.is_empty() => "",
        None => return Err(DurationError::NotProto),
    };
    let all_digits = fraction.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits || fraction.len() > 9 || (rest.starts_with('.') && fraction.is_empty())
    {
        return Err(DurationError::NotProto);
    }
    // The range protobuf gives: 10,000 years of seconds either way.
    let seconds =
        whole.parse::<i64>().ok().filter(|s| *s <= 315_576_000_000).ok_or(DurationError::TooLong)?;
    let mut nanos = 0i32;
    for digit in fraction.bytes().chain(std::iter::repeat(b'0')).take(9) {
        nanos = nanos * 10 + i32::from(digit - b'0');
    }
    Ok(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Parses protobuf's JSON form into a `Duration`.
///
/// # Errors
/// As [`parse_proto_parts`], and [`DurationError::Negative`] below zero.
pub fn parse_proto(text: &str) -> Result<Duration, DurationError> {
    let (seconds, nanos) = parse_proto_parts(text)?;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(DurationError::Negative),
    }
}

/// Writes protobuf's JSON form: `1s`, `0.250s`, with 0, 3, 6 or 9 decimals.
#[must_use]
pub fn format_proto(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        n if n % 1_000_000 == 0 => format!("{seconds}.{:03}s", n / 1_000_000),
        n if n % 1_000 == 0 => format!("{seconds}.{:06}s", n / 1_000),
        n => format!("{seconds}.{n:09}s"),
    }
}

/// Writes Go's form as Go prints it: `1h2m3.5s`, `300ms`, `1.5µs`, `0s`.
#[must_use]
pub fn format_go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, scale) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1u128),
        1_000..1_000_000 => ("\u{b5}s", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => return format_go_long(nanos),
    };
    format!("{}{unit}", decimal(nanos, scale))
}

fn format_go_long(nanos: u128) -> String {
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let below_minute = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{below_minute}s"),
        (0, minutes) => format!("{minutes}m{below_minute}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{below_minute}s"),
    }
}

/// `value / scale` without trailing zeros; `scale` is a power of ten.
fn decimal(value: u128, scale: u128) -> String {
    let (whole, fraction) = (value / scale, value % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{whole}.{}", format!("{fraction:0width$}").trim_end_matches('0'))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_forms() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("300ms", 300_000_000),
            ("1h2m", 3_720_000_000_000),
            ("-1.5s", -1_500_000_000),
            ("+5s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0.1m", 6_000_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("2us3ns", 2_003),
            ("1\u{b5}s", 1_000),
            ("10ns", 10),
            ("1.9ns", 1),
            ("2562047h47m16.854775807s", i64::MAX),
            ("-2562047h47m16.854775808s", i64::MIN),
        ] {
            assert_eq!(parse_go_nanos(text), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn go_refusals() {
        for (text, error) in [
            ("", DurationError::Empty),
            ("-", DurationError::NoNumber),
            ("s", DurationError::NoNumber),
            (".s", DurationError::NoNumber),
            ("5", DurationError::NoUnit),
            ("1h5", DurationError::NoUnit),
            ("5 s", DurationError::UnknownUnit),
            ("3d", DurationError::UnknownUnit),
            ("9223372036854775808ns", DurationError::TooLong),
            ("9999999999h", DurationError::TooLong),
            ("99999999999999999999999999999999999999999h", DurationError::TooLong),
        ] {
            assert_eq!(parse_go_nanos(text), Err(error), "{text}");
        }
        assert_eq!(parse_go("-1s"), Err(DurationError::Negative));
        assert_eq!(
            DurationError::UnknownUnit.to_string(),
            "unknown unit; expected one of ns, us, ms, s, m, h"
        );
    }

    #[test]
    fn proto_forms() {
        assert_eq!(parse_proto("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_proto("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(parse_proto("1.000000001s"), Ok(Duration::new(1, 1)));
        assert_eq!(parse_proto_parts("-1.25s"), Ok((-1, -250_000_000)));
        assert_eq!(parse_proto("-1s"), Err(DurationError::Negative));
        assert_eq!(parse_proto("315576000001s"), Err(DurationError::TooLong));
        for text in ["", "s", "5", "5ms", "1.s", ".5s", "1.0000000001s", "1 s", "+1s", "1e3s", "--1s"] {
            assert_eq!(parse_proto(text), Err(DurationError::NotProto), "{text}");
        }
    }

    #[test]
    fn written_forms() {
        assert_eq!(format_proto(Duration::from_millis(250)), "0.250s");
        assert_eq!(format_proto(Duration::from_secs(600)), "600s");
        assert_eq!(format_proto(Duration::new(0, 1)), "0.000000001s");
        for text in ["0s", "1ns", "1.5\u{b5}s", "300ms", "2.5s", "1m0s", "1h2m3.5s", "100h0m0.000000001s"] {
            assert_eq!(format_go(parse_go(text).unwrap()), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn written_durations_are_read_back(nanos in 0..i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            proptest::prop_assert_eq!(parse_go(&format_go(duration)), Ok(duration));
            proptest::prop_assert_eq!(parse_proto(&format_proto(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[-+.0-9a-z\u{b5} ]{0,40}") {
            let _ = (parse_go(&text), parse_proto(&text));
        }
    }
}
