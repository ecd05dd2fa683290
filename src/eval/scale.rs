//! An embedder's distances besides the limits of matches (`src/scale.rs`), from pictures of
//! known people that were taken on different days.

use std::{collections::BTreeMap, fmt};

use ndarray::{Array1, ArrayView2};

use super::statistics::{Distances, distance};
use crate::triplet::Random;

/// Of two pictures of one person, one pair in this number is farther apart than
/// `max_spread`. Of several pictures, whose mean counts, it is one in more.
const REFUSED: f64 = 1.0 / 40.0;
/// Of known people who come, one in this number is nearer to the next person than
/// `margin` asks.
const UNDECIDED: f64 = 1.0 / 1000.0;
/// Of two different people one pair in this number is within `same_face`.
const MIXED: f64 = 1e-4;
/// Of two pictures of one person, one pair in this number is within `one_moment`.
const ALIKE: f64 = 1.0 / 50.0;

/// A door at which the margin is measured: people with a picture each, and looks of a visit.
const ENROLLED: usize = 15;
const LOOKS: usize = 3;
const VISITS: usize = 20_000;
/// Fewer show no tail.
const ENOUGH_PEOPLE: usize = 50;
/// A tail of fewer comparisons than this is none.
const ENOUGH: f64 = 10.0;

/// What the manifest holds; None: too few pictures to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub max_spread: Option<f32>,
    pub margin: Option<f32>,
    pub same_face: Option<f32>,
    pub one_moment: Option<f32>,
}

impl Scale {
    /// `parts` are embeddings that are compared with those of their part, and whose they are;
    /// `all` are their distances.
    pub fn measure(parts: &[(ArrayView2<'_, f32>, &[usize])], all: &Distances) -> Scale {
        Scale {
            max_spread: quantile(all.genuine(), 1.0 - REFUSED),
            margin: margin(parts, all.threshold(MIXED)),
            same_face: all.threshold(MIXED),
            one_moment: quantile(all.genuine(), ALIKE),
        }
    }

    /// Of both the one that refuses more.
    pub fn stricter(self, other: Scale) -> Scale {
        let least = |one: Option<f32>, other: Option<f32>| one.zip(other).map(|(one, other)| one.min(other));
        Scale {
            max_spread: least(self.max_spread, other.max_spread),
            margin: self.margin.zip(other.margin).map(|(one, other)| one.max(other)),
            same_face: least(self.same_face, other.same_face),
            one_moment: least(self.one_moment, other.one_moment),
        }
    }
}

impl fmt::Display for Scale {
    /// As the manifest has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = [
            ("max_spread", self.max_spread),
            ("margin", self.margin),
            ("same_face", self.same_face),
            ("one_moment", self.one_moment),
        ];
        for (key, value) in keys {
            match value {
                Some(value) => writeln!(f, "{key} = {value:.3}")?,
                None => writeln!(f, "# {key}: too few pictures")?,
            }
        }
        Ok(())
    }
}

/// The value that this share of the sorted ones lies below; None: too few lie beyond.
fn quantile(sorted: &[f32], share: f64) -> Option<f32> {
    let count = sorted.len() as f64;
    (count * share.min(1.0 - share) >= ENOUGH).then(|| sorted[(count * share) as usize])
}

/// How much nearer the right person is than the next, in all visits within the limit but the
/// undecided ones. A visit is the mean of some looks.
fn margin(parts: &[(ArrayView2<'_, f32>, &[usize])], limit: Option<f32>) -> Option<f32> {
    let limit = limit?;
    let parts: Vec<Part<'_>> = parts.iter().map(|(rows, person)| Part::new(*rows, person)).collect();
    let visitors: Vec<(&Part<'_>, usize)> = parts.iter().flat_map(Part::visitors).collect();
    if visitors.len() < ENOUGH_PEOPLE {
        return None;
    }
    let mut random = Random::new(1);
    let visits = visitors.iter().cycle().take(VISITS);
    let mut gaps: Vec<f32> = visits.filter_map(|(part, who)| part.gap(*who, limit, &mut random)).collect();
    gaps.sort_unstable_by(f32::total_cmp);
    quantile(&gaps, UNDECIDED).filter(|gap| *gap >= 0.001)
}

/// Embeddings by person.
struct Part<'a> {
    rows: ArrayView2<'a, f32>,
    people: Vec<Vec<usize>>,
}

impl<'a> Part<'a> {
    fn new(rows: ArrayView2<'a, f32>, person: &[usize]) -> Part<'a> {
        let mut people: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        person.iter().enumerate().for_each(|(row, who)| people.entry(*who).or_default().push(row));
        Part { rows, people: people.into_values().collect() }
    }

    /// Those with a picture to enrol and the looks of a visit, if there are others.
    fn visitors(&self) -> impl Iterator<Item = (&Part<'a>, usize)> {
        let enough = |who: &usize| self.people.len() >= ENROLLED && self.people[*who].len() > LOOKS;
        (0..self.people.len()).filter(enough).map(move |who| (self, who))
    }

    /// In one visit of a person; None: the person is not recognised.
    fn gap(&self, who: usize, limit: f32, random: &mut Random) -> Option<f32> {
        let mut own = self.people[who].clone();
        random.shuffle(&mut own);
        let probe = mean(self.rows, &own[..LOOKS]);
        let to = |row: usize| distance(self.rows.row(row), probe.view());
        let right = to(own[LOOKS]);
        let mut other = || {
            let other = &self.people[(who + 1 + random.below(self.people.len() - 1)) % self.people.len()];
            to(other[random.below(other.len())])
        };
        let next = (1..ENROLLED).map(|_| other()).fold(f32::INFINITY, f32::min);
        (right <= limit).then_some(next - right)
    }
}

fn mean(rows: ArrayView2<'_, f32>, of: &[usize]) -> Array1<f32> {
    let sum = of.iter().fold(Array1::zeros(rows.ncols()), |sum: Array1<f32>, row| sum + rows.row(*row));
    let length = sum.dot(&sum).sqrt();
    sum / length.max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::eval::statistics::{all_pairs, unit_rows};

    /// People with pictures that differ by noise around a direction of their own.
    fn people(count: usize, pictures: usize, noise: f32) -> (Array2<f32>, Vec<usize>) {
        const DIMENSION: usize = 24;
        let mut random = Random::new(3);
        let mut values = Vec::new();
        for _ in 0..count {
            let own: Vec<f32> = (0..DIMENSION).map(|_| random.normal()).collect();
            for _ in 0..pictures {
                values.extend(own.iter().map(|value| value + noise * random.normal()));
            }
        }
        let rows = Array2::from_shape_vec((count * pictures, DIMENSION), values).unwrap();
        (unit_rows(rows), (0..count * pictures).map(|i| i / pictures).collect())
    }

    #[test]
    fn each_distance_has_the_tail_that_it_stands_for() {
        let (rows, person) = people(120, 5, 0.5);
        let all = all_pairs(rows.view(), &person).unwrap();
        let scale = Scale::measure(&[(rows.view(), &person)], &all);
        let farther = |limit: f32| 1.0 - all.rates(limit).1;
        assert!((farther(scale.max_spread.unwrap()) - REFUSED).abs() < 2e-3, "{scale:?}");
        assert!((farther(scale.one_moment.unwrap()) - 1.0 + ALIKE).abs() < 2e-3, "{scale:?}");
        assert_eq!(scale.same_face, all.threshold(MIXED));
        assert!(scale.one_moment < scale.max_spread && scale.margin.unwrap() > 0.0, "{scale:?}");
    }

    #[test]
    fn people_who_are_harder_to_tell_apart_get_a_smaller_margin() {
        let margin = |noise| {
            let (rows, person) = people(120, 5, noise);
            let all = all_pairs(rows.view(), &person).unwrap();
            Scale::measure(&[(rows.view(), &person)], &all).margin.unwrap()
        };
        assert!(margin(0.3) > margin(0.5) + 0.05);
    }

    #[test]
    fn too_few_pictures_give_no_distance() {
        let (rows, person) = people(20, 3, 0.3);
        let all = all_pairs(rows.view(), &person).unwrap();
        let scale = Scale::measure(&[(rows.view(), &person)], &all);
        assert_eq!((scale.max_spread, scale.margin, scale.one_moment), (None, None, None));
        assert!(scale.to_string().contains("# margin: too few pictures"), "{scale}");
    }
}
