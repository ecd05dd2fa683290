//! `facelatch eval --enrolled --visits`: recorded visits played at a door, and who was let in.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{
    CommandError,
    arguments::EvalArguments,
    exit,
    measure::{Bar, Chosen},
    print,
};
use crate::{
    config::{Config, FalseMatchRate, Mode, PrecisionChoice},
    daemon::played::{PlayError, PlayedVisit, play_visit},
    enroll::check_name,
    error::ErrorKind,
    eval::{
        bootstrap,
        collection::{in_parallel, is_picture, sorted},
        statistics::{CONFIDENCE, clopper_pearson},
    },
    service::Services,
    telemetry::count,
    vision::model::Precision,
};

/// Refused pictures that are named.
const NAMED: usize = 10;

/// A door at which people are enrolled.
struct Door {
    enrolled: PathBuf,
    services: Arc<Services>,
    /// Everyone with a folder of pictures, enrolled or refused.
    known: BTreeSet<String>,
    /// Picture and reason.
    refused: Vec<(String, String)>,
    /// Holds what the services have open.
    _scratch: Scratch,
}

/// One sequence of frames.
struct Visit {
    door: usize,
    name: String,
    folder: PathBuf,
    frames: Vec<PathBuf>,
}

/// A visit that was played.
struct Played {
    visit: Visit,
    known: bool,
    /// For whom the door opened first.
    let_in: Option<String>,
    reason: &'static str,
    /// Frames that could not be decoded.
    broken: usize,
}

/// Plays, counts and prints.
pub(super) fn run(arguments: &EvalArguments, config: &Path, json: bool) -> Result<u8, CommandError> {
    let (enrolled, visits) = (&arguments.enrolled, &arguments.visits);
    if enrolled.len() != visits.len() {
        let problem = format!("{} --enrolled and {} --visits: give as many of each", enrolled.len(), visits.len());
        return Err(CommandError::Usage(problem));
    }
    let config = configured(arguments, config)?;
    let mut played = Vec::new();
    for (door, folder) in visits.iter().enumerate() {
        played.extend(read_visits(folder, door)?);
    }
    let doors = enrolled.iter().map(|folder| Door::open(folder, &config)).collect::<Result<Vec<Door>, _>>()?;
    let counted = Counted { played: play(&doors, played)?, doors, rate: config.recognition.false_match_rate.0 };
    if json {
        print::emit_json(&counted.as_json());
    } else {
        print::emit(&counted.to_string());
    }
    Ok(exit::DONE)
}

/// The configuration, with what the command line says instead; it unlocks.
fn configured(arguments: &EvalArguments, file: &Path) -> Result<Config, CommandError> {
    let chosen = Chosen::new(&arguments.model, file)?;
    let mut config = match arguments.model.models {
        Some(_) => Config::default(),
        None => Config::load_to_ask(file)?,
    };
    config.models.precision = match chosen.precision {
        Precision::W8 => PrecisionChoice::W8,
        Precision::Int8 => PrecisionChoice::Int8,
        Precision::F32 => PrecisionChoice::Auto,
    };
    (config.models.dir, config.models.embedder, config.models.mirror) = (chosen.dir, chosen.embedder, chosen.mirror);
    config.mode = Mode::Unlock;
    if let Some(rate) = arguments.rate {
        config.recognition.false_match_rate = FalseMatchRate(rate);
        config.recognition.max_distance = None;
    }
    Ok(config)
}

/// `DIR/NAME/SEQUENCE/*.jpg`.
fn read_visits(dir: &Path, door: usize) -> Result<Vec<Visit>, CommandError> {
    let mut visits = Vec::new();
    for person in folders(dir)? {
        let sequences = folders(&person)?;
        if sequences.is_empty() {
            return Err(lacking(&person, "no sequence; each visit needs a folder of frames in it"));
        }
        for folder in sequences {
            let frames = pictures(&folder)?;
            if frames.is_empty() {
                return Err(lacking(&folder, "no frame (.jpg, .jpeg or .png) in it"));
            }
            visits.push(Visit { door, name: name_of(&person)?, folder, frames });
        }
    }
    if visits.is_empty() {
        return Err(lacking(dir, "no visit in it; DIR/NAME/SEQUENCE/*.jpg are the frames of one"));
    }
    Ok(visits)
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    Ok(sorted(dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn pictures(dir: &Path) -> Result<Vec<PathBuf>, CommandError> {
    Ok(sorted(dir)?.into_iter().filter(|path| is_picture(path)).collect())
}

fn lacking(path: &Path, problem: &str) -> CommandError {
    CommandError::Answer { problem: format!("{}: {problem}", path.display()), kind: ErrorKind::Io }
}

/// The person's name as enrolment spells it.
fn name_of(folder: &Path) -> Result<String, CommandError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    check_name(&name).map_err(|refusal| lacking(folder, &refusal.to_string()))
}

impl Door {
    /// Enrols copies of the pictures: enrolment writes verdicts, and the folder stays as it is.
    fn open(folder: &Path, config: &Config) -> Result<Door, CommandError> {
        let scratch = Scratch::new()?;
        let mut config = config.clone();
        config.enroll.folder = scratch.0.join("enroll");
        config.store.path = scratch.0.join("store");
        let mut known = BTreeSet::new();
        for person in folders(folder)? {
            let pictures = pictures(&person)?;
            if pictures.is_empty() {
                return Err(lacking(&person, "no picture (.jpg, .jpeg or .png) in it"));
            }
            let name = name_of(&person)?;
            pictures.iter().try_for_each(|picture| copy_into(picture, &config.enroll.folder.join(&name)))?;
            known.insert(name);
        }
        if known.is_empty() {
            return Err(lacking(folder, "no one in it to enrol; DIR/NAME/*.jpg are a person's pictures"));
        }
        let (services, changes) = Services::open(config)?;
        let refused: Vec<_> = changes.refused.into_iter().map(|(_, picture, reason)| (picture, reason)).collect();
        let door = Door { enrolled: folder.to_owned(), services, known, refused, _scratch: scratch };
        if door.enrolled_people().is_empty() {
            let (picture, reason) = door.refused.first().cloned().unwrap_or_default();
            return Err(lacking(folder, &format!("no picture in it can be enrolled; {picture}: {reason}")));
        }
        Ok(door)
    }

    fn enrolled_people(&self) -> BTreeSet<String> {
        let roster = self.services.roster();
        roster.everyone().map(|person| roster.name(person)).collect()
    }

    /// People none of whose pictures was accepted.
    fn not_enrolled(&self) -> Vec<&String> {
        let enrolled = self.enrolled_people();
        self.known.iter().filter(|name| !enrolled.contains(*name)).collect()
    }

    fn as_json(&self) -> Value {
        let roster = self.services.roster();
        let refused = self.refused.iter().map(|(picture, reason)| json!({ "picture": picture, "reason": reason }));
        json!({
            "enrolled": self.enrolled,
            "people": self.known.len(),
            "not_enrolled": self.not_enrolled(),
            "refused": refused.collect::<Vec<_>>(),
            "shut_out": roster.shut_out.map(|shut_out| shut_out.reason),
            "limit": super::measure::narrow(roster.threshold.limits.single),
        })
    }
}

fn copy_into(picture: &Path, folder: &Path) -> Result<(), CommandError> {
    let copy = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let to = folder.join(picture.file_name().unwrap_or_default());
        fs::copy(picture, &to)?;
        // Long written: it is read at once.
        let written = SystemTime::now() - Duration::from_secs(60);
        fs::File::options().append(true).open(&to)?.set_modified(written)
    };
    copy().map_err(|source| CommandError::File { path: picture.to_owned(), source })
}

/// A folder of this run, removed with all in it when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, CommandError> {
        let mut random = [0; 8];
        let made = getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()));
        let path = env::temp_dir().join(format!("facelatch-eval-{:016x}", u64::from_ne_bytes(random)));
        made.and_then(|()| fs::create_dir(&path))
            .map_err(|source| CommandError::File { path: path.clone(), source })?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("facelatch: {}: {error}; remove this folder", self.0.display());
        }
    }
}

fn play(doors: &[Door], visits: Vec<Visit>) -> Result<Vec<Played>, CommandError> {
    let bar = Bar::new("playing visits", visits.len());
    let one = |_: &mut (), i: usize| play_visit(&doors[visits[i].door].services, &visits[i].frames);
    let results = in_parallel(visits.len(), &(), one, |done| bar.show(done)).map_err(|error| {
        let kind = if matches!(error, PlayError::Frame(_)) { ErrorKind::Io } else { ErrorKind::Internal };
        CommandError::Answer { problem: error.to_string(), kind }
    })?;
    let judged = visits.into_iter().zip(results).map(|(visit, result)| judge(&doors[visit.door], visit, &result));
    Ok(judged.collect())
}

/// A visit that opened for another person as well as for the visitor counts for the other.
fn judge(door: &Door, visit: Visit, played: &PlayedVisit) -> Played {
    let roster = door.services.roster();
    let mut opened: Vec<String> = played.opened.iter().map(|person| roster.name(*person)).collect();
    opened.sort_by_key(|name| *name == visit.name);
    let known = door.known.contains(&visit.name);
    Played { known, let_in: opened.into_iter().next(), reason: played.reason(), broken: played.broken, visit }
}

/// What is counted of visits.
struct Counted {
    doors: Vec<Door>,
    played: Vec<Played>,
    rate: f64,
}

/// Hits among visits, with intervals over visits and over people.
struct Count {
    hits: usize,
    of: usize,
    by_visit: (f64, f64),
    by_person: Option<(f64, f64)>,
}

impl Counted {
    fn count(&self, of: impl Fn(&Played) -> bool, hit: impl Fn(&Played) -> bool) -> Count {
        let counted: Vec<&Visit> = self.played.iter().filter(|played| of(played)).map(|played| &played.visit).collect();
        let hit: Vec<bool> = self.played.iter().filter(|played| of(played)).map(hit).collect();
        let hits = hit.iter().filter(|hit| **hit).count();
        let people: BTreeSet<&str> = counted.iter().map(|visit| visit.name.as_str()).collect();
        let number: BTreeMap<&str, usize> = people.into_iter().zip(0..).collect();
        let by_person = bootstrap::interval(&[number.len(), self.doors.len()], |drawn| {
            let weight = |visit: &Visit| drawn[0][number[visit.name.as_str()]] * drawn[1][visit.door];
            let (all, let_in) = counted.iter().zip(&hit).fold((0, 0), |(all, let_in), (visit, hit)| {
                (all + weight(visit), let_in + weight(visit) * u32::from(*hit))
            });
            (all > 0).then(|| f64::from(let_in) / f64::from(all))
        });
        // A sample of people who all fared alike shows no spread.
        let by_person = by_person.filter(|_| hits > 0 && hits < counted.len());
        Count { hits, of: counted.len(), by_visit: clopper_pearson(hits, counted.len(), CONFIDENCE), by_person }
    }

    fn known(&self) -> Count {
        self.count(|played| played.known, |played| played.let_in.as_ref() == Some(&played.visit.name))
    }

    fn strangers(&self) -> Count {
        self.count(|played| !played.known, |played| played.let_in.is_some())
    }

    /// Known people let in as another.
    fn mistaken(&self) -> Count {
        let other = |played: &Played| played.let_in.as_ref().is_some_and(|name| *name != played.visit.name);
        self.count(|played| played.known, other)
    }

    fn broken(&self) -> usize {
        self.played.iter().map(|played| played.broken).sum()
    }

    fn by_reason(&self, of: impl Fn(&Played) -> bool) -> BTreeMap<&'static str, usize> {
        let mut reasons = BTreeMap::new();
        for played in self.played.iter().filter(|played| played.let_in.is_none() && of(played)) {
            *reasons.entry(played.reason).or_default() += 1;
        }
        reasons
    }

    fn as_json(&self) -> Value {
        let (known, strangers, mistaken) = (self.known(), self.strangers(), self.mistaken());
        let services = &self.doors[0].services;
        let visit = |played: &Played| {
            json!({
                "folder": played.visit.folder,
                "name": played.visit.name,
                "known": played.known,
                "let_in": played.let_in,
                "reason": played.let_in.is_none().then_some(played.reason),
                "broken_frames": played.broken,
            })
        };
        json!({
            "embedder": services.config.models.embedder,
            "precision": services.precision.to_string(),
            "mirror": services.config.models.mirror,
            "rate": self.rate,
            "known_visits": known.of,
            "known_let_in": known.hits,
            "stranger_visits": strangers.of,
            "stranger_let_in": strangers.hits,
            "mistaken": mistaken.hits,
            "broken_frames": self.broken(),
            "by_reason": self.by_reason(|_| true),
            "known_by_reason": self.by_reason(|played| played.known),
            "stranger_by_reason": self.by_reason(|played| !played.known),
            "intervals": { "known": known.as_json(), "strangers": strangers.as_json(), "mistaken": mistaken.as_json() },
            "doors": self.doors.iter().map(Door::as_json).collect::<Vec<_>>(),
            "visits": self.played.iter().map(visit).collect::<Vec<_>>(),
        })
    }
}

impl Count {
    fn as_json(&self) -> Value {
        let (low, high) = self.by_visit;
        json!({ "visits": [low, high], "people": self.by_person.map(|(low, high)| [low, high]) })
    }

    fn row(&self, what: &str) -> Vec<String> {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let interval = |(low, high): (f64, f64)| format!("{} - {}", percent(low), percent(high));
        let share = if self.of == 0 { "-".into() } else { percent(self.hits as f64 / self.of as f64) };
        let by_visit = if self.of == 0 { "-".into() } else { interval(self.by_visit) };
        let by_person = self.by_person.map_or_else(|| "-".into(), interval);
        vec![what.into(), self.hits.to_string(), self.of.to_string(), share, by_visit, by_person]
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = &self.doors[0].services;
        let mirror = if services.config.models.mirror { ", mirror images averaged in" } else { "" };
        writeln!(f, "embedder {} as {}{mirror}", services.config.models.embedder, services.precision)?;
        for door in &self.doors {
            let roster = door.services.roster();
            let people = count(door.known.len(), "person", "people");
            writeln!(f, "{}: {people}; {}", door.enrolled.display(), roster.threshold)?;
            for (picture, reason) in door.refused.iter().take(NAMED) {
                writeln!(f, "  refused: {picture}: {reason}")?;
            }
            if door.refused.len() > NAMED {
                writeln!(f, "  and {} more", door.refused.len() - NAMED)?;
            }
            for name in door.not_enrolled() {
                writeln!(f, "  not enrolled: {name}; visits count as a known person's")?;
            }
            roster.shut_out.map_or(Ok(()), |shut_out| writeln!(f, "  {}", shut_out.reason))?;
        }
        let broken = self.played.iter().filter(|played| played.broken > 0);
        for Played { visit, broken, .. } in broken.take(NAMED) {
            let frames = count(visit.frames.len(), "frame", "frames");
            writeln!(f, "{}: {broken} of {frames} cannot be decoded and are skipped", visit.folder.display())?;
        }
        let head = ["", "visits", "of", "%", "95 % interval over visits", "over people"];
        let rows = [
            head.map(str::to_owned).to_vec(),
            self.known().row("known people let in"),
            self.mistaken().row("let in as another"),
            self.strangers().row("strangers let in"),
        ];
        write!(f, "\n{}", print::table(&rows))?;
        for (who, reasons) in
            [("known", self.by_reason(|played| played.known)), ("strangers", self.by_reason(|played| !played.known))]
        {
            let words: Vec<String> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            if !words.is_empty() {
                writeln!(f, "not let in, {who}: {}", words.join(", "))?;
            }
        }
        Ok(())
    }
}
