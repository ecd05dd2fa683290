//! The daemon before a door that is played from pictures: real nets, real store, simulated relay.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    api::{Status, ask},
    config::{Broker, CameraSource, Config, EventName, GpioBackend, HookConfig, LineChoice, Mode, PrecisionChoice},
    control::ControlClient,
    daemon::{self, Signals},
    store::{Event, EventKind, Store},
};
use image::{Rgb, RgbImage, imageops};

use crate::support::{portrait, root};

const KNOWN: &str = "barack_obama_2.png";
const UNKNOWN: &str = "eileen_collins_1.png";

/// A door in a folder of its own, with one person enrolled.
pub fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.camera.source = CameraSource::Files;
    config.camera.folder = dir.join("frames");
    config.camera.fps = 20;
    config.models.dir = root().join("models");
    config.models.precision = PrecisionChoice::W8;
    config.enroll.folder = dir.join("enroll");
    config.enroll.settle = Duration::from_millis(100);
    config.store.path = dir.join("store");
    config.latch.backend = GpioBackend::Simulated;
    config.latch.line = Some(LineChoice::Number(17));
    config.latch.hold = Duration::from_millis(300);
    config.recognition.visit_gap = Duration::from_millis(500);
    config.recognition.cooldown = Duration::ZERO;
    config.recognition.max_decision_age = Duration::from_secs(10);
    config.control.socket = dir.join("control.sock");
    fs::create_dir_all(dir.join("frames")).unwrap();
    fs::create_dir_all(dir.join("enroll")).unwrap();
    enroll(dir, "barack_obama_1.png", "Barack Obama");
    config
}

pub fn enroll(dir: &Path, file: &str, name: &str) {
    let to = dir.join("enroll").join(format!("{name}.png"));
    fs::copy(root().join("tests/data").join(file), &to).unwrap();
    // Dropped a minute ago: a start takes up at once what has long been written.
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    fs::File::options().append(true).open(&to).unwrap().set_modified(long_ago).unwrap();
}

/// Frames for each scene in turn, each with noise of its own; an empty name is an empty doorway.
pub fn play(dir: &Path, scenes: &[(&str, usize)]) {
    fs::create_dir_all(dir.join("frames")).unwrap();
    let mut number = fs::read_dir(dir.join("frames")).unwrap().count();
    for (name, count) in scenes {
        let mut frame = RgbImage::from_pixel(640, 480, Rgb([110; 3]));
        if !name.is_empty() {
            let person = imageops::resize(&portrait(name), 440, 440, imageops::FilterType::Triangle);
            imageops::overlay(&mut frame, &person, 100, 40);
        }
        for _ in 0..*count {
            let picture = noisy(&frame, number as u32 + 1);
            picture.save(dir.join("frames").join(format!("{number:04}.jpg"))).unwrap();
            number += 1;
        }
    }
}

/// As a sensor sees it: no two frames are the same.
fn noisy(frame: &RgbImage, seed: u32) -> RgbImage {
    let (mut frame, mut state) = (frame.clone(), seed.wrapping_mul(2_654_435_761).max(1));
    for sample in frame.iter_mut() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *sample = sample.saturating_add((state % 5) as u8);
    }
    frame
}

fn run(config: &Config) -> Vec<Event> {
    daemon::run(config.clone(), &Signals::default()).unwrap();
    Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap()
}

fn granted(events: &[Event]) -> Vec<(String, bool)> {
    let grant = |event: &Event| match &event.kind {
        EventKind::Granted { name, pulsed, .. } => Some((name.clone(), *pulsed)),
        _ => None,
    };
    events.iter().filter_map(grant).collect()
}

#[test]
fn a_known_face_opens_the_latch_once_and_an_unknown_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 4), (KNOWN, 12), ("", 14), (UNKNOWN, 12), ("", 4)]);
    let events = run(&config(dir.path()));
    assert_eq!(granted(&events), [("Barack Obama".into(), true)]);
    let denied: Vec<&String> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Denied { reason, .. } => Some(reason),
            _ => None,
        })
        .collect();
    assert!(matches!(denied[..], [reason] if reason.contains("not in the database")), "{denied:?}");
    assert!(matches!(events.first().unwrap().kind, EventKind::Enrolled { .. }));
    assert_eq!(events.last().unwrap().kind, EventKind::Stopped);
}

#[test]
fn attendance_counts_in_and_never_drives_the_relay() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 8)]);
    let config = Config { mode: Mode::Attendance, ..config(dir.path()) };
    assert_eq!(granted(&run(&config)), [("Barack Obama".into(), false)]);
}

#[test]
fn a_frame_that_is_no_picture_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 4)]);
    fs::write(dir.path().join("frames/0001b.jpg"), "no picture").unwrap();
    let whole = fs::read(dir.path().join("frames/0002.jpg")).unwrap();
    fs::write(dir.path().join("frames/0002.jpg"), &whole[..whole.len() / 3]).unwrap();
    play(dir.path(), &[(KNOWN, 4)]);
    assert_eq!(granted(&run(&config(dir.path()))), [("Barack Obama".into(), true)]);
}

/// A daemon that plays a loop until it is dropped.
pub struct Running {
    signals: Signals,
    thread: Option<thread::JoinHandle<()>>,
    pub client: ControlClient,
}

impl Running {
    pub fn start(config: &Config) -> Running {
        Running::start_with(config, None)
    }

    /// `file`: what a reload reads.
    pub fn start_with(config: &Config, file: Option<PathBuf>) -> Running {
        let signals = Signals { configuration: file, ..Signals::default() };
        let (signalled, mut looped) = (signals.clone(), config.clone());
        looped.camera.repeat = true;
        let thread = thread::spawn(move || daemon::run(looped, &signalled).unwrap());
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match ControlClient::connect(&config.control.socket) {
                Ok(client) => return Running { signals, thread: Some(thread), client },
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks for a reload and waits until `done` is true of the daemon's status.
    pub fn reload_until(&self, socket: &Path, done: impl Fn(&Status) -> bool) {
        self.signals.reload.store(true, Ordering::Relaxed);
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = ControlClient::connect(socket).and_then(|mut client| client.ask(ask::Status {}));
            match answer {
                Ok(status) if done(&status) => return,
                answer => assert!(Instant::now() < until, "not reloaded: {answer:?}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn next_event(&mut self, wanted: impl Fn(&EventKind) -> bool) -> EventKind {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < until, "the event did not come");
            let events = self.client.next_events().unwrap();
            if let Some(event) = events.into_iter().find(|event| wanted(&event.kind)) {
                return event.kind;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signals.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("dropped once").join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

#[test]
fn a_face_dropped_into_the_folder_is_recognised_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(UNKNOWN, 10)]);
    let mut running = Running::start(&config(dir.path()));
    running.client.ask(ask::Events { follow: true, ..ask::Events::default() }).unwrap();
    running.next_event(|kind| matches!(kind, EventKind::Denied { .. }));
    enroll(dir.path(), UNKNOWN, "Eileen Collins");
    let kind = running.next_event(|kind| matches!(kind, EventKind::Granted { .. }));
    assert!(matches!(kind, EventKind::Granted { name, .. } if name == "Eileen Collins"));
}

#[test]
fn somebody_authorised_opens_by_command() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let mut config = config(dir.path());
    // Long enough to be seen on a busy machine; the end of the daemon ends it too.
    config.latch.hold = Duration::from_secs(10);
    let mut running = Running::start(&config);
    running.client.ask(ask::Open {}).unwrap();
    let status = ControlClient::connect(&config.control.socket).unwrap().ask(ask::Status {}).unwrap();
    assert!(status.relay_active && status.people == 1, "{status:?}");
    drop(running);
    let events = Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap();
    assert!(events.iter().any(|event| matches!(&event.kind, EventKind::Opened { by } if !by.is_empty())));
}

#[test]
fn a_second_daemon_on_the_same_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = config(dir.path());
    let _running = Running::start(&config);
    let error = daemon::run(config, &Signals::default()).unwrap_err().to_string();
    assert!(error.contains("another facelatch"), "{error}");
}

#[test]
fn a_reload_brings_a_new_configuration_into_force_and_refuses_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = config(dir.path());
    let file = dir.path().join("facelatch.toml");
    let text = |mode: &str, models: &str, more: &str| {
        format!(
            "mode = \"{mode}\"\n[camera]\nsource = \"files\"\nfolder = \"frames\"\nrepeat = true\n[models]\ndir = \"{models}\"\nprecision = \"w8\"\n\
             [enroll]\nfolder = \"enroll\"\n[store]\npath = \"store\"\n[latch]\nbackend = \"simulated\"\nline = 17\n\
             [control]\nsocket = \"control.sock\"\n{more}"
        )
    };
    let models = root().join("models");
    let models = models.to_str().unwrap();
    let running = Running::start_with(&config, Some(file.clone()));
    let socket = &config.control.socket;
    assert!(dir.path().join("relay.json").exists(), "where `lock` looks after a crash");

    fs::write(&file, text("attendance", models, "")).unwrap();
    running.reload_until(socket, |status| status.mode == "attendance" && status.people == 1);
    // Neither an impossible configuration nor one that cannot start takes the door away.
    for bad in [text("unlock", models, "nonsense = 1\n"), text("unlock", "no-such-folder", "")] {
        fs::write(&file, bad).unwrap();
        running.reload_until(socket, |_| !running.signals.reload.load(Ordering::Relaxed));
        running.reload_until(socket, |status| status.mode == "attendance" && status.people == 1);
    }
    fs::write(&file, text("unlock", models, "")).unwrap();
    // Nor does one that anybody may have written.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    running.reload_until(socket, |_| !running.signals.reload.load(Ordering::Relaxed));
    running.reload_until(socket, |status| status.mode == "attendance");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    running.reload_until(socket, |status| status.mode == "unlock");
    drop(running);
    assert!(!dir.path().join("relay.json").exists());
}

#[test]
fn lock_finds_the_line_that_was_driven_even_if_the_configuration_broke() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let broken = || Config::parse("nonsense", dir.path());
    fs::write(
        dir.path().join("relay.json"),
        r#"{"backend":"gpiochip","chip":"/dev/gpiochip-none","line":5,"active_low":true}"#,
    )
    .unwrap();
    let error = daemon::lock(Ok(config.clone())).unwrap_err().to_string();
    assert!(error.contains("/dev/gpiochip-none line 5"), "the recorded line goes first: {error}");
    fs::remove_file(dir.path().join("relay.json")).unwrap();
    daemon::lock(Ok(config)).unwrap();
    assert!(matches!(daemon::lock(broken()), Err(daemon::LockError::Config(_))), "nothing is known of any relay");
}

fn shell(script: &str) -> HookConfig {
    HookConfig {
        on: EventName::ALL.to_vec(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        ..HookConfig::default()
    }
}

/// A door that somebody comes to, and how long the whole took.
fn visit(dir: &Path, more: impl FnOnce(&mut Config)) -> Duration {
    play(dir, &[("", 2), ("barack_obama_2.png", 12), ("", 4)]);
    let mut config = config(dir);
    more(&mut config);
    let begun = Instant::now();
    daemon::run(config, &Signals::default()).unwrap();
    begun.elapsed()
}

#[test]
fn a_program_is_told_of_everything_from_start_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told");
    let script = format!("echo \"$FACELATCH_EVENT $FACELATCH_PERSON\" >>{}", told.display());
    visit(dir.path(), |config| config.hooks = vec![shell(&script)]);
    let told = fs::read_to_string(told).unwrap();
    let lines: Vec<&str> = told.lines().map(str::trim).filter(|line| !line.starts_with("denied")).collect();
    assert_eq!(lines, ["started", "granted Barack Obama", "stopped"]);
}

#[test]
fn whoever_hangs_outside_never_keeps_the_door_waiting() {
    let dir = tempfile::tempdir().unwrap();
    // They take connections and say nothing.
    let [address, broker] = [0, 0].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let [url, port] = [&address, &broker].map(|listener| listener.local_addr().unwrap().port());
    let minute = Duration::from_secs(60);
    let took = visit(dir.path(), |config| {
        let url = format!("http://127.0.0.1:{url}/");
        let telling = HookConfig { on: EventName::ALL.to_vec(), url, timeout: minute, ..HookConfig::default() };
        config.hooks = vec![HookConfig { timeout: minute, ..shell("sleep 60") }, telling];
        config.mqtt.broker = Some(Broker { tls: false, host: "127.0.0.1".into(), port });
    });
    let events = Store::open(&dir.path().join("store"), 0).unwrap().0.events(None, None).unwrap();
    let latencies: Vec<u32> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Granted { latency_ms, .. } => Some(latency_ms),
            _ => None,
        })
        .collect();
    // Whatever waited for one of them would wait for a minute, or until the broker is given up after five seconds.
    assert!(matches!(latencies[..], [latency] if latency < 3000), "{latencies:?}");
    assert!(took < minute / 2, "{took:?}");
}
