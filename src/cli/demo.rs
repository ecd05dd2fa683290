//! `facelatch demo`: the daemon as it is, before a door that is played from pictures.
//!
//! Frames are composed of portraits and played through the `files` camera; people are enrolled by dropping pictures into the
//! enroll folder, one of them while the daemon runs; the relay is simulated. What the daemon decided is read from its
//! socket and compared with what each scene should lead to.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use image::{Rgb, RgbImage, imageops};

use super::{CommandError, annotate, exit};
use crate::{
    api::ask,
    config::{CameraSource, Config, GpioBackend, LineChoice},
    control::ControlClient,
    daemon::{self, Signals},
    error::ErrorKind,
    service::Services,
    store::{Event, EventKind},
    telemetry,
};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
const FPS: u32 = 10;

/// What is to be seen for a while.
struct Scene {
    title: &'static str,
    /// Portraits in view, from left to right.
    portraits: &'static [&'static str],
    /// Shown as in a mirror and darker: another picture of somebody of whom there is only one.
    changed: bool,
    frames: usize,
    /// What the daemon has to record, see [`outcome`].
    expected: &'static [&'static str],
}

const NOBODY: Scene = Scene { title: "nobody", portraits: &[], changed: false, frames: 16, expected: &[] };

const SCENES: [Scene; 11] = [
    NOBODY,
    Scene {
        title: "Barack Obama, on another picture than the enrolled one",
        portraits: &["barack_obama_2"],
        changed: false,
        frames: 20,
        expected: &["granted Barack Obama"],
    },
    NOBODY,
    Scene {
        title: "somebody who is not enrolled",
        portraits: &["eileen_collins_1"],
        changed: false,
        frames: 20,
        expected: &["denied"],
    },
    NOBODY,
    Scene {
        title: "two people at once, both enrolled",
        portraits: &["barack_obama_3", "joe_biden_1"],
        changed: false,
        frames: 20,
        expected: &["denied"],
    },
    NOBODY,
    Scene {
        title: "Grace Hopper, enrolled a moment ago",
        portraits: &["grace_hopper_1"],
        changed: true,
        frames: 20,
        expected: &["granted Grace Hopper"],
    },
    NOBODY,
    Scene {
        title: "Barack Obama again, on a third picture",
        portraits: &["barack_obama_3"],
        changed: false,
        frames: 20,
        expected: &["granted Barack Obama"],
    },
    NOBODY,
];

/// Before the start; and while the daemon runs, as soon as the first visitor was refused.
const ENROLLED_FIRST: [(&str, &str); 2] = [("barack_obama_1", "Barack Obama"), ("joe_biden_1", "Joe Biden")];
const ENROLLED_LATER: (&str, &str) = ("grace_hopper_1", "Grace Hopper");

/// Plays the demo; 0 when every visit was decided right.
pub(super) fn run(pictures: &Path, models: &Path, out: &Path) -> Result<u8, CommandError> {
    telemetry::init_logging("info");
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| CommandError::File { path, source }
    };
    let stage = Stage { pictures, out };
    if out.exists() {
        fs::remove_dir_all(out).map_err(file_error(out))?;
    }
    for folder in ["enroll", "frames", "annotated"] {
        fs::create_dir_all(out.join(folder)).map_err(file_error(out))?;
    }
    println!(
        "composing {} frames from the portraits in {}",
        SCENES.iter().map(|s| s.frames).sum::<usize>(),
        pictures.display()
    );
    stage.compose_frames()?;
    for (portrait, name) in ENROLLED_FIRST {
        stage.drop_picture(portrait, name)?;
    }
    let config = stage.config(models);
    // Read before the play begins: the daemon would open its eyes while a slow board still reads.
    drop(Services::open(config.clone())?);
    let socket = config.control.socket.clone();
    let watcher = thread::scope(|scope| -> Result<Vec<Event>, CommandError> {
        let watcher = scope.spawn(|| stage.watch(&socket));
        daemon::run(config.clone(), &Signals::default())?;
        Ok(watcher.join().unwrap_or_default())
    });
    let _ = fs::remove_file(&socket);
    let events = watcher?;
    stage.annotate(config)?;
    Ok(summarize(&events, out))
}

struct Stage<'a> {
    pictures: &'a Path,
    out: &'a Path,
}

impl Stage<'_> {
    fn config(&self, models: &Path) -> Config {
        let mut config = Config::default();
        config.camera.source = CameraSource::Files;
        config.camera.folder = self.out.join("frames");
        config.camera.fps = FPS;
        config.models.dir = models.to_owned();
        config.enroll.folder = self.out.join("enroll");
        config.store.path = self.out.join("store");
        config.latch.backend = GpioBackend::Simulated;
        config.latch.line = Some(LineChoice::Number(17));
        config.latch.hold = Duration::from_secs(1);
        config.recognition.visit_gap = Duration::from_secs(1);
        // A busy machine without graphics hardware may be slower than a board at a door: late frames are no mistake here.
        config.recognition.max_decision_age = Duration::from_secs(5);
        // Paths of sockets are short: not below a folder that may be anywhere.
        config.control.socket = std::env::temp_dir().join(format!("facelatch-demo-{}.sock", std::process::id()));
        config
    }

    fn portrait(&self, name: &str) -> Result<RgbImage, CommandError> {
        let path = self.pictures.join(format!("{name}.png"));
        let picture = image::open(&path);
        picture.map(|picture| picture.to_rgb8()).map_err(|error| CommandError::File {
            source: std::io::Error::other(format!("{error}; --pictures must be the folder of the demo's portraits")),
            path,
        })
    }

    /// As a person would drop it: named after whose picture it is.
    fn drop_picture(&self, portrait: &str, name: &str) -> Result<(), CommandError> {
        let from = self.pictures.join(format!("{portrait}.png"));
        let to = self.out.join("enroll").join(format!("{name}.png"));
        println!("dropping {} into the enroll folder as \"{name}.png\"", from.display());
        fs::copy(&from, &to).map(drop).map_err(|source| CommandError::File { path: from, source })
    }

    fn compose_frames(&self) -> Result<(), CommandError> {
        let mut number = 0;
        for scene in &SCENES {
            let portraits = scene.portraits.iter().map(|name| self.portrait(name)).collect::<Result<Vec<_>, _>>()?;
            for frame in 0..scene.frames {
                let picture = compose(&portraits, scene.changed, frame);
                let path = self.frame_path(number);
                picture
                    .save(&path)
                    .map_err(|error| CommandError::File { path, source: std::io::Error::other(error.to_string()) })?;
                number += 1;
            }
        }
        Ok(())
    }

    fn frame_path(&self, number: usize) -> PathBuf {
        self.out.join("frames").join(format!("{number:04}.jpg"))
    }

    /// Listens at the daemon's socket until it ends, and drops a picture in when the first visitor was refused.
    fn watch(&self, socket: &Path) -> Vec<Event> {
        let until = Instant::now() + Duration::from_secs(30);
        let mut client = loop {
            match ControlClient::connect(socket) {
                Ok(client) => break client,
                Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
                Err(_) => return Vec::new(),
            }
        };
        let mut answer = client.ask(ask::Events { follow: true, ..ask::Events::default() });
        let (mut events, mut dropped) = (Vec::new(), false);
        while let Ok(new) = answer {
            for event in new {
                if matches!(event.kind, EventKind::Denied { .. }) && !dropped {
                    dropped = true;
                    if let Err(error) = self.drop_picture(ENROLLED_LATER.0, ENROLLED_LATER.1) {
                        log::error!("{error}");
                    }
                }
                events.push(event);
            }
            answer = client.next_events();
        }
        events
    }

    /// One frame of each scene with what is recognised in it.
    fn annotate(&self, config: Config) -> Result<(), CommandError> {
        let (services, _) = Services::open(config)?;
        let mut first = 0;
        for (number, scene) in SCENES.iter().enumerate() {
            if !scene.portraits.is_empty() {
                let path = self.frame_path(first + scene.frames / 2);
                let frame = fs::read(&path).map_err(|source| CommandError::File { path: path.clone(), source })?;
                let faces = services.identify(&frame).map_err(|refusal| CommandError::Answer {
                    problem: refusal.to_string(),
                    kind: ErrorKind::Internal,
                })?;
                let target = self.out.join("annotated").join(format!("{number:02} {}.jpg", scene.title));
                annotate::annotate_file(&frame, &faces, &target)
                    .map_err(|problem| CommandError::File { path: target, source: std::io::Error::other(problem) })?;
            }
            first += scene.frames;
        }
        Ok(())
    }
}

/// A grey wall in changing light, with people who sway a little before it.
fn compose(portraits: &[RgbImage], changed: bool, frame: usize) -> RgbImage {
    let noise =
        |x: u32, y: u32| ((x * 7919) ^ (y * 104_729) ^ (frame as u32 * 15_485_863)).wrapping_mul(2_654_435_761) >> 29;
    let mut picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| Rgb([(96 + x / 20 + y / 24 + noise(x, y)) as u8; 3]));
    let count = portraits.len() as u32;
    for (place, portrait) in portraits.iter().enumerate() {
        let height = if count == 1 { 440 } else { 310 };
        let width = portrait.width() * height / portrait.height();
        let mut person = imageops::resize(portrait, width, height, imageops::FilterType::Triangle);
        if changed {
            imageops::flip_horizontal_in_place(&mut person);
            person = imageops::brighten(&person, -25);
        }
        let sway = ((frame as f32 * 0.5).sin() * 12.0) as i64;
        let center = i64::from(WIDTH) * (2 * place as i64 + 1) / (2 * i64::from(count));
        imageops::overlay(&mut picture, &person, center - i64::from(width) / 2 + sway, i64::from(HEIGHT - height));
    }
    picture
}

/// An event as the scenes' expectations name it.
fn outcome(event: &Event) -> Option<String> {
    match &event.kind {
        EventKind::Granted { name, pulsed: true, .. } => Some(format!("granted {name}")),
        EventKind::Denied { .. } => Some("denied".into()),
        _ => None,
    }
}

fn summarize(events: &[Event], out: &Path) -> u8 {
    let decided: Vec<&Event> = events.iter().filter(|event| outcome(event).is_some()).collect();
    let mut next = decided.iter();
    let mut right = 0;
    println!("\nwhat was to be seen, and what was decided");
    for scene in SCENES.iter().filter(|scene| !scene.portraits.is_empty()) {
        let got: Vec<&Event> = next.by_ref().take(scene.expected.len()).copied().collect();
        let as_expected =
            got.iter().filter_map(|event| outcome(event)).eq(scene.expected.iter().map(|e| (*e).to_owned()));
        right += usize::from(as_expected);
        println!("  {}  {}", if as_expected { "right" } else { "WRONG" }, scene.title);
        got.iter().for_each(|event| println!("           {}", super::print::event_line(event)));
    }
    let visits = SCENES.iter().filter(|scene| !scene.portraits.is_empty()).count();
    let surplus = next.count();
    let enrolled = events.iter().filter(|event| matches!(event.kind, EventKind::Enrolled { .. })).count();
    println!("{right} of {visits} visits decided right, {surplus} decisions too many, {enrolled} people enrolled");
    println!("annotated pictures: {}", out.join("annotated").display());
    if right == visits && surplus == 0 { exit::DONE } else { exit::NO }
}
