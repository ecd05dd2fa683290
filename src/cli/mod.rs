//! The commands: thin. Each reads its arguments, asks a [`Backend`](crate::api::Backend),
//! prints the answer and returns an exit code.

mod annotate;
pub mod arguments;
mod attendance;
mod bench;
mod calibrate;
mod demo;
mod doctor;
mod eval;
mod histogram;
mod measure;
mod models;
mod password;
mod populations;
mod print;
mod train;
mod visits;

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::process::CommandExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    api::{Ask, Failure, MOST_EVENTS, ask},
    config::{Config, ConfigError},
    control::{ControlClient, ControlError},
    daemon::{self, LockError, RunError, Signals},
    error::ErrorKind,
    eval::collection::CollectionError,
    service::{Services, StartError, now_ms, record_notes},
    store::Event,
    store::Store,
    telemetry::{self, ServiceManager, printable},
    threshold::Threshold,
    triplet::TrainError,
    vision::manifest::Manifest,
};
use arguments::{Arguments, Command, UnknownAction};

/// Exit codes of sysexits.h, as the help lists them.
pub mod exit {
    use crate::error::ErrorKind;

    pub const DONE: u8 = 0;
    pub const NO: u8 = 1;
    pub const USAGE: u8 = 64;
    pub const UNAVAILABLE: u8 = 69;
    pub const INTERNAL: u8 = 70;
    pub const IO: u8 = 74;
    pub const PERMISSION: u8 = 77;
    pub const CONFIG: u8 = 78;

    /// What tells a script of such trouble.
    pub fn of(kind: ErrorKind) -> u8 {
        match kind {
            ErrorKind::NotFound | ErrorKind::Refused => NO,
            ErrorKind::Invalid => USAGE,
            ErrorKind::Unavailable => UNAVAILABLE,
            ErrorKind::Internal => INTERNAL,
            ErrorKind::Io => IO,
            ErrorKind::Denied => PERMISSION,
            ErrorKind::Conflict => CONFIG,
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Collection(#[from] CollectionError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Usage(String),
    /// What was asked for was tried, and the answer is no.
    #[error("{0}")]
    Refused(String),
    /// Other trouble.
    #[error("{problem}")]
    Answer { problem: String, kind: ErrorKind },
}

impl CommandError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            CommandError::Config(error) => error.kind(),
            CommandError::Run(error) => error.kind(),
            CommandError::Lock(error) => error.kind(),
            CommandError::Start(error) => error.kind(),
            CommandError::Control(error) => error.kind(),
            CommandError::Collection(error) => error.kind(),
            CommandError::Train(error) => error.kind(),
            CommandError::File { source, .. } => ErrorKind::of_io(source),
            CommandError::Usage(_) => ErrorKind::Invalid,
            CommandError::Refused(_) => ErrorKind::Refused,
            CommandError::Answer { kind, .. } => *kind,
        }
    }

    /// The exit code that tells a script what kind of trouble this is.
    pub fn exit_code(&self) -> u8 {
        exit::of(self.kind())
    }
}

/// Reads the command line, runs the command, prints its error.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; where they cannot be printed nobody is there to tell.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::DONE });
        }
    };
    // What this program writes is personal data: nobody else's, unless a place is made for it on purpose.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let code = catch_unwind(AssertUnwindSafe(|| match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("facelatch: {error}");
            // For `systemctl status`: the line above is soon pushed out of its view by the service manager's own lines.
            if matches!(arguments.command, Command::Run) {
                ServiceManager::new().status(&printable(&error.to_string()));
            }
            error.exit_code()
        }
    }));
    // The panic itself was printed when it happened; the relay was released on the way here.
    ExitCode::from(code.unwrap_or(exit::INTERNAL))
}

fn run(arguments: &Arguments) -> Result<u8, CommandError> {
    if matches!(arguments.command, Command::Run) {
        settle_memory();
    }
    // What drives the door, or says whether it can be driven, asks whose the file is.
    let config = || match arguments.command {
        Command::Run | Command::Check | Command::Lock => Config::load(&arguments.config),
        _ => Config::load_to_ask(&arguments.config),
    };
    let json = arguments.json;
    match &arguments.command {
        Command::Run => run_daemon(config()?, &arguments.config),
        Command::Demo { pictures, models, out } => demo::run(pictures, models, out),
        Command::Check => {
            let config = config()?;
            let threshold = threshold_of(&config)?;
            print::checked(&arguments.config, &config.warnings(), threshold.as_ref(), json);
            Ok(exit::DONE)
        }
        Command::Doctor => Ok(doctor::run(&arguments.config, json)),
        Command::Models { models, action } => models::run(config, models.as_deref(), action.as_ref(), json),
        Command::People => print::people(&answer(config()?, ask::People {})?, json),
        Command::Status => print::status(&ask_daemon(&config_or_default(config()), ask::Status {})?, json),
        Command::Eval(measurement) => eval::run(measurement, &arguments.config, json),
        Command::Train(training) => train::run(training, json),
        Command::Bench(measurement) => bench::run(measurement, &arguments.config, json),
        Command::Open => {
            ask_daemon(&config()?, ask::Open {})?;
            print::opened(json)
        }
        Command::Lock => {
            daemon::lock(config())?;
            Ok(exit::DONE)
        }
        Command::Enroll { file, name } => {
            let config = config()?;
            let file_name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let question = ask::Enroll { name: name.clone(), file_name, picture: read(file)? };
            match answer(config, question) {
                Ok(enrolled) => print::enrolled(&enrolled, json),
                Err(error) => print::not_enrolled(error, json),
            }
        }
        Command::Identify { picture, annotate } => identify(config()?, picture, annotate.as_deref(), json),
        Command::Calibrate { forget_strangers: true, .. } => {
            answer(config()?, ask::ForgetStrangers {})?;
            print::forgotten(json)
        }
        Command::Calibrate { strangers, plot, .. } => {
            calibrate::run(config()?, strangers.as_deref(), plot.as_deref(), json)
        }
        Command::Unknown { action } => unknown(config()?, action.as_ref(), json),
        Command::Password { token } => password::run(*token, json),
        Command::Attendance(question) => attendance::run(config()?, question, json),
        Command::Events { since, limit, follow } => events(config()?, since.as_deref(), *limit, *follow, json),
    }
}

/// For asking a daemon that runs with an older configuration than the one that is broken now: it most likely listens where it always does.
fn config_or_default(config: Result<Config, ConfigError>) -> Config {
    config.unwrap_or_else(|error| {
        eprintln!("facelatch: {error}; asking the daemon at its usual place");
        Config::default()
    })
}

fn identify(config: Config, picture: &Path, annotated: Option<&Path>, json: bool) -> Result<u8, CommandError> {
    let question = ask::Identify { picture: read(picture)? };
    let faces = answer(config, question).map_err(|error| refused(error, &picture.display().to_string()))?;
    if let Some(target) = annotated {
        annotate::annotate_file(&read(picture)?, &faces, target)
            .map_err(|problem| CommandError::File { path: target.to_owned(), source: io::Error::other(problem) })?;
    }
    print::identified(&faces, json)
}

/// A refusal with what it is about.
fn refused(error: CommandError, what: &str) -> CommandError {
    match error {
        CommandError::Control(ControlError::Failed(Failure { problem, kind: ErrorKind::Refused })) => {
            CommandError::Refused(format!("{what}: {problem}"))
        }
        other => other,
    }
}

fn unknown(config: Config, action: Option<&UnknownAction>, json: bool) -> Result<u8, CommandError> {
    match action.unwrap_or(&UnknownAction::List) {
        UnknownAction::List => print::unknown(&answer(config, ask::Unknown {})?, json),
        UnknownAction::Name { id, name } => {
            let looked = answer(config, ask::NameUnknown { id: *id, name: name.clone() });
            print::looked(&looked.map_err(|error| refused(error, "refused"))?, json)
        }
        UnknownAction::Picture { id, file } => {
            let picture = answer(config, ask::UnknownPicture { id: *id, look: 0 })?;
            fs::write(file, picture).map_err(|source| CommandError::File { path: file.clone(), source })?;
            Ok(exit::DONE)
        }
        UnknownAction::Forget { id } => {
            answer(config, ask::ForgetUnknown { id: *id })?;
            print::forgotten(json)
        }
    }
}

/// Opens a store of an older program, which moves its events, and starts again as another
/// program in this process: sled keeps the memory that it takes.
fn renew_store(config: &Config) {
    if !Store::is_outdated(&config.store.path) {
        return;
    }
    telemetry::init_logging(&config.log.level);
    // What fails here fails once more below, with its message.
    let Ok((store, notes)) = Store::open(&config.store.path, now_ms()) else { return };
    notes.iter().for_each(|note| log::warn!("{note}"));
    record_notes(&store, &notes);
    while store.index_some().unwrap_or(false) {}
    drop(store);
    let error = start_again(&[]);
    log::debug!("going on in this program: {error}");
}

/// How the C library treats memory. It reads these once, as a program starts.
///
/// Blocks from a mebibyte on go back to the system at once: the library would learn to keep
/// them, those of large pictures once for each thread that decodes. Two arenas are enough for
/// threads that hardly allocate. Nothing is asked for in advance: it would be overwritten where
/// zeros are wanted, and so be held (docs/performance.md).
const MEMORY_SETTINGS: [(&str, &str); 4] = [
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "4194304"),
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_TOP_PAD_", "0"),
];

/// Starts the program again unless the C library has these settings, or others.
fn settle_memory() {
    if MEMORY_SETTINGS.iter().all(|(name, _)| std::env::var_os(name).is_none()) {
        // Where no program can start itself, as in an emulator, it goes on with more memory.
        start_again(&MEMORY_SETTINGS);
    }
}

/// As another program in this process, with more in its environment. It comes back with what
/// is in the way.
fn start_again(environment: &[(&str, &str)]) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new(program);
    again.arg0(arguments.next().unwrap_or_else(|| "facelatch".into()));
    again.args(arguments).envs(environment.iter().copied()).exec()
}

/// The threshold of a door that knows nobody yet; None: the models are not there to ask,
/// as on the PC where a configuration is written.
fn threshold_of(config: &Config) -> Result<Option<Threshold>, CommandError> {
    if !config.models.dir.exists() {
        return Ok(None);
    }
    let manifest = Manifest::load(&config.models.dir).map_err(StartError::from)?;
    let embedder = manifest.embedder(&config.models.embedder).map_err(StartError::from)?;
    let embedder = embedder.mirroring(config.models.mirror);
    Ok(Some(Threshold::choose(&embedder, &config.recognition, 0).map_err(StartError::from)?))
}

fn run_daemon(config: Config, file: &Path) -> Result<u8, CommandError> {
    renew_store(&config);
    let signals = Signals { configuration: Some(file.to_owned()), ..Signals::default() };
    let meanings = [(SIGTERM, &signals.stop), (SIGINT, &signals.stop), (SIGHUP, &signals.reload)];
    for (signal, flag) in meanings {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .map_err(|error| CommandError::Usage(format!("signal {signal} cannot be handled: {error}")))?;
    }
    daemon::run(config, &signals)?;
    Ok(exit::DONE)
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    fs::read(path).map_err(|source| CommandError::File { path: path.to_owned(), source })
}

/// Whoever answers: the running daemon, or the store itself when none runs.
enum Answerer {
    Daemon(PathBuf),
    Store(Arc<Services>),
}

impl Answerer {
    fn find(config: Config) -> Result<Answerer, CommandError> {
        match ControlClient::connect(&config.control.socket) {
            Ok(_) => Ok(Answerer::Daemon(config.control.socket)),
            Err(ControlError::NobodyThere { .. }) => {
                let (services, _) = Services::open(config)?;
                services.notes.iter().for_each(|note| eprintln!("facelatch: {note}"));
                Ok(Answerer::Store(services))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn ask<Q: Ask>(&self, question: Q) -> Result<Q::Answer, CommandError> {
        Ok(match self {
            Answerer::Daemon(socket) => ControlClient::connect(socket)?.ask(question)?,
            Answerer::Store(services) => question.of(&**services, "the command line").map_err(ControlError::from)?,
        })
    }
}

fn answer<Q: Ask>(config: Config, question: Q) -> Result<Q::Answer, CommandError> {
    Answerer::find(config)?.ask(question)
}

fn ask_daemon<Q: Ask>(config: &Config, question: Q) -> Result<Q::Answer, CommandError> {
    Ok(ControlClient::connect(&config.control.socket)?.ask(question)?)
}

fn events(
    config: Config,
    since: Option<&str>,
    limit: Option<usize>,
    follow: bool,
    json: bool,
) -> Result<u8, CommandError> {
    let since_ms = since.map(print::parse_since).transpose().map_err(CommandError::Usage)?;
    if !follow {
        return Ok(past_events(&Answerer::find(config)?, since_ms, limit, json)?.0);
    }
    let socket = config.control.socket;
    let (code, mut last) = past_events(&Answerer::Daemon(socket.clone()), since_ms, limit, json)?;
    if code != exit::DONE {
        return Ok(exit::DONE);
    }
    let mut client = ControlClient::connect(&socket)?;
    // What happened since the last question comes again with the first answer.
    let mut events: Vec<Event> = client.ask(ask::Events { follow: true, ..ask::Events::default() })?;
    loop {
        events.retain(|event| event.id > last);
        last = events.last().map_or(last, |event| event.id);
        // A closed pipe ends it, as it should.
        if print::events(&events, json) != exit::DONE {
            return Ok(exit::DONE);
        }
        events = client.next_events().map_err(|error| match error {
            ControlError::Failed(_) => error,
            _ => ControlError::NobodyThere { path: socket.clone() },
        })?;
    }
}

/// Prints what was recorded, in as many questions as it takes; the exit code, and the
/// number of the newest event there is.
fn past_events(
    answerer: &Answerer,
    since_ms: Option<i64>,
    limit: Option<usize>,
    json: bool,
) -> Result<(u8, u64), CommandError> {
    let newest = answerer.ask(ask::Events { limit: Some(1), ..ask::Events::default() })?;
    let newest = newest.last().map_or(0, |event| event.id);
    if let Some(limit) = limit.filter(|limit| *limit <= MOST_EVENTS) {
        let events = answerer.ask(ask::Events { since_ms, limit: Some(limit), follow: false })?;
        let last = events.last().map_or(newest, |event| event.id.max(newest));
        return Ok((print::events(&events, json), last));
    }
    let mut last = 0;
    let mut kept = VecDeque::new();
    loop {
        let events = answerer.ask(ask::EventsAfter { id: last, since_ms })?;
        let Some(end) = events.last().map(|event| event.id) else { break };
        last = end;
        let Some(limit) = limit else {
            match print::events(&events, json) {
                exit::DONE => continue,
                code => return Ok((code, last)),
            }
        };
        kept.extend(events);
        kept.drain(..kept.len().saturating_sub(limit));
    }
    Ok((print::events(kept.make_contiguous(), json), last.max(newest)))
}
