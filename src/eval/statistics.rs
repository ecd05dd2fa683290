//! Numbers from distances, and distances from embeddings and labels; nothing here reads or prints anything.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, Slice};

/// False-match rates that are reported.
pub const RATES: [f64; 5] = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
/// Of the intervals given with rates.
pub const CONFIDENCE: f64 = 0.95;
/// The best threshold of a sample jumps by a hundredth for the sake of one pair, so the mean of all that are nearly as good is taken:
/// those that decide at most this share of pairs less right.
const NEARLY: f64 = 0.002;
/// Rows compared at once: their inner products with everything take some megabytes.
const BLOCK: usize = 256;

/// Two pictures compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    pub distance: f32,
    /// They show one person.
    pub genuine: bool,
}

/// Distances of comparisons of one person with himself and of different people, at least one of each kind, sorted.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    genuine: Vec<f32>,
    impostor: Vec<f32>,
}

/// What a threshold does: at most `fmr` of impostor comparisons are nearer than `distance`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    pub fmr: f64,
    pub distance: f32,
    /// Share of genuine comparisons that are nearer: the true acceptance rate.
    pub tar: f64,
    /// Clopper-Pearson interval of it. Comparisons of the same pictures are not independent, so the truth is rather wider.
    pub interval: (f64, f64),
}

impl Distances {
    /// None when there is not at least one of each kind, or a distance is NaN.
    pub fn new(mut genuine: Vec<f32>, mut impostor: Vec<f32>) -> Option<Distances> {
        if genuine.is_empty() || impostor.is_empty() || genuine.iter().chain(&impostor).any(|d| d.is_nan()) {
            return None;
        }
        genuine.sort_unstable_by(f32::total_cmp);
        impostor.sort_unstable_by(f32::total_cmp);
        Some(Distances { genuine, impostor })
    }

    /// All comparisons of several samples as one; None when there is none.
    pub fn merged(samples: impl IntoIterator<Item = Distances>) -> Option<Distances> {
        let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
        for sample in samples {
            genuine.extend(sample.genuine);
            impostor.extend(sample.impostor);
        }
        Distances::new(genuine, impostor)
    }

    pub fn genuine(&self) -> &[f32] {
        &self.genuine
    }

    pub fn impostor(&self) -> &[f32] {
        &self.impostor
    }

    /// Shares of impostor (FMR) and of genuine comparisons (TAR) that are nearer than `distance`.
    pub fn rates(&self, distance: f32) -> (f64, f64) {
        (share_below(&self.impostor, distance), share_below(&self.genuine, distance))
    }

    /// The distance nearer than which that share of impostor comparisons are; None where so few comparisons cannot show it, which is
    /// where not even one of them may match.
    pub fn threshold(&self, fmr: f64) -> Option<f32> {
        // A hair more, because 1e-3 · 1000 need not be 1 exactly.
        let allowed = (fmr * self.impostor.len() as f64 * (1.0 + 1e-9)) as usize;
        (allowed > 0).then(|| self.impostor[allowed.min(self.impostor.len() - 1)])
    }

    /// The point of a false-match rate; None as for [`Distances::threshold`].
    pub fn at(&self, fmr: f64) -> Option<OperatingPoint> {
        let distance = self.threshold(fmr)?;
        let below = self.genuine.partition_point(|d| *d < distance);
        let (of, tar) = (self.genuine.len(), below as f64 / self.genuine.len() as f64);
        Some(OperatingPoint { fmr, distance, tar, interval: clopper_pearson(below, of, CONFIDENCE) })
    }

    /// TAR over FMR, a few points for each power of ten of the latter, from the least rate that these comparisons can show to 1.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        const PER_DECADE: f64 = 12.0;
        let decades = (self.impostor.len() as f64).log10();
        let points = (decades * PER_DECADE).ceil() as usize;
        let fmr = |i: usize| 10f64.powf(-decades * (1.0 - i as f64 / points.max(1) as f64));
        (0..=points).map(fmr).filter_map(|fmr| Some((fmr, self.rates(self.threshold(fmr)?).1))).collect()
    }

    /// Area under the receiver operating characteristic: the probability that a genuine comparison is nearer than an impostor
    /// one, ties counting half (the Mann-Whitney statistic).
    pub fn auc(&self) -> f64 {
        let beaten = |d: &f32| {
            let farther = self.impostor.len() - self.impostor.partition_point(|i| i <= d);
            let tied = self.impostor.len() - farther - self.impostor.partition_point(|i| i < d);
            farther as f64 + tied as f64 / 2.0
        };
        let wins: f64 = self.genuine.iter().map(beaten).sum();
        wins / (self.genuine.len() as f64 * self.impostor.len() as f64)
    }

    /// Equal error rate: where as many impostors match as genuine comparisons do not, interpolated between thresholds.
    pub fn eer(&self) -> f64 {
        let mut last = (0.0, 1.0);
        // The crossing lies at or before the first genuine distance at which FMR ≥ FNMR, because FNMR changes only there.
        let thresholds = self.genuine.iter().copied().chain([f32::INFINITY]);
        for threshold in thresholds.flat_map(|d| [d, d.next_up()]) {
            let (fmr, tar) = self.rates(threshold);
            let fnmr = 1.0 - tar;
            if fmr >= fnmr {
                let (fmr_before, fnmr_before): (f64, f64) = last;
                let gap_before = fnmr_before - fmr_before;
                let gap = fmr - fnmr;
                let share = if gap_before + gap > 0.0 { gap_before / (gap_before + gap) } else { 0.0 };
                return fmr_before + share * (fmr - fmr_before);
            }
            last = (fmr, fnmr);
        }
        // Unreachable: at an infinite threshold FMR is 1 and FNMR 0.
        0.5
    }
}

fn share_below(sorted: &[f32], distance: f32) -> f64 {
    sorted.partition_point(|d| *d < distance) as f64 / sorted.len() as f64
}

/// Interval of a proportion of `hits` in `trials` at `confidence`, never too narrow (Clopper and Pearson 1934): those probabilities at
/// which neither as many nor as few hits would be a surprise.
pub fn clopper_pearson(hits: usize, trials: usize, confidence: f64) -> (f64, f64) {
    let tail = (1.0 - confidence) / 2.0;
    let ln_factorials: Vec<f64> = std::iter::once(0.0)
        .chain((1..=trials).scan(0.0, |sum, i| {
            *sum += (i as f64).ln();
            Some(*sum)
        }))
        .collect();
    // Probability of `from` to `to` hits, each of probability p.
    let probability = |p: f64, from: usize, to: usize| -> f64 {
        let ln = |hits: usize| {
            let misses = trials - hits;
            ln_factorials[trials] - ln_factorials[hits] - ln_factorials[misses]
                + hits as f64 * p.ln()
                + misses as f64 * (-p).ln_1p()
        };
        (from..=to).map(|hits| ln(hits).exp()).sum()
    };
    // Where a probability that rises with p (or, turned around, falls) reaches the tail's.
    let bisect = |rises: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..50 {
            let middle = (low + high) / 2.0;
            if rises(middle) { high = middle } else { low = middle }
        }
        (low + high) / 2.0
    };
    let lower = if hits == 0 { 0.0 } else { bisect(&|p| probability(p, hits, trials) > tail) };
    let upper = if hits == trials { 1.0 } else { bisect(&|p| probability(p, 0, hits) < tail) };
    (lower, upper)
}

/// Share of comparisons decided right, each fold with the threshold that is best on the others: mean and standard error.
///
/// Folds are runs of equal length in the order given. None when there are fewer than two folds or than two comparisons a fold.
pub fn accuracy(comparisons: &[Comparison], folds: usize) -> Option<(f64, f64)> {
    let size = comparisons.len().checked_div(folds)?;
    if folds < 2 || size < 2 {
        return None;
    }
    let each: Vec<f64> = (0..folds)
        .map(|fold| {
            let (from, to) = (fold * size, (fold + 1) * size);
            let threshold = best_threshold([&comparisons[..from], &comparisons[to..]].concat());
            let right = |c: &&Comparison| (c.distance <= threshold) == c.genuine;
            comparisons[from..to].iter().filter(right).count() as f64 / size as f64
        })
        .collect();
    let mean = each.iter().sum::<f64>() / folds as f64;
    let variance = each.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (folds - 1) as f64;
    Some((mean, (variance / folds as f64).sqrt()))
}

fn best_threshold(mut training: Vec<Comparison>) -> f32 {
    training.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance));
    let impostors = training.iter().filter(|c| !c.genuine).count() as i64;
    let right: Vec<i64> = training
        .iter()
        .scan(impostors, |right, c| {
            *right += if c.genuine { 1 } else { -1 };
            Some(*right)
        })
        .collect();
    let least = right.iter().max().copied().unwrap_or(0) - (NEARLY * training.len() as f64) as i64;
    let good: Vec<f32> = training.iter().zip(&right).filter(|(_, r)| **r >= least).map(|(c, _)| c.distance).collect();
    good.iter().sum::<f32>() / good.len() as f32
}

/// Distance of two unit-length embeddings.
pub fn distance(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Every embedding (a row of unit length) against every other; `person[i]` says whose row `i` is.
///
/// None when no two rows are of one person or all are.
pub fn all_pairs(rows: ArrayView2<'_, f32>, person: &[usize]) -> Option<Distances> {
    let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
    each_pair(rows, |i, j, distance| {
        let same = person[i] == person[j];
        if same { &mut genuine } else { &mut impostor }.push(distance);
    });
    Distances::new(genuine, impostor)
}

/// Tells of every two rows of unit length how far apart they are.
pub fn each_pair(rows: ArrayView2<'_, f32>, mut tell: impl FnMut(usize, usize, f32)) {
    for start in (0..rows.nrows()).step_by(BLOCK) {
        let end = (start + BLOCK).min(rows.nrows());
        // |a − b|² = 2 − 2 a·b for unit vectors.
        let likeness =
            rows.slice_axis(Axis(0), Slice::from(start..end)).dot(&rows.slice_axis(Axis(0), Slice::from(start..)).t());
        for (i, line) in likeness.outer_iter().enumerate() {
            for (j, product) in line.iter().enumerate().skip(i + 1) {
                tell(start + i, start + j, (2.0 - 2.0 * product).max(0.0).sqrt());
            }
        }
    }
}

/// Unit means of the first `enrolled` pictures of each person against unit means of `probe` other pictures: as a gallery with several
/// pictures of each person meets visitors who are looked at several times.
///
/// Probes are runs of `probe` pictures; of the people enrolled their remaining ones, of strangers all. None when nobody has enough pictures.
pub fn fused(rows: ArrayView2<'_, f32>, person: &[usize], enrolled: usize, probe: usize) -> Option<Distances> {
    let people = person.iter().max().map_or(0, |most| most + 1);
    let mut of: Vec<Vec<usize>> = vec![Vec::new(); people];
    person.iter().enumerate().for_each(|(row, &person)| of[person].push(row));
    let probes = |from: &[usize]| from.chunks_exact(probe).map(|run| unit_mean(rows, run)).collect::<Vec<_>>();
    let of_everybody: Vec<Vec<Array1<f32>>> = of.iter().map(|own| probes(own)).collect();
    let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
    for (who, own) in of.iter().enumerate().filter(|(_, own)| own.len() >= enrolled + probe) {
        let template = unit_mean(rows, &own[..enrolled]);
        let to = |probe: &Array1<f32>| distance(template.view(), probe.view());
        genuine.extend(probes(&own[enrolled..]).iter().map(to));
        let strangers = of_everybody.iter().enumerate().filter(|(other, _)| *other != who);
        impostor.extend(strangers.flat_map(|(_, probes)| probes).map(to));
    }
    Distances::new(genuine, impostor)
}

/// Unit means of runs of `count` pictures of each person against those of other people: the squared distance of two, and the sum of
/// their spreads (the mean square of the distances from the pictures to their plain mean).
pub fn means_of_strangers(rows: ArrayView2<'_, f32>, person: &[usize], count: usize) -> Vec<(f32, f32)> {
    let mut of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    person.iter().enumerate().for_each(|(row, &person)| of.entry(person).or_default().push(row));
    let mean = |run: &[usize]| {
        let plain = rows.select(Axis(0), run).sum_axis(Axis(0)) / run.len() as f32;
        (1.0 - plain.dot(&plain), unit(plain))
    };
    let runs = of.iter().flat_map(|(who, own)| own.chunks_exact(count).map(move |run| (*who, run)));
    let means: Vec<(usize, (f32, Array1<f32>))> = runs.map(|(who, run)| (who, mean(run))).collect();
    let mut compared = Vec::new();
    for (i, (who, (spread, mean))) in means.iter().enumerate() {
        for (_, (other_spread, other)) in means[..i].iter().filter(|(other, _)| other != who) {
            compared.push((distance(mean.view(), other.view()).powi(2), spread + other_spread));
        }
    }
    compared
}

/// Of means of different people (as [`means_of_strangers`] makes them; with each, the distance that is the limit for single pictures), at
/// most the share `fmr` is within `limit² − shrink · spread`: how large the shrink must be for that, 0 to 1.
///
/// None when fewer than ten of them are such a share: that would be no measurement.
pub fn shrink(means: &[(f32, f32)], limits: &[f32], fmr: f64) -> Option<f32> {
    const ENOUGH: usize = 10;
    let allowed = (fmr * means.len() as f64) as usize;
    let mut needed: Vec<f32> =
        means.iter().zip(limits).map(|((square, spread), limit)| (limit * limit - square) / spread).collect();
    needed.sort_unstable_by(|a, b| b.total_cmp(a));
    (allowed >= ENOUGH).then(|| needed[allowed].clamp(0.0, 1.0))
}

fn unit_mean(rows: ArrayView2<'_, f32>, of: &[usize]) -> Array1<f32> {
    unit(of.iter().fold(Array1::zeros(rows.ncols()), |sum: Array1<f32>, &row| sum + rows.row(row)))
}

fn unit(values: Array1<f32>) -> Array1<f32> {
    let length = values.dot(&values).sqrt();
    // Opposite embeddings cancel out; such a mean is as far from everything as a direction at random.
    if length > 0.0 { values / length } else { values }
}

/// Each row scaled to unit length.
pub fn unit_rows(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let length = row.dot(&row).sqrt();
        if length > 0.0 {
            row /= length;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    fn distances(genuine: &[f32], impostor: &[f32]) -> Distances {
        Distances::new(genuine.to_vec(), impostor.to_vec()).unwrap()
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Exact binomial intervals at 95 %: of 0 and 10 in 10 (closed form 1 − 0.025^(1/10)), and 1, 5 of 10, 8 of 20, 50 of 100.
        for (hits, trials, lower, upper) in [
            (0, 10, 0.0, 0.308_5),
            (10, 10, 0.691_5, 1.0),
            (1, 10, 0.002_5, 0.445_0),
            (5, 10, 0.187_1, 0.812_9),
            (8, 20, 0.191_2, 0.639_5),
            (50, 100, 0.398_3, 0.601_7),
        ] {
            let (low, high) = clopper_pearson(hits, trials, 0.95);
            assert!((low - lower).abs() < 1e-4 && (high - upper).abs() < 1e-4, "{hits} of {trials}: {low} {high}");
        }
    }

    #[test]
    fn intervals_of_many_trials_are_near_the_normal_ones() {
        let (low, high) = clopper_pearson(7_600, 10_000, 0.95);
        let half = 1.96 * (0.76f64 * 0.24 / 10_000.0).sqrt();
        assert!((low - (0.76 - half)).abs() < 2e-4 && (high - (0.76 + half)).abs() < 2e-4, "{low} {high}");
    }

    #[test]
    fn an_operating_point_lets_just_so_many_impostors_through() {
        let impostor: Vec<f32> = (0..1000).map(|i| 0.5 + i as f32 / 1000.0).collect();
        let all = distances(&[0.1, 0.4, 0.503, 0.9], &impostor);
        let point = all.at(1e-2).unwrap();
        assert_eq!((point.distance, point.tar), (impostor[10], 0.75));
        assert!((all.rates(point.distance).0 - 1e-2).abs() < 1e-12);
        assert_eq!(all.at(1e-3).unwrap().distance, impostor[1]);
        assert_eq!(all.at(1e-4), None, "a thousand comparisons cannot show one in ten thousand");
    }

    #[test]
    fn a_clean_separation_has_no_error() {
        let clean = distances(&[0.1, 0.2, 0.3], &[0.6, 0.7]);
        assert_eq!((clean.auc(), clean.eer()), (1.0, 0.0));
        let reversed = distances(&[0.6, 0.7], &[0.1, 0.2, 0.3]);
        assert_eq!((reversed.auc(), reversed.eer()), (0.0, 1.0));
    }

    #[test]
    fn hand_made_overlaps_have_their_hand_made_errors() {
        // Of 16 comparisons of a genuine with an impostor distance 15 are in order. One in four of each kind lies on the wrong side of 0.35.
        let some = distances(&[0.1, 0.2, 0.3, 0.4], &[0.35, 0.5, 0.6, 0.7]);
        assert_eq!(some.auc(), 15.0 / 16.0);
        assert!((some.eer() - 0.25).abs() < 1e-12, "{}", some.eer());
        let equal = distances(&[0.5; 3], &[0.5; 5]);
        assert_eq!(equal.auc(), 0.5);
        assert!((equal.eer() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn accuracy_is_measured_with_the_other_folds_thresholds() {
        let pair = |distance, genuine| Comparison { distance, genuine };
        // Three folds in perfect order but for one impostor that is nearer than every genuine pair.
        let mut pairs: Vec<Comparison> = (0..30).flat_map(|_| [pair(0.2, true), pair(0.8, false)]).collect();
        assert_eq!(accuracy(&pairs, 3), Some((1.0, 0.0)));
        pairs[1].distance = 0.1;
        let (mean, error) = accuracy(&pairs, 3).unwrap();
        assert!((mean - 59.0 / 60.0).abs() < 1e-12);
        // One fold at .95 and two at 1: the standard deviation is .0289, over √3 .0167.
        assert!((error - 0.05 / 3.0).abs() < 1e-9, "{error}");
        for (few, folds) in [(&pairs[..3], 2), (&pairs[..], 1), (&pairs[..], 0), (&[], 2)] {
            assert_eq!(accuracy(few, folds), None);
        }
    }

    #[test]
    fn fused_pictures_are_compared_as_unit_means() {
        // Two people of four and two pictures, one of one.
        let rows =
            unit_rows(array![[1.0, 0.0], [1.0, 0.2], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]]);
        let person = [0, 0, 0, 0, 1, 1, 2];
        let fused = fused(rows.view(), &person, 2, 2).unwrap();
        let template = unit(&rows.row(0) + &rows.row(1));
        let genuine = distance(template.view(), unit(&rows.row(2) + &rows.row(3)).view());
        let impostor = distance(template.view(), unit(&rows.row(4) + &rows.row(5)).view());
        assert_eq!((fused.genuine(), fused.impostor()), (&[genuine][..], &[impostor][..]));
        assert_eq!(super::fused(rows.view(), &person, 4, 1), None, "nobody has five pictures");
    }

    #[test]
    fn means_of_strangers_lie_nearer_by_their_spread() {
        let rows =
            unit_rows(array![[1.0, 0.2], [0.0, 1.0], [1.0, -0.2], [0.2, 1.0], [1.0, 0.0], [-0.2, 1.0], [1.0, 1.0]]);
        let means = means_of_strangers(rows.view(), &[0, 1, 0, 1, 0, 1, 2], 3);
        // The means are the axes; their plain means are shorter than 1 by what the pictures differ.
        let length = (2.0 / 1.04f32.sqrt() + 1.0) / 3.0;
        assert!(means.len() == 1 && (means[0].0 - 2.0).abs() < 1e-5, "{means:?}");
        assert!((means[0].1 - 2.0 * (1.0 - length * length)).abs() < 1e-5, "{means:?}");
        assert_eq!(means_of_strangers(rows.view(), &[0, 0, 1, 1, 2, 2, 3], 3), []);
    }

    #[test]
    fn the_shrink_lets_just_so_many_means_through() {
        let means: Vec<(f32, f32)> = (0..1000).map(|i| (0.5 + i as f32 / 1000.0, 0.5)).collect();
        let limits = [0.9; 1000];
        let shrink = shrink(&means, &limits, 0.05).unwrap();
        let within = means.iter().filter(|(square, spread)| *square < 0.81 - shrink * spread - 1e-6).count();
        assert_eq!((within, shrink > 0.0 && shrink < 1.0), (50, true), "{shrink}");
        assert_eq!(super::shrink(&means, &limits, 0.005), None, "five show nothing");
        assert_eq!(super::shrink(&means, &[0.2; 1000], 0.05), Some(0.0));
        assert_eq!(super::shrink(&means, &[1.9; 1000], 0.05), Some(1.0));
    }

    #[test]
    fn what_shows_nothing_is_refused() {
        assert_eq!(Distances::new(vec![], vec![0.1]), None);
        assert_eq!(Distances::new(vec![0.1], vec![]), None);
        assert_eq!(Distances::new(vec![f32::NAN], vec![0.1]), None);
        assert_eq!(all_pairs(Array2::zeros((0, 4)).view(), &[]), None);
    }

    proptest! {
        #[test]
        fn statistics_equal_their_naive_loops(
            genuine in proptest::collection::vec(0u8..20, 1..40),
            impostor in proptest::collection::vec(0u8..20, 1..40),
            fmr in 0.001f64..0.5,
        ) {
            // Few different values, so that there are ties.
            let scaled = |values: &[u8]| values.iter().map(|v| f32::from(*v) / 10.0).collect::<Vec<_>>();
            let (genuine, impostor) = (scaled(&genuine), scaled(&impostor));
            let all = distances(&genuine, &impostor);
            let mut wins = 0.0;
            for g in &genuine {
                for i in &impostor {
                    wins += if g < i { 1.0 } else if g == i { 0.5 } else { 0.0 };
                }
            }
            prop_assert!((all.auc() - wins / (genuine.len() * impostor.len()) as f64).abs() < 1e-9);
            let below = |of: &[f32], d: f32| of.iter().filter(|v| **v < d).count() as f64 / of.len() as f64;
            if let Some(point) = all.at(fmr) {
                prop_assert!(below(&impostor, point.distance) <= fmr + 1e-6);
                prop_assert_eq!(point.tar, below(&genuine, point.distance));
                prop_assert!(point.interval.0 <= point.tar && point.tar <= point.interval.1);
                // The next larger impostor distance would let too many through.
                let next = impostor.iter().copied().filter(|d| *d > point.distance).fold(3.0, f32::min);
                prop_assert!(below(&impostor, next) > fmr - 1e-6);
            }
            // Over all thresholds between values, the crossing of both error rates.
            let mut thresholds: Vec<f32> = genuine.iter().chain(&impostor).flat_map(|d| [*d, d.next_up()]).collect();
            thresholds.sort_by(f32::total_cmp);
            let errors: Vec<(f64, f64)> =
                thresholds.iter().map(|d| (below(&impostor, *d), 1.0 - below(&genuine, *d))).collect();
            let above = errors.iter().filter(|(fmr, fnmr)| fmr >= fnmr).map(|(fmr, fnmr)| fmr.max(*fnmr)).fold(1.0, f64::min);
            let beneath = errors.iter().filter(|(fmr, fnmr)| fmr < fnmr).map(|(fmr, fnmr)| fmr.min(*fnmr)).fold(0.0, f64::max);
            prop_assert!(all.eer() <= above + 1e-9 && all.eer() >= beneath - 1e-9, "{} not in {beneath}..{above}", all.eer());
        }

        #[test]
        fn all_pairs_are_those_of_the_naive_loop(values in proptest::collection::vec(-1f32..1.0, 600 * 4), people in 2usize..50) {
            let rows = unit_rows(Array2::from_shape_vec((600, 4), values).unwrap());
            let person: Vec<usize> = (0..600).map(|i| i % people).collect();
            let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
            for i in 0..600 {
                for j in i + 1..600 {
                    let far = distance(rows.row(i), rows.row(j));
                    if person[i] == person[j] { &mut genuine } else { &mut impostor }.push(far);
                }
            }
            let (naive, all) = (distances(&genuine, &impostor), all_pairs(rows.view(), &person).unwrap());
            // In squares: the shorter way loses digits near 0.
            let same = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a * a - b * b).abs() < 1e-5);
            prop_assert!(same(all.genuine(), naive.genuine()) && same(all.impostor(), naive.impostor()));
        }
    }
}
