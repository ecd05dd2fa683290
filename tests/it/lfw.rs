//! The shipped chain measured on Labeled Faces in the Wild, where that lies beside the checkout.
//!
//! `FACELATCH_LFW=full cargo test --release --test it lfw -- --nocapture` measures everything and prints the tables of the
//! documentation; without the variable, a part of it is a regression test.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use facelatch::vision::{Face, embed::Embedding, manifest::Precision};

use crate::support::{beside_checkout, picture, too_slow_here, vision};

/// Two pictures, and whether they show one person.
struct Pair {
    first: PathBuf,
    second: PathBuf,
    genuine: bool,
}

/// `pairs.txt`: folds of 300 genuine and 300 impostor pairs.
fn pairs(dir: &Path) -> Vec<Pair> {
    let text = fs::read_to_string(dir.join("pairs.txt")).unwrap();
    let file =
        |name: &str, number: &str| dir.join(name).join(format!("{name}_{:04}.jpg", number.parse::<u32>().unwrap()));
    let pair = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, a, b] => Some(Pair { first: file(name, a), second: file(name, b), genuine: true }),
        [name, a, other, b] => Some(Pair { first: file(name, a), second: file(other, b), genuine: false }),
        _ => None,
    };
    text.lines().skip(1).filter_map(pair).collect()
}

/// Each picture's main face: the largest, most central one. On two threads.
fn faces(files: &[PathBuf], precision: Precision) -> Vec<Option<Face>> {
    let chain = vision(precision, 40.0);
    let half = files.len().div_ceil(2);
    let work = |files: &[PathBuf]| {
        let mut vision = chain.clone();
        files
            .iter()
            .map(|file| {
                let picture = picture(file);
                let center = (picture.width() as f32 / 2.0, picture.height() as f32 / 2.0);
                let main = |face: &Face| {
                    let b = face.detection.bounding_box;
                    let off = (b.center().x - center.0).powi(2) + (b.center().y - center.1).powi(2);
                    b.area() - 2.0 * off
                };
                vision.faces(&picture).unwrap().into_iter().max_by(|a, b| main(a).total_cmp(&main(b)))
            })
            .collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let second = scope.spawn(|| work(&files[half..]));
        let mut all = work(&files[..half]);
        all.extend(second.join().unwrap());
        all
    })
}

/// Share of pairs decided right, each fold with a threshold chosen on the others; mean and standard error.
///
/// The best threshold of a sample jumps by a hundredth for the sake of one pair, so the mean of all that are nearly as good is taken.
fn accuracy(distances: &[(f32, bool)], folds: usize) -> (f64, f64) {
    const NEARLY: f64 = 0.002;
    let size = distances.len() / folds;
    let best_threshold = |training: &[(f32, bool)]| {
        let mut sorted = training.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let impostors = sorted.iter().filter(|pair| !pair.1).count() as i64;
        let right: Vec<i64> = sorted
            .iter()
            .scan(impostors, |right, pair| {
                *right += if pair.1 { 1 } else { -1 };
                Some(*right)
            })
            .collect();
        let least = right.iter().max().unwrap() - (NEARLY * training.len() as f64) as i64;
        let good: Vec<f32> =
            sorted.iter().zip(&right).filter(|(_, right)| **right >= least).map(|(pair, _)| pair.0).collect();
        good.iter().sum::<f32>() / good.len() as f32
    };
    let each: Vec<f64> = (0..folds)
        .map(|fold| {
            let (from, to) = (fold * size, (fold + 1) * size);
            let training = [&distances[..from], &distances[to..]].concat();
            let threshold = best_threshold(&training);
            let right = distances[from..to].iter().filter(|(d, genuine)| (*d <= threshold) == *genuine).count();
            right as f64 / size as f64
        })
        .collect();
    let mean = each.iter().sum::<f64>() / folds as f64;
    let variance = each.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (folds - 1) as f64;
    (mean, (variance / folds as f64).sqrt())
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// For each rate, the distance below which that share of impostor comparisons lies, and the share of genuine ones below it.
fn operating_points(impostor: &mut [f32], genuine: &[f32], rates: &[f64]) -> Vec<(f64, f32, f64)> {
    impostor.sort_by(f32::total_cmp);
    let point = |&rate: &f64| {
        let index = ((rate * impostor.len() as f64) as usize).min(impostor.len() - 1);
        let threshold = impostor[index];
        let below = genuine.iter().filter(|distance| **distance < threshold).count();
        (rate, threshold, below as f64 / genuine.len() as f64)
    };
    rates.iter().map(point).collect()
}

fn print_points(title: &str, points: &[(f64, f32, f64)]) {
    let columns = points.iter().map(|(rate, threshold, tar)| format!("{rate:e}: d<{threshold:.3} TAR {tar:.4}"));
    eprintln!("{title}: {}", columns.collect::<Vec<_>>().join(" | "));
}

/// What faces of this collection are like: the limits of the configuration were chosen by it.
fn print_quality(faces: &[Option<Face>]) {
    let of = |value: fn(&Face) -> f32| {
        let mut values: Vec<f32> = faces.iter().flatten().map(value).collect();
        values.sort_by(f32::total_cmp);
        [0.01, 0.05, 0.5, 0.95, 0.99].map(|share| values[((values.len() - 1) as f64 * share) as usize])
    };
    eprintln!("quality at 1, 5, 50, 95, 99 %: sharpness {:.2?}", of(|face| face.quality.sharpness));
    eprintln!("  brightness {:.0?}, turn {:.2?}", of(|face| face.quality.brightness), of(|face| face.quality.turn));
}

fn unit_mean(of: &[&Embedding]) -> Vec<f32> {
    let sum = (0..of[0].values().len()).map(|i| of.iter().map(|e| e.values()[i]).sum()).collect();
    Embedding::new(sum, of[0].model()).unwrap().values().to_vec()
}

#[test]
fn pairs_of_pictures_are_told_apart() {
    if too_slow_here("LFW") {
        return;
    }
    let Some(dir) = beside_checkout("data/lfw-dev") else { return };
    let full = std::env::var("FACELATCH_LFW").is_ok_and(|value| value == "full");
    let mut pairs = pairs(&dir);
    let folds = pairs.len() / 600;
    if !full {
        pairs.truncate(600);
    }
    let mut files: Vec<PathBuf> = pairs.iter().flat_map(|pair| [pair.first.clone(), pair.second.clone()]).collect();
    files.sort();
    files.dedup();
    let precisions: &[Precision] = if full { &[Precision::W8, Precision::Int8] } else { &[Precision::W8] };
    for &precision in precisions {
        let faces = faces(&files, precision);
        if full {
            print_quality(&faces);
        }
        let embeddings = faces.into_iter().map(|face| face.map(|face| face.embedding));
        let found: BTreeMap<&PathBuf, Option<Embedding>> = files.iter().zip(embeddings).collect();
        let undetected = found.values().filter(|e| e.is_none()).count();
        let measure = |pair: &Pair| match (&found[&pair.first], &found[&pair.second]) {
            (Some(a), Some(b)) => (distance(a.values(), b.values()), pair.genuine),
            _ => (2.0, pair.genuine),
        };
        let distances: Vec<(f32, bool)> = pairs.iter().map(measure).collect();
        let (mean, error) = accuracy(&distances, if full { folds } else { 10 });
        eprintln!(
            "{precision}: accuracy {mean:.4} ± {error:.4} on {} pairs, {undetected} of {} pictures without a face",
            pairs.len(),
            files.len()
        );
        assert!(mean >= if full { 0.983 } else { 0.97 }, "{precision}: {mean}");
        if full {
            all_pairs(&found);
        }
    }
}

/// Every picture against every other; and people of three and more pictures against probes, fused both ways.
fn all_pairs(found: &BTreeMap<&PathBuf, Option<Embedding>>) {
    let mut people: BTreeMap<&Path, Vec<&Embedding>> = BTreeMap::new();
    for (file, embedding) in found {
        people.entry(file.parent().unwrap()).or_default().extend(embedding);
    }
    let people: Vec<Vec<&Embedding>> = people.into_values().collect();
    let all: Vec<(usize, &[f32])> =
        people.iter().enumerate().flat_map(|(id, of)| of.iter().map(move |e| (id, e.values()))).collect();
    let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
    for (i, (a, x)) in all.iter().enumerate() {
        for (b, y) in &all[i + 1..] {
            if a == b { &mut genuine } else { &mut impostor }.push(distance(x, y));
        }
    }
    let rates = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
    eprintln!("{} impostor and {} genuine comparisons", impostor.len(), genuine.len());
    let single = operating_points(&mut impostor, &genuine, &rates);
    print_points("one picture against one", &single);
    // Three enrolled pictures of a person against every other picture of everybody.
    for best in [false, true] {
        let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
        for (id, of) in people.iter().enumerate().filter(|(_, of)| of.len() >= 4) {
            let (enrolled, mean) = (&of[..3], unit_mean(&of[..3]));
            let to = |probe: &[f32]| match best {
                true => enrolled.iter().map(|e| distance(e.values(), probe)).fold(f32::INFINITY, f32::min),
                false => distance(&mean, probe),
            };
            genuine.extend(of[3..].iter().map(|probe| to(probe.values())));
            impostor.extend(all.iter().filter(|(other, _)| *other != id).map(|(_, probe)| to(probe)));
        }
        let title = if best { "nearest of three enrolled" } else { "mean of three enrolled" };
        eprintln!("{} impostor and {} genuine comparisons", impostor.len(), genuine.len());
        print_points(title, &operating_points(&mut impostor, &genuine, &rates[..4]));
        let below = impostor.iter().filter(|distance| **distance < single[2].1).count();
        eprintln!("  at the distance for 1e-4 of one against one: FMR {:.1e}", below as f64 / impostor.len() as f64);
    }
}
