//! Argument spellings that clap does not know.
//!
//! MOSN's flag library takes long names behind one dash (`-config f`), one letter behind two (`--c f`), and
//! has two-letter aliases (`-sm`).

use super::flags;

/// Aliases and what they stand for.
const ALIASES: &[(&str, &str)] = &[
    ("sm", "service-meta"),
    ("sl", "service-lables"),
    ("pns", "pod-namespace"),
    ("pn", "pod-name"),
    ("pi", "pod-ip"),
    ("lf", "log-format"),
    ("lc", "component-log-level"),
    ("domain", "cluster-domain"),
    ("v", "version"),
];

/// `args` with those spellings rewritten to `--name`; everything else, and all after `--`, stays.
pub(super) fn normal(args: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut plain = false;
    args.into_iter()
        .map(|arg| {
            plain |= arg == "--";
            if plain { arg } else { rewrite(&arg).unwrap_or(arg) }
        })
        .collect()
}

fn rewrite(arg: &str) -> Option<String> {
    let body = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (body, None),
    };
    let long = match ALIASES.iter().find(|(alias, _)| *alias == name) {
        Some((_, long)) => *long,
        None if name.len() > 1 && flags::is_run_flag(name) => name,
        // `--c`: one letter behind two dashes.
        None if name.len() == 1 && arg.starts_with("--") => {
            return Some(match value {
                Some(value) => format!("-{name}={value}"),
                None => format!("-{name}"),
            });
        }
        None => return None,
    };
    Some(match value {
        Some(value) => format!("--{long}={value}"),
        None => format!("--{long}"),
    })
}
