//! Header edits of all levels, put into one list.

use crate::message::{Fact, Facts, Moment};
use crate::model::{Block, EditValue, HeaderEdit, HeaderEdits};
use std::borrow::Cow;
use std::time::SystemTime;

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Removes every occurrence of the name.
    Remove(String),
    /// Writes one header.
    Write(HeaderEdit),
}

/// Edits in the order they are applied. Empty for most routes; ask [`EditPlan::is_empty`] first.
///
/// A plan whose values depend on the stream, or on headers it writes itself, is [`EditPlan::resolved`] before
/// its steps are applied one by one; for any other that costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EditPlan(Option<Box<Steps>>);

#[derive(Clone, Debug, PartialEq)]
struct Steps {
    steps: Vec<Edit>,
    /// Where each level ends; empty for a plan that can be applied as it is.
    levels: Vec<usize>,
}

impl EditPlan {
    /// Joins the edits of several levels, given in the order they are applied. Within a level removals come
    /// first, then what replaces, then what adds; what a level writes, and whether, is decided by the headers
    /// as they were before it wrote anything.
    pub fn of_levels(levels: &[&HeaderEdits]) -> Self {
        let (mut steps, mut ends, mut depends) = (Vec::new(), Vec::new(), false);
        for level in levels.iter().filter(|level| !level.is_empty()) {
            let replaces = |edit: &HeaderEdit| {
                matches!(edit, HeaderEdit::Set { .. } | HeaderEdit::ReplaceIfPresent { .. })
            };
            steps.extend(level.remove.iter().cloned().map(Edit::Remove));
            steps.extend(level.edits.iter().filter(|edit| replaces(edit)).cloned().map(Edit::Write));
            steps.extend(level.edits.iter().filter(|edit| !replaces(edit)).cloned().map(Edit::Write));
            ends.push(steps.len());
            depends |= level.edits.iter().any(|edit| matches!(edit.value(), EditValue::Format { .. }));
            depends |= level.edits.iter().any(|edit| looks_at_a_neighbour(edit, &level.edits));
        }
        if steps.is_empty() {
            return EditPlan::default();
        }
        if !depends {
            ends.clear();
        }
        EditPlan(Some(Box::new(Steps { steps, levels: ends })))
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The steps, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.0.iter().flat_map(|plan| &plan.steps)
    }

    /// The plan for one stream, with every value known. `block` is what is edited: its headers are read
    /// from `facts`, which must give them as they are before the first step.
    pub fn resolved(&self, block: Block, facts: &dyn Facts) -> Cow<'_, EditPlan> {
        match &self.0 {
            Some(plan) if !plan.levels.is_empty() => {
                let steps = plan.resolve(block, facts);
                Cow::Owned(EditPlan(Some(Box::new(Steps { steps, levels: Vec::new() }))))
            }
            _ => Cow::Borrowed(self),
        }
    }
}

/// Whether `edit` asks if its header is there while another of `level` writes it.
fn looks_at_a_neighbour(edit: &HeaderEdit, level: &[HeaderEdit]) -> bool {
    let asks = matches!(edit, HeaderEdit::AddIfAbsent { .. } | HeaderEdit::ReplaceIfPresent { .. });
    asks && level.iter().filter(|other| other.name().eq_ignore_ascii_case(edit.name())).count() > 1
}

impl Steps {
    fn resolve(&self, block: Block, facts: &dyn Facts) -> Vec<Edit> {
        let mut done = Vec::with_capacity(self.steps.len());
        let mut start = 0;
        for end in &self.levels {
            let level = self.steps.get(start..*end).unwrap_or_default();
            start = *end;
            done.extend(level.iter().filter(|step| matches!(step, Edit::Remove(_))).cloned());
            let edited = Edited { facts, block, done: &done };
            let writes: Vec<Edit> = level.iter().filter_map(|step| edited.resolve(step)).collect();
            done.extend(writes);
        }
        done
    }
}

/// A stream with some of a plan's steps applied.
struct Edited<'a> {
    facts: &'a dyn Facts,
    block: Block,
    done: &'a [Edit],
}

impl Edited<'_> {
    fn resolve(&self, step: &Edit) -> Option<Edit> {
        let Edit::Write(edit) = step else { return None };
        let name = edit.name();
        let wanted = match edit {
            HeaderEdit::AddIfAbsent { .. } => self.header(self.block, name).is_none(),
            HeaderEdit::ReplaceIfPresent { .. } => self.header(self.block, name).is_some(),
            _ => true,
        };
        if !wanted {
            return None;
        }
        let value = match edit.value() {
            EditValue::Text(text) => text.clone(),
            EditValue::Format { format, keep_empty } => {
                let mut out = Vec::new();
                format.write(self, b"", &mut out);
                if out.is_empty() && !keep_empty {
                    return None;
                }
                out.into()
            }
        };
        let (name, value) = (name.to_owned(), EditValue::Text(value));
        Some(Edit::Write(match edit {
            HeaderEdit::Append { .. } | HeaderEdit::AddIfAbsent { .. } => HeaderEdit::Append { name, value },
            HeaderEdit::Set { .. } | HeaderEdit::ReplaceIfPresent { .. } => HeaderEdit::Set { name, value },
        }))
    }

    fn header(&self, block: Block, name: &str) -> Option<Cow<'_, [u8]>> {
        let read = |name: &str| match block {
            Block::Request => self.facts.request_header(name),
            Block::Response => self.facts.response_header(name),
            Block::Trailer => self.facts.response_trailer(name),
        };
        let mut value = read(name);
        if block != self.block {
            return value;
        }
        for step in self.done {
            match step {
                Edit::Remove(removed) if removed.eq_ignore_ascii_case(name) => value = None,
                Edit::Write(edit) if edit.name().eq_ignore_ascii_case(name) => {
                    // Only first values are seen.
                    value = Some(match (edit, value) {
                        (HeaderEdit::Append { .. }, Some(old)) => old,
                        _ => Cow::Borrowed(edit.value().as_bytes()),
                    });
                }
                _ => {}
            }
        }
        value
    }
}

impl Facts for Edited<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header(Block::Request, name)
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header(Block::Response, name)
    }

    fn response_trailer(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header(Block::Trailer, name)
    }

    fn fact(&self, fact: Fact, out: &mut Vec<u8>) -> bool {
        self.facts.fact(fact, out)
    }

    fn time(&self, moment: Moment) -> Option<SystemTime> {
        self.facts.time(moment)
    }

    fn dynamic_metadata(&self, namespace: &str, path: &[Box<str>], out: &mut Vec<u8>) -> bool {
        self.facts.dynamic_metadata(namespace, path, out)
    }

    fn filter_state(&self, key: &str) -> Option<&str> {
        self.facts.filter_state(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Format;

    struct Head(&'static str, &'static str);

    impl Facts for Head {
        fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == self.0).then(|| self.1.as_bytes().into())
        }
        fn fact(&self, _: Fact, _: &mut Vec<u8>) -> bool {
            false
        }
    }

    fn level(edits: &[HeaderEdit], remove: &[&str]) -> HeaderEdits {
        HeaderEdits { remove: remove.iter().map(|&name| name.to_owned()).collect(), edits: edits.into() }
    }

    fn set(name: &str, value: impl Into<EditValue>) -> HeaderEdit {
        HeaderEdit::Set { name: name.into(), value: value.into() }
    }

    fn append(name: &str, value: impl Into<EditValue>) -> HeaderEdit {
        HeaderEdit::Append { name: name.into(), value: value.into() }
    }

    fn absent(name: &str, value: impl Into<EditValue>) -> HeaderEdit {
        HeaderEdit::AddIfAbsent { name: name.into(), value: value.into() }
    }

    fn format(text: &str) -> EditValue {
        EditValue::Format { format: Format::parse(text).unwrap(), keep_empty: false }
    }

    fn steps(plan: &EditPlan) -> String {
        let one = |edit: &Edit| match edit {
            Edit::Remove(name) => format!("-{name}"),
            Edit::Write(edit) => {
                let sign = if matches!(edit, HeaderEdit::Append { .. }) { "+" } else { "=" };
                format!("{sign}{}:{}", edit.name(), String::from_utf8_lossy(edit.value().as_bytes()))
            }
        };
        plan.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn levels_follow_each_other_and_additions_come_last_in_each() {
        let (first, second) =
            (level(&[append("a", "1"), set("a", "2")], &["x"]), level(&[set("b", "3")], &[]));
        let plan = EditPlan::of_levels(&[&first, &HeaderEdits::default(), &second]);
        assert_eq!(steps(&plan), "-x =a:2 +a:1 =b:3");
        assert!(matches!(plan.resolved(Block::Request, &Head("a", "")), Cow::Borrowed(_)));
        assert!(EditPlan::of_levels(&[&HeaderEdits::default()]).is_empty());
    }

    #[test]
    fn values_are_made_of_the_headers_as_earlier_levels_left_them() {
        let first = level(&[set("a", "1"), set("copy", format("<%REQ(a)%>"))], &["gone"]);
        let second = level(&[append("all", format("%REQ(a)%,%REQ(copy)%,%REQ(gone)%"))], &[]);
        let third = level(&[append("none", format("%REQ(gone)%")), append("a", format("%REQ(all):3%"))], &[]);
        let plan = EditPlan::of_levels(&[&first, &second, &third]);
        let resolved = plan.resolved(Block::Request, &Head("a", "0"));
        assert_eq!(steps(&resolved), "-gone =a:1 =copy:<0> +all:1,<0>, +a:1,<");
    }

    #[test]
    fn presence_is_asked_before_a_level_writes() {
        let both = level(&[absent("a", "1"), absent("a", "2"), set("b", "x"), absent("b", "y")], &["a"]);
        let plan = EditPlan::of_levels(&[&both]);
        assert_eq!(steps(&plan.resolved(Block::Request, &Head("b", "0"))), "-a =b:x +a:1 +a:2");
        assert_eq!(steps(&plan.resolved(Block::Request, &Head("a", "0"))), "-a =b:x +a:1 +a:2 +b:y");
    }
}
