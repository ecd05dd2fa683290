//! Triplet loss (Schroff, Kalenichenko and Philbin 2015, "FaceNet"): an embedder's last layer trained anew.
//!
//! The layer is a matrix `W`; a face with features `x` has the embedding `f = Wx / |Wx|`. For an anchor A, another picture P
//! of the same person and a picture N of somebody else (their equations 2 and 3)
//!
//! ```text
//! L = Σ max(|f(A) − f(P)|² − |f(A) − f(N)|² + α, 0)
//! ```
//!
//! With u for an embedding and ∂L/∂u for the loss's slope along it, the way back through the normalisation is
//! `∂L/∂W = Σ (∂L/∂u − u (u · ∂L/∂u)) / |Wx| · xᵀ`: what would only change the length counts for nothing.
//!
//! Everything is a function of its arguments, the seed among them: the same call gives the same layer on the same kind of processor.

use std::collections::HashMap;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, NdFloat, Zip};

/// Features of pictures of people, one row per view of a picture (as it is, mirrored, cut out a little differently ...).
#[derive(Clone, Debug)]
pub struct Samples {
    /// [rows, features]
    pub features: Array2<f32>,
    /// Whose row each is.
    pub person: Vec<usize>,
    /// Of which picture each row is a view.
    pub picture: Vec<usize>,
}

/// Rows of an anchor, of another view of the same person, and of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triplet {
    pub anchor: usize,
    pub positive: usize,
    pub negative: usize,
}

/// Of so many anchors the person has one picture only. Its positive is invented: a view of the same picture, changed as pictures of
/// somebody else differ from each other. So those learn as well from whom there is nothing to learn otherwise.
const INVENTED_SHARE: f32 = 0.4;
/// How much of such a difference is added.
const INVENTED_CHANGE: f32 = 0.8;

/// Share of the newest step in the running mean, which so reaches over about a hundred steps.
const MEAN_SHARE: f32 = 0.01;

/// Which negatives are learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mining {
    /// Of those farther away than the positive, but not by α, the nearest.
    SemiHard,
    /// The nearest of all.
    Hard,
}

/// How a layer is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// α: by how much somebody else has to be farther away than the same person, in squared distance.
    pub alpha: f32,
    /// Anchors in a step.
    pub batch: usize,
    /// Rows drawn in a step, among which each anchor's negative is looked for.
    pub pool: usize,
    pub mining: Mining,
    /// Adam's step width.
    pub learning_rate: f32,
    /// The share of the way back to the layer it started from that is gone after each step.
    pub decay: f32,
    /// The loss takes away what all embeddings have in common, down to nothing; this share of what the old layer made of the mean
    /// face is put back. Faces with little of their own then stay near the middle instead of pointing anywhere.
    pub common: f32,
    pub seed: u64,
}

/// Some steps of a training in numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done since the beginning.
    pub steps: usize,
    /// Mean of a triplet's loss over these steps.
    pub loss: f32,
    /// Share of anchors for which there was a negative to learn from.
    pub active: f32,
}

/// Why a layer cannot be trained.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum TrainError {
    #[error("{name} is {value}; give {range}")]
    Setting { name: &'static str, value: f32, range: &'static str },
    #[error("pictures of {0} people: at least two are needed, one of them with two pictures")]
    People(usize),
    #[error("nobody has two pictures: there is nothing to learn what one person looks like from")]
    OnePicture,
    #[error("the layer takes {layer} features, the pictures have {features}")]
    Shape { layer: usize, features: usize },
    #[error("{0} is not a finite number: nothing can be learnt from it")]
    NotFinite(&'static str),
}

impl Settings {
    /// # Errors
    /// A setting is out of its range; NaN is in none.
    pub fn check(&self) -> Result<(), TrainError> {
        let within = |name, value: f32, fine: bool, range| {
            if fine { Ok(()) } else { Err(TrainError::Setting { name, value, range }) }
        };
        // Squared distances of unit vectors reach 4.
        within("alpha", self.alpha, self.alpha > 0.0 && self.alpha <= 4.0, "more than 0 and at most 4")?;
        within("batch", self.batch as f32, (1..=65_536).contains(&self.batch), "1 to 65536")?;
        within("pool", self.pool as f32, (2..=1_000_000).contains(&self.pool), "2 to 1000000")?;
        let rate = self.learning_rate;
        within("learning rate", rate, rate > 0.0 && rate <= 1.0, "more than 0 and at most 1")?;
        within("decay", self.decay, (0.0..1.0).contains(&self.decay), "0 or more and less than 1")?;
        within("common", self.common, (0.0..=1.0).contains(&self.common), "0 to 1")
    }
}

/// Embeddings, one a row, and the lengths they had before they were scaled to 1.
struct Embedded<T> {
    rows: Array2<T>,
    lengths: Array1<T>,
}

fn embed<T: NdFloat>(layer: ArrayView2<'_, T>, features: ArrayView2<'_, T>) -> Embedded<T> {
    let mut rows = features.dot(&layer.t());
    // A face without a direction stays at the origin.
    let lengths = rows.map_axis(Axis(1), |row| row.dot(&row).sqrt().max(T::min_positive_value().sqrt()));
    rows /= &lengths.view().insert_axis(Axis(1));
    Embedded { rows, lengths }
}

/// The sum over `triplets` of equation 3 and its gradient with respect to the layer, [dimension, features].
pub fn loss_and_gradient<T: NdFloat>(
    layer: ArrayView2<'_, T>,
    features: ArrayView2<'_, T>,
    triplets: &[Triplet],
    alpha: T,
) -> (T, Array2<T>) {
    let count = triplets.len();
    let rows: Vec<usize> = (triplets.iter().map(|t| t.anchor))
        .chain(triplets.iter().map(|t| t.positive))
        .chain(triplets.iter().map(|t| t.negative))
        .collect();
    let features = features.select(Axis(0), &rows);
    let embedded = embed(layer, features.view());
    let two = T::one() + T::one();
    let mut loss = T::zero();
    // Along the embeddings first.
    let mut slopes = Array2::<T>::zeros(embedded.rows.dim());
    for i in 0..count {
        let [a, p, n] = [i, count + i, 2 * count + i].map(|row| embedded.rows.row(row));
        let square = |x: &ArrayView1<'_, T>, y: &ArrayView1<'_, T>| {
            x.iter().zip(y).fold(T::zero(), |sum, (x, y)| sum + (*x - *y) * (*x - *y))
        };
        let excess = square(&a, &p) - square(&a, &n) + alpha;
        if excess > T::zero() {
            loss += excess;
            for j in 0..a.len() {
                slopes[[i, j]] = two * (n[j] - p[j]);
                slopes[[count + i, j]] = two * (p[j] - a[j]);
                slopes[[2 * count + i, j]] = two * (a[j] - n[j]);
            }
        }
    }
    // Then back through the normalisation and the layer.
    Zip::from(slopes.rows_mut()).and(embedded.rows.rows()).and(&embedded.lengths).for_each(
        |mut slope, unit, &length| {
            let along = slope.dot(&unit);
            Zip::from(&mut slope).and(&unit).for_each(|slope, &unit| *slope = (*slope - unit * along) / length);
        },
    );
    (loss, slopes.t().dot(&features))
}

/// Of the mean of some rows, scaled to length 1.
fn direction(rows: &Array2<f32>) -> Array1<f32> {
    let sum = rows.sum_axis(Axis(0));
    let length = sum.dot(&sum).sqrt().max(f32::MIN_POSITIVE);
    sum / length
}

/// Adam (Kingma and Ba 2015) with its usual constants.
#[derive(Clone, Debug)]
struct Adam {
    mean: Array2<f32>,
    square: Array2<f32>,
    steps: i32,
}

impl Adam {
    const MEAN_KEPT: f32 = 0.9;
    const SQUARE_KEPT: f32 = 0.999;
    const EPSILON: f32 = 1e-8;

    fn new(shape: (usize, usize)) -> Adam {
        Adam { mean: Array2::zeros(shape), square: Array2::zeros(shape), steps: 0 }
    }

    /// Moves `weights` against `gradient`.
    fn step(&mut self, weights: &mut Array2<f32>, gradient: &Array2<f32>, rate: f32) {
        self.steps += 1;
        let mean_share = 1.0 - Self::MEAN_KEPT.powi(self.steps);
        let square_share = 1.0 - Self::SQUARE_KEPT.powi(self.steps);
        Zip::from(weights).and(gradient).and(&mut self.mean).and(&mut self.square).for_each(
            |weight, &g, mean, square| {
                *mean = Self::MEAN_KEPT * *mean + (1.0 - Self::MEAN_KEPT) * g;
                *square = Self::SQUARE_KEPT * *square + (1.0 - Self::SQUARE_KEPT) * g * g;
                *weight -= rate * (*mean / mean_share) / ((*square / square_share).sqrt() + Self::EPSILON);
            },
        );
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and the same numbers from the same seed for ever.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A whole number below `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The bias is end / 2^64: none that anybody could measure.
        (self.next() % end as u64) as usize
    }

    /// A number from 0 up to, but not, 1.
    pub fn share(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A normally distributed number (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.share()).cos()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A layer in training.
#[derive(Clone)]
pub struct Trainer<'a> {
    samples: &'a Samples,
    settings: Settings,
    /// Rows that may be learnt from.
    rows: Vec<usize>,
    /// Those of people with at least two pictures, and each such person's rows.
    anchors: Vec<usize>,
    own_rows: HashMap<usize, Vec<usize>>,
    /// The others' rows, each with the rows of the same picture.
    single: Vec<Vec<usize>>,
    start: Array2<f32>,
    /// What the steps move.
    moving: Array2<f32>,
    /// Its running mean.
    mean: Array2<f32>,
    /// The mean face's features, scaled to length 1.
    common: Array1<f32>,
    adam: Adam,
    random: Random,
    steps: usize,
}

impl<'a> Trainer<'a> {
    /// Begins at the layer `start`, [dimension, features], with the samples of those people for whom `learn` says so.
    ///
    /// # Errors
    /// A setting is out of range, there are fewer than two people or nobody has two pictures, shapes do not fit, or a number is not finite.
    pub fn new(
        start: &Array2<f32>,
        samples: &'a Samples,
        learn: impl Fn(usize) -> bool,
        settings: Settings,
    ) -> Result<Trainer<'a>, TrainError> {
        settings.check()?;
        let (layer, features) = (start.ncols(), samples.features.ncols());
        if layer != features {
            return Err(TrainError::Shape { layer, features });
        }
        if start.iter().any(|weight| !weight.is_finite()) {
            return Err(TrainError::NotFinite("a weight of the layer to start from"));
        }
        if samples.features.iter().any(|value| !value.is_finite()) {
            return Err(TrainError::NotFinite("a feature of a picture"));
        }
        let rows: Vec<usize> = (0..samples.person.len()).filter(|row| learn(samples.person[*row])).collect();
        let mut own_rows = HashMap::<usize, Vec<usize>>::new();
        rows.iter().for_each(|row| own_rows.entry(samples.person[*row]).or_default().push(*row));
        if own_rows.len() < 2 {
            return Err(TrainError::People(own_rows.len()));
        }
        let several = |own: &[usize]| own.iter().any(|row| samples.picture[*row] != samples.picture[own[0]]);
        let mut single: Vec<Vec<usize>> = own_rows.values().filter(|own| !several(own)).cloned().collect();
        // In a fixed order, which the map has not.
        single.sort();
        own_rows.retain(|_, own| several(own));
        if own_rows.is_empty() {
            return Err(TrainError::OnePicture);
        }
        let anchors = rows.iter().copied().filter(|row| own_rows.contains_key(&samples.person[*row])).collect();
        Ok(Trainer {
            samples,
            settings,
            anchors,
            own_rows,
            single,
            start: start.clone(),
            moving: start.clone(),
            mean: start.clone(),
            common: direction(&samples.features.select(Axis(0), &rows)),
            adam: Adam::new(start.dim()),
            random: Random::new(settings.seed),
            rows,
            steps: 0,
        })
    }

    /// The mean over the latest steps, later ones counting more: single steps jump to and fro, and their mean is better than any of
    /// them (Polyak and Juditsky 1992).
    ///
    /// What it makes of the mean face is replaced by the share [`Settings::common`] of what the old layer makes of it.
    pub fn layer(&self) -> Array2<f32> {
        if self.steps == 0 {
            return self.start.clone();
        }
        let wanted = self.start.dot(&self.common) * self.settings.common;
        let change = wanted - self.mean.dot(&self.common);
        &self.mean + &change.insert_axis(Axis(1)).dot(&self.common.view().insert_axis(Axis(0)))
    }

    /// Trains on for so many steps.
    ///
    /// # Errors
    /// The layer holds a number that is not finite: the training ran away.
    pub fn advance(&mut self, steps: usize) -> Result<Progress, TrainError> {
        let (mut loss, mut active) = (0.0, 0);
        for _ in 0..steps {
            let (features, triplets) = self.mine();
            let (sum, mut gradient) =
                loss_and_gradient(self.moving.view(), features.view(), &triplets, self.settings.alpha);
            // Per anchor, so that the batch's size does not change the step.
            gradient /= self.settings.batch as f32;
            self.adam.step(&mut self.moving, &gradient, self.settings.learning_rate);
            let decay = self.settings.decay;
            Zip::from(&mut self.moving).and(&self.start).and(&mut self.mean).for_each(|weight, &old, mean| {
                *weight -= decay * (*weight - old);
                *mean += MEAN_SHARE * (*weight - *mean);
            });
            loss += sum;
            active += triplets.len();
        }
        self.steps += steps;
        if self.moving.iter().any(|weight| !weight.is_finite()) {
            return Err(TrainError::NotFinite("a weight of the trained layer"));
        }
        let anchors = (steps * self.settings.batch).max(1) as f32;
        Ok(Progress { steps: self.steps, loss: loss / anchors, active: active as f32 / anchors })
    }

    /// Anchors at random, each with a positive and the negative that the mining chooses out of a pool of rows; anchors for which the
    /// pool holds none are left out. The features are those of all anchors, then of all positives, then of the pool.
    fn mine(&mut self) -> (Array2<f32>, Vec<Triplet>) {
        let Settings { alpha, batch, pool, mining, .. } = self.settings;
        let pairs: Vec<Genuine> = (0..batch).map(|_| self.genuine_pair()).collect();
        let pool = (0..pool.min(self.rows.len())).map(|_| self.rows[self.random.below(self.rows.len())]);
        let rows = pairs.iter().map(|pair| pair.anchor).chain(pairs.iter().map(|pair| pair.positive)).chain(pool);
        let rows: Vec<usize> = rows.collect();
        let mut features = self.samples.features.select(Axis(0), &rows);
        for (i, pair) in pairs.iter().enumerate() {
            if let Some((from, to)) = pair.change {
                let change = &self.samples.features.row(to) - &self.samples.features.row(from);
                features.row_mut(batch + i).scaled_add(INVENTED_CHANGE, &change);
            }
        }
        let embedded = embed(self.moving.view(), features.view()).rows;
        let (anchors, others) = embedded.view().split_at(Axis(0), batch);
        let (positives, strangers) = others.split_at(Axis(0), batch);
        let likeness = anchors.dot(&strangers.t());
        let mut triplets = Vec::with_capacity(batch);
        for anchor in 0..batch {
            // |a − b|² = 2 − 2 a·b for unit vectors.
            let near = 2.0 - 2.0 * anchors.row(anchor).dot(&positives.row(anchor));
            let person = |row: usize| self.samples.person[rows[row]];
            let far =
                likeness.row(anchor).into_iter().enumerate().map(|(i, product)| (2 * batch + i, 2.0 - 2.0 * product));
            let negative = far
                .filter(|(row, far)| person(*row) != person(anchor) && (mining == Mining::Hard || *far > near))
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .filter(|(_, far)| *far < near + alpha);
            triplets.extend(negative.map(|(negative, _)| Triplet { anchor, positive: batch + anchor, negative }));
        }
        (features, triplets)
    }

    /// An anchor and its positive: mostly a view of another picture of the same person, else an invented one.
    fn genuine_pair(&mut self) -> Genuine {
        let (anchor, positive) = self.two_pictures();
        if self.single.is_empty() || self.random.share() >= INVENTED_SHARE {
            return Genuine { anchor, positive, change: None };
        }
        let own = &self.single[self.random.below(self.single.len())];
        let [first, second] = [(); 2].map(|()| own[self.random.below(own.len())]);
        Genuine { anchor: first, positive: second, change: Some((anchor, positive)) }
    }

    /// A row and a view of another picture of the same person.
    fn two_pictures(&mut self) -> (usize, usize) {
        let anchor = self.anchors[self.random.below(self.anchors.len())];
        let own = &self.own_rows[&self.samples.person[anchor]];
        loop {
            // Ends, because these people have views of two pictures at least.
            let positive = own[self.random.below(own.len())];
            if self.samples.picture[positive] != self.samples.picture[anchor] {
                return (anchor, positive);
            }
        }
    }
}

/// Rows of an anchor and of its positive; the latter is changed as the second of two other rows differs from the first.
#[derive(Clone, Copy, Debug)]
struct Genuine {
    anchor: usize,
    positive: usize,
    change: Option<(usize, usize)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        alpha: 0.5,
        batch: 16,
        pool: 40,
        mining: Mining::SemiHard,
        learning_rate: 1e-2,
        decay: 1e-2,
        common: 0.2,
        seed: 7,
    };

    fn random_array(rows: usize, columns: usize, random: &mut Random) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |_| random.normal())
    }

    /// People whose pictures have something in common, in the first half of the features; the rest is noise.
    fn people(count: usize, pictures: usize, random: &mut Random) -> Samples {
        let width = 12;
        let own = random_array(count, width / 2, random);
        let mut features = random_array(count * pictures, width, random);
        for (row, mut line) in features.outer_iter_mut().enumerate() {
            (0..width / 2).for_each(|i| line[i] = own[[row / pictures, i]] + 0.3 * line[i]);
        }
        let person = (0..count * pictures).map(|row| row / pictures).collect();
        Samples { features, person, picture: (0..count * pictures).collect() }
    }

    fn triplets(count: usize, rows: usize, random: &mut Random) -> Vec<Triplet> {
        let mut row = || random.below(rows);
        (0..count).map(|_| Triplet { anchor: row(), positive: row(), negative: row() }).collect()
    }

    /// Equation 3 as it is written, one number after the other.
    fn naive_loss(layer: &Array2<f64>, features: &Array2<f64>, triplets: &[Triplet], alpha: f64) -> f64 {
        let embedding = |row: usize| {
            let mut values = vec![0.0; layer.nrows()];
            for (i, value) in values.iter_mut().enumerate() {
                for j in 0..layer.ncols() {
                    *value += layer[[i, j]] * features[[row, j]];
                }
            }
            let length = values.iter().map(|v| v * v).sum::<f64>().sqrt();
            values.into_iter().map(|v| v / length).collect::<Vec<_>>()
        };
        let square = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let mut loss = 0.0;
        for t in triplets {
            let [a, p, n] = [t.anchor, t.positive, t.negative].map(embedding);
            loss += (square(&a, &p) - square(&a, &n) + alpha).max(0.0);
        }
        loss
    }

    #[test]
    fn the_loss_is_that_of_a_naive_loop() {
        let mut random = Random::new(1);
        let layer = random_array(5, 9, &mut random).mapv(f64::from);
        let features = random_array(30, 9, &mut random).mapv(f64::from);
        let triplets = triplets(50, 30, &mut random);
        for alpha in [1e-3, 0.2, 1.0] {
            let (loss, _) = loss_and_gradient(layer.view(), features.view(), &triplets, alpha);
            let naive = naive_loss(&layer, &features, &triplets, alpha);
            assert!((loss - naive).abs() < 1e-10, "{loss} {naive}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let mut random = Random::new(2);
        let layer = random_array(6, 10, &mut random).mapv(f64::from);
        let features = random_array(40, 10, &mut random).mapv(f64::from);
        let triplets = triplets(60, 40, &mut random);
        let (_, gradient) = loss_and_gradient(layer.view(), features.view(), &triplets, 0.3);
        let step = 1e-6;
        let mut worst: f64 = 0.0;
        for index in 0..layer.len() {
            let moved = |by: f64| {
                let mut layer = layer.clone();
                layer.as_slice_mut().unwrap()[index] += by;
                naive_loss(&layer, &features, &triplets, 0.3)
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            worst = worst.max((difference - gradient.as_slice().unwrap()[index]).abs());
        }
        let largest = gradient.iter().fold(0.0f64, |most, g| most.max(g.abs()));
        eprintln!("gradient up to {largest:.2}, off by at most {worst:.1e}");
        assert!(worst < 1e-6 * largest, "off by {worst} of {largest}");
        // Along the layer itself nothing changes: the length of an embedding before normalisation counts for nothing.
        assert!((&gradient * &layer).sum().abs() < 1e-9);
    }

    #[test]
    fn single_precision_gives_the_same_gradient() {
        let mut random = Random::new(3);
        let (layer, features) = (random_array(6, 10, &mut random), random_array(40, 10, &mut random));
        let triplets = triplets(60, 40, &mut random);
        let (_, single) = loss_and_gradient(layer.view(), features.view(), &triplets, 0.3);
        let (_, double) =
            loss_and_gradient(layer.mapv(f64::from).view(), features.mapv(f64::from).view(), &triplets, 0.3);
        assert!(single.iter().zip(&double).all(|(s, d)| (f64::from(*s) - d).abs() < 1e-3));
    }

    #[test]
    fn training_brings_pictures_of_one_person_together() {
        let mut random = Random::new(4);
        let samples = people(20, 4, &mut random);
        let start = random_array(4, 12, &mut random);
        for mining in [Mining::SemiHard, Mining::Hard] {
            let mut trainer = Trainer::new(&start, &samples, |_| true, Settings { mining, ..SETTINGS }).unwrap();
            let first = trainer.advance(1).unwrap();
            let last = trainer.advance(150).unwrap();
            assert_eq!(last.steps, 151);
            assert!(last.loss < first.loss, "{mining:?}: {first:?} {last:?}");
            // Of all triplets there are, not only the mined ones.
            let every: Vec<Triplet> = (0..80)
                .flat_map(|anchor| {
                    (0..80).map(move |negative| Triplet {
                        anchor,
                        positive: anchor / 4 * 4 + (anchor + 1) % 4,
                        negative,
                    })
                })
                .filter(|t| t.anchor / 4 != t.negative / 4)
                .collect();
            let loss = |layer: &Array2<f32>| loss_and_gradient(layer.view(), samples.features.view(), &every, 0.5).0;
            assert!(
                loss(&trainer.layer()) < 0.8 * loss(&start),
                "{mining:?}: {} {}",
                loss(&trainer.layer()),
                loss(&start)
            );
        }
    }

    #[test]
    fn mined_negatives_are_what_their_mining_says() {
        let mut random = Random::new(5);
        let mut samples = people(10, 3, &mut random);
        // Views of one picture: of these people, and of the one held out, there is no other.
        (21..30).for_each(|row| samples.picture[row] = samples.person[row] * 3);
        let start = random_array(4, 12, &mut random);
        for mining in [Mining::SemiHard, Mining::Hard] {
            let settings = Settings { mining, pool: 200, ..SETTINGS };
            let mut trainer = Trainer::new(&start, &samples, |person| person != 9, settings).unwrap();
            let (features, mined) = trainer.mine();
            let embedded = embed(start.view(), features.view()).rows;
            let square = |a: usize, b: usize| {
                let difference = &embedded.row(a) - &embedded.row(b);
                difference.dot(&difference)
            };
            assert!(!mined.is_empty());
            // Which row of the samples these features are; None: they were invented.
            let row = |mined: usize| samples.features.outer_iter().position(|row| row == features.row(mined));
            let mut invented = 0;
            for Triplet { anchor, positive, negative } in mined {
                let [a, p, n] = [anchor, positive, negative].map(row);
                let person = |row: Option<usize>| row.map(|row| samples.person[row]);
                assert!(a.is_some() && n.is_some() && person(a) != person(n));
                match p {
                    Some(_) => assert!(person(a) == person(p) && a != p && person(a) < Some(7)),
                    None => {
                        assert!(person(a) >= Some(7), "somebody with several pictures");
                        invented += 1;
                    }
                }
                assert!([a, p, n].into_iter().all(|row| person(row) != Some(9)), "of somebody held out");
                let (near, far) = (square(anchor, positive), square(anchor, negative));
                assert!(far < near + 0.5 + 1e-5);
                if mining == Mining::SemiHard {
                    assert!(far > near - 1e-5);
                }
            }
            assert!(invented > 0);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_layer_however_the_steps_are_cut() {
        let mut random = Random::new(6);
        let samples = people(8, 3, &mut random);
        let start = random_array(4, 12, &mut random);
        let trained = |seed: u64, parts: &[usize]| {
            let mut trainer = Trainer::new(&start, &samples, |_| true, Settings { seed, ..SETTINGS }).unwrap();
            for steps in parts {
                trainer.advance(*steps).unwrap();
            }
            trainer.layer()
        };
        assert_eq!(trained(1, &[30]), trained(1, &[10, 20]));
        assert_ne!(trained(1, &[30]), trained(2, &[30]));
    }

    #[test]
    fn of_the_mean_face_the_share_asked_for_is_kept() {
        let mut random = Random::new(10);
        let mut samples = people(8, 3, &mut random);
        samples.features += 2.0;
        let start = random_array(4, 12, &mut random);
        let mut trainer = Trainer::new(&start, &samples, |_| true, Settings { common: 0.3, ..SETTINGS }).unwrap();
        assert_eq!(trainer.layer(), start, "before the first step it is the old layer");
        trainer.advance(30).unwrap();
        let mean = samples.features.mean_axis(Axis(0)).unwrap();
        let off = trainer.layer().dot(&mean) - start.dot(&mean) * 0.3;
        assert!(off.iter().all(|v| v.abs() < 1e-3), "{off}");
    }

    #[test]
    fn decay_pulls_back_to_the_old_layer() {
        let mut random = Random::new(8);
        let samples = people(8, 3, &mut random);
        let start = random_array(4, 12, &mut random);
        let moved = |decay: f32| {
            let mut trainer = Trainer::new(&start, &samples, |_| true, Settings { decay, ..SETTINGS }).unwrap();
            trainer.advance(60).unwrap();
            (&trainer.moving - &start).mapv(f32::abs).sum()
        };
        assert!(moved(0.5) < 0.3 * moved(0.0), "{} {}", moved(0.5), moved(0.0));
    }

    #[test]
    fn what_cannot_be_learnt_from_is_refused() {
        let mut random = Random::new(9);
        let samples = people(4, 2, &mut random);
        let start = random_array(4, 12, &mut random);
        let refusal = |start: &Array2<f32>, samples: &Samples, settings| {
            Trainer::new(start, samples, |_| true, settings).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refusal(&start, &samples, SETTINGS), "");
        for alpha in [0.0, -0.2, f32::NAN, 5.0] {
            assert!(refusal(&start, &samples, Settings { alpha, ..SETTINGS }).contains("alpha is"));
        }
        for (settings, word) in [
            (Settings { batch: 0, ..SETTINGS }, "batch"),
            (Settings { pool: 1, ..SETTINGS }, "pool"),
            (Settings { learning_rate: f32::NAN, ..SETTINGS }, "learning rate"),
            (Settings { decay: 1.0, ..SETTINGS }, "decay"),
            (Settings { common: 1.5, ..SETTINGS }, "common"),
        ] {
            assert!(refusal(&start, &samples, settings).contains(word));
        }
        let mut poisoned = start.clone();
        poisoned[[1, 1]] = f32::NAN;
        assert!(refusal(&poisoned, &samples, SETTINGS).contains("a weight of the layer to start from"));
        let mut bad = samples.clone();
        bad.features[[0, 0]] = f32::INFINITY;
        assert!(refusal(&start, &bad, SETTINGS).contains("a feature of a picture"));
        let single = Samples { picture: samples.person.clone(), ..samples.clone() };
        assert!(refusal(&start, &single, SETTINGS).contains("nobody has two pictures"));
        let alone = Samples { person: vec![0; samples.person.len()], ..samples.clone() };
        assert!(refusal(&start, &alone, SETTINGS).contains("pictures of 1 people"));
        assert!(refusal(&random_array(4, 11, &mut random), &samples, SETTINGS).contains("takes 11 features"));
        let mut runaway = Trainer::new(&start, &samples, |_| true, SETTINGS).unwrap();
        runaway.moving.fill(f32::NAN);
        assert!(runaway.advance(1).unwrap_err().to_string().contains("a weight of the trained layer"));
    }
}
