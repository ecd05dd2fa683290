//! `facelatch train`: an embedder's last layer trained anew on a folder of people.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
};

use image::RgbImage;
use ndarray::{Array2, ArrayView2, Axis};
use ndarray_npy::{ReadNpyExt, WriteNpyExt};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    CommandError,
    arguments::TrainArguments,
    exit,
    measure::{self, Bar, Chosen, FUSIONS},
    print,
};
use crate::{
    error::ErrorKind,
    eval::{
        collection::{self, Collection, CollectionError},
        plot,
        scale::Scale,
        statistics::{self, Distances, RATES},
    },
    service::StartError,
    triplet::{Mining, Progress, Random, Samples, Settings, TrainError, Trainer},
    vision::{
        Vision,
        align::AlignedFace,
        manifest::{
            AlignmentEntry, ChannelOrder, Checksum, Manifest, ManifestError, NetEntry, Population, Role, Threshold,
        },
        model::Precision,
        mtcnn::SAME_FACE,
    },
};

/// Steps between two looks at the people held out.
const CHECK_EVERY: usize = 100;
/// So many looks without a better one end the training.
const PATIENCE: usize = 6;
/// Pictures in each of the means that show how far their distances shrink.
const AVERAGED: usize = 3;
/// The rates whose TAR, on average over those that the held-out people can show, says which layer is best.
const JUDGED: [f64; 3] = [1e-3, 1e-4, 1e-5];

/// One training without the people held out.
struct Fold<'a> {
    trainer: Trainer<'a>,
    held_out: Vec<bool>,
}

/// A layer and the people it was not trained on, by number.
#[derive(Clone)]
struct HeldOut {
    layer: Array2<f32>,
    people: Vec<bool>,
}

/// One look at the people held out.
struct Look {
    progress: Progress,
    /// TAR at [`JUDGED`], where so few comparisons show it.
    tar: [Option<f64>; JUDGED.len()],
}

impl Look {
    fn score(&self) -> f64 {
        let known: Vec<f64> = self.tar.iter().flatten().copied().collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    }
}

/// Trains, measures and writes.
pub(super) fn run(arguments: &TrainArguments, json: bool) -> Result<u8, CommandError> {
    let settings = settings(arguments);
    settings.check()?;
    let target = Target::new(&arguments.out)?;
    let manifest = Manifest::load(&target.dir).map_err(start_error)?;
    if let Some(taken) = manifest.nets().iter().find(|net| net.name == target.name) {
        let name = &target.name;
        let problem = format!("{} has a net called {name} already; choose another name", taken.listed_in.display());
        return Err(CommandError::Usage(problem));
    }
    let entry = manifest.embedder(&arguments.embedder).map_err(start_error)?.clone();
    let collection = Collection::read(&arguments.images)?;
    let features = Features::extract(&manifest, &target.dir, &entry, &collection, arguments.cache.as_deref())?;
    let several = features.people_with_several_pictures();
    if several < 2 {
        let problem = format!(
            "people with two pictures that show a face: {several}; at least two people with two pictures each are needed, to learn from one and to measure on the other"
        );
        return Err(CollectionError::TooFew { path: arguments.images.clone(), problem }.into());
    }
    let trainers = (0..arguments.repeats.max(1)).flat_map(|repeat| {
        features.partition(arguments.folds.clamp(2, several), arguments.seed.wrapping_add(repeat as u64))
    });
    let trainers = trainers.map(|held_out| {
        let trainer = Trainer::new(&features.layer, &features.samples, |person| !held_out[person], settings)?;
        Ok(Fold { trainer, held_out })
    });
    let trainers = trainers.collect::<Result<Vec<_>, TrainError>>()?;
    let trained = find_steps(trainers, &features, arguments.steps)?;
    say(&format!("training on everybody, {} steps", trained.steps));
    let mut trainer = Trainer::new(&features.layer, &features.samples, |_| true, settings)?;
    trainer.advance(trained.steps)?;
    let mut layer = Vec::new();
    trainer.layer().write_npy(&mut layer).map_err(|error| internal(error.to_string()))?;
    let tables = Tables::measure(&features, &trained.best)?;
    if let Some(folder) = &arguments.plots {
        draw(folder, &trained, &tables)?;
    }
    let entry = manifest_entry(&entry, &target, &layer, &tables, &collection);
    target.write(&layer, &entry)?;
    if json {
        print::emit_json(&as_json(&target, &trained, &tables));
    } else {
        print::emit(&as_text(&target, &trained, &tables));
    }
    Ok(exit::DONE)
}

fn settings(arguments: &TrainArguments) -> Settings {
    Settings {
        alpha: arguments.alpha,
        batch: arguments.batch,
        pool: arguments.pool,
        mining: if arguments.mining == "hard" { Mining::Hard } else { Mining::SemiHard },
        learning_rate: arguments.learning_rate,
        decay: arguments.decay,
        common: arguments.common,
        seed: arguments.seed,
    }
}

fn start_error(error: ManifestError) -> CommandError {
    CommandError::Start(StartError::Manifest(error))
}

fn internal(problem: String) -> CommandError {
    CommandError::Answer { problem, kind: ErrorKind::Internal }
}

fn say(line: &str) {
    // A closed standard error output is no reason to stop.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where the layer and its manifest entry go.
struct Target {
    dir: PathBuf,
    name: String,
}

impl Target {
    fn new(out: &Path) -> Result<Target, CommandError> {
        let wrong = |problem: String| CommandError::Usage(format!("--out {}: {problem}", out.display()));
        let name = out.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(wrong("give a name of letters, digits, \"-\", \"_\" and \".\"".into()));
        }
        let dir = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !dir.join("models.toml").is_file() {
            return Err(wrong(format!("{} is no folder of models: there is no models.toml in it", dir.display())));
        }
        let target = Target { dir, name };
        for file in [target.layer(), target.entry()] {
            if file.exists() {
                return Err(wrong(format!("{} is there already; remove it or choose another name", file.display())));
            }
        }
        Ok(target)
    }

    fn layer(&self) -> PathBuf {
        self.dir.join(format!("{}.npy", self.name))
    }

    fn entry(&self) -> PathBuf {
        self.dir.join(format!("{}.toml", self.name))
    }

    /// The layer first: an entry without its layer would keep the program from starting. Each appears complete or not at all.
    fn write(&self, layer: &[u8], entry: &str) -> Result<(), CommandError> {
        for (path, bytes) in [(self.layer(), layer), (self.entry(), entry.as_bytes())] {
            let part = self.dir.join(format!(".{}.part", self.name));
            // Models are no secret, and the daemon runs as another user.
            let written = fs::write(&part, bytes)
                .and_then(|()| fs::set_permissions(&part, fs::Permissions::from_mode(0o644)))
                .and_then(|()| fs::rename(&part, &path));
            if let Err(source) = written {
                let _ = fs::remove_file(&part);
                return Err(CommandError::File { path, source });
            }
        }
        Ok(())
    }
}

/// Where a picture is among the samples.
struct PictureRows {
    person: usize,
    /// Of the picture as it is and of its mirror image.
    rows: [usize; 2],
}

/// What the nets make of the pictures.
struct Features {
    /// The layer to start from.
    layer: Array2<f32>,
    samples: Samples,
    people: usize,
    /// For each precision, the pictures with a face.
    precisions: Vec<(Precision, Vec<PictureRows>)>,
}

impl Features {
    /// Every picture and its mirror image, in every precision of the embedder: integer arithmetic, and the landmarks that the
    /// detector finds with it, are a little different, and the layer has to serve both.
    fn extract(
        manifest: &Manifest,
        dir: &Path,
        entry: &NetEntry,
        collection: &Collection,
        cache: Option<&Path>,
    ) -> Result<Features, CommandError> {
        let mut features = Array2::zeros((0, 0));
        let mut samples = Samples { features: Array2::zeros((0, 0)), person: Vec::new(), picture: Vec::new() };
        let (mut precisions, mut start) = (Vec::new(), None);
        for &precision in &entry.precisions {
            let chosen = Chosen { dir: dir.to_owned(), embedder: entry.name.clone(), precision, mirror: false };
            let vision = chosen.load(precision)?;
            let Some(layer) = vision.embedder().last_layer() else {
                let problem = format!(
                    "embedder \"{}\" has no last layer of its own in {}: there is nothing that could be trained",
                    entry.name,
                    entry.listed_in.display()
                );
                return Err(CommandError::Usage(problem));
            };
            start = Some(layer.clone());
            let kept = cache
                .map(|cache| Ok::<_, CommandError>(cache.join(cache_name(manifest, entry, precision, collection)?)));
            let kept = kept.transpose()?;
            let views = match kept.as_deref().filter(|kept| kept.is_file()) {
                Some(kept) => read_features(kept, collection.pictures.len())?,
                None => {
                    let views = extract_views(&vision, precision, collection)?;
                    kept.map_or(Ok(()), |kept| write_features(&kept, &views))?;
                    views
                }
            };
            let mut rows = Vec::new();
            for (picture, views) in views.axis_chunks_iter(Axis(0), 2).enumerate() {
                if views.iter().any(|value| value.is_nan()) {
                    continue;
                }
                let person = collection.pictures[picture].person;
                let first = samples.person.len();
                samples.person.extend([person; 2]);
                samples.picture.extend([picture; 2]);
                if features.is_empty() {
                    features = Array2::zeros((0, views.ncols()));
                }
                features.append(Axis(0), views).map_err(|error| internal(error.to_string()))?;
                rows.push(PictureRows { person, rows: [first, first + 1] });
            }
            precisions.push((precision, rows));
        }
        samples.features = features;
        let layer = start.ok_or_else(|| internal("an embedder without a precision was let through".into()))?;
        Ok(Features { layer, samples, people: collection.people.len(), precisions })
    }

    /// Pictures with a face, of each person.
    fn pictures(&self) -> Vec<usize> {
        let mut pictures = vec![0; self.people];
        self.precisions.iter().take(1).flat_map(|(_, rows)| rows).for_each(|rows| pictures[rows.person] += 1);
        pictures
    }

    fn people_with_several_pictures(&self) -> usize {
        self.pictures().iter().filter(|pictures| **pictures > 1).count()
    }

    /// Divides the people into `folds`, those with several pictures and those with one alike; for each fold, who is held out.
    fn partition(&self, folds: usize, seed: u64) -> Vec<Vec<bool>> {
        let pictures = self.pictures();
        let mut order: Vec<usize> = (0..self.people).collect();
        Random::new(seed).shuffle(&mut order);
        order.sort_by_key(|person| pictures[*person] < 2);
        let held_out = |fold: usize| {
            let mut held_out = vec![false; self.people];
            order.iter().skip(fold).step_by(folds).for_each(|person| held_out[*person] = true);
            held_out
        };
        (0..folds).map(held_out).collect()
    }

    /// Embeddings of every picture of the people held out, and whose each is.
    fn embedded(&self, held_out: &HeldOut, precision: usize, mirror: bool) -> (Array2<f32>, Vec<usize>) {
        let rows: Vec<&PictureRows> =
            self.precisions[precision].1.iter().filter(|rows| held_out.people[rows.person]).collect();
        let of =
            |view: usize| self.samples.features.select(Axis(0), &rows.iter().map(|r| r.rows[view]).collect::<Vec<_>>());
        // Half the sum has the same direction as the sum.
        let features = if mirror { of(0) + of(1) } else { of(0) };
        let embeddings = statistics::unit_rows(features.dot(&held_out.layer.t()));
        (embeddings, rows.iter().map(|rows| rows.person).collect())
    }

    /// Every picture of the people held out against every other; None when they are too few.
    fn distances(&self, held_out: &HeldOut, precision: usize, mirror: bool) -> Option<Distances> {
        let (embeddings, person) = self.embedded(held_out, precision, mirror);
        statistics::all_pairs(embeddings.view(), &person)
    }
}

/// Two rows for each picture, of its main face and of the mirror image; NaN where there is no face.
fn extract_views(vision: &Vision, precision: Precision, collection: &Collection) -> Result<Array2<f32>, CommandError> {
    let bar = Bar::new(format!("features as {precision}"), collection.pictures.len());
    let work = |vision: &mut Vision, picture: &RgbImage, _| views(vision, picture);
    let found = collection::each(&collection.pictures, vision, work, |done| bar.show(done))?;
    let width = found.iter().flatten().next().map_or(0, |[features, _]| features.len());
    let values = found.into_iter().flat_map(|views| match views {
        Some([features, mirrored]) => [features, mirrored].concat(),
        None => vec![f32::NAN; 2 * width],
    });
    Array2::from_shape_vec((2 * collection.pictures.len(), width), values.collect())
        .map_err(|error| internal(error.to_string()))
}

/// A name that says what features were made of: the nets and how many boxes go through them, the precision and the pictures themselves.
fn cache_name(
    manifest: &Manifest,
    entry: &NetEntry,
    precision: Precision,
    collection: &Collection,
) -> Result<String, CommandError> {
    let mut hash = Sha256::new();
    let detectors = manifest.nets().iter().filter(|net| net.role != Role::Embedder).map(|net| net.checksum.to_string());
    let alignment = format!("{:?} {:?} {:?} {precision} {SAME_FACE}", entry.input, entry.pixels, entry.alignment);
    for part in detectors.chain([entry.checksum.to_string(), alignment]) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for picture in &collection.pictures {
        let bytes =
            fs::read(&picture.path).map_err(|source| CommandError::File { path: picture.path.clone(), source })?;
        hash.update(Sha256::digest(&bytes));
    }
    Ok(format!("{}.npy", hash.finalize()[..12].iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

fn read_features(path: &Path, pictures: usize) -> Result<Array2<f32>, CommandError> {
    let unreadable = |problem: String| CommandError::File { path: path.to_owned(), source: io::Error::other(problem) };
    let file = fs::File::open(path).map_err(|source| CommandError::File { path: path.to_owned(), source })?;
    let views = Array2::<f32>::read_npy(io::BufReader::new(file))
        .map_err(|error| unreadable(format!("{error}; remove this file, it is made anew")))?;
    if views.nrows() != 2 * pictures {
        return Err(unreadable(
            "it holds features of another number of pictures; remove this file, it is made anew".into(),
        ));
    }
    say(&format!("features read from {}", path.display()));
    Ok(views)
}

fn write_features(path: &Path, views: &Array2<f32>) -> Result<(), CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    views.write_npy(&mut bytes).map_err(|error| internal(error.to_string()))?;
    path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, bytes)).map_err(failed)
}

/// Features of a picture's main face and of its mirror image; None when there is no face.
fn views(vision: &mut Vision, picture: &RgbImage) -> Result<Option<[Vec<f32>; 2]>, String> {
    let Some(face) = collection::main_face(vision, picture)? else { return Ok(None) };
    let Some((_, aligned)) = vision.look(picture, &face) else { return Ok(None) };
    let features = |face: &AlignedFace| vision.embedder().features(face).map_err(|error| error.to_string());
    Ok(Some([features(&aligned)?, features(&aligned.mirrored())?]))
}

/// The trainings at the step at which the people held out were told apart best.
struct Trained {
    looks: Vec<Look>,
    steps: usize,
    best: Vec<HeldOut>,
}

/// Trains all folds side by side, and looks at the people held out again and again.
fn find_steps(mut folds: Vec<Fold<'_>>, features: &Features, most: usize) -> Result<Trained, CommandError> {
    let start = Progress { steps: 0, loss: f32::NAN, active: f32::NAN };
    let mut trained = Trained { looks: Vec::new(), steps: 0, best: Vec::new() };
    let mut progress = start;
    loop {
        let now: Vec<HeldOut> =
            folds.iter().map(|fold| HeldOut { layer: fold.trainer.layer(), people: fold.held_out.clone() }).collect();
        let seen = (0..features.precisions.len()).flat_map(|precision| {
            now.iter().filter_map(move |held_out| features.distances(held_out, precision, false))
        });
        let seen = Distances::merged(seen).ok_or(TrainError::OnePicture)?;
        let look = Look { progress, tar: JUDGED.map(|rate| Some(seen.at(rate)?.tar)) };
        say(&line(&look));
        if trained.looks.iter().all(|earlier| look.score() > earlier.score()) {
            (trained.steps, trained.best) = (progress.steps, now);
        }
        trained.looks.push(look);
        let since = (progress.steps - trained.steps) / CHECK_EVERY;
        if progress.steps >= most || since >= PATIENCE {
            return Ok(trained);
        }
        let steps = CHECK_EVERY.min(most - progress.steps);
        let advanced = thread::scope(|scope| {
            let running: Vec<_> =
                folds.iter_mut().map(|fold| scope.spawn(move || fold.trainer.advance(steps))).collect();
            running.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        let mut sum = Progress { steps: progress.steps + steps, loss: 0.0, active: 0.0 };
        for one in advanced {
            let one = one.map_err(|_| internal("a training panicked".into()))??;
            sum.loss += one.loss / folds.len() as f32;
            sum.active += one.active / folds.len() as f32;
        }
        progress = sum;
    }
}

fn line(look: &Look) -> String {
    let Progress { steps, loss, active } = look.progress;
    let tar = look.tar.iter().zip(JUDGED).filter_map(|(tar, rate)| Some(format!("{:.4} at {rate:e}", (*tar)?)));
    let tar = tar.collect::<Vec<_>>().join(", ");
    if steps == 0 {
        return format!("step    0: before any training; held-out TAR {tar}");
    }
    format!("step {steps:4}: loss {loss:.4}, active triplets {:.1} %, held-out TAR {tar}", active * 100.0)
}

/// Compares embeddings, rows, of which it is known whose they are.
type Comparison<'a> = dyn Fn(ArrayView2<'_, f32>, &[usize]) -> Option<Distances> + 'a;

/// What comparisons of people held out say in one precision, with mirror images averaged in or without.
struct Measured {
    precision: Precision,
    mirror: bool,
    /// Every picture against every other.
    all: Distances,
    /// Means of so many enrolled pictures against means of so many seen ones.
    fusions: Vec<((usize, usize), Distances)>,
    /// For each of [`RATES`], how far distances of means shrink, where that could be measured.
    shrinks: [Option<f32>; RATES.len()],
    scale: Scale,
}

impl Measured {
    /// None when the people held out are too few to compare.
    fn of(features: &Features, best: &[HeldOut], index: usize, mirror: bool) -> Option<Measured> {
        let embedded: Vec<_> = best.iter().map(|held_out| features.embedded(held_out, index, mirror)).collect();
        let merged = |compare: &Comparison<'_>| {
            Distances::merged(embedded.iter().filter_map(|(rows, person)| compare(rows.view(), person)))
        };
        let fusion = |(enrolled, probe)| {
            let distances = merged(&|rows, person| statistics::fused(rows, person, enrolled, probe))?;
            Some(((enrolled, probe), distances))
        };
        let means: Vec<_> = (embedded.iter())
            .map(|(rows, person)| statistics::means_of_strangers(rows.view(), person, AVERAGED))
            .collect();
        let alone: Vec<_> = embedded.iter().map(|(rows, person)| statistics::all_pairs(rows.view(), person)).collect();
        // Each layer's means against its own limit.
        let shrink = |fmr: f64| {
            let limits: Option<Vec<f32>> = alone.iter().map(|distances| distances.as_ref()?.threshold(fmr)).collect();
            let limits: Vec<f32> =
                limits?.iter().zip(&means).flat_map(|(limit, means)| vec![*limit; means.len()]).collect();
            statistics::shrink(&means.concat(), &limits, fmr)
        };
        let all = merged(&|rows, person| statistics::all_pairs(rows, person))?;
        let parts: Vec<_> = embedded.iter().map(|(rows, person)| (rows.view(), &person[..])).collect();
        Some(Measured {
            precision: features.precisions[index].0,
            mirror,
            scale: Scale::measure(&parts, &all),
            all,
            fusions: FUSIONS.into_iter().filter_map(fusion).collect(),
            shrinks: RATES.map(shrink),
        })
    }

    fn name(&self) -> String {
        format!("{}{}", self.precision, if self.mirror { ", mirrored" } else { "" })
    }
}

/// Thresholds measured on people held out, without and with mirror images averaged in: of all precisions the stricter.
struct Tables {
    plain: Vec<Threshold>,
    mirror: Vec<Threshold>,
    /// The other distances, of all that was measured the strictest.
    scale: Option<Scale>,
    measured: Vec<Measured>,
}

impl Tables {
    fn measure(features: &Features, best: &[HeldOut]) -> Result<Tables, TrainError> {
        let ways = (0..features.precisions.len()).flat_map(|index| [(index, false), (index, true)]);
        let measured: Option<Vec<Measured>> =
            ways.map(|(index, mirror)| Measured::of(features, best, index, mirror)).collect();
        let measured = measured.ok_or(TrainError::OnePicture)?;
        let strictest = |mirror: bool| {
            // What cannot be measured is as at the rate before; if nothing was, the whole spread counts.
            let mut last = 1.0;
            let of = |(rate, fmr): (usize, f64)| {
                let each = || measured.iter().filter(|measured| measured.mirror == mirror);
                let distance = each().filter_map(|m| m.all.threshold(fmr)).min_by(f32::total_cmp)?;
                last = each().filter_map(|m| m.shrinks[rate]).max_by(f32::total_cmp).unwrap_or(last);
                // Down and up to what is written, so that rounding never loosens them.
                let (distance, shrink) = ((distance * 1000.0).floor() / 1000.0, (last * 100.0).ceil() / 100.0);
                Some(Threshold { fmr, distance, shrink, interval: None })
            };
            let mut table: Vec<Threshold> = RATES.into_iter().enumerate().filter_map(of).collect();
            // The manifest's distances fall from one rate to the next; few comparisons may show the same one for two.
            table.dedup_by(|next, last| next.distance >= last.distance || next.distance <= 0.0);
            table
        };
        let scale = measured.iter().map(|measured| measured.scale).reduce(Scale::stricter);
        Ok(Tables { plain: strictest(false), mirror: strictest(true), scale, measured })
    }
}

/// The manifest's entry for the trained layer: that of the embedder it started from, with the layer's name, hash and thresholds.
fn manifest_entry(base: &NetEntry, target: &Target, layer: &[u8], tables: &Tables, collection: &Collection) -> String {
    let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let checksum = Checksum::of(layer);
    let precisions = base.precisions.iter().map(|p| format!("\"{p}\"")).collect::<Vec<_>>().join(", ");
    let order = match base.pixels.order {
        ChannelOrder::Rgb => "rgb",
        ChannelOrder::Bgr => "bgr",
    };
    let alignment = match &base.alignment {
        Some(AlignmentEntry::FivePoints { points, weights }) => {
            format!("{{ points = {points:?}, weights = {weights:?} }}")
        }
        Some(AlignmentEntry::Box { box_margin, square }) => {
            format!("{{ box_margin = {box_margin:?}, square = {square} }}")
        }
        None => "{}".into(),
    };
    // It looks at the net's features, which are as they were.
    let hidden = base.hidden.as_ref().map_or_else(String::new, |hidden| {
        format!("hidden = {{ file = {}, checksum = \"{}\" }}\n", text(&hidden.file), hidden.checksum)
    });
    let held_out = Population {
        name: "the people held out of its training".into(),
        source: format!(
            "facelatch train, of the precisions the stricter; {} people, each held out once",
            collection.people.len()
        ),
        people: collection.people.len(),
        comparisons: tables.measured.first().map_or(0, |measured| measured.all.impostor().len()),
        sets_limit: true,
        thresholds: tables.plain.clone(),
        mirror_thresholds: tables.mirror.clone(),
    };
    format!(
        "# Written by facelatch train: the last layer of {} trained anew by triplet loss on {} pictures of {} people.\n\
         version = 1\n\n[[net]]\nname = {}\nrole = \"embedder\"\nfile = {}\nchecksum = \"{}\"\nprecisions = [{precisions}]\n\
         input = {:?}\nlicense = {}\norigin = {}\ndimension = {}\n\
         last_layer = {{ file = {}, checksum = \"{checksum}\" }}\n{hidden}\
         pixels = {{ order = \"{order}\", mean = {:?}, scale = {:?} }}\nalignment = {alignment}\n\
         # Other people than these may be taken for each other far more often: measure them, too (facelatch eval --people DIR --table).\n{}{held_out}",
        base.name,
        collection.pictures.len(),
        collection.people.len(),
        text(&target.name),
        text(&base.file),
        base.checksum,
        base.input,
        text(&base.license),
        text(&format!("{}; last layer trained by triplet loss", base.origin)),
        base.dimension.unwrap_or_default(),
        text(&format!("{}.npy", target.name)),
        base.pixels.mean,
        base.pixels.scale,
        tables.scale.map_or_else(String::new, |scale| scale.to_string()),
    )
}

fn draw(folder: &Path, trained: &Trained, tables: &Tables) -> Result<(), CommandError> {
    let steps = |look: &Look| look.progress.steps as f64;
    let learnt = || trained.looks.iter().filter(|look| look.progress.steps > 0);
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = vec![
        ("loss".into(), learnt().map(|look| (steps(look), f64::from(look.progress.loss))).collect()),
        ("active triplets".into(), learnt().map(|look| (steps(look), f64::from(look.progress.active))).collect()),
    ];
    lines.extend(JUDGED.iter().enumerate().skip(1).map(|(i, rate)| {
        let points = trained.looks.iter().filter_map(|look| Some((steps(look), look.tar[i]?)));
        (format!("held-out TAR at {rate:e}"), points.collect())
    }));
    let lines: Vec<plot::Line<'_>> = lines.iter().map(|(name, points)| (name.as_str(), points.clone())).collect();
    let samples: Vec<(String, &Distances)> =
        tables.measured.iter().map(|measured| (measured.name(), &measured.all)).collect();
    let samples: Vec<(&str, &Distances)> =
        samples.iter().map(|(name, distances)| (name.as_str(), *distances)).collect();
    measure::write_pictures(folder, [("training.svg", plot::training(&lines)), ("roc.svg", plot::roc(&samples))])
}

fn tar_at(distances: &Distances) -> Vec<(String, f64)> {
    RATES.iter().filter_map(|rate| Some((format!("{rate:e}"), distances.at(*rate)?.tar))).collect()
}

fn as_json(target: &Target, trained: &Trained, tables: &Tables) -> serde_json::Value {
    let shares = |distances: &Distances| {
        json!({
            "tar": tar_at(distances).into_iter().collect::<BTreeMap<_, _>>(),
            "genuine": distances.genuine().len(),
            "impostor": distances.impostor().len(),
        })
    };
    let measured = tables.measured.iter().map(|measured| {
        let fusion = (measured.fusions.iter())
            .map(|((enrolled, probe), distances)| (format!("{enrolled}x{probe}"), shares(distances)));
        let mut all = shares(&measured.all);
        all["precision"] = measured.precision.to_string().into();
        all["mirror"] = measured.mirror.into();
        all["fusion"] = fusion.collect::<serde_json::Map<_, _>>().into();
        all
    });
    json!({
        "layer": target.layer(),
        "entry": target.entry(),
        "steps": trained.steps,
        "held_out": measured.collect::<Vec<_>>(),
    })
}

fn as_text(target: &Target, trained: &Trained, tables: &Tables) -> String {
    let mut table = vec![["TAR of held-out people at FMR", "genuine", "impostor"].map(str::to_owned).to_vec()];
    table[0].extend(RATES.map(|rate| format!("{rate:e}")));
    let mut line = |name: String, distances: &Distances| {
        let counts = [distances.genuine().len(), distances.impostor().len()].map(|count| count.to_string());
        let tar = tar_at(distances).into_iter().map(|(_, tar)| format!("{tar:.4}"));
        table.push([name].into_iter().chain(counts).chain(tar).collect());
    };
    for measured in &tables.measured {
        line(measured.name(), &measured.all);
        for ((enrolled, probe), distances) in &measured.fusions {
            line(format!("  {enrolled} enrolled, {probe} seen"), distances);
        }
    }
    format!(
        "{}\nwritten after {} steps: {} and {}\nto use it: models.embedder = \"{}\"\n",
        print::table(&table),
        trained.steps,
        target.layer().display(),
        target.entry().display(),
        target.name
    )
}
