//! Intervals of what was measured on people, by drawing the people with replacement (Efron 1979).
//!
//! Comparisons of the same people resemble each other: an interval over comparisons is too narrow.
//! Where a figure depends on two kinds of things (visitors and doors), each kind is drawn by itself
//! (Owen 2007, "The pigeonhole bootstrap").

use super::statistics::CONFIDENCE;
use crate::triplet::Random;

/// Samples drawn.
const SAMPLES: usize = 1000;

/// The interval of a figure at [`CONFIDENCE`], the same in every run.
///
/// `kinds` says how many things of each kind there are. `figure` gets how often each was drawn;
/// None: the sample shows nothing. A kind of one thing is not drawn: nothing is known of how such
/// things differ.
pub fn interval(kinds: &[usize], mut figure: impl FnMut(&[Vec<u32>]) -> Option<f64>) -> Option<(f64, f64)> {
    if kinds.iter().all(|things| *things < 2) {
        return None;
    }
    let mut random = Random::new(1);
    let mut drawn: Vec<Vec<u32>> = kinds.iter().map(|things| vec![1; *things]).collect();
    let mut figures: Vec<f64> = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        for counts in drawn.iter_mut().filter(|counts| counts.len() > 1) {
            counts.fill(0);
            let things = counts.len();
            (0..things).for_each(|_| counts[random.below(things)] += 1);
        }
        figures.extend(figure(&drawn));
    }
    figures.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| figures.get((share * (figures.len().max(1) - 1) as f64).round() as usize).copied();
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Some((at(tail)?, at(1.0 - tail)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 40 people 10 have it: the standard error of the share is √(.25 · .75 / 40) = .068.
    #[test]
    fn the_interval_of_a_share_is_that_of_the_normal_approximation() {
        let share = |drawn: &[Vec<u32>]| Some(f64::from(drawn[0][..10].iter().sum::<u32>()) / 40.0);
        let (low, high) = interval(&[40], share).unwrap();
        assert!((low - (0.25 - 1.96 * 0.068)).abs() < 0.03 && (high - (0.25 + 1.96 * 0.068)).abs() < 0.03);
    }

    #[test]
    fn many_comparisons_of_few_people_do_not_narrow_the_interval() {
        let width = |of_each: u32| {
            let share = |drawn: &[Vec<u32>]| {
                let hits = of_each * drawn[0][..5].iter().sum::<u32>();
                Some(f64::from(hits) / f64::from(of_each * 10))
            };
            let (low, high) = interval(&[10], share).unwrap();
            high - low
        };
        assert_eq!(width(1), width(1000));
        assert!(width(1) > 0.4);
    }

    #[test]
    fn one_of_a_kind_shows_no_spread() {
        assert_eq!(interval(&[1], |_| Some(1.0)), None);
        let alone = |drawn: &[Vec<u32>]| Some(f64::from(drawn[1][0]));
        assert_eq!(interval(&[5, 1], alone), Some((1.0, 1.0)));
        assert_eq!(interval(&[5], |_| None), None);
    }
}
