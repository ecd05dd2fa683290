//! `facelatch bench`: what recognition costs on this machine, stage by stage.
//!
//! Every frame is a fresh one: all nets run on it, as on the first frame with somebody in it. What the daemon saves by not looking
//! again where nothing changed is measured by `benches/door.rs`.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{
    CommandError,
    arguments::{BenchArguments, DEFAULT_CONFIG},
    exit, print,
};
use crate::{
    camera::{self, Camera, CameraError},
    config::{CameraConfig, CameraSource, Config, ConfigError, PrecisionChoice},
    gallery::{Gallery, PersonId, Template, TemplateFusion},
    service::{Fastest, StartError, cpu_model, detector_settings},
    triplet::Random,
    vision::{
        Vision, VisionError,
        embed::{EmbedError, Embedding},
        frame::Frame,
        manifest::Manifest,
        model::Precision,
    },
};

/// Where `make` and the demo find the models in a checkout, when neither is anything configured nor a package installed.
const CHECKOUT_MODELS: &str = "models";
/// People in the gallery that is searched: more than most doors have.
const ENROLLED: u32 = 1_000;
/// One part in so many of the time is at most spent on frames that do not count.
const WARM_UP_SHARE: u32 = 4;
/// The kernel's clock ticks in a second, in which /proc counts: the same on every processor this program is built for.
const TICKS: f64 = 100.0;

/// What is timed, in the order it happens; the last is all of it together.
const STAGES: [&str; 6] = ["decode", "detect", "align", "embed", "search", "frame"];
const FRAME: usize = STAGES.len() - 1;

/// All that was measured.
#[derive(Default)]
struct Measured {
    /// The runs of each stage: one for each frame, or for each face of `align`, `embed` and `search`.
    runs: [Vec<Run>; STAGES.len()],
    /// Of the frames, in pixels.
    sizes: BTreeSet<(u32, u32)>,
    rss_mib: f64,
    /// From the start of the process until the models were verified and loaded.
    cold_start: Duration,
}

/// One run of a stage.
#[derive(Clone, Copy)]
struct Run {
    /// How long it took.
    time: Duration,
    /// Processor time, of all threads together: more than `time` where they share the work, less on a busy machine.
    cpu: Duration,
}

struct Chosen {
    precision: Precision,
    /// By trying every form of the nets, which have been in memory then.
    measured: bool,
}

/// Measures and prints.
pub(super) fn run(arguments: &BenchArguments, config: &Path, json: bool) -> Result<u8, CommandError> {
    let Some(folder) = &arguments.frames else {
        return Err(CommandError::Usage(
            "give --frames DIR, a folder of pictures (JPEG or PNG) as the camera sends them; in a checkout, make demo leaves some in \
             target/demo/frames"
                .into(),
        ));
    };
    let config = configuration(arguments, config)?;
    let mut camera = open(folder)?;
    let before = since_start();
    let Chosen { precision, measured: tried } = choose(&config)?;
    // Memory and start shall be those of one form of the nets.
    if let Some(code) = tried.then(|| run_anew(precision)).flatten() {
        return Ok(code);
    }
    let loading = Instant::now();
    let mut vision = load(&config, precision)?;
    let cold_start = before + loading.elapsed();
    let time = Duration::from_secs(arguments.seconds);
    let measured = Measured { cold_start, ..measure(&mut vision, camera.as_mut(), folder, time)? };
    if json {
        print::emit_json(&as_json(&measured, precision, &config));
    } else {
        print::emit(&as_text(&measured, precision, &config));
    }
    Ok(exit::DONE)
}

/// What the configuration file says, changed by the command line. Without a file, where none was asked for, the defaults.
fn configuration(arguments: &BenchArguments, file: &Path) -> Result<Config, CommandError> {
    let mut config = match Config::load_to_ask(file) {
        Err(ConfigError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound && file == Path::new(DEFAULT_CONFIG) =>
        {
            let mut config = Config::default();
            if !config.models.dir.exists() {
                config.models.dir = PathBuf::from(CHECKOUT_MODELS);
            }
            config
        }
        loaded => loaded?,
    };
    let (told, models) = (&arguments.model, &mut config.models);
    models.dir = told.models.clone().unwrap_or(std::mem::take(&mut models.dir));
    models.embedder = told.embedder.clone().unwrap_or(std::mem::take(&mut models.embedder));
    models.mirror |= told.mirror;
    models.precision = match told.precision.as_deref() {
        Some("w8") => PrecisionChoice::W8,
        Some("int8") => PrecisionChoice::Int8,
        _ => models.precision,
    };
    Ok(config)
}

/// The folder as a camera that is always ready.
fn open(folder: &Path) -> Result<Box<dyn Camera>, CommandError> {
    fs::read_dir(folder).map_err(|source| CommandError::File { path: folder.to_owned(), source })?;
    let config = CameraConfig {
        source: CameraSource::Files,
        folder: folder.to_owned(),
        fps: u32::MAX,
        repeat: true,
        ..CameraConfig::default()
    };
    camera::open(&config).map_err(|error| match error {
        CameraError::Unavailable { problem, .. } => unusable(folder, &problem),
        other => unusable(folder, &other.to_string()),
    })
}

fn unusable(folder: &Path, problem: &str) -> CommandError {
    CommandError::File { path: folder.to_owned(), source: std::io::Error::other(problem.to_owned()) }
}

/// The precision that is set; of `auto`, the faster one of those that the embedder offers.
fn choose(config: &Config) -> Result<Chosen, CommandError> {
    let models = &config.models;
    let forced = match models.precision {
        PrecisionChoice::W8 => Some(Precision::W8),
        PrecisionChoice::Int8 => Some(Precision::Int8),
        PrecisionChoice::Auto => None,
    };
    let manifest = Manifest::load(&models.dir).map_err(failed)?;
    let embedder = manifest.embedder(&models.embedder).map_err(failed)?;
    match (forced, &embedder.precisions[..]) {
        (Some(precision), _) | (None, &[precision]) => Ok(Chosen { precision, measured: false }),
        _ => Ok(Chosen { precision: Fastest::measure(config).map_err(failed)?.of(embedder), measured: true }),
    }
}

/// This command once more with that precision; None where the system lets no program start itself, as an emulator of another processor.
fn run_anew(precision: Precision) -> Option<u8> {
    let mut anew = Command::new(env::current_exe().ok()?);
    let status = anew.args(env::args_os().skip(1)).arg("--precision").arg(precision.to_string()).status().ok()?;
    match status.code() {
        // What the C library ends a process with that it began and could not turn into the program (posix_spawn(3)).
        Some(127) => None,
        code => Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::INTERNAL)),
    }
}

fn load(config: &Config, precision: Precision) -> Result<Vision, CommandError> {
    let models = &config.models;
    let vision = Vision::load(&models.dir, &models.embedder, precision, detector_settings(&config.detection));
    Ok(vision.map_err(failed)?.mirroring(models.mirror))
}

/// Looks at the folder's pictures, again and again, until the time is over. Frames do not count until every picture was seen once, or
/// a quarter of the time is over: the first of each size makes P-Net's plans, and warms the caches.
fn measure(
    vision: &mut Vision,
    camera: &mut dyn Camera,
    folder: &Path,
    time: Duration,
) -> Result<Measured, CommandError> {
    let gallery = gallery(vision)?;
    // At least; what is no picture counts too.
    let pictures = fs::read_dir(folder).map_or(0, Iterator::count);
    let (mut warm_up, mut measured) = (Measured::default(), Measured::default());
    let started = Instant::now();
    for number in 0.. {
        let elapsed = started.elapsed();
        let (any, tried_all) = (measured.frames() > 0, number > 2 * pictures);
        if any && elapsed >= time || !any && tried_all {
            break;
        }
        let counts = number > 0 && (number >= pictures || elapsed >= time / WARM_UP_SHARE);
        let broken = match camera.next_frame() {
            Ok(frame) => look(vision, &gallery, &frame, if counts { &mut measured } else { &mut warm_up })?,
            Err(CameraError::BrokenFrame(problem)) => Some(problem),
            Err(error) => return Err(unusable(folder, &error.to_string())),
        };
        if let Some(problem) = broken.filter(|_| number < pictures) {
            eprintln!("facelatch: left out: {problem}");
        }
    }
    if measured.frames() == 0 {
        return Err(unusable(folder, "none of its pictures can be decoded; give pictures as the camera sends them"));
    }
    measured.rss_mib = rss_mib();
    Ok(measured)
}

/// People of random faces, to be searched.
fn gallery(vision: &Vision) -> Result<Gallery, CommandError> {
    let (model, dimension) = (vision.embedder().model(), vision.embedder().dimension());
    let mut random = Random::new(1);
    let mut template = |person| -> Result<Template, EmbedError> {
        let values = (0..dimension).map(|_| random.normal()).collect();
        Ok(Template { person: PersonId(person), embedding: Embedding::new(values, model)? })
    };
    let templates: Vec<Template> = (0..ENROLLED).map(&mut template).collect::<Result<_, _>>().map_err(failed)?;
    Ok(Gallery::new(model, TemplateFusion::Mean, &templates))
}

/// Runs every stage on one frame; what is wrong with a frame that cannot be decoded.
fn look(
    vision: &mut Vision,
    gallery: &Gallery,
    frame: &Frame,
    measured: &mut Measured,
) -> Result<Option<String>, CommandError> {
    let [decode, detect, align, embed, search, whole] = &mut measured.runs;
    let watch = Watch::start();
    let picture = match frame.rgb() {
        Ok(picture) => picture,
        Err(error) => return Ok(Some(format!("picture {}: {error}", frame.sequence))),
    };
    decode.push(watch.read());
    let detections = timed(detect, || vision.detect(&picture)).map_err(failed)?;
    for detection in &detections {
        // Degenerate landmarks: there is nothing to align.
        let Some((_, aligned)) = timed(align, || vision.look(&picture, detection)) else { continue };
        let embedding = timed(embed, || vision.embedder().embed(&aligned)).map_err(failed)?;
        timed(search, || gallery.search(&embedding));
    }
    whole.push(watch.read());
    measured.sizes.insert((frame.width, frame.height));
    Ok(None)
}

fn timed<T>(runs: &mut Vec<Run>, work: impl FnOnce() -> T) -> T {
    let watch = Watch::start();
    let made = work();
    runs.push(watch.read());
    made
}

struct Watch {
    started: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Watch {
        Watch { started: Instant::now(), cpu: clock(ClockId::ProcessCPUTime) }
    }

    fn read(&self) -> Run {
        Run { time: self.started.elapsed(), cpu: clock(ClockId::ProcessCPUTime).saturating_sub(self.cpu) }
    }
}

/// What one of the kernel's clocks shows.
fn clock(id: ClockId) -> Duration {
    // A time that the kernel gives is never negative.
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn failed(error: impl Into<VisionError>) -> CommandError {
    CommandError::Start(StartError::Vision(error.into()))
}

impl Measured {
    fn frames(&self) -> usize {
        self.runs[FRAME].len()
    }

    fn fps(&self) -> f64 {
        self.frames() as f64 / self.runs[FRAME].iter().map(|run| run.time).sum::<Duration>().as_secs_f64()
    }

    /// Of a stage, in milliseconds: what so large a share of its runs did not exceed. None where it never ran.
    fn quantile(&self, stage: usize, share: f64, of: impl Fn(&Run) -> Duration) -> Option<f64> {
        let mut times: Vec<Duration> = self.runs[stage].iter().map(of).collect();
        times.sort_unstable();
        times.get((times.len().saturating_sub(1) as f64 * share).round() as usize).copied().map(ms)
    }

    fn size(&self) -> String {
        match self.sizes.iter().collect::<Vec<_>>()[..] {
            [(width, height)] => format!("{width}×{height}"),
            _ => "various sizes".into(),
        }
    }
}

/// How long this process has been running, to a hundredth of a second: what the system needs to read the program counts too.
fn since_start() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the program's name in parentheses, may hold anything; the 22nd is the start (proc(5)).
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let started = after_name.split_whitespace().nth(22 - 3).and_then(|ticks| ticks.parse::<f64>().ok());
    let started = started.and_then(|ticks| Duration::try_from_secs_f64(ticks / TICKS).ok());
    started.map_or(Duration::ZERO, |started| clock(ClockId::Boottime).saturating_sub(started))
}

/// Memory that this process has in use, shared libraries included.
fn rss_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

fn as_json(measured: &Measured, precision: Precision, config: &Config) -> Value {
    let figure = |time: Option<f64>| time.map(|time| round(time, 4));
    let stage = |stage: usize| {
        let (median, p95) =
            (measured.quantile(stage, 0.5, |run| run.time), measured.quantile(stage, 0.95, |run| run.time));
        let cpu = measured.quantile(stage, 0.5, |run| run.cpu);
        let runs = measured.runs[stage].len();
        json!({ "median_ms": figure(median), "p95_ms": figure(p95), "median_cpu_ms": figure(cpu), "runs": runs })
    };
    let stages: serde_json::Map<String, Value> =
        STAGES.iter().enumerate().map(|(i, name)| ((*name).to_owned(), stage(i))).collect();
    json!({
        "stages": stages,
        "fps": round(measured.fps(), 2),
        "rss_mib": round(measured.rss_mib, 1),
        "cold_start_ms": round(ms(measured.cold_start), 0),
        "precision": precision.to_string(),
        "cpu": cpu_model(),
        "cores": cores(),
        "embedder": config.models.embedder,
        "min_face": config.detection.min_face,
        "size": measured.size(),
    })
}

fn as_text(measured: &Measured, precision: Precision, config: &Config) -> String {
    let shown = |time: Option<f64>| {
        time.map_or_else(|| "–".into(), |time| format!("{time:.*}", if time < 1.0 { 3 } else { 1 }))
    };
    let time = |stage: usize, share: f64| shown(measured.quantile(stage, share, |run| run.time));
    let mut rows = vec![["stage", "median ms", "p95 ms", "processor ms", "runs"].map(String::from).to_vec()];
    for (stage, name) in STAGES.iter().enumerate() {
        let runs = measured.runs[stage].len().to_string();
        let cpu = shown(measured.quantile(stage, 0.5, |run| run.cpu));
        rows.push(vec![(*name).to_owned(), time(stage, 0.5), time(stage, 0.95), cpu, runs]);
    }
    let (cpu, min_face) = (cpu_model(), config.detection.min_face);
    let (fps, rss, cold_start) = (measured.fps(), measured.rss_mib, ms(measured.cold_start));
    let nobody = if measured.runs[FRAME - 1].is_empty() {
        format!("no picture shows a face of at least {min_face} pixels: align, embed and search were not measured\n")
    } else {
        String::new()
    };
    format!(
        "{cpu}, cores: {}; {} as {precision}, faces from {min_face} px, {}, {ENROLLED} people enrolled\n\n{}\n\
         {fps:.1} fresh frames per second, {rss:.0} MiB in use, models loaded {cold_start:.0} ms after the start\n{nobody}\n\
         for the table of boards in README.md:\n\
         | {cpu} | {} | {precision} | {} | {} | {} / {} | {fps:.1} | {rss:.0} | {cold_start:.0} |\n",
        cores(),
        config.models.embedder,
        measured.size(),
        print::table(&rows),
        measured.size(),
        time(1, 0.5),
        time(3, 0.5),
        time(FRAME, 0.5),
        time(FRAME, 0.95),
    )
}
