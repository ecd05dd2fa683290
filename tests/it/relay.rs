//! Invariants 13, 14 and 17 at a daemon: what the relay did is what is answered, recorded and told.

use std::{
    fs,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    api::{Ask, Failure, Status, ask},
    config::{Config, Mode},
    control::{ControlClient, ControlError},
    daemon::{self, Signals},
    error::ErrorKind as Kind,
    store::{Event, EventKind, Store},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    door::{self, Running, play},
    support::{command, root},
};

const KNOWN: &str = "barack_obama_2.png";
const PATIENCE: Duration = Duration::from_secs(30);

fn events(config: &Config) -> Vec<Event> {
    Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap()
}

fn count(events: &[Event], wanted: impl Fn(&EventKind) -> bool) -> usize {
    events.iter().filter(|event| wanted(&event.kind)).count()
}

fn grants(events: &[Event]) -> usize {
    count(events, |kind| matches!(kind, EventKind::Granted { .. }))
}

fn opened(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Opened { .. })
}

/// None: nobody answers.
fn ask<Q: Ask>(config: &Config, question: Q) -> Option<Result<Q::Answer, Failure>> {
    match ControlClient::connect(&config.control.socket).ok()?.ask(question) {
        Ok(answer) => Some(Ok(answer)),
        Err(ControlError::Failed(failure)) => Some(Err(failure)),
        Err(_) => None,
    }
}

fn status_of(config: &Config) -> Option<Status> {
    ask(config, ask::Status {})?.ok()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "waited for {what} in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs until the folder was played once; all events of the store so far.
fn run(config: &Config) -> Vec<Event> {
    daemon::run(config.clone(), &Signals::default()).unwrap();
    events(config)
}

#[test]
fn in_attendance_mode_nobody_opens_by_command() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let config = Config { mode: Mode::Attendance, ..door::config(dir.path()) };
    let running = Running::start(&config);
    let answer = ask(&config, ask::Open {});
    let Some(Err(Failure { problem, kind: Kind::Conflict })) = answer else { panic!("{answer:?}") };
    assert!(problem.contains("attendance"), "{problem}");
    assert!(!status_of(&config).unwrap().relay_active);
    drop(running);
    assert_eq!(count(&events(&config), opened), 0);
}

#[test]
fn what_is_recorded_as_opened_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 5)]);
    let mut config = door::config(dir.path());
    (config.latch.hold, config.latch.max_hold) = (Duration::from_millis(500), Duration::from_secs(1));
    let running = Running::start(&config);
    let (mut done, mut refused) = (0, 0);
    for _ in 0..24 {
        match ask(&config, ask::Open {}).unwrap() {
            Ok(()) => done += 1,
            Err(Failure { problem, kind: Kind::Unavailable }) if problem.contains("max_hold") => refused += 1,
            other => panic!("{other:?}"),
        }
        thread::sleep(Duration::from_millis(100));
    }
    drop(running);
    let events = events(&config);
    let by_whom = |kind: &EventKind| matches!(kind, EventKind::Denied { reason, .. } if reason.contains("max_hold"));
    assert!(done > 0 && refused > 0, "{done} opened, {refused} refused");
    assert_eq!([count(&events, opened), count(&events, by_whom)], [done, refused]);
}

#[test]
fn a_visitor_whom_the_relay_refused_need_not_leave_first() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 60), (KNOWN, 60)]);
    let mut config = door::config(dir.path());
    (config.latch.hold, config.latch.max_hold) = (Duration::from_secs(1), Duration::from_secs(1));
    let daemon = thread::spawn({
        let config = config.clone();
        move || run(&config)
    });
    // A command a moment before the visitor: the relay is active or rests when she is recognised.
    let frames = || status_of(&config)?.counters.get("frames").copied();
    wait_for("the visitor", || frames() > Some(50));
    assert_eq!(ask(&config, ask::Open {}), Some(Ok(())));
    let events = daemon.join().unwrap();
    let refused = |kind: &EventKind| matches!(kind, EventKind::Denied { reason, .. } if reason.contains("rests"));
    assert_eq!([count(&events, refused), grants(&events)], [1, 1]);
}

#[test]
fn the_same_picture_for_ever_opens_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 1)]);
    let frames = dir.path().join("frames");
    for number in 1..40 {
        fs::copy(frames.join("0000.jpg"), frames.join(format!("{number:04}.jpg"))).unwrap();
    }
    let config = door::config(dir.path());
    assert_eq!([grants(&run(&config)), grants(&run(&config))], [0, 0]);
}

#[test]
fn a_restart_within_a_visit_opens_for_nobody_again() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[("", 2), (KNOWN, 20)]);
    let config = door::config(dir.path());
    let opened: Vec<usize> = (0..4).map(|_| grants(&run(&config))).collect();
    assert_eq!(opened, [1; 4]);
}

#[test]
fn a_visitor_who_left_is_let_in_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    play(dir.path(), &[(KNOWN, 15), ("", 30)]);
    let config = door::config(dir.path());
    assert_eq!([grants(&run(&config)), grants(&run(&config))], [1, 2]);
}

/// A door's configuration as a file.
fn configure(dir: &Path, more: &str) -> Config {
    let file = dir.join("facelatch.toml");
    let text = format!(
        "mode = \"unlock\"\n[models]\ndir = \"{}\"\nprecision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n\
         [store]\npath = \"store\"\n[control]\nsocket = \"control.sock\"\n[recognition]\nmax_decision_age = \"10s\"\n\
         [camera]\nsource = \"files\"\nfolder = \"frames\"\nrepeat = true\n[latch]\nbackend = \"simulated\"\n\
         hold = \"300ms\"\n{more}\n",
        root().join("models").display(),
    );
    fs::write(&file, &text).unwrap();
    Config::parse(&text, &file).unwrap()
}

#[test]
fn a_reload_within_a_visit_opens_for_nobody_again() {
    let dir = tempfile::tempdir().unwrap();
    door::config(dir.path());
    play(dir.path(), &[(KNOWN, 30)]);
    let config = configure(dir.path(), "line = 17");
    let running = Running::start_with(&config, Some(dir.path().join("facelatch.toml")));
    let status = |done: fn(&Status) -> bool| {
        wait_for("a status", || status_of(&config).is_some_and(|status| done(&status)));
    };
    status(|status| status.counters.get("granted") == Some(&1) && !status.relay_active);
    for max_hold in 11..14 {
        configure(dir.path(), &format!("line = 17\nmax_hold = \"{max_hold}s\""));
        running.reload_until(&config.control.socket, |status| !status.counters.contains_key("granted"));
        // Long enough for a visit of nobody yet.
        status(|status| status.counters.get("frames") > Some(&60));
    }
    drop(running);
    assert_eq!(grants(&events(&config)), 1);
}

/// The program itself, told of a service manager.
struct Service {
    child: Child,
    manager: UnixDatagram,
}

impl Service {
    fn start(dir: &Path) -> Service {
        let path = dir.join("notify.sock");
        let _ = fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut program = command(env!("CARGO_BIN_EXE_facelatch"));
        program.arg("--config").arg(dir.join("facelatch.toml")).arg("run").env_remove("RUST_LOG");
        program.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1600000");
        let child = program.spawn().unwrap();
        Service { child, manager }
    }

    /// How often the watchdog was fed since the last call.
    fn fed(&self) -> usize {
        let (mut fed, mut text) = (0, [0; 4096]);
        loop {
            match self.manager.recv(&mut text) {
                Ok(length) => fed += usize::from(text[..length].starts_with(b"WATCHDOG=1")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return fed,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_crash_within_a_visit_opens_for_nobody_again() {
    let dir = tempfile::tempdir().unwrap();
    door::config(dir.path());
    play(dir.path(), &[(KNOWN, 30)]);
    let config = configure(dir.path(), "line = 17");
    let granted = |status: &Status| status.counters.get("granted") == Some(&1);
    for round in 0..3 {
        let service = Service::start(dir.path());
        wait_for("a visit", || match status_of(&config) {
            Some(status) if round == 0 => granted(&status) && !status.relay_active,
            Some(status) => status.counters.get("frames") > Some(&60),
            None => false,
        });
        service.signal(Signal::KILL);
    }
    assert_eq!(grants(&events(&config)), 1);
}

#[test]
fn neither_a_reload_nor_a_crash_renews_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    door::config(dir.path());
    play(dir.path(), &[("", 5)]);
    let limits = |more: &str| configure(dir.path(), &format!("line = 17\nmax_active_per_minute = \"500ms\"\n{more}"));
    let config = limits("");
    let open = || ask(&config, ask::Open {});
    let refused = |answer| match answer {
        Some(Err(Failure { problem, kind: Kind::Unavailable })) => {
            assert!(problem.contains("max_active_per_minute"), "{problem}")
        }
        other => panic!("{other:?}"),
    };
    let answers = || status_of(&config).is_some();
    let service = Service::start(dir.path());
    wait_for("the service", answers);
    assert_eq!(open(), Some(Ok(())));
    thread::sleep(Duration::from_millis(400));
    refused(open());
    limits("max_hold = \"11s\"");
    service.signal(Signal::HUP);
    thread::sleep(Duration::from_secs(2));
    wait_for("the service", answers);
    refused(open());
    service.signal(Signal::KILL);
    drop(service);
    let _service = Service::start(dir.path());
    wait_for("the service", answers);
    refused(open());
}

#[test]
fn a_stuck_relay_is_told_and_the_watchdog_is_not_fed() {
    let dir = tempfile::tempdir().unwrap();
    door::config(dir.path());
    let config = configure(dir.path(), "line = \"stuck\"");
    play(dir.path(), &[("", 5)]);
    let mut service = Service::start(dir.path());
    wait_for("a start", || status_of(&config).is_some());
    wait_for("a sign of life", || service.fed() > 0);
    assert_eq!(ask(&config, ask::Open {}), Some(Ok(())));
    let problem = || status_of(&config).filter(|status| status.relay_active)?.relay_problem;
    wait_for("the problem", || problem().is_some());
    thread::sleep(Duration::from_millis(300));
    service.fed();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(service.fed(), 0);
    let refused = ask(&config, ask::Open {});
    assert!(matches!(refused, Some(Err(Failure { kind: Kind::Unavailable, .. }))), "{refused:?}");

    let begun = Instant::now();
    service.signal(Signal::TERM);
    let ended = service.child.wait().unwrap();
    assert_eq!(ended.code(), Some(69));
    assert!(begun.elapsed() < Duration::from_secs(10), "a stop ends: {:?}", begun.elapsed());
    assert!(dir.path().join("relay.json").exists(), "`lock` finds the line");
    let told = count(&events(&config), |kind| matches!(kind, EventKind::RelayStuck { .. }));
    assert_eq!(told, 1);
}
