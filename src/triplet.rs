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

use ndarray::{Array1, Array2, ArrayView2, Axis, NdFloat, Zip};

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

/// Which negatives are learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mining {
    /// Of those farther away than the positive, but not by α, one at random.
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
        within("decay", self.decay, (0.0..1.0).contains(&self.decay), "0 or more and less than 1")
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
        let square = |x: &ndarray::ArrayView1<'_, T>, y: &ndarray::ArrayView1<'_, T>| {
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
    Zip::from(slopes.rows_mut()).and(embedded.rows.rows()).and(&embedded.lengths).for_each(|mut slope, unit, &length| {
        let along = slope.dot(&unit);
        Zip::from(&mut slope).and(&unit).for_each(|slope, &unit| *slope = (*slope - unit * along) / length);
    });
    (loss, slopes.t().dot(&features))
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
        Zip::from(weights).and(gradient).and(&mut self.mean).and(&mut self.square).for_each(|weight, &g, mean, square| {
            *mean = Self::MEAN_KEPT * *mean + (1.0 - Self::MEAN_KEPT) * g;
            *square = Self::SQUARE_KEPT * *square + (1.0 - Self::SQUARE_KEPT) * g * g;
            *weight -= rate * (*mean / mean_share) / ((*square / square_share).sqrt() + Self::EPSILON);
        });
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
    own_rows: std::collections::HashMap<usize, Vec<usize>>,
    start: Array2<f32>,
    layer: Array2<f32>,
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
        let mut own_rows = std::collections::HashMap::<usize, Vec<usize>>::new();
        rows.iter().for_each(|row| own_rows.entry(samples.person[*row]).or_default().push(*row));
        if own_rows.len() < 2 {
            return Err(TrainError::People(own_rows.len()));
        }
        let several = |own: &[usize]| own.iter().any(|row| samples.picture[*row] != samples.picture[own[0]]);
        own_rows.retain(|_, own| several(own));
        if own_rows.is_empty() {
            return Err(TrainError::OnePicture);
        }
        let anchors = rows.iter().copied().filter(|row| own_rows.contains_key(&samples.person[*row])).collect();
        Ok(Trainer {
            samples,
            settings,
            rows,
            anchors,
            own_rows,
            start: start.clone(),
            layer: start.clone(),
            adam: Adam::new(start.dim()),
            random: Random::new(settings.seed),
            steps: 0,
        })
    }

    pub fn layer(&self) -> &Array2<f32> {
        &self.layer
    }

    /// Trains on for so many steps.
    ///
    /// # Errors
    /// The layer holds a number that is not finite: the training ran away.
    pub fn advance(&mut self, steps: usize) -> Result<Progress, TrainError> {
        let (mut loss, mut active) = (0.0, 0);
        for _ in 0..steps {
            let triplets = self.mine();
            let (sum, mut gradient) =
                loss_and_gradient(self.layer.view(), self.samples.features.view(), &triplets, self.settings.alpha);
            // Per anchor, so that the batch's size does not change the step.
            gradient /= self.settings.batch as f32;
            self.adam.step(&mut self.layer, &gradient, self.settings.learning_rate);
            let decay = self.settings.decay;
            Zip::from(&mut self.layer).and(&self.start).for_each(|weight, &old| *weight -= decay * (*weight - old));
            loss += sum;
            active += triplets.len();
        }
        self.steps += steps;
        if self.layer.iter().any(|weight| !weight.is_finite()) {
            return Err(TrainError::NotFinite("a weight of the trained layer"));
        }
        let anchors = (steps * self.settings.batch).max(1) as f32;
        Ok(Progress { steps: self.steps, loss: loss / anchors, active: active as f32 / anchors })
    }

    /// Anchors at random, each with a view of another picture of the same person and the negative that the mining chooses out of a
    /// pool of rows; anchors for which the pool holds none are left out.
    fn mine(&mut self) -> Vec<Triplet> {
        let Settings { alpha, batch, pool, mining, .. } = self.settings;
        let pairs: Vec<(usize, usize)> = (0..batch).map(|_| self.genuine_pair()).collect();
        let pool: Vec<usize> = (0..pool.min(self.rows.len())).map(|_| self.rows[self.random.below(self.rows.len())]).collect();
        let embedded = |rows: &[usize]| {
            embed(self.layer.view(), self.samples.features.select(Axis(0), rows).view()).rows
        };
        let anchors = embedded(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
        let positives = embedded(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
        let likeness = anchors.dot(&embedded(&pool).t());
        let mut triplets = Vec::with_capacity(batch);
        for (i, &(anchor, positive)) in pairs.iter().enumerate() {
            // |a − b|² = 2 − 2 a·b for unit vectors.
            let near = 2.0 - 2.0 * anchors.row(i).dot(&positives.row(i));
            let line = likeness.row(i);
            let strangers = || {
                let others = pool.iter().zip(line).filter(|(row, _)| self.samples.person[**row] != self.samples.person[anchor]);
                others.map(|(row, product)| (*row, 2.0 - 2.0 * product))
            };
            let negative = match mining {
                Mining::Hard => strangers().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, far)| *far < near + alpha),
                Mining::SemiHard => {
                    let among: Vec<(usize, f32)> =
                        strangers().filter(|(_, far)| *far > near && *far < near + alpha).collect();
                    (!among.is_empty()).then(|| among[self.random.below(among.len())])
                }
            };
            triplets.extend(negative.map(|(negative, _)| Triplet { anchor, positive, negative }));
        }
        triplets
    }

    /// A row and a view of another picture of the same person.
    fn genuine_pair(&mut self) -> (usize, usize) {
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
