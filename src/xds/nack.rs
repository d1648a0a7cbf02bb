//! The text of a NACK: which resources are bad and why, bounded.
//!
//! One line per resource, the first twenty, at most 8 KiB, then how many more there are and where to read
//! them. Good resources are never named.

/// Lines in one NACK.
const MAX_LINES: usize = 20;
/// Bytes in one NACK, the closing line included: it travels in a gRPC message and lands in logs.
const MAX_BYTES: usize = 8 * 1024;
/// Room kept for the closing line.
const CLOSING: usize = 64;

/// Joins the one-line `texts` into the message of `error_detail`.
pub(super) fn error_text<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> String {
    let total = texts.len();
    let mut out = String::new();
    let mut written = 0;
    for text in texts.take(MAX_LINES) {
        let room = (MAX_BYTES - CLOSING).saturating_sub(out.len() + 1);
        if text.len() > room && written > 0 {
            break;
        }
        if written > 0 {
            out.push('\n');
        }
        // A resource cannot break out of its line, whatever its name or value contains.
        let cut = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        out.extend(text.get(..cut).unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }));
        if cut < text.len() {
            out.push('…');
        }
        written += 1;
    }
    if total > written {
        out.push_str(&format!("\nand {} more, see /config_dump", total - written));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[String]) -> String {
        error_text(lines.iter().map(String::as_str))
    }

    #[test]
    fn few_are_listed_in_full() {
        let text = of(&["Cluster a: name: bad".into(), "Cluster b: type: 9: unknown".into()]);
        assert_eq!(text, "Cluster a: name: bad\nCluster b: type: 9: unknown");
    }

    #[test]
    fn twenty_lines_then_a_count() {
        let lines: Vec<_> = (0..23).map(|n| format!("Cluster c{n}: x: why")).collect();
        let text = of(&lines);
        assert_eq!(text.lines().count(), 21);
        assert!(text.contains("c19:") && !text.contains("c20:"));
        assert!(text.ends_with("\nand 3 more, see /config_dump"));
    }

    #[test]
    fn eight_kib_bound_holds_for_many_and_for_one() {
        let many: Vec<_> = (0..20).map(|n| format!("Cluster {n}{}", "x".repeat(1000))).collect();
        let text = of(&many);
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        assert!(text.ends_with("and 12 more, see /config_dump"), "{}", text.lines().last().unwrap());
        let one = of(&[format!("Cluster {}", "ü".repeat(9000))]);
        assert!(one.len() <= MAX_BYTES && one.ends_with('…'));
    }

    #[test]
    fn a_value_cannot_start_a_line() {
        assert_eq!(of(&["Cluster a\nCluster good: fine".into()]), "Cluster a Cluster good: fine");
    }
}
