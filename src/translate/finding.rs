//! What translators say about a resource: faults with field path, value and reason; notes without blame.
//!
//! Owns the text form that goes into a NACK: `type name: field.path[3].to: value: why`. Values are cut to a
//! line; callers never hand in secrets.

use super::envoy::Discovering;
use super::fault::Finding;
use std::fmt::{self, Display, Write};

/// Findings kept per resource: enough to mend it, bounded for a resource that is wrong everywhere.
const MAX_FINDINGS: usize = 200;

/// One step of a field path.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// A field name.
    Name(&'a str),
    /// An index into a repeated field.
    Index(usize),
    /// A key of a map field.
    Key(&'a str),
}

/// Where in a resource, as a list on the stack: free to build, formatted only for a finding.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    field: Option<Field<'a>>,
}

impl<'a> Path<'a> {
    /// The resource itself.
    pub const ROOT: Path<'static> = Path { parent: None, field: None };

    /// The field `name` of the message here.
    pub fn name(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), field: Some(Field::Name(name)) }
    }

    /// The item `index` of the repeated field here.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), field: Some(Field::Index(index)) }
    }

    /// The entry `key` of the map field here.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), field: Some(Field::Key(key)) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.field {
            None => Ok(()),
            Some(Field::Index(index)) => write!(f, "[{index}]"),
            Some(Field::Key(key)) => write!(f, "[{key:?}]"),
            Some(Field::Name(name)) => {
                let first = self.parent.is_none_or(|p| p.field.is_none());
                if !first {
                    f.write_char('.')?;
                }
                f.write_str(name)
            }
        }
    }
}

/// A resource that cannot be applied, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    /// Short message name: `Cluster`, `Listener`, `RouteConfiguration`, `ClusterLoadAssignment`.
    pub resource_type: &'static str,
    /// The resource's name, if it could be read.
    pub name: Option<String>,
    /// Never empty.
    pub findings: Vec<Finding>,
}

impl Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource_type, self.name.as_deref().unwrap_or("(unnamed)"))?;
        for (i, finding) in self.findings.iter().enumerate() {
            write!(f, "{} {finding}", if i == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// Something in an accepted resource that does nothing, or that only its reader can judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Field path; an unknown field ends in its number, `<17>`.
    pub path: String,
    /// What it is.
    pub kind: NoteKind,
}

/// Why a part of a resource is noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// Not in `proto/`: newer than Mizzen, or left out. Counted as `dynamic_unknown_fields`.
    UnknownField,
    /// Known, harmless to leave out, not acted upon.
    NoEffect,
    /// One of several names of ciphers or groups, which the library does not speak: the others count.
    NotSpoken,
    /// What it names comes by a stream of its type's own, from this cluster, instead of ADS. Whether there is such
    /// a stream is for the caller to judge.
    OwnStream { cluster: String, delta: bool },
}

/// An accepted resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated<T> {
    /// What it means.
    pub model: T,
    /// What in it does nothing.
    pub notes: Vec<Note>,
}

/// Collects what a translator finds in one resource.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<Finding>,
    more: usize,
    notes: Vec<Note>,
    outside: bool,
    /// Extensions by discovery, and what is found of them.
    pub(super) discovering: Discovering,
}

impl Findings {
    /// Whether a further note would be kept.
    pub fn has_room_for_notes(&self) -> bool {
        self.notes.len() < MAX_FINDINGS
    }

    /// Records that something outside the resource (a file, the environment) had a part in the result: the
    /// same bytes may mean something else the next time.
    pub fn looked_outside(&mut self) {
        self.outside = true;
    }

    /// Takes in what was found in a part of the resource. Gives the notes about it, and whether the part
    /// [looked outside](Self::looked_outside).
    pub fn absorb(&mut self, part: Findings) -> (Vec<Note>, bool) {
        for finding in part.found {
            self.push(finding);
        }
        self.more += part.more;
        self.outside |= part.outside;
        (part.notes, part.outside)
    }

    fn push(&mut self, finding: Finding) {
        if self.found.len() < MAX_FINDINGS {
            self.found.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Records a fault.
    pub fn bad(&mut self, path: &Path<'_>, value: impl Display, why: impl Display) {
        if self.found.len() < MAX_FINDINGS {
            self.push(Finding::error(path.to_string(), value, why.to_string()));
        } else {
            self.more += 1;
        }
    }

    /// Records that something is accepted and does nothing.
    pub fn note(&mut self, path: &Path<'_>) {
        self.add_note(Note { path: path.to_string(), kind: NoteKind::NoEffect });
    }

    /// Records a name in a list that is left out of it.
    pub fn not_spoken(&mut self, path: &Path<'_>) {
        self.add_note(Note { path: path.to_string(), kind: NoteKind::NotSpoken });
    }

    /// Records a note that is already made.
    pub fn add_note(&mut self, note: Note) {
        if self.notes.len() < MAX_FINDINGS {
            self.notes.push(note);
        }
    }

    /// How many faults were recorded, those beyond the bound included.
    pub fn faults(&self) -> usize {
        self.found.len() + self.more
    }

    /// Whether nothing is wrong so far.
    pub fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// The verdict: the model if there is one and nothing was wrong with it.
    ///
    /// # Errors
    /// Everything found.
    pub fn verdict<T>(
        mut self,
        resource_type: &'static str,
        name: &str,
        model: Option<T>,
    ) -> Result<Translated<T>, Rejection> {
        match model {
            Some(model) if self.found.is_empty() => return Ok(Translated { model, notes: self.notes }),
            None if self.found.is_empty() => self.bad(&Path::ROOT, "", "cannot be translated"),
            _ => {}
        }
        if self.more > 0 {
            self.found.push(Finding::error("", "", format!("and {} more findings", self.more)));
        }
        let name = (!name.is_empty()).then(|| name.to_owned());
        Err(Rejection { resource_type, name, findings: self.found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_the_configuration() {
        let chains = Path::ROOT.name("filter_chains");
        let chain = chains.index(3);
        let port = chain.name("destination_port");
        assert_eq!(port.to_string(), "filter_chains[3].destination_port");
        let options = Path::ROOT.name("options");
        assert_eq!(options.key("a.b").to_string(), "options[\"a.b\"]");
        assert_eq!(Path::ROOT.to_string(), "");
    }

    #[test]
    fn a_rejection_names_type_resource_path_value_and_reason() {
        let mut out = Findings::default();
        out.bad(&Path::ROOT.name("port"), 70000, "out of range (nearest valid 65535)");
        out.bad(&Path::ROOT, "", "no address");
        let rejection = out.verdict::<()>("Listener", "in", None).unwrap_err();
        assert_eq!(
            rejection.to_string(),
            "Listener in: port: 70000: out of range (nearest valid 65535); no address"
        );
    }

    #[test]
    fn values_stay_on_one_line_and_findings_are_bounded() {
        let mut out = Findings::default();
        for i in 0..=MAX_FINDINGS {
            out.bad(&Path::ROOT, format!("{i}\n{}", "x".repeat(500)), "bad");
        }
        let rejection = out.verdict::<()>("Cluster", "", None).unwrap_err();
        assert_eq!(rejection.findings.len(), MAX_FINDINGS + 1);
        assert!(
            rejection.findings[0].value.starts_with("0\\nxxx") && rejection.findings[0].value.len() < 140
        );
        assert!(rejection.to_string().starts_with("Cluster (unnamed): "));
    }
}
