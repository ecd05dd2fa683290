//! Pictures of phones: what they cost the daemon in memory, and what becomes of one that
//! ends it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use image::{RgbImage, imageops};
use serde_json::Value;

use crate::{
    door,
    support::{command, portrait, root, too_slow_here},
};

#[path = "../../src/enroll/picture/writer.rs"]
mod writer;
use writer::{QUANTIZER, Spec, write};

/// What a picture may take above the daemon that is at rest, in KiB.
const MOST: u64 = 96 << 10;

struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        door::config(dir.path());
        let text = format!(
            "mode = \"unlock\"\n[models]\ndir = \"{}\"\nprecision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n[store]\npath = \"store\"\n\
             [latch]\nbackend = \"simulated\"\nline = 17\n[control]\nsocket = \"control.sock\"\n[camera]\ndevice = \"/dev/null\"\n",
            root().join("models").display(),
        );
        fs::write(dir.path().join("facelatch.toml"), text).unwrap();
        let child = Daemon::run(dir.path());
        Daemon { dir, child }
    }

    fn command(dir: &Path, arguments: &[&str]) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_facelatch"));
        command.arg("--config").arg(dir.join("facelatch.toml")).args(arguments);
        command.env_remove("RUST_LOG").env_remove("FACELATCH_CONFIG");
        command
    }

    /// Once it looks for its camera, everything else is there.
    fn run(dir: &Path) -> Child {
        let mut child = Daemon::command(dir, &["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 && !line.contains("camera lost") {
            line.clear();
        }
        assert!(line.contains("camera lost"), "it runs");
        thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
        child
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// KiB that it holds, or held at most.
    fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap()
    }

    /// The most KiB it held above what it holds now, while something is done.
    fn peak_of(&self, work: impl FnOnce()) -> u64 {
        thread::sleep(Duration::from_millis(300));
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
        let before = self.memory("VmRSS");
        work();
        self.memory("VmHWM") - before
    }

    fn identify(&self, picture: &Path) -> Value {
        let asked = ["identify", picture.to_str().unwrap(), "--json"];
        let output = Daemon::command(self.dir.path(), &asked).output().unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}: {}", picture.display(), String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A portrait before grey, of this size in pixels divided by `unit`.
fn scene(width: usize, height: usize, unit: usize) -> RgbImage {
    let (width, height) = (width.div_ceil(unit) as u32, height.div_ceil(unit) as u32);
    let mut scene = RgbImage::from_pixel(width, height, image::Rgb([100, 110, 120]));
    let side = width.min(height) * 4 / 5;
    let person = imageops::resize(&portrait("barack_obama_2.png"), side, side, imageops::FilterType::Triangle);
    imageops::overlay(&mut scene, &person, (width - side).into(), (height / 10).into());
    scene
}

/// A photograph, each of its blocks of luma a pixel of the scene with some grain.
fn photograph(spec: &Spec) -> Vec<u8> {
    let scene = match spec.orientation {
        Some(6) => imageops::rotate270(&scene(spec.height, spec.width, 8)),
        _ => scene(spec.width, spec.height, 8),
    };
    let (most_across, most_down) = spec.sampling[0];
    write(spec, |component, column, row| {
        let (across, down) = spec.sampling[component];
        let x = (column * most_across / across) as u32;
        let y = (row * most_down / down) as u32;
        let (x, y) = (x.min(scene.width() - 1), y.min(scene.height() - 1));
        let [r, g, b] = scene.get_pixel(x, y).0.map(f32::from);
        let luma = 0.299 * r + 0.587 * g + 0.114 * b;
        let value = [luma - 128.0, (b - luma) / 1.772, (r - luma) / 1.402][component];
        let mut block = [0; 64];
        block[0] = (value * 8.0 / f32::from(QUANTIZER)) as i16;
        let grain = (column * 31 + row * 17 + component) % 5;
        block[1 + grain] = 1;
        block[9 + 7 * grain] = -1;
        block
    })
}

/// A PNG of 16 bits, red, green, blue and transparency.
fn wide_png(side: u32) -> Vec<u8> {
    let scene = scene(side as usize, side as usize, 8);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    for y in 0..side {
        let pixel = |x: u32| {
            let [r, g, b] = scene.get_pixel(x / 8, y / 8).0;
            [r, 0, g, 0, b, 0, 255, 255]
        };
        let row: Vec<u8> = (0..side).flat_map(pixel).collect();
        std::io::Write::write_all(&mut stream, &row).unwrap();
    }
    stream.finish().unwrap();
    writer.finish().unwrap();
    bytes
}

fn jpeg(width: usize, height: usize, progressive: bool, luma: (usize, usize)) -> Vec<u8> {
    let sampling = vec![luma, (1, 1), (1, 1)];
    photograph(&Spec { width, height, sampling, progressive, orientation: Some(1), ..Spec::default() })
}

#[test]
fn no_picture_takes_more_than_96_mib_above_the_daemon() {
    if too_slow_here("large pictures") {
        return;
    }
    let daemon = Daemon::start();
    let turned = Spec { width: 4080, height: 3060, orientation: Some(6), ..Spec::default() };
    let turned = Spec { sampling: vec![(2, 2), (1, 1), (1, 1)], ..turned };
    for (name, bytes, size) in [
        ("12.jpg", photograph(&turned), [3060.0, 4080.0]),
        ("24.jpg", jpeg(6000, 4000, false, (2, 2)), [6000.0, 4000.0]),
        ("48.jpg", jpeg(8064, 6048, false, (2, 2)), [8064.0, 6048.0]),
        ("48-progressive.jpg", jpeg(8064, 6048, true, (1, 1)), [8064.0, 6048.0]),
        ("50.jpg", jpeg(8160, 6144, false, (2, 1)), [8160.0, 6144.0]),
        ("50.png", wide_png(7060), [7060.0, 7060.0]),
    ] {
        let (file, mib) = (daemon.path(name), bytes.len() as f32 / 1048576.0);
        fs::write(&file, &bytes).unwrap();
        drop(bytes);
        let mut faces = Value::Null;
        let started = Instant::now();
        let socket = daemon.peak_of(|| faces = daemon.identify(&file));
        let took = started.elapsed();
        assert_eq!(faces[0]["person"], "Barack Obama", "{name}: {faces}");
        // The face is that large a part of the file's own pixels, whatever it was looked
        // at in.
        let [x1, x2] = [0, 2].map(|at| faces[0]["bounding_box"][at].as_f64().unwrap());
        let share = (x2 - x1) / f64::min(size[0], size[1]);
        assert!((0.15..0.8).contains(&share), "{name}: {share}");
        let dropped = daemon.path("enroll").join(format!("Barack {name}"));
        let verdict = daemon.path("enroll").join(format!("Barack {name}.rejected.txt"));
        let folder = daemon.peak_of(|| {
            fs::copy(&file, &dropped).unwrap();
            let until = Instant::now() + Duration::from_secs(60);
            // A picture of the same face under another name: it was read to its end when that
            // is said.
            while !verdict.exists() && Instant::now() < until {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let text = fs::read_to_string(&verdict).unwrap();
        assert!(text.contains("looks like Barack Obama"), "{name}: {text}");
        eprintln!("{name} ({mib:.1} MiB): {} MiB asked, {} MiB dropped in, {took:.1?}", socket >> 10, folder >> 10);
        assert!(socket <= MOST && folder <= MOST, "{name}: {socket} and {folder} KiB");
        fs::remove_file(&dropped).unwrap();
    }
    let file = daemon.path("48-progressive.jpg");
    let peak = daemon.peak_of(|| {
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| daemon.identify(&file)))));
    });
    // Files that wait are held, pictures are not.
    let waiting = 4 * fs::metadata(&file).unwrap().len() / 1024;
    eprintln!("four at once: {} MiB, their files {} MiB", peak >> 10, waiting >> 10);
    assert!(peak <= MOST + waiting, "{peak} KiB");
}

#[test]
fn a_picture_that_was_read_when_it_was_killed_is_set_aside() {
    if too_slow_here("large pictures") {
        return;
    }
    let mut daemon = Daemon::start();
    let picture = daemon.path("enroll/Ann.jpg");
    let hidden = daemon.path("enroll/.Ann.jpg");
    fs::write(&hidden, jpeg(8064, 6048, true, (1, 1))).unwrap();
    fs::rename(&hidden, &picture).unwrap();
    let notes = daemon.path("store/reading");
    let is_noted = || fs::read_dir(&notes).map_or(0, Iterator::count) > 0;
    let touch = || {
        let file = fs::File::options().append(true).open(&picture).unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
    };
    // On a busy machine the reading may end before the kill: then it begins again.
    for attempt in 0.. {
        let until = Instant::now() + Duration::from_secs(60);
        while !is_noted() {
            assert!(Instant::now() < until && attempt < 10, "it is read");
            thread::sleep(Duration::from_millis(1));
        }
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        if is_noted() {
            break;
        }
        daemon.child = Daemon::run(daemon.dir.path());
        touch();
    }
    let verdict = daemon.path("enroll/Ann.jpg.rejected.txt");
    for _ in 0..2 {
        daemon.child = Daemon::run(daemon.dir.path());
        let text = fs::read_to_string(&verdict).expect("it is named at the start");
        assert!(text.contains("facelatch ended while it read this picture"), "{text}");
        thread::sleep(Duration::from_millis(500));
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
    }
    daemon.child = Daemon::run(daemon.dir.path());
    touch();
    let until = Instant::now() + Duration::from_secs(60);
    while !fs::read_to_string(&verdict).is_ok_and(|text| text.contains("looks like Barack Obama")) {
        assert!(Instant::now() < until, "touched, it is read again");
        thread::sleep(Duration::from_millis(50));
    }
}
