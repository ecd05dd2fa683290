//! A long event log costs the door nothing: no memory, no pause.
//!
//! The store is one of the first edition, so that opening it moves its events too.
//! `FACELATCH_EVENTS` says how many there are (`make events`: a million; 20,000 if it
//! does not); figures are printed.

use std::{
    env, fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use facelatch::{
    gallery::PersonId,
    store::{Event, EventKind, Store},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    door,
    support::{command, root, skipped, too_slow_here},
};

const EVENTS: u64 = 20_000;
const DAY_MS: i64 = 86_400_000;
/// 2026-01-02: times before that year are not believed.
const FIRST_MS: i64 = 1_767_312_000_000;
/// How long the daemon is watched.
const WATCHED: Duration = Duration::from_secs(12);

fn how_many() -> u64 {
    env::var("FACELATCH_EVENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(EVENTS)
}

/// As [`facelatch::store`] lays records on disk.
fn record(event: &Event) -> Vec<u8> {
    let payload = postcard::to_stdvec(event).unwrap();
    [&[1][..], &crc32fast::hash(&payload).to_le_bytes(), &payload].concat()
}

/// Evenly over the last 364 days: nine denials, and then one of ten people is let in.
fn event(id: u64, count: u64, now_ms: i64) -> Event {
    let begin_ms = FIRST_MS.max(now_ms - 364 * DAY_MS);
    let at_ms = now_ms - 1000 - ((count - id) as f64 / count as f64 * (now_ms - begin_ms) as f64) as i64;
    let person = PersonId(100 + (id / 10 % 10) as u32);
    let name = format!("person {}", person.0);
    let kind = match id % 10 {
        0 => EventKind::Granted { person, name, distance: 0.4, frames: 3, latency_ms: 40, pulsed: true },
        _ => EventKind::Denied {
            reason: format!("not in the database, nearest {name} at 1.31 (limit 0.95)"),
            nearest: Some((person, name)),
            distance: Some(1.31),
            frames: 5,
        },
    };
    let boot_id = "11111111-2222-3333-4444-555555555555".into();
    let since_boot = Duration::from_millis((at_ms - (now_ms - 730 * DAY_MS)) as u64);
    Event { id, at_ms, boot_id, since_boot, kind }
}

fn old_store(path: &Path, count: u64) {
    let now_ms = facelatch::service::now_ms();
    let db = sled::Config::new().path(path).cache_capacity(8 << 20).flush_every_ms(None).open().unwrap();
    let tree = db.open_tree("events").unwrap();
    for id in 1..=count {
        tree.insert(id.to_be_bytes(), record(&event(id, count, now_ms))).unwrap();
    }
    db.open_tree("meta").unwrap().insert("schema", &1u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
}

fn configure(dir: &Path) {
    door::config(dir);
    door::play(dir, &[("", 40)]);
    let text = format!(
        "mode = \"attendance\"\n[models]\ndir = \"{}\"\nprecision = \"w8\"\n[enroll]\nfolder = \"enroll\"\n\
         [store]\npath = \"store\"\n[latch]\nbackend = \"simulated\"\n[control]\nsocket = \"control.sock\"\n\
         [camera]\nsource = \"files\"\nfolder = \"frames\"\nfps = 30\nrepeat = true\n",
        root().join("models").display()
    );
    fs::write(dir.join("facelatch.toml"), text).unwrap();
}

fn facelatch(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_facelatch"));
    command.arg("--config").arg(dir.join("facelatch.toml")).args(arguments).env_remove("RUST_LOG");
    command
}

/// A daemon that says after each frame that it is alive.
struct Daemon {
    child: Child,
    signs: UnixDatagram,
}

impl Daemon {
    /// Started, and at work; how long that took.
    fn start(dir: &Path) -> (Daemon, Duration) {
        let socket = dir.join("notify");
        let _ = fs::remove_file(&socket);
        let signs = UnixDatagram::bind(&socket).unwrap();
        signs.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        let begun = Instant::now();
        let child = facelatch(dir, &["run"])
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "8000")
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Daemon { child, signs };
        daemon.wait_for("WATCHDOG=1");
        (daemon, begun.elapsed())
    }

    fn wait_for(&self, sign: &str) {
        let mut buffer = [0; 1000];
        while !self.signs.recv(&mut buffer).is_ok_and(|length| buffer[..length].starts_with(sign.as_bytes())) {}
    }

    /// The longest time without a frame's sign of life.
    fn longest_silence(&self, watched: Duration) -> Duration {
        let (begun, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while begun.elapsed() < watched {
            self.wait_for("WATCHDOG=1");
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    }

    fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// What a question puts out, and how long it took.
fn ask(dir: &Path, arguments: &[&str]) -> (String, Duration) {
    let begun = Instant::now();
    let output = facelatch(dir, arguments).output().unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), took)
}

/// Memory of a daemon that has answered every question about its events, its longest
/// silence, and the slowest answer of `people`.
fn measured(dir: &Path, count: u64) -> (u64, Duration, Duration) {
    let (daemon, start) = Daemon::start(dir);
    let before = daemon.rss_kib();
    let questions = thread::spawn({
        let dir = dir.to_owned();
        move || {
            let people = (0..5).map(|_| ask(&dir, &["people"]).1).max().unwrap();
            let (week, a_week) = ask(&dir, &["attendance", "--format", "csv"]);
            let (newest, limited) = ask(&dir, &["events", "--limit", "100"]);
            let (day, since) = ask(&dir, &["events", "--since", "1d", "--json"]);
            eprintln!(
                "  people {people:.0?}, attendance of a week {a_week:.0?}, 100 events {limited:.0?}, a day's {since:.0?}"
            );
            if count > 0 {
                assert_eq!(newest.lines().count(), 100);
                assert!(day.lines().count() as u64 >= count / 370, "{}", day.lines().count());
                assert!(week.lines().count() > 20, "{week}");
            }
            people
        }
    });
    let silence = daemon.longest_silence(WATCHED);
    let (people, rss) = (questions.join().unwrap(), daemon.rss_kib());
    eprintln!(
        "  {count} events: at work after {start:.1?}, {before} KiB, {rss} KiB after the questions, longest silence {silence:.0?}"
    );
    daemon.stop();
    (rss, silence, people)
}

#[test]
fn a_long_event_log_costs_the_door_nothing() {
    if too_slow_here("a long event log") {
        return;
    }
    let count = how_many();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    dirs.iter().for_each(|dir| configure(dir.path()));
    let store = dirs[1].path().join("store");
    fs::create_dir(&store).unwrap();
    old_store(&store, count);
    eprintln!("without events:");
    let (empty, quiet, _) = measured(dirs[0].path(), 0);
    eprintln!("a store of the first edition:");
    let (first, _, _) = measured(dirs[1].path(), count);
    eprintln!("and once more:");
    let (full, silence, people) = measured(dirs[1].path(), count);
    let (all, took) = ask(dirs[1].path(), &["events", "--json"]);
    let files = fs::read_dir(store.join("events")).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    eprintln!("  all events without a daemon {took:.1?}; {} MB on disk", files.sum::<u64>() / 1_000_000);
    assert!(all.lines().count() as u64 >= count, "none was lost");
    assert!(full.max(first) <= empty + (8 << 10), "{first} and {full} KiB held, {empty} without events");
    if count < 1_000_000 {
        // Times are judged where nothing else runs.
        return skipped("the times with a million events: make events");
    }
    assert!(silence <= Duration::from_millis(200).max(quiet * 2), "{silence:?}, {quiet:?} without events");
    assert!(people <= Duration::from_millis(300), "{people:?}");
}

#[test]
fn events_beyond_the_ceiling_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    fs::create_dir(dir.path().join("store")).unwrap();
    old_store(&dir.path().join("store"), 6_000);
    let file = dir.path().join("facelatch.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("path = \"store\"\n", "path = \"store\"\nmax_events = 2000\n")).unwrap();
    let (daemon, _) = Daemon::start(dir.path());
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let kept = ask(dir.path(), &["events", "--json"]).0.lines().count();
        // Some were recorded meanwhile.
        if (2000..2050).contains(&kept) {
            break;
        }
        assert!(kept > 2000 && Instant::now() < until, "{kept} events");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(daemon.longest_silence(Duration::from_secs(1)) < Duration::from_secs(5));
    daemon.stop();
}

#[test]
fn a_lost_event_log_is_a_warning_and_an_event() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let (daemon, _) = Daemon::start(dir.path());
    daemon.stop();
    let recorded = ask(dir.path(), &["events", "--json"]).0.lines().count();
    // What a member of the group could once do through a link in the enroll folder.
    for entry in fs::read_dir(dir.path().join("store/events")).unwrap() {
        fs::write(entry.unwrap().path(), "nonsense").unwrap();
    }
    fs::write(dir.path().join("store/db"), "nonsense").unwrap();
    let (daemon, _) = Daemon::start(dir.path());
    let (events, _) = ask(dir.path(), &["events"]);
    assert!(events.contains(&format!("{recorded} events are missing")), "{events}");
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let warned = log.lines().any(|line| line.contains("WARN") && line.contains("events are missing"));
    assert!(warned, "{log}");
    daemon.stop();
}

#[test]
fn a_command_that_mends_the_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    ask(dir.path(), &["people"]);
    fs::write(dir.path().join("store/conf"), "this is no configuration of sled").unwrap();
    let output = facelatch(dir.path(), &["people"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("could not be read any more") && error.contains("store.damaged-"), "{error}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("Barack Obama"), "enrolled again from the folder");
    assert!(ask(dir.path(), &["events"]).0.contains("could not be read any more"), "and it is an event");
}

#[test]
fn a_store_where_others_can_write_is_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o770)).unwrap();
    symlink(dir.path().join("enroll"), dir.path().join("link")).unwrap();
    let file = dir.path().join("facelatch.toml");
    let text = fs::read_to_string(&file).unwrap();
    for (path, word) in [
        ("shared/store", "chmod go-w"),
        ("shared", "chmod go-w"),
        ("enroll/store", "apart from each other"),
        ("link", "leads into the enroll folder"),
    ] {
        fs::write(&file, text.replace("path = \"store\"", &format!("path = \"{path}\""))).unwrap();
        for command in ["check", "run", "doctor", "people"] {
            let output = facelatch(dir.path(), &[command]).output().unwrap();
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
            assert_eq!(output.status.code(), Some(78), "{path} {command}: {said}");
            assert!(said.contains("facelatch.toml:") && said.contains(word), "{path} {command}: {said}");
        }
    }
}

#[test]
fn denials_past_a_dozen_a_minute_are_one_event() {
    let dir = tempfile::tempdir().unwrap();
    let config = door::config(dir.path());
    let visit = [("eileen_collins_1.png", 8), ("", 16)];
    door::play(dir.path(), &visit.repeat(16));
    facelatch::daemon::run(config.clone(), &facelatch::daemon::Signals::default()).unwrap();
    let events = Store::open(&config.store.path, 0).unwrap().0.events(None, None).unwrap();
    let listed = events.iter().filter(|event| matches!(event.kind, EventKind::Denied { .. })).count();
    let more: Vec<u32> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::DeniedMore { count, .. } => Some(count),
            _ => None,
        })
        .collect();
    assert_eq!(listed, 12);
    assert!(matches!(more[..], [1..=10]), "{more:?}");
    assert_eq!(events.last().unwrap().kind, EventKind::Stopped);
}
