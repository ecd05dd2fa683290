//! What limits do to one group of people: how often two of them match, and how often one fails to.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::ArrayView2;

use super::{bootstrap, statistics};

/// A tail that rests on fewer pairs of people than this is no evidence.
pub const ENOUGH_PAIRS: usize = 10;

/// Every picture of a group of people against every other.
#[derive(Clone, Debug)]
pub struct Population {
    /// Pictures with a face, by person.
    pictures: Vec<usize>,
    /// People of one group are compared, by person.
    group: Vec<usize>,
    /// Of one person: who, and how far apart.
    genuine: Vec<(usize, f32)>,
    /// Of two people, nearest first.
    impostor: Vec<(u32, u32, f32)>,
}

/// A share, and its interval over people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub share: f64,
    /// None: too few people to tell.
    pub interval: Option<(f64, f64)>,
}

/// False matches at a limit, or the limit at which they are as rare as asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// Share of comparisons of two people nearer than the limit; or the limit.
    pub value: f64,
    /// None: too few people to tell.
    pub interval: Option<(f64, f64)>,
    /// Pairs of people of whom some comparison is as near.
    pub pairs: usize,
}

impl Tail {
    /// Whether enough pairs of people stand behind it.
    pub fn is_evidence(&self) -> bool {
        self.pairs >= ENOUGH_PAIRS
    }
}

impl Population {
    /// `person[i]` says whose embedding (a row of unit length) row `i` is; `group` of each person
    /// with whom that person is compared (all are of one group beyond its end).
    pub fn new(rows: ArrayView2<'_, f32>, person: &[usize], group: &[usize]) -> Population {
        let present: BTreeSet<usize> = person.iter().copied().collect();
        let group: Vec<usize> = present.iter().map(|old| group.get(*old).copied().unwrap_or(0)).collect();
        let number: BTreeMap<usize, usize> = present.into_iter().enumerate().map(|(new, old)| (old, new)).collect();
        let person: Vec<usize> = person.iter().map(|old| number[old]).collect();
        let mut pictures = vec![0; number.len()];
        person.iter().for_each(|person| pictures[*person] += 1);
        let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
        statistics::each_pair(rows, |i, j, distance| match (person[i], person[j]) {
            (one, other) if one == other => genuine.push((one, distance)),
            (one, other) if group[one] == group[other] => impostor.push((one as u32, other as u32, distance)),
            _ => {}
        });
        impostor.sort_unstable_by(|a, b| a.2.total_cmp(&b.2));
        Population { pictures, group, genuine, impostor }
    }

    /// People with a face.
    pub fn people(&self) -> usize {
        self.pictures.len()
    }

    /// Comparisons of one person's pictures.
    pub fn genuine(&self) -> usize {
        self.genuine.len()
    }

    /// Comparisons of two people's pictures.
    pub fn impostor(&self) -> usize {
        self.impostor.len()
    }

    /// Median and standard deviation of the distances of two people; None: there is no comparison.
    pub fn impostor_centre(&self) -> Option<(f64, f64)> {
        let number = self.impostor.len() as f64;
        let distances = || self.impostor.iter().map(|(.., distance)| f64::from(*distance));
        let mean = distances().sum::<f64>() / number;
        let variance = distances().map(|distance| (distance - mean).powi(2)).sum::<f64>() / number;
        Some((self.impostor.get(self.impostor.len() / 2)?.2.into(), variance.sqrt()))
    }

    /// The share of comparisons of two people nearer than a limit; None: there is no comparison.
    pub fn false_matches(&self, limit: f32) -> Option<Tail> {
        let near = &self.impostor[..self.impostor.partition_point(|(.., distance)| *distance < limit)];
        let mut hits: BTreeMap<(u32, u32), f64> = BTreeMap::new();
        near.iter().for_each(|(one, other, _)| *hits.entry(ordered(*one, *other)).or_default() += 1.0);
        let hits: Vec<_> = hits.into_iter().collect();
        let interval = bootstrap::interval(&[self.people()], |drawn| {
            let weighed = hits.iter().map(|((one, other), hits)| weight(&drawn[0], *one, *other) * hits);
            Some(weighed.sum::<f64>() / self.comparisons(&drawn[0])?)
        });
        let value = (!self.impostor.is_empty()).then(|| near.len() as f64 / self.impostor.len() as f64)?;
        Some(Tail { value, interval, pairs: hits.len() })
    }

    /// The limit that this share of comparisons of two people is nearer than; None: too few comparisons.
    pub fn limit_for(&self, rate: f64) -> Option<Tail> {
        let at = allowed(rate, self.impostor.len() as f64);
        let value = (at > 0).then(|| self.impostor.get(at))??.2.into();
        let within = self.impostor[..at].iter().map(|(one, other, _)| ordered(*one, *other));
        let pairs = within.collect::<BTreeSet<_>>().len();
        let interval = bootstrap::interval(&[self.people()], |drawn| {
            let allowed = rate * self.comparisons(&drawn[0])?;
            let mut sum = 0.0;
            let beyond = self.impostor.iter().find(|(one, other, _)| {
                sum += weight(&drawn[0], *one, *other);
                sum > allowed
            });
            Some(beyond?.2.into())
        });
        Some(Tail { value, interval, pairs })
    }

    /// Distances, and the share of comparisons of two people within each: at most twelve
    /// points for each power of ten from `least` on.
    pub fn curve(&self, least: f64) -> Vec<(f64, f64)> {
        const PER_DECADE: f64 = 12.0;
        let all = self.impostor.len() as f64;
        let points = (-least.log10() * PER_DECADE).round() as usize;
        let within = (0..=points).rev().map(|i| allowed(10f64.powf(-(i as f64) / PER_DECADE), all));
        let distance = |at: usize| Some(self.impostor.get(at.checked_sub(1)?)?.2);
        let mut distances: Vec<f32> = within.filter_map(distance).collect();
        distances.dedup();
        let within = |distance| self.impostor.partition_point(|(.., other)| *other <= distance);
        let share = |distance| within(distance) as f64 / all;
        distances.into_iter().map(|distance| (distance.into(), share(distance))).collect()
    }

    /// Share of comparisons of two people from which on enough pairs of people are as
    /// near.
    pub fn evidence_from(&self) -> f64 {
        let mut pairs = BTreeSet::new();
        let enough = self.impostor.iter().position(|(one, other, _)| {
            pairs.insert(ordered(*one, *other));
            pairs.len() >= ENOUGH_PAIRS
        });
        enough.map_or(1.0, |at| (at + 1) as f64 / self.impostor.len() as f64)
    }

    /// The share of comparisons of one person's pictures that a limit refuses; None: there is no comparison.
    pub fn false_non_matches(&self, limit: f32) -> Option<Share> {
        let mut of = vec![(0.0, 0.0); self.people()];
        for (person, distance) in &self.genuine {
            of[*person].0 += f64::from(u8::from(*distance >= limit));
            of[*person].1 += 1.0;
        }
        of.retain(|(_, all)| *all > 0.0);
        let share = |drawn: &[Vec<u32>]| {
            let weighed =
                of.iter().zip(&drawn[0]).map(|((missed, all), n)| (missed * f64::from(*n), all * f64::from(*n)));
            let (missed, all) = weighed.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            (all > 0.0).then(|| missed / all)
        };
        let interval = bootstrap::interval(&[of.len()], share);
        Some(Share { share: share(&[vec![1; of.len()]])?, interval })
    }

    /// Comparisons of two people, if each person were there so often; None: there is none.
    fn comparisons(&self, drawn: &[u32]) -> Option<f64> {
        let mut groups: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for ((pictures, n), group) in self.pictures.iter().zip(drawn).zip(&self.group) {
            let n = *pictures as f64 * f64::from(*n);
            let (sum, squares) = groups.entry(*group).or_default();
            (*sum, *squares) = (*sum + n, *squares + n * n);
        }
        let pairs: f64 = groups.values().map(|(sum, squares)| (sum * sum - squares) / 2.0).sum();
        (pairs > 0.0).then_some(pairs)
    }
}

/// So many of `all` are a share of `rate`; a hair more, because 1e-3 · 1000 need not be 1 exactly.
fn allowed(rate: f64, all: f64) -> usize {
    (rate * all * (1.0 + 1e-9)) as usize
}

fn ordered(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

fn weight(drawn: &[u32], one: u32, other: u32) -> f64 {
    f64::from(drawn[one as usize]) * f64::from(drawn[other as usize])
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};

    use super::*;
    use crate::{eval::statistics::unit_rows, triplet::Random};

    /// `people` with three pictures each, on a circle in the order of their numbers.
    fn group(people: usize, noise: f32) -> (Array2<f32>, Vec<usize>) {
        let mut random = Random::new(7);
        let person: Vec<usize> = (0..people * 3).map(|i| i / 3).collect();
        let angle = |who: usize, noise: f32| who as f32 / people as f32 * std::f32::consts::PI + noise;
        let values = person.iter().flat_map(|&who| {
            let (sine, cosine) = angle(who, random.normal() * noise).sin_cos();
            [sine, cosine]
        });
        (unit_rows(Array2::from_shape_vec((people * 3, 2), values.collect()).unwrap()), person)
    }

    #[test]
    fn shares_are_those_of_all_comparisons() {
        let (rows, person) = group(40, 0.02);
        let all = statistics::all_pairs(rows.view(), &person).unwrap();
        let population = Population::new(rows.view(), &person, &[]);
        for limit in [0.05, 0.1, 0.5] {
            let (fmr, tar) = all.rates(limit);
            let (low, high) = population.false_matches(limit).unwrap().interval.unwrap();
            assert_eq!(population.false_matches(limit).unwrap().value, fmr);
            assert!((population.false_non_matches(limit).unwrap().share - (1.0 - tar)).abs() < 1e-9);
            assert!(low <= fmr && fmr <= high, "{low} {fmr} {high}");
        }
        let own = population.limit_for(1e-2).unwrap();
        assert_eq!(own.value, f64::from(all.threshold(1e-2).unwrap()));
        let (low, high) = own.interval.unwrap();
        assert!(low <= own.value && own.value <= high, "{own:?}");
    }

    #[test]
    fn centre_and_width_are_those_of_all_comparisons() {
        // Three people in a right angle and its middle: apart by all of it once, by half twice.
        let rows = ndarray::arr2(&[[1.0, 0.0], [0.0, 1.0], [0.5f32.sqrt(), 0.5f32.sqrt()]]);
        let (centre, width) = Population::new(rows.view(), &[0, 1, 2], &[]).impostor_centre().unwrap();
        let (near, far) = ((2.0 - 2f64.sqrt()).sqrt(), 2f64.sqrt());
        assert!((centre - near).abs() < 1e-6 && (width - (far - near) * 2f64.sqrt() / 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_tail_of_few_pairs_of_people_is_no_evidence() {
        // Two of forty look alike: nine false matches of one pair.
        let (mut rows, person) = group(40, 0.0);
        (3..6).for_each(|i| rows.row_mut(i).assign(&ndarray::arr1(&[0.0, 1.0])));
        let tail = Population::new(rows.view(), &person, &[]).false_matches(1e-3).unwrap();
        assert_eq!((tail.pairs, tail.is_evidence(), tail.value), (1, false, 9.0 / 7020.0));
        // Neighbours of forty are as near as this.
        let tail = Population::new(rows.view(), &person, &[]).false_matches(0.08).unwrap();
        assert!(tail.pairs >= 37 && tail.is_evidence(), "{tail:?}");
    }

    #[test]
    fn a_curve_is_the_share_of_comparisons_within_a_distance() {
        let (rows, person) = group(40, 0.02);
        let population = Population::new(rows.view(), &person, &[]);
        let all = statistics::all_pairs(rows.view(), &person).unwrap();
        let curve = population.curve(1e-6);
        for (distance, share) in &curve {
            let (fmr, _) = all.rates((*distance as f32).next_up());
            assert!((fmr - share).abs() < 1e-9, "{distance} {share}");
        }
        assert!(curve.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1), "{curve:?}");
        assert_eq!((curve[0].1, curve.last().unwrap().1), (1.0 / 7020.0, 1.0));
        let first = population.evidence_from();
        let limit = curve.iter().find(|(_, share)| *share >= first).unwrap().0 as f32;
        assert!(population.false_matches(limit.next_up()).unwrap().is_evidence());
        let alone = Population::new(rows.select(Axis(0), &[0, 1]).view(), &[0, 0], &[]);
        assert_eq!((alone.curve(1e-6), alone.evidence_from()), (vec![], 1.0));
    }

    #[test]
    fn people_without_a_face_leave_no_gap() {
        let (rows, person) = group(20, 0.01);
        let spread: Vec<usize> = person.iter().map(|person| person * 1000).collect();
        let (a, b) = (Population::new(rows.view(), &person, &[]), Population::new(rows.view(), &spread, &[]));
        assert_eq!(a.people(), b.people());
        assert_eq!(a.false_matches(0.2), b.false_matches(0.2));
    }

    #[test]
    fn people_of_different_groups_are_not_compared() {
        let (rows, person) = group(40, 0.02);
        let halves: Vec<usize> = (0..40).map(|person| person / 20).collect();
        let both = Population::new(rows.view(), &person, &halves);
        let [first, second] = [0..60, 60..120].map(|half: std::ops::Range<usize>| {
            Population::new(rows.select(Axis(0), &half.clone().collect::<Vec<_>>()).view(), &person[half], &[])
        });
        assert_eq!(both.impostor(), first.impostor() + second.impostor());
        let [all, one, other] = [&both, &first, &second].map(|of| of.false_matches(0.2).unwrap());
        assert!((all.value - (one.value + other.value) / 2.0).abs() < 1e-9);
        let (low, high) = all.interval.unwrap();
        assert!(low <= all.value && all.value <= high);
    }

    #[test]
    fn one_person_has_no_false_matches_and_one_picture_no_misses() {
        let (rows, person) = group(1, 0.1);
        let alone = Population::new(rows.view(), &person, &[]);
        assert_eq!((alone.false_matches(1.0), alone.limit_for(1e-2)), (None, None));
        assert_eq!(alone.impostor_centre(), None);
        assert!(alone.false_non_matches(1.0).is_some());
        let two = Population::new(rows.select(Axis(0), &[0, 1]).view(), &[0, 1], &[]);
        assert!(two.false_matches(1.0).is_some() && two.false_non_matches(1.0).is_none());
    }
}
