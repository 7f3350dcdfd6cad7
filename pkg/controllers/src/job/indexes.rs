//! Completion indexes as a Job's status and policies write them: `1,3-5,7`.
use std::fmt;

/// Ordered, disjoint intervals with gaps between them: its size follows the text, not the numbers in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Indexes below `completions`. What can't be read is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let number = |text: &str| text.trim().parse::<i32>().ok().filter(|number| *number >= 0);
        let range = |part: &str| match part.split_once('-') {
            Some((from, to)) => Some((number(from)?, number(to)?)),
            None => number(part).map(|one| (one, one)),
        };
        let ranges = text.split(',').filter_map(range).map(|(from, to)| (from, to.min(completions - 1)));
        Self::of(ranges.filter(|(from, to)| from <= to).collect())
    }

    fn of(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::new();
        for (from, to) in ranges {
            match joined.last_mut() {
                Some((_, last)) if i64::from(from) <= i64::from(*last) + 1 => *last = to.max(*last),
                _ => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(after).is_some_and(|(first, _)| *first <= index)
    }

    /// With these as well.
    pub(super) fn with(&self, indexes: impl IntoIterator<Item = i32>) -> Self {
        Self::of(self.0.iter().copied().chain(indexes.into_iter().map(|index| (index, index))).collect())
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn len(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indexes both have.
    pub(super) fn overlap(&self, other: &Self) -> i32 {
        let both = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().map(|a| other.0.iter().map(|b| both(a, b)).sum::<i32>()).sum()
    }

    /// The indexes below `completions` that are not among these, the lowest first.
    pub(super) fn missing(&self, completions: i32) -> impl Iterator<Item = i32> {
        let starts = std::iter::once(0).chain(self.0.iter().map(|(_, last)| last.saturating_add(1)));
        let ends = self.0.iter().map(|(first, _)| *first).chain(std::iter::once(completions));
        starts.zip(ends).flat_map(move |(start, end)| start..end.min(completions))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Two neighbours are listed, three make a range.
        let text = self.0.iter().map(|(first, last)| match last - first {
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
    use std::collections::BTreeSet;

    #[test]
    fn runs_are_written_as_upstream_writes_them() {
        assert_eq!(Indexes::parse("7,1,3-5", 9).to_string(), "1,3-5,7");
        assert_eq!(Indexes::parse("1,2", 9).to_string(), "1,2");
        assert_eq!(Indexes::parse("", 9).len(), 0);
        assert_eq!(Indexes::parse("x,-3,0-2147483647", 4).to_string(), "0-3", "no more than there can be");
    }

    proptest! {
        #[test]
        fn they_behave_as_sets(a in prop::collection::btree_set(0i32..40, 0..30), b in prop::collection::btree_set(0i32..40, 0..30)) {
            let (x, y) = (Indexes::default().with(a.clone()), Indexes::default().with(b.clone()));
            prop_assert_eq!(&Indexes::parse(&x.to_string(), 40), &x);
            prop_assert_eq!(x.len() as usize, a.len());
            prop_assert_eq!(x.overlap(&y) as usize, a.intersection(&b).count());
            prop_assert_eq!(x.union(&y), Indexes::default().with(a.union(&b).copied()));
            prop_assert!((0..40).all(|n| x.contains(n) == a.contains(&n)));
            let missing: BTreeSet<i32> = x.missing(40).collect();
            prop_assert_eq!(missing, (0..40).filter(|n| !a.contains(n)).collect::<BTreeSet<_>>());
        }
    }
}
