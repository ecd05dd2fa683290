//! The wiring: threads, order of start, order of shutdown. What is done about each frame stands in `door`.
//!
//! Start: relay inactive, then models, store and enroll folder, then the socket, then the camera. Shutdown, on every way
//! out of [`run`]: the relay first. The latch thread, which owns it, does that by itself whatever happens here. A reload of the
//! configuration is a shutdown and a start in one process; models and store are kept open if they stay the same.

mod denials;
mod door;
mod house;
pub mod played;
mod strangers;
mod visits;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    api::Backend,
    camera::{self, capture::Capture},
    config::{Config, ConfigError, GpioBackend, LatchConfig, LedConfig, LineChoice, Mode},
    control::{ControlError, ControlServer},
    enroll::watch::EnrollWatcher,
    error::ErrorKind,
    gpio::{self, GpioError, OutputLine},
    hooks::Hooks,
    http::HttpServer,
    latch::{self, Active, Latch, Lines, Settings},
    mqtt::Mqtt,
    service::{Kept, Services, ShutOut, StartError, now_ms},
    store::{Event, EventKind},
    telemetry::{self, ServiceManager, count},
    unknown::UnknownFaces,
};
use door::{Door, Ended};
use house::House;

/// At start so long is spent on new pictures in the enroll folder before the door is watched; the rest is read in the background.
const ENROLL_AT_START: Duration = Duration::from_secs(3);

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Gpio(#[from] GpioError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// A new configuration by which nobody at all could be let in any more.
    #[error("{0}")]
    NoThreshold(String),
    /// A part ended that never should; the relay is inactive, and the service manager starts everything anew.
    #[error("the {0} ended unexpectedly; the log above says why")]
    Died(&'static str),
    #[error("{}: could not be written, and can be now; this needs a new start, by the service manager or by hand", .0.display())]
    StoreBroken(PathBuf),
    /// It may be active still: the record of its line is left behind for [`lock`].
    #[error("the relay cannot be released: {0}; run `facelatch lock`, or cut the strike's supply")]
    RelayStuck(String),
}

impl RunError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RunError::Start(error) => error.kind(),
            RunError::Gpio(error) => error.kind,
            RunError::Control(error) => error.kind(),
            RunError::NoThreshold(_) => ErrorKind::Conflict,
            RunError::Thread(_) | RunError::Died(_) => ErrorKind::Internal,
            RunError::StoreBroken(_) => ErrorKind::Io,
            RunError::RelayStuck(_) => ErrorKind::Unavailable,
        }
    }
}

/// What is asked of the running daemon from outside: systemctl's stop and reload arrive as signals.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    pub stop: Arc<AtomicBool>,
    pub reload: Arc<AtomicBool>,
    /// The file a reload reads; None: there is nothing to reload.
    pub configuration: Option<PathBuf>,
}

/// Runs until it is told to stop, or until a folder of pictures that is played once has come to its end.
///
/// # Errors
/// Something needed is missing or in use, or a part died. The relay is inactive on every return.
pub fn run(config: Config, signals: &Signals) -> Result<(), RunError> {
    let mut running = Running::start(config, None, signals)?;
    loop {
        let ended = running.serve(signals);
        let old = running.services.config.clone();
        let opens = old.opens();
        match ended {
            Ok(Ended::Reload(new)) => {
                // The start takes the line of a stuck relay again.
                let (kept, _) = running.stop();
                running = match Running::start(*new, Some(&kept), signals).and_then(Running::with_threshold) {
                    Ok(running) => running,
                    Err(error) => {
                        log::error!("the new configuration does not start, the old one stays in force: {error}");
                        Running::start(old, Some(&kept), signals)?
                    }
                };
            }
            Ok(Ended::Stopped) => {
                ServiceManager::new().stopping();
                running.stop().1?;
                log::info!("facelatch ends, {}", if opens { "the relay is inactive" } else { "nothing was driven" });
                return Ok(());
            }
            Err(error) => {
                // What is wrong with the relay is in the log; this error came first.
                let _ = running.stop();
                return Err(error);
            }
        }
    }
}

/// Everything that works while a configuration is in force. Dropping it locks first, then ends the rest.
struct Running {
    // In this order they are dropped.
    latch: Latch,
    door: Door,
    capture: Capture,
    watcher: EnrollWatcher,
    control: ControlServer,
    http: Option<HttpServer>,
    mqtt: Option<Mqtt>,
    hooks: Hooks,
    house: House,
    record: PathBuf,
    services: Arc<Services>,
}

impl Running {
    fn start(config: Config, kept: Option<&Kept>, signals: &Signals) -> Result<Running, RunError> {
        telemetry::init_logging(&config.log.level);
        let mode = if config.mode == Mode::Unlock { "unlock" } else { "attendance" };
        log::info!("facelatch {} starts, mode {mode}", env!("CARGO_PKG_VERSION"));
        config.warnings().iter().for_each(|warning| log::warn!("configuration: {warning}"));
        let record = RelayRecord::path(&config);
        let (latch, relay) = start_latch(&config, &record)?;
        let begun = Instant::now();
        let go_on = || !signals.stop.load(Ordering::Relaxed) && begun.elapsed() < ENROLL_AT_START;
        let (services, changes) = Services::open_keeping(config, kept, go_on)?;
        let hold = kept.map_or(services.config.latch.hold, Kept::hold);
        latch.handle().remember(active_lately(&services, hold));
        services.set_running(latch.handle(), relay);
        tell_start(&services);
        services.record_shut_out();
        let same_store = kept.is_none_or(|kept| kept.keeps_store(&services.config));
        if changes.unsettled {
            log::info!("enroll folder: still reading in the background");
        }
        let service = Arc::clone(&services) as Arc<dyn Backend>;
        let control = ControlServer::start(&services.config.control.socket, Arc::clone(&service))?;
        // They hear of everything from the start on.
        let hooks = Hooks::start(&services.config.hooks, services.follow(), &services.counters);
        let hooks = hooks.map_err(RunError::Thread)?;
        let mqtt = Mqtt::start(&services.config, service, services.counters.clone()).map_err(RunError::Thread)?;
        services.opening.iter().for_each(|event| services.store.tell(event));
        services.record(EventKind::Started);
        let http = HttpServer::start(&services).unwrap_or_else(|error| {
            log::error!("page: {error}; the door works without it");
            None
        });
        let watcher = start_watcher(&services)?;
        let camera_config = services.config.camera.clone();
        let capture = Capture::start(Box::new(move || camera::open(&camera_config)), services.counters.clone())
            .map_err(RunError::Thread)?;
        let unknown =
            UnknownFaces::start(services.store.clone(), services.unknown_rules()).map_err(RunError::Thread)?;
        let house = House::start(Arc::clone(&services)).map_err(RunError::Thread)?;
        let door = Door::new(Arc::clone(&services), latch.handle(), unknown, same_store);
        Ok(Running { latch, door, capture, watcher, control, http, mqtt, hooks, house, record, services })
    }

    /// Ends at once where nobody at all can be let in.
    fn with_threshold(self) -> Result<Running, RunError> {
        match self.services.roster().shut_out {
            Some(ShutOut { names: None, reason }) => {
                let _ = self.stop();
                Err(RunError::NoThreshold(reason))
            }
            _ => Ok(self),
        }
    }

    fn serve(&mut self, signals: &Signals) -> Result<Ended, RunError> {
        self.door.serve(&self.capture, &self.latch, signals)
    }

    /// The relay first; whether it is inactive.
    fn stop(self) -> (Kept, Result<(), RunError>) {
        let Running { latch, mut door, capture, watcher, control, http, mqtt, hooks, house, record, services } = self;
        let released = latch.stop();
        door.watch_relay(Instant::now());
        services.record(EventKind::Stopped);
        drop((door, capture, watcher, control, http, mqtt, hooks, house));
        if released.is_ok() {
            // Nothing drives it any more: there is nothing left to do for `lock`.
            let _ = fs::remove_file(record);
        }
        (services.keep(), released.map_err(RunError::RelayStuck))
    }
}

/// Which line a daemon drives as the relay, written down where it runs, so that [`lock`] finds it after a crash even if the
/// configuration was changed or broken meanwhile.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct RelayRecord {
    backend: GpioBackend,
    chip: String,
    line: LineChoice,
    active_low: bool,
}

impl RelayRecord {
    fn of(latch: &LatchConfig) -> Option<RelayRecord> {
        let LatchConfig { backend, chip, active_low, .. } = latch.clone();
        Some(RelayRecord { backend, chip, line: latch.line.clone()?, active_low })
    }

    /// Beside the socket; the service manager's runtime folder serves when there is no configuration to ask.
    fn path(config: &Config) -> PathBuf {
        config.control.socket.with_file_name("relay.json")
    }

    fn read(path: &Path) -> Option<RelayRecord> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// A folder that cannot be written costs no door: `lock` has the configuration too.
    fn write(&self, path: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = fs::write(path, text) {
            log::debug!("{}: {error}", path.display());
        }
    }

    fn open(&self, purpose: &str) -> Result<Box<dyn OutputLine>, GpioError> {
        gpio::open_output(self.backend, &self.chip, &self.line, self.active_low, purpose)
    }
}

/// Drives the relay inactive, for when no daemon does: the line that the last daemon drove, if it left its record behind, else the
/// configured one.
///
/// # Errors
/// The line cannot be taken: somebody else drives it. Or there is neither a record nor a configuration.
pub fn lock(config: Result<Config, ConfigError>) -> Result<(), LockError> {
    let runtime = env::var_os("RUNTIME_DIRECTORY").map(|folder| Path::new(&folder).join("relay.json"));
    let beside_socket = config.as_ref().ok().map(RelayRecord::path);
    let recorded = runtime.iter().chain(&beside_socket).find_map(|path| RelayRecord::read(path));
    let configured = match recorded {
        Some(_) => None,
        None => RelayRecord::of(&config?.latch),
    };
    if let Some(relay) = recorded.or(configured) {
        relay.open("relay")?.set(gpio::LineState::Inactive)?;
    }
    Ok(())
}

/// Why the relay was not driven inactive.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Gpio(#[from] GpioError),
}

impl LockError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            LockError::Config(error) => error.kind(),
            LockError::Gpio(error) => error.kind,
        }
    }
}

/// The relay's line is taken and driven inactive before anything else is done.
fn start_latch(config: &Config, record: &Path) -> Result<(Latch, String), RunError> {
    let latch = &config.latch;
    let open = |line: &Option<LineChoice>,
                active_low: bool,
                purpose: &str|
     -> Result<Option<Box<dyn OutputLine>>, GpioError> {
        line.as_ref().map(|line| gpio::open_output(latch.backend, &latch.chip, line, active_low, purpose)).transpose()
    };
    let relay = match RelayRecord::of(latch) {
        Some(relay) => {
            // Before the line is taken, so that there is no moment at which it is driven and unknown.
            relay.write(record);
            Some(relay.open("relay")?)
        }
        None => None,
    };
    let description = relay.as_ref().map_or_else(|| "none".into(), |relay| relay.describe());
    let LedConfig { ready, granted, denied, active_low } = &config.led;
    let lines = Lines {
        relay,
        ready: open(ready, *active_low, "LED ready")?,
        granted: open(granted, *active_low, "LED granted")?,
        denied: open(denied, *active_low, "LED denied")?,
    };
    let settings = Settings {
        opens: config.opens(),
        max_hold: latch.max_hold,
        max_active_per_minute: latch.budget(),
        max_decision_age: config.recognition.max_decision_age,
    };
    let latch = Latch::start(lines, settings)?;
    log::info!("relay: {description}; {}", if config.opens() { "inactive" } else { "held inactive" });
    Ok((latch, description))
}

/// When the relay was active within the last minute, by the events: neither a restart nor a
/// reload renews what it may be active for.
fn active_lately(services: &Services, hold: Duration) -> Vec<Active> {
    let (now, now_ms) = (Instant::now(), now_ms());
    let ago = |time: Duration| now.checked_sub(time).unwrap_or(now);
    let since_ms = now_ms - (latch::MINUTE + hold).as_millis() as i64;
    let opened =
        |event: &&Event| matches!(event.kind, EventKind::Granted { pulsed: true, .. } | EventKind::Opened { .. });
    // Of a clock that was set back, events are to come: they count as of now.
    let active = |event: &Event| {
        let past = Duration::from_millis(now_ms.saturating_sub(event.at_ms).max(0) as u64);
        // The end of the last daemon cut a pulse short; it counts as long as it lasted, and the
        // relay as at rest since.
        let ended = past.saturating_sub(hold).max(latch::REST);
        (ago(ended + past.min(hold)), ago(ended))
    };
    match services.store.events(Some(since_ms), None) {
        Ok(events) => events.iter().filter(opened).map(active).collect(),
        Err(error) => {
            log::error!("relay: the last minute's openings cannot be read ({error}); it stays inactive for a minute");
            vec![(ago(latch::MINUTE), now)]
        }
    }
}

fn tell_start(services: &Services) {
    for note in &services.notes {
        log::warn!("{note}");
    }
    let (config, rules, roster) = (&services.config, &services.rules, services.roster());
    log::info!(
        "embedder {} calculated as {}; {}; {} of {} frames must agree",
        config.models.embedder,
        services.precision,
        roster.threshold,
        rules.confirm,
        rules.window
    );
    if let Some(warning) = services.scale.warning(&services.embedder) {
        log::warn!("{warning}");
    }
    let (people, templates) = (roster.gallery.people(), roster.gallery.templates());
    if people == 0 && roster.shut_out.is_none() {
        log::warn!(
            "nobody is enrolled yet: pictures in {} are read now, and as they come",
            config.enroll.folder.display()
        );
    } else {
        log::info!("{} enrolled with {}", count(people, "person", "people"), count(templates, "picture", "pictures"));
    }
}

fn start_watcher(services: &Arc<Services>) -> Result<EnrollWatcher, RunError> {
    let told = Arc::clone(services);
    EnrollWatcher::start(Arc::clone(&services.enroller), move |result| match result {
        Ok(changes) => told.note_changes(&changes),
        Err(error) => log::error!("enroll folder: {error}; retrying every 30 s"),
    })
    .map_err(RunError::Thread)
}
