//! A minute at a door, made of the portraits in tests/data: what the daemon's work on it costs in processor time, by stage and phase.
//!
//!     cargo bench --bench door -- [--format yuyv|mjpeg] [--precision w8|int8] [--json] [--save DIR]
//!
//! Every frame is worked on as by the daemon's recognise thread, on the frames' own clock, so that nothing is lost however slow the
//! machine is; which frames would have been dropped in real time is reckoned from the times afterwards. It fails when a visit is
//! decided wrong. `--save` writes the frames as JPEGs, to be looked at, or to be played to the daemon or `facelatch bench`.

use std::{
    collections::HashMap,
    env,
    error::Error,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use facelatch::{
    config::{Config, GpioBackend, LineChoice, PrecisionChoice},
    gallery::PersonId,
    policy::{Decision, Denial, Policy, Reason, Verdict},
    service::Services,
    sight::{self, Sight},
    sighting::Observation,
    triplet::Random,
    vision::{
        Vision,
        frame::{Frame, PixelFormat},
        track::TrackId,
    },
};
use image::{ImageFormat, Rgb, RgbImage, imageops};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
const FPS: u32 = 15;

/// A frame's noise: standard deviation of a pixel's luma, of a webcam by day and in the dusk.
const NOISE: f32 = 2.0;
const NOISE_AT_DUSK: f32 = 6.0;

/// Who is enrolled, with which portraits; who comes, on another one; and who is nobody.
const ENROLLED: [(&str, &str); 3] =
    [("barack_obama_1", "Barack Obama"), ("barack_obama_2", "Barack Obama"), ("joe_biden_1", "Joe Biden")];
const KNOWN: (&str, &str) = ("barack_obama_3", "Barack Obama");
const UNKNOWN: &str = "eileen_collins_1";
const PASSER_BY: &str = "grace_hopper_1";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Empty,
    Noise,
    Light,
    PasserBy,
    Known,
    Unknown,
}

const PHASES: [(Phase, &str); 6] = [
    (Phase::Empty, "empty"),
    (Phase::Noise, "noise"),
    (Phase::Light, "light changes"),
    (Phase::PasserBy, "somebody walks by"),
    (Phase::Known, "a known person comes and stays"),
    (Phase::Unknown, "an unknown person comes and stays"),
];

/// What happens, and for how many seconds; together a minute. Visits lie farther apart than `recognition.visit_gap`.
const MINUTE: [(Phase, u32); 8] = [
    (Phase::Empty, 12),
    (Phase::Noise, 6),
    (Phase::Light, 8),
    (Phase::PasserBy, 6),
    (Phase::Empty, 4),
    (Phase::Known, 10),
    (Phase::Empty, 4),
    (Phase::Unknown, 10),
];

const STAGES: [&str; 7] = ["decode", "motion", "search", "confirm", "examine", "embed", "decide"];
/// Milliseconds of processor time of each stage.
type Spent = [f64; STAGES.len()];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let options = Options::read()?;
    // So that the time a stage takes is that of its processor, and a profiler sees all of it below `Door::look`.
    rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global()?;
    let dir = tempfile::tempdir()?;
    let services = Services::open(config(dir.path(), options.precision)?)?.0;
    let mut minute = Minute::new(&mut services.vision())?;
    let mut door = Door::new(Arc::clone(&services));
    let mut record = Record::default();
    let start = Instant::now();
    for number in 0..MINUTE.iter().map(|(_, seconds)| seconds * FPS).sum() {
        let (phase, picture) = minute.picture(number);
        if let Some(folder) = &options.save {
            picture.save(folder.join(format!("{number:04}.jpg")))?;
        }
        let frame = frame(&picture, options.format, number, start)?;
        let (mut spent, begun) = (Spent::default(), Instant::now());
        let (observations, verdict) = door.look(&frame, &mut spent)?;
        let wall = begun.elapsed().as_secs_f64() * 1e3;
        record.frame(phase, spent, wall, &observations, &verdict, |person| services.roster().name(person));
    }
    record.check()?;
    if options.json {
        println!("{}", record.as_json(&options, &services));
    } else {
        print!("{}", record.as_text(&options, &services));
    }
    Ok(())
}

struct Options {
    format: PixelFormat,
    precision: PrecisionChoice,
    json: bool,
    save: Option<PathBuf>,
}

impl Options {
    fn read() -> Result<Options> {
        let mut options =
            Options { format: PixelFormat::Yuyv, precision: PrecisionChoice::W8, json: false, save: None };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--format" => {
                    options.format = match value()?.as_str() {
                        "yuyv" => PixelFormat::Yuyv,
                        "mjpeg" => PixelFormat::Mjpeg,
                        other => return Err(format!("--format {other}: yuyv or mjpeg").into()),
                    }
                }
                "--precision" => {
                    options.precision = match value()?.as_str() {
                        "w8" => PrecisionChoice::W8,
                        "int8" => PrecisionChoice::Int8,
                        other => return Err(format!("--precision {other}: w8 or int8").into()),
                    }
                }
                "--save" => options.save = Some(PathBuf::from(value()?)),
                "--json" => options.json = true,
                // Cargo says that this is a bench.
                "--bench" => {}
                other => return Err(format!("{other}: --format, --precision, --json or --save").into()),
            }
        }
        Ok(options)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn portrait_file(name: &str) -> PathBuf {
    root().join("tests/data").join(format!("{name}.png"))
}

/// The defaults, and the people enrolled by pictures in the enroll folder.
fn config(dir: &Path, precision: PrecisionChoice) -> Result<Config> {
    let mut config = Config::default();
    config.camera.fps = FPS;
    config.models.dir = root().join("models");
    config.models.precision = precision;
    config.enroll.folder = dir.join("enroll");
    config.store.path = dir.join("store");
    config.latch.backend = GpioBackend::Simulated;
    config.latch.line = Some(LineChoice::Number(17));
    for (portrait, name) in ENROLLED {
        let to = config.enroll.folder.join(name).join(format!("{portrait}.png"));
        fs::create_dir_all(to.parent().unwrap_or(dir))?;
        fs::copy(portrait_file(portrait), &to)?;
        // Long written: it is taken up at once.
        fs::File::options().append(true).open(&to)?.set_modified(SystemTime::now() - Duration::from_secs(60))?;
    }
    Ok(config)
}

/// What the daemon's recognise thread has.
struct Door {
    services: Arc<Services>,
    sight: Sight,
    policy: Policy,
}

impl Door {
    fn new(services: Arc<Services>) -> Door {
        Door { sight: services.sight(), policy: Policy::new(services.rules), services }
    }

    /// A frame as the daemon treats it. Processor time is shared out among the stages by how long each of them took.
    #[inline(never)]
    fn look(&mut self, frame: &Frame, spent: &mut Spent) -> Result<(Vec<Observation>, Verdict)> {
        let roster = self.services.roster();
        let (before, begun) = (self.stages(), cpu_ms());
        let observations = self.sight.look(frame, &roster.gallery, self.policy.attention())?;
        let looked = cpu_ms();
        let (at, limits) = (frame.captured_at, roster.threshold.limits);
        let verdict = self.policy.judge(&observations, limits, at, at);
        let decided = cpu_ms();
        let took: Vec<f64> = self.stages().iter().zip(before).map(|(after, before)| after - before).collect();
        let all: f64 = took.iter().sum::<f64>().max(1e-9);
        spent.iter_mut().zip(&took).for_each(|(spent, took)| *spent = (looked - begun) * took / all);
        spent[STAGES.len() - 1] = decided - looked;
        Ok((observations, verdict))
    }

    /// Milliseconds so far of all stages but the last.
    fn stages(&self) -> [f64; STAGES.len() - 1] {
        let sight::Spent { decode, motion, search, confirm, examine, embed } = self.sight.spent();
        [decode, motion, search, confirm, examine, embed].map(|time| time.as_secs_f64() * 1e3)
    }
}

/// Processor time of this process, all of its threads together, in milliseconds.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// A portrait, and where the face is on it.
struct Portrait {
    picture: RgbImage,
    center: (f32, f32),
    side: f32,
}

/// The pictures of the minute.
struct Minute {
    wall: RgbImage,
    known: Portrait,
    unknown: Portrait,
    passer_by: Portrait,
    /// Numbers of a normal distribution, of a prime count so that they do not repeat in columns.
    noise: Vec<f32>,
    random: Random,
}

impl Minute {
    fn new(vision: &mut Vision) -> Result<Minute> {
        let mut random = Random::new(1);
        let noise = (0..65_521).map(|_| random.normal()).collect();
        Ok(Minute {
            wall: wall(&mut random),
            known: Portrait::new(KNOWN.0, vision)?,
            unknown: Portrait::new(UNKNOWN, vision)?,
            passer_by: Portrait::new(PASSER_BY, vision)?,
            noise,
            random,
        })
    }

    fn picture(&mut self, number: u32) -> (Phase, RgbImage) {
        let (phase, seconds, length) = place(number);
        let mut picture = self.wall.clone();
        let paste = |picture: &mut RgbImage, portrait: &Portrait, (x, y, side)| portrait.paste(picture, x, y, side);
        match phase {
            Phase::PasserBy => paste(&mut picture, &self.passer_by, passing(seconds, length)),
            Phase::Known => paste(&mut picture, &self.known, visiting(seconds, length)),
            Phase::Unknown => paste(&mut picture, &self.unknown, visiting(seconds, length)),
            Phase::Empty | Phase::Noise | Phase::Light => {}
        }
        let (light, noise) = match phase {
            Phase::Light => (light(seconds), NOISE),
            Phase::Noise => (0.6, NOISE_AT_DUSK),
            _ => (1.0, NOISE),
        };
        let mut at = self.random.below(self.noise.len());
        for pixel in picture.pixels_mut() {
            at = if at + 1 < self.noise.len() { at + 1 } else { 0 };
            pixel.0 = pixel.0.map(|value| (f32::from(value) * light + self.noise[at] * noise + 0.5) as u8);
        }
        (phase, picture)
    }
}

/// The phase of a frame, how many seconds into it the frame lies, and how many it lasts.
fn place(number: u32) -> (Phase, f32, f32) {
    let mut left = number;
    for (phase, seconds) in MINUTE {
        if left < seconds * FPS {
            return (phase, left as f32 / FPS as f32, seconds as f32);
        }
        left -= seconds * FPS;
    }
    (Phase::Empty, 0.0, 1.0)
}

/// Bricks in a wall that is lit from one side, and the dark frame of a door.
fn wall(random: &mut Random) -> RgbImage {
    let shades: Vec<f32> = (0..40 * 40).map(|_| random.normal() * 6.0).collect();
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let row = y / 24;
        let along = x + row % 2 * 32;
        let joint = y % 24 < 2 || along % 64 < 2;
        let brick = shades[(row * 40 + along / 64) as usize];
        let grain = random.normal() * 4.0;
        let light = 0.8 + 0.4 * x as f32 / WIDTH as f32;
        let [r, g, b] = match (joint, (520..540).contains(&x)) {
            (_, true) => [52.0, 44.0, 40.0],
            (true, _) => [150.0, 148.0, 140.0],
            (false, _) => [128.0 + brick, 98.0 + brick, 84.0 + brick],
        };
        Rgb([r, g, b].map(|value| ((value + grain) * light) as u8))
    })
}

/// A lamp goes out and on again; then a cloud passes.
fn light(seconds: f32) -> f32 {
    match seconds {
        1.0..3.0 => 0.6,
        4.0.. => 1.0 - 0.15 * ((seconds - 4.0) * std::f32::consts::PI / 4.0).sin().abs(),
        _ => 1.0,
    }
}

/// Centre and side of the face of somebody who crosses the picture, farther away than a visitor.
fn passing(seconds: f32, length: f32) -> (f32, f32, f32) {
    let way = seconds / length;
    (-100.0 + way * (WIDTH as f32 + 200.0), 190.0 + 4.0 * (seconds * 9.0).sin(), 90.0)
}

/// Centre and side of the face of somebody who walks up to the door for two seconds, stands there, never quite still, and leaves.
fn visiting(seconds: f32, length: f32) -> (f32, f32, f32) {
    let near = (seconds / 2.0).min(length - seconds).clamp(0.0, 1.0);
    let (sway, nod) = (6.0 * (seconds * 1.7).sin(), 4.0 * (seconds * 2.3).sin());
    (560.0 - 240.0 * near + sway, 220.0 + nod, 50.0 + 80.0 * near + 3.0 * (seconds * 0.9).sin())
}

impl Portrait {
    fn new(name: &str, vision: &mut Vision) -> Result<Portrait> {
        let picture = image::open(portrait_file(name))?.to_rgb8();
        let faces = vision.detect(&picture)?;
        let face = faces.first().ok_or("no face on the portrait")?.bounding_box;
        Ok(Portrait { center: (face.center().x, face.center().y), side: face.side(), picture })
    }

    /// Puts the portrait into the picture, so that the face has this centre and size.
    fn paste(&self, picture: &mut RgbImage, x: f32, y: f32, side: f32) {
        let scale = side / self.side;
        let scaled = |length: u32| ((length as f32 * scale) as u32).max(1);
        let (width, height) = (scaled(self.picture.width()), scaled(self.picture.height()));
        let person = imageops::resize(&self.picture, width, height, imageops::FilterType::Triangle);
        let (left, top) = (x - self.center.0 * scale, y - self.center.1 * scale);
        imageops::overlay(picture, &person, left.round() as i64, top.round() as i64);
    }
}

/// A picture as the camera sends it.
fn frame(picture: &RgbImage, format: PixelFormat, number: u32, start: Instant) -> Result<Frame> {
    let (bytes, stride) = match format {
        PixelFormat::Yuyv => (yuyv(picture), WIDTH * 2),
        _ => {
            let mut jpeg = Vec::new();
            picture.write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg)?;
            (jpeg, 0)
        }
    };
    let captured_at = start + Duration::from_secs(1) * number / FPS;
    Ok(Frame { bytes, format, width: WIDTH, height: HEIGHT, stride, sequence: u64::from(number), captured_at })
}

/// ITU-R BT.601, limited range; the colour of two pixels is their mean.
fn yuyv(picture: &RgbImage) -> Vec<u8> {
    let luma = |[r, g, b]: [i32; 3]| (16 + ((66 * r + 129 * g + 25 * b + 128) >> 8)) as u8;
    let chroma = |[r, g, b]: [i32; 3], [i, j, k]: [i32; 3]| (128 + ((i * r + j * g + k * b + 256) >> 9)) as u8;
    let pairs = picture.as_raw().chunks_exact(6);
    let packed = pairs.flat_map(|pair| {
        let [a, b] = [[0, 1, 2], [3, 4, 5]].map(|at| at.map(|i: usize| i32::from(pair[i])));
        let sum = [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
        [luma(a), chroma(sum, [-38, -74, 112]), luma(b), chroma(sum, [112, -94, -18])]
    });
    packed.collect()
}

/// What became of a visit.
#[derive(Debug)]
struct Decided {
    phase: Phase,
    words: String,
    /// Usable frames of the face after its first, up to the one that decided.
    frames_after_first: usize,
}

#[derive(Default)]
struct Record {
    frames: Vec<(Phase, Spent)>,
    /// How long each frame kept the recognise thread, in milliseconds.
    kept: Vec<f64>,
    /// Good frames of each face so far.
    usable: HashMap<TrackId, usize>,
    granted: Vec<(Phase, String)>,
    decided: Vec<Decided>,
}

impl Record {
    fn frame(
        &mut self,
        phase: Phase,
        spent: Spent,
        wall: f64,
        observations: &[Observation],
        verdict: &Verdict,
        name: impl Fn(PersonId) -> String,
    ) {
        self.frames.push((phase, spent));
        // Work that is shared out among cores takes less time than processor time, and a machine that does other things takes more.
        self.kept.push(wall.min(spent.iter().sum()));
        for observation in observations.iter().filter(|observation| observation.sighting.matched().is_some()) {
            *self.usable.entry(observation.track).or_default() += 1;
        }
        let after_first = |track: &TrackId| self.usable.get(track).map_or(0, |usable| usable - 1);
        for (track, decision) in &verdict.decisions {
            if let Decision::Open(grant) = decision {
                let words = format!("{} let in at {:.2}", name(grant.person), grant.distance);
                self.granted.push((phase, name(grant.person)));
                self.decided.push(Decided { phase, words, frames_after_first: after_first(track) });
            }
        }
        for Denial { track, reason, .. } in &verdict.denials {
            let words = match reason {
                Reason::Unknown(person, distance, limit) => {
                    format!("not let in, nearest {} at {distance:.2} (limit {limit:.2})", name(*person))
                }
                other => format!("not let in: {other:?}"),
            };
            self.decided.push(Decided { phase, words, frames_after_first: after_first(track) });
        }
    }

    /// Fails when a visit was decided wrong: figures of a door that does not work are worth nothing.
    fn check(&self) -> Result<()> {
        let right = self.granted == [(Phase::Known, KNOWN.1.to_owned())];
        let denied = self.decided.iter().any(|decided| decided.phase == Phase::Unknown);
        if right && denied { Ok(()) } else { Err(format!("decided wrong: {:?}", self.decided).into()) }
    }

    /// Frames and milliseconds by stage.
    fn sum(&self, phase: Option<Phase>) -> (usize, Spent) {
        let (mut count, mut sum) = (0, Spent::default());
        for (_, spent) in self.frames.iter().filter(|(of, _)| phase.is_none_or(|phase| phase == *of)) {
            count += 1;
            sum.iter_mut().zip(spent).for_each(|(sum, spent)| *sum += spent);
        }
        (count, sum)
    }

    /// Had the frames come in real time and only the newest been kept: how many would have been dropped, and how old, in milliseconds,
    /// the oldest one was when it had been decided on.
    fn real_time(&self) -> (usize, f64) {
        let period = 1e3 / f64::from(FPS);
        let (mut number, mut free, mut dropped, mut oldest) = (0, 0.0f64, 0, 0.0f64);
        while let Some(kept) = self.kept.get(number) {
            let came = number as f64 * period;
            free = free.max(came) + kept;
            oldest = oldest.max(free - came);
            let newest = ((free / period) as usize).min(self.kept.len() - 1);
            let next = newest.max(number + 1);
            dropped += next - number - 1;
            number = next;
        }
        (dropped, oldest)
    }

    fn as_json(&self, options: &Options, services: &Services) -> Value {
        let (count, all) = self.sum(None);
        let (dropped, oldest) = self.real_time();
        let stages = |spent: Spent| -> serde_json::Map<String, Value> {
            STAGES.iter().zip(spent).map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect()
        };
        let phase = |(phase, name): &(Phase, &str)| {
            let (count, spent) = self.sum(Some(*phase));
            let seconds = count as f64 / f64::from(FPS);
            let ms: f64 = spent.iter().sum();
            json!({ "phase": name, "seconds": seconds, "cpu_ms": ms, "cpu_ms_per_second": ms / seconds, "stages": stages(spent) })
        };
        let decided = |decided: &Decided| json!({ "phase": name_of(decided.phase), "outcome": decided.words, "usable_frames_after_first": decided.frames_after_first });
        json!({
            "format": format_name(options.format),
            "precision": services.precision.to_string(),
            "seconds": count as f64 / f64::from(FPS),
            "cpu_s": all.iter().sum::<f64>() / 1e3,
            "stages_ms": stages(all),
            "phases": PHASES.iter().map(phase).collect::<Vec<_>>(),
            "decided": self.decided.iter().map(decided).collect::<Vec<_>>(),
            "dropped": dropped,
            "oldest_decided_ms": oldest,
        })
    }

    fn as_text(&self, options: &Options, services: &Services) -> String {
        let (count, all) = self.sum(None);
        let (dropped, oldest) = self.real_time();
        let line = |name: &str, count: usize, spent: Spent| {
            let seconds = count as f64 / f64::from(FPS);
            let cells = spent.into_iter().chain([spent.iter().sum()]).map(|ms| format!(" {:.1} |", ms / seconds));
            format!("| {name} | {seconds:.0} |{}\n", cells.collect::<String>())
        };
        let mut text = format!(
            "{} frames of {WIDTH}×{HEIGHT}, {FPS} a second, {}; {}; milliseconds of processor time for a second:\n\n\
             | phase | seconds | {} | all |\n|{}\n",
            count,
            format_name(options.format),
            services.precision,
            STAGES.join(" | "),
            "---|".repeat(STAGES.len() + 3),
        );
        for (phase, name) in PHASES {
            let (count, spent) = self.sum(Some(phase));
            text += &line(name, count, spent);
        }
        text += &line("the minute", count, all);
        text += &format!("\n{:.2} processor seconds in all\n", all.iter().sum::<f64>() / 1e3);
        for Decided { phase, words, frames_after_first } in &self.decided {
            text += &format!("{}: {words}, {frames_after_first} usable frames after the first\n", name_of(*phase));
        }
        text + &format!(
            "in real time: {dropped} frames dropped, none older than {oldest:.0} ms when it was decided on\n"
        )
    }
}

fn name_of(phase: Phase) -> &'static str {
    PHASES.iter().find(|(known, _)| *known == phase).map_or("", |(_, name)| name)
}

fn format_name(format: PixelFormat) -> &'static str {
    if format == PixelFormat::Yuyv { "YUYV" } else { "MJPEG" }
}
