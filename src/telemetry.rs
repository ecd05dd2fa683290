//! Logging, counters, and what the service manager is told.
//!
//! Under systemd each line carries its priority (`<3>` error to `<7>` debug, sd-daemon(3)) and no time of its own, which the
//! journal adds; elsewhere a local time and the level.

use std::{
    collections::BTreeMap,
    env, fmt,
    io::Write,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jiff::Zoned;
use log::{Level, Log, Metadata, Record};
use sd_notify::NotifyState;

use crate::names::is_unprintable;

/// The program's logger; a reload of the configuration puts another one in its place.
static LOGGER: Replaceable = Replaceable(RwLock::new(None));

struct Replaceable(RwLock<Option<env_logger::Logger>>);

impl Replaceable {
    fn with<T>(&self, act: impl FnOnce(&env_logger::Logger) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }
}

impl Log for Replaceable {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.with(|logger| logger.enabled(metadata)).unwrap_or(false)
    }

    fn log(&self, record: &Record) {
        self.with(|logger| logger.log(record));
    }

    fn flush(&self) {
        self.with(Log::flush);
    }
}

/// Starts logging to the standard error output. `level` is a level or env_logger's filter syntax; RUST_LOG goes first.
/// A second call changes the level.
pub fn init_logging(level: &str) {
    let journal = connected_to_journal();
    let filter = env::var("RUST_LOG").unwrap_or_else(|_| quiet_dependencies(level));
    let logger = env_logger::Builder::new()
        .parse_filters(&filter)
        .format(move |out, record| {
            let time = if journal { None } else { Some(Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()) };
            out.write_all(line(record.level(), time.as_deref(), &record.args().to_string()).as_bytes())
        })
        .build();
    log::set_max_level(logger.filter());
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(logger);
    // It is set already at the second call.
    let _ = log::set_logger(&LOGGER);
}

/// A plain level is meant for facelatch; of the libraries only warnings are worth a line. What the broker's has to say comes as errors too,
/// which are told once.
fn quiet_dependencies(level: &str) -> String {
    if level.contains(['=', ',']) { level.to_owned() } else { format!("warn,rumqttc=off,facelatch={level}") }
}

/// Whether the standard error output is the journal's socket: JOURNAL_STREAM names its device and inode (systemd.exec(5)).
fn connected_to_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// One record as it is written; each of its lines carries the priority or the time.
fn line(level: Level, time: Option<&str>, message: &str) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let prefix = match time {
        None => format!("<{priority}>"),
        Some(time) if level == Level::Info => format!("{time}  "),
        Some(time) => format!("{time}  {level}: "),
    };
    message.split('\n').map(|part| format!("{prefix}{part}\n")).collect()
}

/// A text from outside (a person's name, a file's name) so that it stays on its line: control characters are escaped.
pub fn printable(text: &str) -> String {
    let escaped = |c: char| if is_unprintable(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// `1 person`, `2 people`.
pub fn count(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// Tells the service manager how this service is (sd_notify(3)); where there is none, nothing happens.
#[derive(Debug)]
pub struct ServiceManager {
    /// How long it waits for a sign of life before it restarts the service.
    watchdog: Option<Duration>,
    fed: Option<Instant>,
}

impl ServiceManager {
    pub fn new() -> ServiceManager {
        ServiceManager { watchdog: sd_notify::watchdog_enabled(), fed: None }
    }

    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// A cycle of recognition was completed: the only sign of life that is sent.
    pub fn cycle_completed(&mut self, now: Instant) {
        let Some(limit) = self.watchdog else { return };
        if self.fed.is_none_or(|fed| now.saturating_duration_since(fed) >= limit / 8) {
            self.fed = Some(now);
            tell(&[NotifyState::Watchdog]);
        }
    }
}

impl Default for ServiceManager {
    fn default() -> ServiceManager {
        ServiceManager::new()
    }
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("the service manager could not be told: {error}");
    }
}

/// Named counters, shared by all threads.
#[derive(Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Counters {
    pub fn add(&self, name: &'static str, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += count;
    }

    pub fn increment(&self, name: &'static str) {
        self.add(name, 1);
    }

    pub fn decrement(&self, name: &'static str) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = counters.entry(name).or_default();
        *value = value.saturating_sub(1);
    }

    /// For what goes up and down, such as the length of a queue; its name ends in `_queue`.
    pub fn set(&self, name: &'static str, value: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
    }

    pub fn get(&self, name: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(0)
    }

    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }
}

/// Upper ends of the histograms' buckets in seconds; the last one has none.
pub const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many fell into each of [`BUCKETS`], and in the last place how many were longer.
    pub counts: [u64; BUCKETS.len() + 1],
    pub sum: Duration,
}

/// Named histograms of durations, shared by all threads.
#[derive(Clone, Default)]
pub struct Times(Arc<Mutex<BTreeMap<&'static str, Histogram>>>);

impl Times {
    pub fn observe(&self, name: &'static str, time: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = times.entry(name).or_default();
        let seconds = time.as_secs_f64();
        histogram.counts[BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len())] += 1;
        histogram.sum += time;
    }

    pub fn snapshot(&self) -> BTreeMap<&'static str, Histogram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.snapshot()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_systemd_lines_carry_priorities_and_no_time() {
        assert_eq!(line(Level::Warn, None, "camera lost"), "<4>camera lost\n");
        assert_eq!(line(Level::Error, None, "a\nb"), "<3>a\n<3>b\n");
    }

    #[test]
    fn elsewhere_lines_carry_the_time() {
        assert_eq!(line(Level::Info, Some("08:00:00"), "ready"), "08:00:00  ready\n");
        assert_eq!(line(Level::Warn, Some("08:00:00"), "dark"), "08:00:00  WARN: dark\n");
    }

    #[test]
    fn a_name_cannot_forge_a_line_of_the_log() {
        assert_eq!(printable("Eve\n08:00  Ada let in"), "Eve\\n08:00  Ada let in");
        assert_eq!(printable("\u{1b}[2Jx\u{202e}"), "\\u{1b}[2Jx\\u{202e}");
        assert_eq!(printable("A\u{ad}da\u{3164}"), "A\\u{ad}da\\u{3164}");
        let shown = "Zoë 李 Ада علی\u{200c}رضا 👩\u{200d}🔬";
        assert_eq!(printable(shown), shown);
    }

    #[test]
    fn counters_are_shared() {
        let counters = Counters::default();
        let other = counters.clone();
        std::thread::spawn(move || other.add("frames", 3)).join().unwrap();
        counters.increment("frames");
        counters.decrement("faces");
        assert_eq!((counters.get("frames"), counters.get("faces")), (4, 0));
    }
}
