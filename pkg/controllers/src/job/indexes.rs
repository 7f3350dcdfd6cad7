//! Completed indexes as a Job's status writes them: `1,3-5,7`.
use std::collections::BTreeSet;
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// What can't be read is left out.
    pub(super) fn parse(text: &str) -> Self {
        let number = |text: &str| text.trim().parse::<i32>().ok();
        let range = |part: &str| match part.split_once('-') {
            Some((from, to)) => Some(number(from)?..=number(to)?),
            None => number(part).map(|one| one..=one),
        };
        Self(text.split(',').filter_map(range).flatten().collect())
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub(super) fn extend(&mut self, indexes: impl IntoIterator<Item = i32>) {
        self.0.extend(indexes);
    }

    pub(super) fn len(&self) -> i32 {
        self.0.len() as i32
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(i32, i32)> = Vec::new();
        for index in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => runs.push((*index, *index)),
            }
        }
        // Two neighbours are listed, three make a range.
        let text = runs.iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        f.write_str(&text.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_are_written_as_upstream_writes_them() {
        assert_eq!(Indexes::parse("7,1,3-5").to_string(), "1,3-5,7");
        assert_eq!(Indexes::parse("1,2").to_string(), "1,2");
        assert_eq!(Indexes::parse("").len(), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(indexes in prop::collection::btree_set(0i32..40, 0..30)) {
            let indexes = Indexes(indexes);
            prop_assert_eq!(Indexes::parse(&indexes.to_string()), indexes);
        }
    }
}
