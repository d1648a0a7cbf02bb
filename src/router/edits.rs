//! Header edits of all levels, flattened into one list.

use crate::model::{HeaderEdit, HeaderEdits};

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Removes every occurrence of the name.
    Remove(String),
    /// Writes one header.
    Write(HeaderEdit),
}

/// Edits in the order they are applied. Empty for most routes; ask [`EditPlan::is_empty`] first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EditPlan(Box<[Edit]>);

impl EditPlan {
    /// Joins the edits of several levels, given from the most specific (weighted cluster, route) to the
    /// least (virtual host, table). Envoy applies them in that order, so that the table has the last word,
    /// or in the reverse when `most_specific_wins`. Within a level removals come first.
    pub fn of_levels(levels: &[&HeaderEdits], most_specific_wins: bool) -> Self {
        let mut plan = Vec::new();
        let mut add = |level: &HeaderEdits| {
            plan.extend(level.remove.iter().cloned().map(Edit::Remove));
            plan.extend(level.edits.iter().cloned().map(Edit::Write));
        };
        if most_specific_wins {
            levels.iter().rev().for_each(|level| add(level));
        } else {
            levels.iter().for_each(|level| add(level));
        }
        EditPlan(plan.into())
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The steps, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str) -> HeaderEdits {
        HeaderEdits {
            remove: vec![name.into()],
            edits: vec![HeaderEdit::Set { name: name.into(), value: "1".into() }],
        }
    }

    #[test]
    fn the_least_specific_level_has_the_last_word_unless_told_otherwise() {
        let (route, table) = (level("r"), level("t"));
        let names = |plan: &EditPlan| -> Vec<String> {
            plan.iter()
                .map(|edit| match edit {
                    Edit::Remove(name) => format!("-{name}"),
                    Edit::Write(HeaderEdit::Set { name, .. }) => format!("={name}"),
                    Edit::Write(other) => panic!("{other:?}"),
                })
                .collect()
        };
        let normal = EditPlan::of_levels(&[&route, &table], false);
        assert_eq!(names(&normal), ["-r", "=r", "-t", "=t"]);
        let reverse = EditPlan::of_levels(&[&route, &table], true);
        assert_eq!(names(&reverse), ["-t", "=t", "-r", "=r"]);
        assert!(EditPlan::of_levels(&[&HeaderEdits::default()], false).is_empty());
    }
}
