//! The daemon before a camera that is a program: real processes, nets and store, simulated relay.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    api::{Status, ask},
    config::{CameraSource, Config},
    control::ControlClient,
    store::{Event, EventKind, Store},
};
use image::{Rgb, RgbImage, imageops};

use crate::{
    door::{self, Running},
    support::{beside_checkout, portrait, too_slow_here},
};

/// A door whose camera is a shell script of 15 frames per second.
fn config(dir: &Path, script: &str) -> Config {
    let mut config = door::config(dir);
    config.camera.source = CameraSource::Command;
    config.camera.fps = 15;
    config.camera.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    config.recognition.max_decision_age = Duration::from_secs(1);
    config
}

fn status(config: &Config) -> Status {
    let mut client = ControlClient::connect(&config.control.socket).unwrap();
    client.ask(ask::Status {}).unwrap()
}

fn events(config: &Config) -> Vec<Event> {
    Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap()
}

/// Frames `NAME-0.jpg` to `NAME-7.jpg`, no two of them alike: the light wavers.
fn scene(dir: &Path, name: &str, person: Option<&str>) {
    let mut frame = RgbImage::from_pixel(640, 480, Rgb([110; 3]));
    if let Some(person) = person {
        let person = imageops::resize(&portrait(person), 440, 440, imageops::FilterType::Triangle);
        imageops::overlay(&mut frame, &person, 100, 40);
    }
    for i in 0..8 {
        let light = 4 * [0, 3, 1, 4, 2, 5, 1, 3][i as usize] - 10;
        imageops::colorops::brighten(&frame, light).save(dir.join(format!("{name}-{i}.jpg"))).unwrap();
    }
}

/// Shell words that write `frames` frames of a scene.
fn write(name: &str, frames: u32, pause: &str) -> String {
    format!("i=0; while [ $i -lt {frames} ]; do cat {name}-$((i%8)).jpg; sleep {pause}; i=$((i+1)); done; ")
}

#[test]
fn a_backlog_after_a_stall_opens_for_nobody_who_has_left() {
    if too_slow_here("a stream in real time") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    scene(dir.path(), "empty", None);
    scene(dir.path(), "known", Some("barack_obama_2.png"));
    // One visit live; another of two seconds while nothing gets through, of which all comes afterwards.
    let script = format!("cd {}; ", dir.path().display())
        + &write("empty", 45, ".06")
        + &write("known", 45, ".06")
        + &write("empty", 45, ".06")
        + "sleep 4.5; "
        + &write("known", 30, ".008")
        + &write("empty", 37, ".008")
        + &write("empty", 45, ".06")
        + "touch done; sleep 100";
    let mut config = config(dir.path(), &script);
    config.camera.timeout = Duration::from_secs(30);
    let running = Running::start(&config);
    let until = Instant::now() + Duration::from_secs(90);
    while !dir.path().join("done").exists() {
        assert!(Instant::now() < until, "the script ends");
        thread::sleep(Duration::from_millis(100));
    }
    let late = status(&config).counters.get("frames_late").copied();
    drop(running);
    let granted = events(&config).into_iter().filter(|event| matches!(event.kind, EventKind::Granted { .. }));
    assert_eq!(granted.count(), 1, "the live visit, and it only");
    assert!(late.is_some_and(|late| late > 20), "{late:?}");
}

#[test]
fn a_camera_whose_frames_cannot_be_decoded_is_lost_and_says_why() {
    let Some(frame) = beside_checkout("cases/cmyk/frame.jpg") else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = format!("while :; do cat {}; sleep .03; done", frame.canonicalize().unwrap().display());
    let config = config(dir.path(), &script);
    let running = Running::start(&config);
    let until = Instant::now() + Duration::from_secs(60);
    while status(&config).counters.get("camera_lost").copied() != Some(1) {
        assert!(Instant::now() < until, "it is not lost");
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_secs(3));
    let status = status(&config);
    assert!(!status.camera_ok && status.camera.contains("4 components"), "{status:?}");
    drop(running);
    let of_camera = |event: Event| match event.kind {
        EventKind::CameraLost { problem } => Some(problem),
        EventKind::CameraBack { .. } => Some("back".into()),
        _ => None,
    };
    let told: Vec<String> = events(&config).into_iter().filter_map(of_camera).collect();
    assert!(matches!(&told[..], [lost] if lost.contains("broken frames in a row")), "told once: {told:?}");
}

#[test]
fn torn_frames_are_counted_and_the_others_let_people_in() {
    let dir = tempfile::tempdir().unwrap();
    scene(dir.path(), "known", Some("barack_obama_2.png"));
    let whole = fs::read(dir.path().join("known-5.jpg")).unwrap();
    // Half of it with zeros behind, and an end marker: to a decoder a good picture, half grey.
    let half = [&whole[..whole.len() / 2], &[0; 5000], &[0xff, 0xd9]].concat();
    fs::write(dir.path().join("known-5.jpg"), &half).unwrap();
    fs::write(dir.path().join("known-2.jpg"), &whole[..whole.len() / 2]).unwrap();
    let script = format!("cd {}; ", dir.path().display()) + &write("known", 1000, ".06");
    let config = config(dir.path(), &script);
    let _running = Running::start(&config);
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let counters = status(&config).counters;
        let count = |name: &str| counters.get(name).copied().unwrap_or(0);
        if count("granted") == 1 && count("frames_torn") > 5 {
            assert_eq!((count("camera_lost"), count("frames_broken")), (0, 0));
            break;
        }
        assert!(Instant::now() < until, "{counters:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
