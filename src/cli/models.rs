//! `facelatch models`: what there is, whether it is whole, and one more.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;

use super::{
    CommandError,
    arguments::{AddArguments, ModelsAction, Order},
    exit, print,
};
use crate::{
    config::{Config, ConfigError, ModelsConfig},
    service::StartError,
    telemetry::printable,
    vision::{
        embed::Embedder,
        examine::{Examined, examine},
        manifest::{AlignmentEntry, ChannelOrder, Checksum, Manifest, ManifestError, NetEntry, PixelEntry, Role},
        model::Precision,
        net::NetFile,
    },
};

/// The five points of the ArcFace family's 112-pixel template (Guo and Deng, insightface): eyes, nose tip, corners of the mouth.
const ARCFACE: [[f32; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];
const ARCFACE_SIDE: usize = 112;

pub(super) fn run(
    config: impl Fn() -> Result<Config, ConfigError>,
    dir: Option<&Path>,
    action: Option<&ModelsAction>,
    json: bool,
) -> Result<u8, CommandError> {
    // With a folder given, a board's configuration is only needed to say which embedder it uses.
    let configured = match dir {
        None => config()?.models,
        Some(_) => config().map_or_else(|_| ModelsConfig::default(), |config| config.models),
    };
    let dir = dir.unwrap_or(&configured.dir);
    let manifest = Manifest::load(dir).map_err(StartError::from)?;
    match action {
        None | Some(ModelsAction::List) => list(&manifest, &configured.embedder, json),
        Some(ModelsAction::Verify) => verify(&manifest, json),
        Some(ModelsAction::Add(arguments)) => add(manifest, dir, arguments, json),
    }
}

/// One line of the list.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    role: String,
    precisions: Vec<String>,
    /// Height, width.
    input: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    dimension: Option<usize>,
    thresholds: usize,
    license: &'a str,
    origin: &'a str,
    /// Which embedder the configuration names; the detector's nets are always used.
    used: bool,
    file_ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn list(manifest: &Manifest, embedder: &str, json: bool) -> Result<u8, CommandError> {
    let describe = |net| describe(manifest, net, embedder);
    let nets: Vec<Listed> = manifest.nets().iter().map(describe).collect();
    if json {
        print::emit_json(&json!(nets));
        return Ok(exit::DONE);
    }
    let heading = ["", "name", "role", "precisions", "input", "dimension", "thresholds", "file", "licence"];
    let row = |net: &Listed| {
        vec![
            if net.used { "*" } else { "" }.to_owned(),
            printable(net.name),
            net.role.clone(),
            net.precisions.join(" "),
            format!("{}×{}", net.input[1], net.input[0]),
            net.dimension.map_or_else(String::new, |dimension| dimension.to_string()),
            match (net.dimension, net.thresholds) {
                (None, _) => String::new(),
                (Some(_), 0) => "none".into(),
                (Some(_), count) => count.to_string(),
            },
            if net.file_ok { "ok" } else { "NOT OK" }.to_owned(),
            printable(net.license),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading.map(str::to_owned).to_vec()).chain(nets.iter().map(row)).collect();
    let problems = nets.iter().filter_map(|net| net.problem.as_ref()).map(|problem| format!("{problem}\n"));
    print::emit(&(print::table(&rows) + "* used by this configuration\n" + &problems.collect::<String>()));
    Ok(exit::DONE)
}

fn describe<'a>(manifest: &Manifest, net: &'a NetEntry, embedder: &str) -> Listed<'a> {
    let problem = read_all(manifest, net).err().map(|error| error.to_string());
    Listed {
        name: &net.name,
        role: format!("{:?}", net.role).to_lowercase(),
        precisions: net.precisions.iter().map(ToString::to_string).collect(),
        input: net.input,
        dimension: net.dimension,
        thresholds: net.thresholds.len(),
        license: &net.license,
        origin: &net.origin,
        used: net.role != Role::Embedder || net.name == embedder,
        file_ok: problem.is_none(),
        problem,
    }
}

/// The net's file, its last layer's file compared as well.
fn read_all(manifest: &Manifest, net: &NetEntry) -> Result<Vec<u8>, ManifestError> {
    for layer in net.last_layer.iter().chain(&net.hidden) {
        manifest.read_layer(layer)?;
    }
    manifest.read_net(net)
}

/// A net in one precision.
#[derive(Serialize)]
struct Verified<'a> {
    name: &'a str,
    precision: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_ms: Option<f64>,
    /// The shortest of a few runs on grey.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn verify(manifest: &Manifest, json: bool) -> Result<u8, CommandError> {
    let forms = manifest.nets().iter().flat_map(|net| net.precisions.iter().map(move |precision| (net, *precision)));
    let milliseconds = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    let verified = forms.map(|(net, precision)| {
        let times = load_and_run(manifest, net, precision);
        Verified {
            name: &net.name,
            precision: precision.to_string(),
            ok: times.is_ok(),
            load_ms: times.as_ref().ok().map(|(load, _)| milliseconds(*load)),
            run_ms: times.as_ref().ok().map(|(_, run)| milliseconds(*run)),
            problem: times.err(),
        }
    });
    let verified: Vec<Verified> = verified.collect();
    if json {
        print::emit_json(&json!(verified));
    } else {
        let row = |form: &Verified| {
            let seen = match (&form.problem, form.load_ms, form.run_ms) {
                (None, Some(load), Some(run)) => format!("ok: loaded in {load:.1} ms, runs in {run:.2} ms"),
                (problem, ..) => format!("FAIL: {}", problem.as_deref().unwrap_or_default()),
            };
            vec![printable(form.name), form.precision.clone(), seen]
        };
        print::emit(&print::table(&verified.iter().map(row).collect::<Vec<_>>()));
    }
    Ok(if verified.iter().all(|form| form.ok) { exit::DONE } else { exit::NO })
}

/// How long it took to load the net and to run it.
fn load_and_run(manifest: &Manifest, net: &NetEntry, precision: Precision) -> Result<(Duration, Duration), String> {
    let bytes = read_all(manifest, net).map_err(|error| error.to_string())?;
    let started = Instant::now();
    if net.role == Role::Embedder {
        let embedder = Embedder::load(manifest, net, precision).map_err(|error| error.to_string())?;
        let (loaded, face) = (started.elapsed(), embedder.grey_face());
        return Ok((loaded, shortest(|| embedder.embed(&face).map(drop).map_err(|error| error.to_string()))?));
    }
    let file = NetFile::read(&net.name, &bytes, precision).map_err(|error| error.to_string())?;
    let plan = file.plan(net.input[0], net.input[1]).map_err(|error| error.to_string())?;
    let (loaded, grey) = (started.elapsed(), vec![128.0; 3 * net.input[0] * net.input[1]]);
    Ok((loaded, shortest(|| plan.run(&grey).map(drop).map_err(|error| error.to_string()))?))
}

/// What else the machine does makes a run longer, never shorter.
fn shortest(run: impl Fn() -> Result<(), String>) -> Result<Duration, String> {
    let timed = |_| {
        let started = Instant::now();
        run().map(|()| started.elapsed())
    };
    Ok((0..5).map(timed).collect::<Result<Vec<_>, _>>()?.into_iter().min().unwrap_or_default())
}

fn add(mut manifest: Manifest, dir: &Path, arguments: &AddArguments, json: bool) -> Result<u8, CommandError> {
    let AddArguments { file, name, mean, scale, .. } = arguments;
    let [net_path, entry_path] = places(&manifest, dir, name)?;
    let alignment = alignment(&manifest, &arguments.alignment, arguments.input)?;
    let bytes = super::read(file)?;
    let input = [arguments.input.1, arguments.input.0];
    let order = match arguments.order {
        Order::Rgb => ChannelOrder::Rgb,
        Order::Bgr => ChannelOrder::Bgr,
    };
    let pixels = PixelEntry { order, mean: *mean, scale: *scale };
    let refused = |problem: String| CommandError::Refused(format!("{}: {problem}; nothing was added", file.display()));
    let examined = examine(name, &bytes, input, pixels).map_err(|error| refused(error.to_string()))?;
    let text = entry(arguments, &bytes, &examined, &alignment);
    // Read as every start will read it: an entry that would be refused then is refused now.
    manifest.add(&entry_path, &text).map_err(|error| refused(error.to_string()))?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CommandError::File { path, source }
    };
    write_new(&net_path, &bytes).map_err(failed(&net_path))?;
    write_new(&entry_path, text.as_bytes()).map_err(|source| {
        // Without its entry the file is nobody's.
        let _ = fs::remove_file(&net_path);
        failed(&entry_path)(source)
    })?;
    let precisions: Vec<String> = examined.precisions.iter().map(ToString::to_string).collect();
    if json {
        let paths = [&net_path, &entry_path];
        print::emit_json(
            &json!({ "name": name, "dimension": examined.dimension, "precisions": precisions, "files": paths }),
        );
    } else {
        print::emit(&format!(
            "{name} added: it makes {} numbers of {}×{} pixels, as {}\n\
             to use it, set models.embedder = \"{name}\" and recognition.max_distance, in its scale of distances;\n\
             until {} holds max_spread, margin and same_face, stricter values stand in for them;\n\
             `facelatch eval` measures all of them\n",
            examined.dimension,
            input[1],
            input[0],
            precisions.join(" or "),
            entry_path.display(),
        ));
    }
    Ok(exit::DONE)
}

/// Where the net and its entry go: places that are free.
fn places(manifest: &Manifest, dir: &Path, name: &str) -> Result<[PathBuf; 2], CommandError> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !plain || !(1..=64).contains(&name.len()) {
        return Err(CommandError::Usage(format!("--name {name:?}: give 1 to 64 letters, digits, - or _")));
    }
    if let Some(net) = manifest.nets().iter().find(|net| net.name == name) {
        let listed = net.listed_in.display();
        return Err(CommandError::Refused(format!(
            "--name {name}: {listed} has a net of this name already; choose another"
        )));
    }
    let places = [dir.join(format!("{name}.onnx")), dir.join(format!("{name}.toml"))];
    match places.iter().find(|path| path.exists()) {
        Some(path) => {
            Err(CommandError::Refused(format!("--name {name}: {} exists already; choose another name", path.display())))
        }
        None => Ok(places),
    }
}

fn alignment(manifest: &Manifest, text: &str, (width, height): (usize, usize)) -> Result<AlignmentEntry, CommandError> {
    let usage = |problem: String| CommandError::Usage(format!("--alignment {text}: {problem}"));
    let scaled = |points: [[f32; 2]; 5], weights: [f32; 5], side: usize| {
        if width != height {
            return Err(usage("the template is square, --input is not; give a file with points of your own".into()));
        }
        let points = points.map(|point| point.map(|v| v * width as f32 / side as f32));
        Ok(AlignmentEntry::FivePoints { points, weights })
    };
    if let Some(margin) = text.strip_prefix("box=") {
        let margin =
            margin.parse().map_err(|_| usage("give box=MARGIN, a share of the face's side such as 0.1".into()))?;
        return Ok(AlignmentEntry::Box { box_margin: margin, square: true });
    }
    match text {
        "arcface" => scaled(ARCFACE, [1.0; 5], ARCFACE_SIDE),
        "dlib" => {
            let dlib = manifest.embedder("dlib").map_err(StartError::from)?;
            let Some(AlignmentEntry::FivePoints { points, weights }) = &dlib.alignment else {
                return Err(usage("the manifest's dlib is not aligned by five points".into()));
            };
            scaled(*points, *weights, dlib.input[1])
        }
        path => {
            let text = fs::read_to_string(path).map_err(|error| {
                usage(format!("not arcface, dlib or box=MARGIN, and no file that can be read: {error}"))
            })?;
            toml::from_str(&text).map_err(|_| {
                usage(
                    "the file has to hold points = [[x, y], ...] and weights = [...], five of each, or box_margin"
                        .into(),
                )
            })
        }
    }
}

/// The entry as a file of the manifest.
fn entry(arguments: &AddArguments, net: &[u8], examined: &Examined, alignment: &AlignmentEntry) -> String {
    let AddArguments { file, name, input: (width, height), order, mean, scale, license, origin, .. } = arguments;
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let file_name = || file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let origin = quoted(&origin.clone().unwrap_or_else(file_name));
    let checksum = Checksum::of(net);
    let precisions: Vec<String> = examined.precisions.iter().map(ToString::to_string).collect();
    let order = match order {
        Order::Rgb => "rgb",
        Order::Bgr => "bgr",
    };
    let alignment = match alignment {
        AlignmentEntry::FivePoints { points, weights } => format!("points = {points:?}, weights = {weights:?}"),
        AlignmentEntry::Box { box_margin, square } => format!("box_margin = {box_margin:?}, square = {square}"),
    };
    format!(
        "# Written by facelatch models add.\n\
         # Nothing was measured: set recognition.max_distance, or put here what facelatch eval prints\n\
         # \"for the manifest\", and its populations: facelatch eval --people DIR --table.\n\
         version = 1\n\n\
         [[net]]\n\
         name = \"{name}\"\n\
         role = \"embedder\"\n\
         file = \"{name}.onnx\"\n\
         checksum = \"{checksum}\"\n\
         precisions = {precisions:?}\n\
         input = [{height}, {width}]\n\
         license = {license}\n\
         origin = {origin}\n\
         dimension = {dimension}\n\
         pixels = {{ order = \"{order}\", mean = {mean:?}, scale = {scale:?} }}\n\
         alignment = {{ {alignment} }}\n",
        license = quoted(license),
        dimension = examined.dimension,
    )
}

/// Writes a file so that it is there as a whole or not at all, for everybody to read: models are no secret, and it is another user who
/// runs the daemon.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let hidden = path.with_file_name(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&hidden)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&hidden, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    written
}
