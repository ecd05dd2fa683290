//! What fusing pictures and frames does to distances, measured on real faces where they lie beside the checkout.
//!
//! `FACELATCH_LFW=full cargo test --release --test it fusion -- --nocapture` (`make fusion`) measures everything and prints the
//! `thresholds` of models.toml; without the variable, a part of it is a regression test. FACELATCH_EMBEDDER
//! chooses another net than `dlib`. The embeddings are kept in the target folder by model and precision, so
//! that a second run takes seconds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    config::RecognitionConfig,
    gallery::{Fusion, Gallery, Match, PersonId, Template, TemplateFusion},
    policy::{Limits, Policy, Rules},
    sighting::{Observation, Sighting},
    threshold::{LOOKS_PER_VISIT, Threshold},
    vision::{
        Face, Vision,
        embed::Embedding,
        fuse::{FuseRules, Fuser, Probe, fused},
        manifest::{Manifest, NetEntry},
        model::ModelId,
        model::Precision,
        mtcnn::MtcnnSettings,
        track::{TrackId, Tracker},
    },
};

use crate::support::{beside_checkout, picture, root, too_slow_here};

/// A face as it is kept: whose, the embedding, and its quality (side in pixels, sharpness, brightness, turn).
type Kept = (String, Vec<f32>, [f32; 4]);

fn kept(name: &str, face: &Face) -> Kept {
    let quality = face.quality;
    (
        name.to_owned(),
        face.embedding.values().to_vec(),
        [quality.face_px, quality.sharpness, quality.brightness, quality.turn],
    )
}

/// Computed once per model and collection, and anew by every newly built program: its detector may be another.
fn cached(what: &str, vision: &Vision, compute: impl FnOnce() -> Vec<Kept>) -> Vec<Kept> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{what}-{}.postcard", vision.embedder().model()));
    let built = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let is_newer = built(&path) > env::current_exe().ok().and_then(|program| built(&program));
    if let Some(kept) = fs::read(&path).ok().filter(|_| is_newer).and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
        return kept;
    }
    let computed = compute();
    fs::write(&path, postcard::to_stdvec(&computed).unwrap()).unwrap();
    computed
}

/// The pictures of a folder of people, with their names.
fn pictures(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for person in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let name = person.file_name().unwrap().to_string_lossy().into_owned();
        files.extend(fs::read_dir(&person).unwrap().map(|entry| (name.clone(), entry.unwrap().path())));
    }
    files.sort();
    files
}

/// The main face (largest, most central) of every picture; on two threads.
fn main_faces(files: &[(String, PathBuf)], vision: &Vision) -> Vec<Kept> {
    let work = |files: &[(String, PathBuf)]| -> Vec<Kept> {
        let mut vision = vision.clone();
        let main_face = |(name, file): &(String, PathBuf)| {
            let picture = picture(file);
            let center = (picture.width() as f32 / 2.0, picture.height() as f32 / 2.0);
            let prominence = |face: &Face| {
                let b = face.detection.bounding_box;
                b.area() - 2.0 * ((b.center().x - center.0).powi(2) + (b.center().y - center.1).powi(2))
            };
            let faces = vision.faces(&picture).unwrap();
            let main = faces.into_iter().max_by(|a, b| prominence(a).total_cmp(&prominence(b)));
            main.map(|face| kept(name, &face))
        };
        files.iter().filter_map(main_face).collect()
    };
    let (first, second) = files.split_at(files.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| work(second));
        let mut all = work(first);
        all.extend(other.join().unwrap());
        all
    })
}

/// The faces of a video, named by the track they belong to.
fn walk(file: &Path, vision: &Vision) -> Vec<Kept> {
    let frames = tempfile::tempdir().unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-q:v", "2"])
        .arg(frames.path().join("%04d.jpg"))
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: ffmpeg is not installed");
        return Vec::new();
    }
    let (mut vision, mut tracker, start) = (vision.clone(), Tracker::new(Duration::from_secs(1)), Instant::now());
    let mut files: Vec<PathBuf> = fs::read_dir(frames.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let faces = vision.faces(&picture(file)).unwrap();
        let detections: Vec<_> = faces.iter().map(|face| face.detection).collect();
        let tracks = tracker.assign(&detections, start + Duration::from_millis(40) * number as u32);
        all.extend(tracks.iter().zip(&faces).map(|(track, face)| kept(&format!("{} {number}", track.0), face)));
    }
    all
}

fn full() -> bool {
    std::env::var("FACELATCH_LFW").is_ok_and(|value| value == "full")
}

/// With LFW's table alone, of whose people these pictures are.
fn shipped(name: &str) -> NetEntry {
    let mut shipped = Manifest::load(&root().join("models")).unwrap().embedder(name).unwrap().clone();
    shipped.populations.truncate(1);
    shipped
}

/// The embedder that is measured.
fn measured() -> NetEntry {
    shipped(&env::var("FACELATCH_EMBEDDER").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "dlib".into()))
}

/// The limits for LFW's people, whom the pictures here show, whatever others need.
fn lfw_limits(rate: f64) -> Limits {
    let embedder = measured();
    let point = embedder.thresholds.iter().find(|point| (point.fmr / rate - 1.0).abs() < 1e-6).unwrap();
    Limits { single: point.distance, shrink: point.shrink }
}

fn vision(embedder: &NetEntry, min_face: f32) -> Vision {
    let settings = MtcnnSettings { min_face, thresholds: [0.6, 0.7, 0.7] };
    Vision::load(&root().join("models"), &embedder.name, Precision::W8, settings).unwrap()
}

/// Everybody's embeddings.
fn people(kept: &[Kept], model: ModelId) -> Vec<Vec<Embedding>> {
    let mut people: Vec<(&str, Vec<Embedding>)> = Vec::new();
    for (name, values, _) in kept {
        let embedding = Embedding::new(values.clone(), model).unwrap();
        match people.last_mut().filter(|(last, _)| last == name) {
            Some((_, of)) => of.push(embedding),
            None => people.push((name, vec![embedding])),
        }
    }
    people.into_iter().map(|(_, of)| of).collect()
}

/// Some ways, at most `most`, to choose `count` of `all` different pictures; the same in every run.
fn choices(all: usize, count: usize, most: usize) -> Vec<Vec<usize>> {
    let mut chosen: Vec<Vec<usize>> = Vec::new();
    for turn in 0..4 * most {
        // Steps through the pictures that differ from turn to turn.
        let (start, step) = (turn % all, 1 + turn / all);
        let mut choice: Vec<usize> = (0..count).map(|i| (start + i * step) % all).collect();
        choice.sort_unstable();
        choice.dedup();
        if choice.len() == count && !chosen.contains(&choice) && chosen.len() < most {
            chosen.push(choice);
        }
    }
    chosen
}

/// A mean of pictures: whose, of which of them, what it is and how far they are spread.
struct Mean {
    person: usize,
    of: Vec<usize>,
    values: Vec<f32>,
    spread: f32,
}

fn means(people: &[Vec<Embedding>], count: usize) -> Vec<Mean> {
    let (mut means, one_moment) = (Vec::new(), measured().one_moment.unwrap_or(0.0));
    for (person, of) in people.iter().enumerate().filter(|(_, of)| of.len() >= count) {
        for choice in choices(of.len(), count, if count == 1 { of.len() } else { 8 }) {
            let (mean, spread) = fused(choice.iter().map(|&i| &of[i]), one_moment).unwrap();
            means.push(Mean { person, of: choice, values: mean.values().to_vec(), spread });
        }
    }
    means
}

fn square_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Squared distance and spread.
type Compared = (f32, f32);

/// Every comparison of different people, and of the same person on different pictures.
fn comparisons(enrolled: &[Mean], probes: &[Mean]) -> (Vec<Compared>, Vec<Compared>) {
    let (mut impostor, mut genuine) = (Vec::with_capacity(enrolled.len() * probes.len()), Vec::new());
    for a in enrolled {
        for b in probes {
            if a.person == b.person && a.of.iter().any(|picture| b.of.contains(picture)) {
                continue;
            }
            let compared = (square_distance(&a.values, &b.values), a.spread + b.spread);
            if a.person == b.person { &mut genuine } else { &mut impostor }.push(compared);
        }
    }
    (impostor, genuine)
}

/// The value that this share of all lies below.
fn quantile(values: &mut [f32], share: f64) -> f32 {
    let index = ((share * values.len() as f64) as usize).min(values.len() - 1);
    *values.select_nth_unstable_by(index, f32::total_cmp).1
}

fn share_within(compared: &[Compared], limits: Limits) -> f64 {
    let within = compared.iter().filter(|(square, spread)| square.sqrt() <= limits.at(*spread)).count();
    within as f64 / compared.len() as f64
}

/// The thresholds of models.toml: distances of one picture against one, and by how much their squares shrink with the spread of
/// means, so that the same share of comparisons of different people are matches.
fn print_thresholds(people: &[Vec<Embedding>]) {
    let (single, fused) = (means(people, 1), means(people, 3));
    let (impostor, _) = comparisons(&single, &single);
    let mut squares: Vec<f32> = impostor.into_iter().map(|(square, _)| square).collect();
    let (averaged, _) = comparisons(&fused, &fused);
    let several = people.iter().filter(|of| of.len() >= 3).count();
    // What fewer than two pairs of people decide is no measurement of the shrink; the last one stays.
    let least = 2.0 / (several * several / 2) as f64;
    let mut shrink = 1.0f32;
    eprintln!("thresholds = [");
    for rate in [1e-2, 1e-3, 1e-4, 1e-5, 1e-6] {
        let square = quantile(&mut squares, rate);
        if rate >= least {
            let mut shrinks: Vec<f32> = averaged.iter().map(|(fused, spread)| (square - fused) / spread).collect();
            shrink = quantile(&mut shrinks, 1.0 - rate).clamp(0.0, 1.0);
        }
        eprintln!("    {{ fmr = {rate:e}, distance = {:.3}, shrink = {shrink:.2} }},", square.sqrt());
    }
    eprintln!("]");
}

/// A person with three pictures enrolled: known by their mean or by the nearest of them? Each has limits of its own, at the same share of
/// comparisons of different people.
fn mean_against_nearest(people: &[Vec<Embedding>]) {
    let (three, probes) = (means(people, 3), means(people, 1));
    let nearest = |enrolled: &Mean, probe: &Mean| {
        let distance = |&i: &usize| square_distance(people[enrolled.person][i].values(), &probe.values);
        enrolled.of.iter().map(distance).fold(f32::INFINITY, f32::min)
    };
    let mean = |enrolled: &Mean, probe: &Mean| square_distance(&enrolled.values, &probe.values);
    let recognised = |title: &str, square: &dyn Fn(&Mean, &Mean) -> f32| {
        let (mut impostor, mut genuine) = (Vec::new(), Vec::new());
        for enrolled in &three {
            for probe in probes.iter().filter(|p| p.person != enrolled.person || !enrolled.of.contains(&p.of[0])) {
                let of = if enrolled.person == probe.person { &mut genuine } else { &mut impostor };
                of.push(square(enrolled, probe));
            }
        }
        [1e-2, 1e-3, 1e-4, 1e-5].map(|rate| {
            let limit = quantile(&mut impostor, rate);
            let tar = genuine.iter().filter(|&&square| square <= limit).count() as f64 / genuine.len() as f64;
            eprintln!("three enrolled, {title}: FMR {rate:e} at {:.3}, TAR {tar:.3}", limit.sqrt());
            tar
        })
    };
    let (mean, nearest) = (recognised("their mean", &mean), recognised("the nearest", &nearest));
    assert!(mean.iter().zip(nearest).all(|(mean, nearest)| *mean >= nearest), "the default is the better one");
}

/// People who are enrolled and looked at with several pictures are told apart as surely as with one, and are known more often.
#[test]
fn means_of_pictures_are_as_sure_as_single_ones() {
    if too_slow_here("fusion of pictures of LFW") {
        return;
    }
    let Some(dir) = beside_checkout("data/lfw-dev") else { return };
    let vision = vision(&measured(), 40.0);
    let mut files = pictures(&dir);
    if !full() {
        // People of three and more pictures, of each the first three: the only ones of whom there are means.
        let count = |name: &str| files.iter().filter(|(other, _)| other == name).count();
        let several: Vec<(String, PathBuf)> = files.iter().filter(|(name, _)| count(name) >= 3).cloned().collect();
        let first =
            |(i, file): (usize, &(String, PathBuf))| (i < 3 || several[i - 3].0 != file.0).then(|| file.clone());
        files = several.iter().enumerate().filter_map(first).take(360).collect();
    }
    let what = format!("lfw-{}-w8", files.len());
    let people = people(&cached(&what, &vision, || main_faces(&files, &vision)), vision.embedder().model());
    if full() {
        print_thresholds(&people);
        mean_against_nearest(&people);
    }
    let rates: &[f64] = if full() { &[1e-2, 1e-3, 1e-4, 1e-5] } else { &[1e-2] };
    let mut known = Vec::new();
    for (enrolled, probes) in [(1, 1), (1, 3), (3, 1), (2, 2), (3, 3), (5, 3)] {
        let (impostor, genuine) = comparisons(&means(&people, enrolled), &means(&people, probes));
        if impostor.is_empty() {
            continue;
        }
        for &rate in rates {
            let limits = lfw_limits(rate);
            let (fmr, tar) = (share_within(&impostor, limits), share_within(&genuine, limits));
            eprintln!(
                "{enrolled} enrolled x {probes} probes, limit for {rate:e}: FMR {fmr:.1e}, TAR {tar:.3} ({} impostor, {} genuine)",
                impostor.len(),
                genuine.len()
            );
            // Rarer ones rest on a handful of pairs of people.
            if rate >= 1e-3 {
                assert!(fmr <= 2.0 * rate && fmr >= 0.3 * rate, "{enrolled} x {probes} at {rate}: {fmr}");
            }
            if rate == rates[rates.len() - 1] && !genuine.is_empty() {
                known.push(tar);
            }
        }
    }
    if full() {
        assert!(known.windows(2).all(|pair| pair[1] > pair[0] - 0.02), "the more pictures the better: {known:?}");
    }
}

/// A frame every eighth of a second, as a board manages.
const EVERY: Duration = Duration::from_millis(125);

fn fuse_rules() -> FuseRules {
    let recognition = RecognitionConfig::default();
    let (same_face, one_moment) = (measured().same_face.unwrap(), measured().one_moment.unwrap_or(0.0));
    FuseRules { window: recognition.window as usize, same_face, one_moment, keep: recognition.visit_gap }
}

/// Each look of a visit as the daemon judges it: fused with those before it, or (a window of 1) alone.
fn probes(looks: &[Embedding], window: usize) -> Vec<Probe> {
    let (mut fuser, start) = (Fuser::new(FuseRules { window, ..fuse_rules() }), Instant::now());
    let add = |(i, look): (usize, &Embedding)| fuser.add(TrackId(1), look.clone(), start + EVERY * i as u32).unwrap();
    looks.iter().enumerate().map(add).collect()
}

/// Whether the policy lets somebody in who matches like this, a frame each.
fn lets_in(matches: impl Iterator<Item = Option<Match>>, limits: Limits) -> bool {
    let recognition = RecognitionConfig::default();
    let mut policy = Policy::new(Rules {
        margin: measured().margin.unwrap(),
        confirm: recognition.confirm as usize,
        window: recognition.window as usize,
        refuse_several_faces: true,
        visit_gap: recognition.visit_gap,
        cooldown: recognition.cooldown,
        max_decision_age: recognition.max_decision_age,
    });
    let start = Instant::now();
    matches.enumerate().any(|(i, matched)| {
        let at = start + EVERY * i as u32;
        let observation =
            Observation { track: TrackId(1), sighting: matched.map_or(Sighting::EmptyGallery, Sighting::Matched) };
        policy.judge(&[observation], limits, at, at).grants().next().is_some()
    })
}

/// Whether this visit is let in at a door that knows one person with this one picture.
fn opens(probes: &[Probe], enrolled: &Embedding, limits: Limits) -> bool {
    let matched = |probe: &Probe| Match {
        person: PersonId(1),
        distance: probe.embedding.distance(enrolled).unwrap(),
        spread: probe.spread,
        runner_up: None,
    };
    let matches: Vec<Match> = probes.iter().map(matched).collect();
    // Nearly all are far off in every frame: no need to ask.
    matches.iter().any(|matched| matched.distance <= limits.single) && lets_in(matches.into_iter().map(Some), limits)
}

/// Strangers who show eight faces of different days, at doors that know so many people by three pictures each: of so many visits, how
/// many are taken for somebody?
fn strangers_at_doors(people: &[Vec<Embedding>], strangers: &[(usize, Vec<Embedding>)]) {
    let several: Vec<usize> = (0..people.len()).filter(|&i| people[i].len() >= 3).collect();
    for (rate, enrolled) in [(1e-2, 5), (1e-2, 20), (3e-3, 5)] {
        let mut recognition = RecognitionConfig::default();
        recognition.false_match_rate.0 = rate;
        let threshold = Threshold::choose(&measured(), &recognition, enrolled).unwrap();
        let (mut visits, mut taken) = (0, 0);
        for door in several.chunks_exact(enrolled) {
            let template = |person: usize, embedding: &Embedding| Template {
                person: PersonId(person as u32),
                embedding: embedding.clone(),
            };
            let known: Vec<Template> =
                door.iter().flat_map(|&i| people[i][..3].iter().map(move |e| template(i, e))).collect();
            let fusion = Fusion::of(&measured(), TemplateFusion::Mean);
            let gallery = Gallery::new(known[0].embedding.model(), fusion, &known);
            for (_, looks) in strangers.iter().filter(|(who, _)| !door.contains(who)) {
                let probes = probes(looks, fuse_rules().window);
                let matches = probes.iter().map(|probe| gallery.search_fused(probe));
                taken += usize::from(lets_in(matches, threshold.limits));
                visits += 1;
            }
        }
        let share = taken as f64 / visits as f64;
        eprintln!(
            "{enrolled} enrolled, {rate} asked for: {taken} of {visits} strangers' visits taken for somebody, {share:.1e}"
        );
        // Three standard errors more are chance.
        let asked = rate * visits as f64;
        assert!(taken as f64 <= asked + 3.0 * asked.sqrt(), "{share}");
    }
}

/// How often a stranger's visit is taken for one enrolled person, against how often a single look at him is.
fn looks_per_visit(title: &str, visits: &[Vec<Embedding>], strangers_to: impl Fn(usize) -> Vec<Embedding>) {
    for rate in [1e-2, 1e-3, 1e-4] {
        let limits = lfw_limits(rate);
        let (mut look, mut visit, mut of) = (0.0, 0, 0);
        for (i, looks) in visits.iter().enumerate() {
            let (probes, enrolled) = (probes(looks, fuse_rules().window), strangers_to(i));
            for person in &enrolled {
                let near = looks.iter().filter(|look| look.distance(person).unwrap() <= limits.single).count();
                look += near as f64 / looks.len() as f64;
                visit += usize::from(opens(&probes, person, limits));
            }
            of += enrolled.len();
        }
        let ratio = visit as f64 / look.max(f64::MIN_POSITIVE);
        eprintln!(
            "{title}, limit for {rate:e}: of {of} comparisons {:.1e} per look, {:.1e} per visit, ratio {ratio:.2}",
            look / of as f64,
            visit as f64 / of as f64
        );
        // Of one visit no share can be told.
        assert!(visit <= 1 || ratio <= LOOKS_PER_VISIT, "{title} at {rate}: {ratio}");
    }
}

/// The same face a moment later: a little noise, as far from it as frames in quick succession are.
fn moments(look: &Embedding, count: usize, seed: usize) -> Vec<Embedding> {
    let noise = |i: usize, frame: usize| {
        let hash = (((seed * 31 + frame) * 131 + i) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.037
    };
    let moment = |frame| {
        let values = look.values().iter().enumerate().map(|(i, value)| value + noise(i, frame)).collect();
        Embedding::new(values, look.model()).unwrap()
    };
    (0..count).map(moment).collect()
}

/// The tracks of a video as visits of good looks, every so many frames.
fn visits(kept: &[Kept], every: usize, model: ModelId) -> Vec<Vec<Embedding>> {
    let mut tracks: Vec<(&str, Vec<Embedding>)> = Vec::new();
    for (name, values, [px, sharpness, _, turn]) in kept {
        // The faces of this video are small; else the limits of the configuration hold.
        if *px < 45.0 || *sharpness < 0.18 || *turn > 0.6 {
            continue;
        }
        let track = name.split(' ').next().unwrap();
        let look = Embedding::new(values.clone(), model).unwrap();
        match tracks.iter_mut().find(|(other, _)| *other == track) {
            Some((_, looks)) => looks.push(look),
            None => tracks.push((track, vec![look])),
        }
    }
    let long_enough = tracks.into_iter().map(|(_, looks)| looks).filter(|looks| looks.len() >= 30);
    long_enough.map(|looks| looks.into_iter().step_by(every).collect()).collect()
}

/// How far the looks of a visit are from each other, so many frames apart.
fn print_likeness(visits: &[Vec<Embedding>]) {
    for apart in [1, 2, 5, 10, 20, 40] {
        let pairs = visits.iter().flat_map(|looks| looks.iter().zip(looks.iter().skip(apart)));
        let mut distances: Vec<f32> = pairs.map(|(a, b)| a.distance(b).unwrap()).collect();
        let same_face = fuse_rules().same_face;
        let near = distances.iter().filter(|distance| **distance <= same_face).count() as f64 / distances.len() as f64;
        let quantiles = [0.1, 0.5, 0.9, 0.99].map(|share| quantile(&mut distances, share));
        eprintln!(
            "looks {apart} frames apart: distance {quantiles:.2?} at 10, 50, 90, 99 %; {near:.3} within {same_face:.3}"
        );
    }
}

/// What fusing brings at the door: visits let in with one look of half a track away enrolled, and strangers let in at the same limit.
fn print_visits(visits: &[Vec<Embedding>], length: usize, strangers: &[Embedding]) {
    for (title, window) in [("single looks", 1), ("fused looks", fuse_rules().window)] {
        for rate in [1e-2, 1e-3, 1e-4, 1e-5] {
            let limits = lfw_limits(rate);
            let (mut known, mut of, mut taken, mut chances) = (0, 0, 0, 0);
            for looks in visits {
                for start in (0..looks.len().saturating_sub(length)).step_by(length / 2) {
                    let probes = probes(&looks[start..start + length], window);
                    let away = |i: &usize| i.abs_diff(start + length / 2) * 5 >= looks.len() * 2;
                    let far: Vec<usize> = (0..looks.len()).filter(away).collect();
                    known += far.iter().filter(|&&i| opens(&probes, &looks[i], limits)).count();
                    of += far.len();
                    taken += strangers.iter().filter(|stranger| opens(&probes, stranger, limits)).count();
                    chances += strangers.len();
                }
            }
            eprintln!(
                "visits of {length} frames, {title}, limit for {rate:e}: {:.3} of {of} let in; strangers {:.1e}",
                f64::from(known as u32) / of as f64,
                taken as f64 / chances as f64
            );
        }
    }
}

/// A stranger steps into the track of a known person who is not confirmed yet: how often is he taken for that person, with a plain
/// mean of the looks, and as the fuser makes it?
fn mixed_tracks(visits: &[Vec<Embedding>], strangers: &[Embedding]) -> (f64, f64) {
    let limits = lfw_limits(1e-4);
    let (mut plain, mut guarded, mut of) = (0, 0, 0);
    for looks in visits {
        for start in (0..looks.len().saturating_sub(2)).step_by(2) {
            let known = &looks[start..start + 2];
            let enrolled = &looks[(start + looks.len() / 2) % looks.len()];
            for stranger in strangers {
                let near = |mean: &Embedding, spread| mean.distance(enrolled).unwrap() <= limits.at(spread);
                let (mean, spread) = fused(known.iter().chain([stranger]), 0.0).unwrap();
                plain += usize::from(near(&mean, spread));
                let mixed: Vec<Embedding> = known.iter().chain([stranger]).cloned().collect();
                let last = probes(&mixed, fuse_rules().window).pop().unwrap();
                guarded += usize::from(near(&last.embedding, last.spread));
                of += 1;
            }
        }
    }
    (f64::from(plain as u32) / of as f64, f64::from(guarded as u32) / of as f64)
}

#[test]
fn a_visit_is_a_few_looks_and_whoever_steps_in_is_not_averaged() {
    if !full() {
        eprintln!("SKIPPED: set FACELATCH_LFW=full");
        return;
    }
    if too_slow_here("fusion of the looks in a video") {
        return;
    }
    let (Some(video), Some(dir)) = (beside_checkout("data/video/walk.mp4"), beside_checkout("data/lfw-dev")) else {
        return;
    };
    let vision = vision(&measured(), 40.0);
    let model = vision.embedder().model();
    let files = pictures(&dir);
    let people = people(&cached(&format!("lfw-{}-w8", files.len()), &vision, || main_faces(&files, &vision)), model);
    let strangers: Vec<Embedding> = people.iter().flatten().cloned().collect();
    let walk = cached("walk-w8", &vision, || walk(&video, &vision));
    if walk.is_empty() {
        return;
    }
    print_likeness(&visits(&walk, 1, model));
    let (fast, slow) = (visits(&walk, 1, model), visits(&walk, 3, model));
    print_visits(&slow, 8, &strangers);
    print_visits(&fast, 25, &strangers);
    looks_per_visit("walking, 25 frames per second", &fast, |_| strangers.clone());
    looks_per_visit("walking, 8 frames per second", &slow, |_| strangers.clone());
    one_camera(&self::vision(&measured(), 80.0));
    let many: Vec<usize> = (0..people.len()).filter(|&i| people[i].len() >= 8).collect();
    let varied: Vec<Vec<Embedding>> = many
        .iter()
        .map(|&i| people[i][..8].iter().enumerate().flat_map(|(j, look)| moments(look, 4, i * 8 + j)).collect())
        .collect();
    looks_per_visit("eight faces of different days", &varied, |i| {
        people.iter().enumerate().filter(|(other, _)| *other != many[i]).flat_map(|(_, of)| of.clone()).collect()
    });
    let strange: Vec<(usize, Vec<Embedding>)> = many.iter().copied().zip(varied).collect();
    strangers_at_doors(&people, &strange);
    let (plain, guarded) = mixed_tracks(&slow, &strangers);
    eprintln!(
        "strangers who step into a track of two known looks are taken for the known one: plain mean {plain:.3}, fused {guarded:.1e}"
    );
    assert!(plain > 0.05 && guarded < 1e-3, "{plain} {guarded}");
}

/// The frames of NUAA's sequences (person_glasses_light_session), one webcam, some days.
fn sequences(vision: &Vision) -> Option<Vec<(String, Vec<Embedding>)>> {
    let files = pictures(&beside_checkout("data/pad/nuaa/real")?);
    let what = format!("nuaa-{}-w8", files.len());
    let mut sequences: Vec<(String, Vec<Embedding>)> = Vec::new();
    for (name, values, _) in cached(&what, vision, || main_faces(&files, vision)) {
        let embedding = Embedding::new(values, vision.embedder().model()).unwrap();
        match sequences.last_mut().filter(|(last, _)| *last == name) {
            Some((_, frames)) => frames.push(embedding),
            None => sequences.push((name, vec![embedding])),
        }
    }
    Some(sequences)
}

fn person_of(sequence: &str) -> &str {
    sequence.split('_').next().unwrap()
}

/// Frames of a person's other sessions within the limit: with three pictures of a session
/// enrolled, one so many frames after the other, and with one of them, on average; of how many.
fn frames_recognised(
    sequences: &[(String, Vec<Embedding>)],
    embedder: &NetEntry,
    apart: usize,
    limits: Limits,
) -> (usize, f64, usize) {
    let (mut three, mut one, mut of) = (0, 0.0, 0);
    for (name, frames) in sequences {
        let others = sequences.iter().filter(|(other, _)| other != name && person_of(other) == person_of(name));
        let probes: Vec<&Embedding> = others.flat_map(|(_, frames)| frames).collect();
        let within = |pictures: &[&Embedding]| {
            let template = |picture: &&Embedding| Template { person: PersonId(1), embedding: (*picture).clone() };
            let pictures: Vec<Template> = pictures.iter().map(template).collect();
            let fusion = Fusion::of(embedder, TemplateFusion::Mean);
            let gallery = Gallery::new(frames[0].model(), fusion, &pictures);
            let near = |matched: Match| matched.distance <= limits.at(matched.spread);
            probes.iter().filter(|probe| gallery.search(probe).is_some_and(near)).count()
        };
        for first in (0..frames.len() - 2 * apart).step_by(3) {
            let own = [&frames[first], &frames[first + apart], &frames[first + 2 * apart]];
            three += within(&own);
            one += own.iter().map(|picture| within(&[picture])).sum::<usize>() as f64 / 3.0;
            of += probes.len();
        }
    }
    (three, one, of)
}

#[test]
fn three_pictures_of_a_session_are_no_worse_than_one() {
    if too_slow_here("pictures of one session") {
        return;
    }
    for name in ["mobilefacenet", "dlib-triplet"] {
        let embedder = shipped(name);
        let Some(sequences) = sequences(&vision(&embedder, 80.0)) else { return };
        for point in &embedder.thresholds {
            let limits = Limits { single: point.distance, shrink: point.shrink };
            for apart in [1, 10] {
                let (three, one, of) = frames_recognised(&sequences, &embedder, apart, limits);
                let shares = [three as f64, one].map(|frames| frames / of as f64);
                eprintln!(
                    "{name}, limit {:.3}, {apart} apart: frames of another day within it, three pictures {:.3}, one {:.3}",
                    limits.single, shares[0], shares[1]
                );
                assert!(three as f64 >= one, "{name} at {:e}, {apart} apart: {shares:?}", point.fmr);
            }
        }
    }
}

/// Visits before one webcam: how many looks one makes, and who is let in with one picture of
/// another day enrolled.
fn one_camera(vision: &Vision) {
    let Some(sequences) = sequences(vision) else { return };
    let visits: Vec<Vec<Embedding>> = sequences.iter().map(|(_, frames)| frames.clone()).collect();
    let enrolled = |i: usize, same: bool| {
        let is_same = |name: &str| person_of(name) == person_of(&sequences[i].0);
        let of = sequences.iter().enumerate().filter(|(j, (name, _))| *j != i && is_same(name) == same);
        of.flat_map(|(_, (_, frames))| frames.iter().step_by(3).cloned()).collect::<Vec<_>>()
    };
    looks_per_visit("one webcam, 40 frames", &visits, |i| enrolled(i, false));
    for rate in [1e-3, 1e-4, 1e-5, 1e-6] {
        let limits = lfw_limits(rate);
        for (title, window) in [("single looks", 1), ("fused looks", fuse_rules().window)] {
            let (mut let_in, mut of) = ([0, 0], [0, 0]);
            for (i, looks) in visits.iter().enumerate() {
                let probes = probes(looks, window);
                for same in [true, false] {
                    let pictures = enrolled(i, same);
                    of[usize::from(same)] += pictures.len();
                    let_in[usize::from(same)] += pictures.iter().filter(|one| opens(&probes, one, limits)).count();
                }
            }
            let [strangers, known] = [0, 1].map(|who| f64::from(let_in[who] as u32) / of[who] as f64);
            eprintln!(
                "one webcam, {title}, limit {:.3} for {rate:e}: known visits let in {known:.3} of {}, strangers {strangers:.4} of {}",
                limits.single, of[1], of[0]
            );
        }
    }
}
