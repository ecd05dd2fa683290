//! Numbers of events as ranges: which are there, and of which it is known that they are not.

use std::ops::RangeInclusive;

/// More ranges than these are joined, the lowest first.
const MOST_RANGES: usize = 1000;

/// A set of numbers; its ranges rise and do not touch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Numbers(Vec<(u64, u64)>);

impl Numbers {
    /// As [`Numbers::ranges`] gave them; what is out of order is no set.
    pub(super) fn of(ranges: Vec<(u64, u64)>) -> Option<Numbers> {
        let rises = ranges.iter().all(|(from, until)| from <= until);
        (rises && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)).then_some(Numbers(ranges))
    }

    pub(super) fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|(from, until)| until - from + 1).sum()
    }

    pub(super) fn insert(&mut self, ids: RangeInclusive<u64>) {
        let (mut from, mut until) = (*ids.start(), *ids.end());
        if from > until {
            return;
        }
        let begin = self.0.partition_point(|range| range.1.saturating_add(1) < from);
        let end = self.0.partition_point(|range| range.0 <= until.saturating_add(1));
        if let [first, ..] = &self.0[begin..end] {
            from = from.min(first.0);
            until = until.max(self.0[end - 1].1);
        }
        self.0.splice(begin..end, [(from, until)]);
        if self.0.len() > MOST_RANGES {
            self.0[1].0 = self.0[0].0;
            self.0.remove(0);
        }
    }

    /// Those of a range that are not in this set.
    pub(super) fn lacks(&self, ids: RangeInclusive<u64>) -> Numbers {
        let (mut next, mut lacks) = (*ids.start(), Numbers::default());
        let begin = self.0.partition_point(|range| range.1 < next);
        for (from, until) in self.0[begin..].iter().take_while(|range| range.0 <= *ids.end()) {
            if next < *from {
                lacks.0.push((next, from - 1));
            }
            next = until.saturating_add(1);
        }
        if next <= *ids.end() {
            lacks.0.push((next, *ids.end()));
        }
        lacks
    }

    /// Those of a range that are in neither set.
    pub(super) fn lacks_both(&self, other: &Numbers, ids: RangeInclusive<u64>) -> Numbers {
        let parts = self.lacks(ids).0.into_iter().flat_map(|(from, until)| other.lacks(from..=until).0);
        Numbers(parts.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_a_plain_set_holds(
            one in prop::collection::vec((1u64..60, 0u64..9), 0..20),
            two in prop::collection::vec((1u64..60, 0u64..9), 0..20),
            (from, length) in (1u64..60, 0u64..60),
        ) {
            let sets = |list: Vec<(u64, u64)>| {
                let (mut ranges, mut plain) = (Numbers::default(), BTreeSet::new());
                for (from, more) in list {
                    ranges.insert(from..=from + more);
                    plain.extend(from..=from + more);
                }
                (ranges, plain)
            };
            let ((one, one_plain), (two, two_plain)) = (sets(one), sets(two));
            prop_assert_eq!(Numbers::of(one.ranges().to_vec()), Some(one.clone()));
            prop_assert_eq!(one.count(), one_plain.len() as u64);
            let lacks: Vec<u64> =
                one.lacks_both(&two, from..=from + length).0.into_iter().flat_map(|(a, b)| a..=b).collect();
            let plain: Vec<u64> =
                (from..=from + length).filter(|id| !one_plain.contains(id) && !two_plain.contains(id)).collect();
            prop_assert_eq!(lacks, plain);
        }
    }

    #[test]
    fn the_number_of_ranges_is_bounded() {
        let mut numbers = Numbers::default();
        (1..=5000).for_each(|number| numbers.insert(number * 2..=number * 2));
        assert_eq!(numbers.ranges().len(), MOST_RANGES);
        assert_eq!(numbers.ranges().last(), Some(&(10_000, 10_000)));
    }
}
