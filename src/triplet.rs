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

use crate::error::ErrorKind;

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

impl TrainError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        if matches!(self, TrainError::Setting { .. }) { ErrorKind::Invalid } else { ErrorKind::Io }
    }
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
mod tests;
