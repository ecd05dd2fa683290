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
    let (_, double) = loss_and_gradient(layer.mapv(f64::from).view(), features.mapv(f64::from).view(), &triplets, 0.3);
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
                (0..80).map(move |negative| Triplet { anchor, positive: anchor / 4 * 4 + (anchor + 1) % 4, negative })
            })
            .filter(|t| t.anchor / 4 != t.negative / 4)
            .collect();
        let loss = |layer: &Array2<f32>| loss_and_gradient(layer.view(), samples.features.view(), &every, 0.5).0;
        assert!(loss(&trainer.layer()) < 0.8 * loss(&start), "{mining:?}: {} {}", loss(&trainer.layer()), loss(&start));
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
