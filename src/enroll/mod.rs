//! The enroll folder: the truth about who is known. Pictures in, verdicts and templates out.
//!
//! `NAME.jpg`, or `NAME/*.jpg`: what is dropped in is read once it has not changed for a while, what is removed is
//! forgotten, a renamed folder renames the person. A refused picture gets a sidecar `PICTURE.rejected.txt` with reason and
//! remedy. All that changes about one person in a scan is written as one record.

mod begun;
mod confirmed;
mod folder;
mod health;
mod judge;
mod picture;
mod root;
mod scan;
mod verdict;
pub mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use image::RgbImage;
use sha2::{Digest, Sha256};

pub use health::Health;
pub use judge::{LimitsFor, Standard};
pub use picture::{decode as decode_picture, decode_at_once as decode_picture_at_once};
pub use scan::check_name;
pub use verdict::Refusal;

use crate::{
    config::EnrollConfig,
    error::ErrorKind,
    gallery::{PersonId, Template},
    names::canonical,
    store::{EnrolledPicture, EnrolmentChange, FoundFace, Person, Reading, Store, StoreError},
    telemetry::printable,
    vision::{embed::Embedding, model::ModelId},
};
use begun::Begun;
use folder::{Folder, sidecar_of};
use judge::{Face, Judgement, judge};
use scan::{Found, Stamp};

/// So long a file that is not complete is taken for one that is still being written.
const SLOW_UPLOAD: Duration = Duration::from_secs(60);

/// Finds the one face of a picture. The vision part implements it; tests have one of their own.
pub trait FaceReader: Send + Sync {
    fn model(&self) -> ModelId;

    /// Whatever else than the picture decides what it finds.
    fn rules(&self) -> String {
        format!("{:?}", self.model().0)
    }

    /// The face's embedding and the side of its box in pixels.
    ///
    /// # Errors
    /// Why this picture cannot be somebody's template.
    fn read(&self, picture: &RgbImage, min_face_px: u32) -> Result<(Embedding, u32), Refusal>;
}

/// Why the folder cannot be worked with. A single picture's problem is a [`Refusal`].
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error("{path}: {source}; {}", folder_remedy(source))]
    Folder { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl EnrollError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EnrollError::Folder { source, .. } => ErrorKind::of_io(source),
            EnrollError::Store(error) => error.kind(),
        }
    }
}

fn folder_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room; nothing was changed",
        io::ErrorKind::NotADirectory => "a link or a file is in the place of a folder; put the folder itself there",
        io::ErrorKind::Other => "mount or restore the folder there was; nothing was changed",
        _ => "enroll.folder must be a folder this program can read and write",
    }
}

/// What became of the folder itself.
#[derive(Clone, Debug, PartialEq)]
pub enum FolderNews {
    /// It is not there, cannot be read, or is another one; those known stay known.
    Lost(String),
    Back,
}

/// What one look at the folder changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Person, name, picture.
    pub accepted: Vec<(PersonId, String, String)>,
    /// Name (or what should have been one), picture, reason; each said once.
    pub refused: Vec<(String, String, String)>,
    pub forgotten: Vec<(PersonId, String, String)>,
    /// Person, old name, new name.
    pub renamed: Vec<(PersonId, String, String)>,
    pub folder: Option<FolderNews>,
    /// The people are not what they were, in whatever respect.
    pub people: bool,
    /// The store could not be written; said once. Who is gone is forgotten all the same.
    pub unwritten: Option<String>,
    /// Pictures that are still being written or were not read yet: look again soon.
    pub unsettled: bool,
    /// Pictures wait to be read: look again at once.
    pub more: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Changes { unsettled: self.unsettled, more: self.more, ..Changes::default() }
    }

    fn note(&mut self, before: &[Person], after: &[Person]) {
        self.people |= before != after;
        for person in after {
            let old = before.iter().find(|old| old.id == person.id);
            if let Some(old) = old.filter(|old| old.name != person.name) {
                self.renamed.push((person.id, old.name.clone(), person.name.clone()));
            }
            let known = |picture: &EnrolledPicture| {
                old.is_some_and(|old| old.pictures.iter().any(|known| known.sha256 == picture.sha256))
            };
            let fresh = person.pictures.iter().filter(|picture| !known(picture));
            self.accepted.extend(fresh.map(|picture| (person.id, person.name.clone(), picture.path.clone())));
        }
        for old in before {
            let now: Vec<_> = after.iter().filter(|person| person.id == old.id).flat_map(|p| &p.pictures).collect();
            let stays = |was: &EnrolledPicture| now.iter().any(|is| is.sha256 == was.sha256 || is.path == was.path);
            let gone = old.pictures.iter().filter(|picture| !stays(picture));
            self.forgotten.extend(gone.map(|picture| (old.id, old.name.clone(), picture.path.clone())));
        }
    }

    /// Adds those of a later look.
    fn extend(&mut self, later: Changes) {
        self.folder = later.folder.or(self.folder.take());
        self.accepted.extend(later.accepted);
        self.refused.extend(later.refused);
        self.forgotten.extend(later.forgotten);
        self.renamed.extend(later.renamed);
        self.people |= later.people;
        self.unwritten = later.unwritten.or(self.unwritten.take());
        (self.unsettled, self.more) = (later.unsettled, later.more);
    }
}

/// Examines a picture by itself. Clones share the nets; it needs no [`Enroller`], which others may be waiting for.
#[derive(Clone)]
pub struct Examiner {
    reader: Arc<dyn FaceReader>,
    min_face: u32,
    max_megapixels: u32,
}

impl Examiner {
    /// The one face of a picture.
    ///
    /// # Errors
    /// Why the picture cannot be used, whoever is on it.
    pub fn examine(&self, bytes: &[u8]) -> Result<FoundFace, Refusal> {
        let picture = picture::decode(bytes, self.max_megapixels)?;
        let (embedding, face_px) = self.reader.read(&picture.picture, self.min_face)?;
        Ok(FoundFace { model: embedding.model(), embedding: embedding.values().to_vec(), face_px })
    }

    /// Digest of what a finding depends on besides the picture.
    fn rules(&self) -> [u8; 16] {
        let Examiner { reader, min_face, max_megapixels } = self;
        let rules = format!("{EXAMINATION} {} {min_face} {max_megapixels} {}", program_version(), reader.rules());
        let mut short = [0; 16];
        short.copy_from_slice(&digest(rules.as_bytes())[..16]);
        short
    }
}

/// Raised whenever a picture may be judged otherwise than before within one version of the program.
const EXAMINATION: u32 = 2;

fn program_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// See the module.
pub struct Enroller {
    config: EnrollConfig,
    store: Store,
    folder: Folder,
    health: Arc<Health>,
    /// The folders in it that could be read at the last look.
    folders: Vec<PathBuf>,
    /// What could not be read at the last look.
    problems: Vec<String>,
    examiner: Examiner,
    standard: Standard,
    /// Of the examiner; it does not change.
    rules: [u8; 16],
    /// As the store has them.
    stored: Vec<Person>,
    /// Who is enrolled: as the store has them, but never a picture that is gone.
    people: Vec<Person>,
    /// What was found on the pictures that are there, by key.
    readings: HashMap<String, Reading>,
    /// Readings that were replaced in this round: pictures change places.
    replaced: Vec<Reading>,
    /// Keys of readings that the store lacks, or has and should not.
    unwritten: HashSet<String>,
    /// Files that were seen once, and when; their stamp must stay.
    waiting: HashMap<PathBuf, (Stamp, SystemTime)>,
    /// Files that were read and are not complete, and when that was first seen.
    incomplete: HashMap<PathBuf, (Stamp, SystemTime)>,
    begun: Begun,
    /// What the owner was told about a picture, by key.
    told: HashMap<String, Refusal>,
    progress: Progress,
    /// The last attempt to write the store failed.
    failing: bool,
}

impl Enroller {
    /// Creates the folder (writable by owner and group) if it is not there. If people are
    /// known, a folder that is not there is lost instead, which the first round says.
    ///
    /// # Errors
    /// It cannot be created or read, or the store cannot be read.
    pub fn new(
        config: EnrollConfig,
        store: Store,
        reader: Arc<dyn FaceReader>,
        standard: Standard,
    ) -> Result<Enroller, EnrollError> {
        let health = Arc::new(Health::default());
        let mut folder = Folder::new(config.folder.clone(), Arc::clone(&health));
        let stored = store.people()?;
        if stored.is_empty() {
            folder.create().map_err(|source| EnrollError::Folder { path: config.folder.clone(), source })?;
            folder.leave();
        }
        let EnrollConfig { min_face, max_megapixels, .. } = config;
        let examiner = Examiner { reader, min_face, max_megapixels };
        let begun = Begun::open(store.folder().join("reading"));
        Ok(Enroller {
            rules: examiner.rules(),
            people: stored.clone(),
            readings: store.readings()?,
            standard,
            stored,
            folder,
            health,
            folders: Vec::new(),
            problems: Vec::new(),
            examiner,
            config,
            store,
            replaced: Vec::new(),
            unwritten: HashSet::new(),
            waiting: HashMap::new(),
            incomplete: HashMap::new(),
            begun,
            told: HashMap::new(),
            progress: Progress::default(),
            failing: false,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.config.folder
    }

    /// The picture that is read now; an orderly end of the program clears its name.
    fn reading(&self) -> begun::Reading {
        self.begun.now()
    }

    /// How enrolment goes; it can be asked while a look lasts.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    pub fn examiner(&self) -> Examiner {
        self.examiner.clone()
    }

    /// Everybody enrolled, in the order of their numbers.
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// Brings the store in line with the folder, round by round, as long as `go_on` says so.
    ///
    /// # Errors
    /// As [`Enroller::round`].
    pub fn sync(&mut self, now: SystemTime, go_on: impl Fn() -> bool) -> Result<Changes, EnrollError> {
        let mut changes = self.round(now, &go_on)?;
        while changes.more && go_on() {
            changes.extend(self.round(now, &go_on)?);
        }
        Ok(changes)
    }

    /// One round of [`Enroller::sync`], to be taken over before the next: forgets what is gone, and if nothing is, reads
    /// pictures. Asks `go_on` before each; the rest is left for the next round (`Changes::more`).
    ///
    /// # Errors
    /// None yet: a folder that cannot be read is news of the folder.
    pub fn round(&mut self, now: SystemTime, go_on: impl Fn() -> bool) -> Result<Changes, EnrollError> {
        let changes = self.entered_round(now, go_on);
        self.folder.leave();
        changes
    }

    fn entered_round(&mut self, now: SystemTime, go_on: impl Fn() -> bool) -> Result<Changes, EnrollError> {
        let mut changes = Changes::default();
        let Some(scan) = self.survey(&mut changes) else { return Ok(changes) };
        self.remove_orphans(&scan);
        self.respell(&mut changes);
        let due = self.due(&scan.pictures, now, &mut changes);
        let gone = self.gone(&scan);
        if gone.is_empty() {
            self.read(&due, now, go_on, &mut changes);
        } else {
            changes.more = self.follow(&due, &gone, now);
        }
        self.replaced.clear();
        let written = self.conclude(&scan, now, &mut changes);
        // A store that stays as it is is said once.
        changes.unwritten = written.as_ref().err().filter(|_| !self.failing).map(StoreError::to_string);
        self.failing = written.is_err();
        changes.unsettled |= changes.more;
        Ok(changes)
    }

    /// Sidecars whose picture is gone, files half written, and memories of files that are gone.
    fn remove_orphans(&mut self, found: &scan::Scan) {
        let present: HashSet<&Path> = found.pictures.iter().map(|picture| picture.path.as_path()).collect();
        let kept: HashSet<PathBuf> = present.iter().map(|picture| sidecar_of(picture)).collect();
        for left in found.sidecars.iter().filter(|sidecar| !kept.contains(*sidecar)).chain(&found.drafts) {
            let _ = self.folder.remove(left);
        }
        let keys: HashSet<&str> = found.pictures.iter().map(|picture| picture.key.as_str()).collect();
        self.waiting.retain(|path, _| present.contains(path.as_path()));
        self.incomplete.retain(|path, _| present.contains(path.as_path()));
        self.begun.forget_others(&found.pictures);
        self.told.retain(|key, _| keys.contains(key.as_str()));
    }

    /// People whom an older program stored under another spelling of their name get the one there is
    /// now; two of one name become one person.
    fn respell(&mut self, changes: &mut Changes) {
        while let Some(index) = self.people.iter().position(|person| canonical(&person.name) != person.name) {
            let mut person = self.people.remove(index);
            let name = canonical(&person.name);
            changes.renamed.push((person.id, person.name, name.clone()));
            match self.people.iter_mut().find(|other| other.name == name) {
                Some(other) => other.pictures.append(&mut person.pictures),
                None => self.people.insert(index, Person { name, ..person }),
            }
        }
    }

    /// The pictures that have to be read now: new or changed and completely written, or read by other rules. Those of people
    /// enrolled come first: another face may have taken their place.
    fn due<'a>(&mut self, found: &'a [Found], now: SystemTime, changes: &mut Changes) -> Vec<&'a Found> {
        let mut due = Vec::new();
        for picture in found.iter().filter(|picture| picture.name.is_ok()) {
            if self.current(picture).is_some() {
                continue;
            }
            let since = match self.waiting.get(&picture.path) {
                Some((stamp, since)) if *stamp == picture.stamp => *since,
                _ => picture.modified().min(now),
            };
            // What changed only the rules need not settle.
            let same = self.readings.get(&picture.key).is_some_and(|read| read.stamp == picture.stamp.numbers());
            let judged = self.incomplete.get(&picture.path).filter(|(stamp, _)| *stamp == picture.stamp);
            let patience = judged.map_or(self.config.settle, |_| SLOW_UPLOAD);
            if same || now.duration_since(since).unwrap_or(Duration::ZERO) >= patience {
                self.waiting.remove(&picture.path);
                due.push(picture);
            } else {
                self.waiting.insert(picture.path.clone(), (picture.stamp, since));
                changes.unsettled = true;
            }
        }
        let enrolled: HashSet<&str> = pictures_of(&self.people).map(|picture| picture.path.as_str()).collect();
        due.sort_by_key(|picture| !enrolled.contains(picture.key.as_str()));
        due
    }

    /// What was found on a picture, if it still holds.
    fn current(&self, picture: &Found) -> Option<&Reading> {
        let holds = |read: &&Reading| read.rules == self.rules && read.stamp == picture.stamp.numbers();
        self.readings.get(&picture.key).filter(holds)
    }

    fn read(&mut self, due: &[&Found], now: SystemTime, go_on: impl Fn() -> bool, changes: &mut Changes) {
        let model = self.examiner.reader.model();
        let rebuilding = pictures_of(&self.people).any(|picture| picture.model != model);
        self.progress.begin(rebuilding, due.len());
        for picture in due {
            if !go_on() {
                changes.more = true;
                return;
            }
            changes.unsettled |= !self.read_one(picture, true, now);
            if let Some(line) = self.progress.another() {
                log::info!("{line}");
            }
        }
    }

    /// Enrolled pictures that are not in the folder any more: their sizes as far as they are known.
    fn gone(&self, scan: &scan::Scan) -> Vec<Option<i64>> {
        let present = keys_of(scan);
        let gone = pictures_of(&self.people).filter(|picture| !present.contains(picture.path.as_str()));
        gone.map(|picture| self.readings.get(&picture.path)?.stamp.get(1).copied()).collect()
    }

    /// Finds those that are gone under a new name, by size and content, and examines nothing else meanwhile; whether
    /// pictures are left to read.
    fn follow(&mut self, due: &[&Found], gone: &[Option<i64>], now: SystemTime) -> bool {
        let mut left = false;
        for picture in due {
            let size = picture.stamp.numbers().get(1).copied();
            let candidate = gone.contains(&size) || gone.contains(&None);
            left |= !(candidate && self.read_one(picture, false, now));
        }
        left
    }

    /// Reads a picture; one whose content was found under another name needs no new examination. Whether there is a finding:
    /// there is none yet of a file that may still be being written.
    fn read_one(&mut self, picture: &Found, examine: bool, now: SystemTime) -> bool {
        let mut sha256 = [0; 32];
        let bytes = self.folder.read(&picture.path).inspect(|bytes| sha256 = digest(bytes));
        let mut all = self.readings.values().chain(&self.replaced);
        let known = all.find(|read| read.sha256 == sha256 && read.rules == self.rules);
        let found = match (bytes, known.map(|known| known.found.clone())) {
            (Ok(_), Some(found)) => found.map_err(Refusal::Earlier),
            _ if !examine => return false,
            // The folder went while it was being read: that says nothing about the picture.
            (Err(_), _) if self.folder.still_there().is_err() => return false,
            (Err(refusal), _) => Err(refusal),
            (Ok(_), None) if self.begun.ended_in(picture) => Err(Refusal::EndedProgram),
            (Ok(bytes), None) => self.begun.during(picture, || self.examiner.examine(&bytes)),
        };
        if matches!(found, Err(Refusal::Incomplete(_))) && self.may_grow(picture, now) {
            return false;
        }
        // Says nothing of the content: once it is touched, the same file is read again.
        if found == Err(Refusal::EndedProgram) {
            sha256 = [0; 32];
        }
        // What may be otherwise tomorrow is not kept for then.
        if found.as_ref().err().is_none_or(Refusal::lasts) {
            self.unwritten.insert(picture.key.clone());
        }
        let (stamp, found) = (picture.stamp.numbers(), found.map_err(|refusal| refusal.to_string()));
        let reading = Reading { stamp, rules: self.rules, sha256, found };
        self.replaced.extend(self.readings.insert(picture.key.clone(), reading));
        true
    }

    /// Whether a file that is not complete may still be being written; then it is read
    /// again later, or when it changed.
    fn may_grow(&mut self, found: &Found, now: SystemTime) -> bool {
        let seen = match self.incomplete.get(&found.path) {
            Some((stamp, seen)) if *stamp == found.stamp => *seen,
            _ => now,
        };
        // A clock that was set back makes no file young.
        let age = |since: SystemTime| now.duration_since(since).unwrap_or(Duration::ZERO);
        let may_grow = age(seen).max(age(found.modified())) < SLOW_UPLOAD;
        if may_grow {
            self.incomplete.insert(found.path.clone(), (found.stamp, seen));
            self.waiting.insert(found.path.clone(), (found.stamp, seen));
        } else {
            self.incomplete.remove(&found.path);
        }
        may_grow
    }

    /// The faces that were read, by name. A person some of whose pictures are not read yet stays as before: no picture
    /// joins, and only those that are gone go.
    fn faces<'a>(&self, scan: &'a scan::Scan) -> BTreeMap<String, Vec<Face<'a>>> {
        let model = self.examiner.reader.model();
        let mut folder = BTreeMap::new();
        for (name, pictures) in by_name(scan) {
            let enrolled: HashMap<[u8; 32], &EnrolledPicture> = match self.person(name) {
                Some(person) => person.pictures.iter().map(|picture| (picture.sha256, picture)).collect(),
                None => HashMap::new(),
            };
            let whole = pictures.iter().all(|picture| self.current(picture).is_some());
            let face = |picture: &&'a Found| {
                let (sha256, values, of) = match self.current(picture).filter(|_| whole) {
                    Some(Reading { sha256, found: Ok(face), .. }) => (*sha256, &face.embedding, face.model),
                    Some(_) => return None,
                    None => {
                        let known = enrolled.values().find(|known| known.path == picture.key)?;
                        (known.sha256, &known.embedding, known.model)
                    }
                };
                let embedding = Embedding::new(values.clone(), of).ok().filter(|_| of == model)?;
                Some(Face { key: &picture.key, sha256, embedding, enrolled: enrolled.contains_key(&sha256) })
            };
            folder.insert(name.to_owned(), pictures.iter().filter_map(face).collect());
        }
        folder
    }

    fn person(&self, name: &str) -> Option<&Person> {
        self.people.iter().find(|person| person.name == name)
    }

    /// Judges what was read, and takes over what came of it.
    ///
    /// # Errors
    /// The store could not be written; nobody joined, but who is gone is gone.
    fn conclude(&mut self, scan: &scan::Scan, now: SystemTime, changes: &mut Changes) -> Result<(), StoreError> {
        let present = keys_of(scan);
        let gone = self.readings.extract_if(|key, _| !present.contains(key.as_str())).map(|(key, _)| key);
        self.unwritten.extend(gone);
        let faces = self.faces(scan);
        let Judgement { people, mut refused } = judge(&faces, &self.standard);
        let mut wanted: Vec<(String, Vec<EnrolledPicture>)> = Vec::new();
        for (name, pictures) in by_name(scan) {
            let whole = pictures.iter().all(|picture| self.current(picture).is_some());
            let accepted = match whole {
                true => people.get(name).into_iter().flatten().filter_map(|face| self.record_of(face, now)).collect(),
                false => self.still_there(name, &present),
            };
            if !whole {
                pictures.iter().for_each(|picture| drop(refused.remove(picture.key.as_str())));
            }
            wanted.push((name.to_owned(), accepted));
        }
        wanted.retain(|(_, pictures)| !pictures.is_empty());
        let refused: HashMap<String, Refusal> =
            refused.into_iter().map(|(key, refusal)| (key.to_owned(), refusal)).collect();
        let written = self.commit(identify(&self.people, wanted), changes);
        self.tell(scan, refused, changes);
        written
    }

    fn still_there(&self, name: &str, present: &HashSet<&str>) -> Vec<EnrolledPicture> {
        let pictures = self.person(name).into_iter().flat_map(|person| &person.pictures);
        pictures.filter(|picture| present.contains(picture.path.as_str())).cloned().collect()
    }

    /// As the store keeps an accepted picture.
    fn record_of(&self, face: &Face<'_>, now: SystemTime) -> Option<EnrolledPicture> {
        let found = self.readings.get(face.key)?.found.clone().ok()?;
        let before = pictures_of(&self.people).find(|picture| picture.sha256 == face.sha256);
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        Some(EnrolledPicture {
            path: face.key.to_owned(),
            sha256: face.sha256,
            model: found.model,
            embedding: found.embedding,
            face_px: found.face_px,
            enrolled_at_ms: before.map_or(now, |picture| picture.enrolled_at_ms),
        })
    }

    /// Who is gone is gone whatever becomes of the store; who is new counts once it is written.
    fn commit(&mut self, mut target: Vec<Person>, changes: &mut Changes) -> Result<(), StoreError> {
        let before = std::mem::take(&mut self.people);
        self.people = retained(&before, &target);
        let written = self.write(&mut target);
        if written.is_ok() {
            self.people.clone_from(&target);
            self.stored = target;
            self.unwritten.clear();
        }
        changes.note(&before, &self.people);
        written
    }

    /// Writes what the store lacks, and gives numbers to new people.
    fn write(&self, target: &mut [Person]) -> Result<(), StoreError> {
        for person in target.iter_mut().filter(|person| person.id == PersonId(0)) {
            person.id = self.store.fresh_person_id()?;
        }
        target.sort_by_key(|person| person.id);
        let gone = self.stored.iter().map(|person| person.id).filter(|id| target.iter().all(|now| now.id != *id));
        let mut change = EnrolmentChange {
            people: target.iter().filter(|person| !self.stored.contains(person)).cloned().collect(),
            gone_people: gone.collect(),
            ..EnrolmentChange::default()
        };
        for key in &self.unwritten {
            match self.readings.get(key) {
                Some(reading) => change.readings.push((key.clone(), reading.clone())),
                None => change.gone_readings.push(key.clone()),
            }
        }
        if change.is_empty() { Ok(()) } else { self.store.write_enrolment(&change) }
    }

    /// Writes the sidecars of refused pictures, and removes those of accepted ones.
    fn tell(&mut self, scan: &scan::Scan, mut refused: HashMap<String, Refusal>, changes: &mut Changes) {
        let accepted: HashSet<String> = pictures_of(&self.people).map(|picture| picture.path.clone()).collect();
        let sidecars: HashSet<&Path> = scan.sidecars.iter().map(PathBuf::as_path).collect();
        for picture in &scan.pictures {
            if accepted.contains(&picture.key) {
                self.told.remove(&picture.key);
                if sidecars.contains(sidecar_of(&picture.path).as_path()) {
                    self.folder.remove_sidecar(&picture.path);
                }
                continue;
            }
            let refusal = match (&picture.name, self.current(picture).map(|read| &read.found)) {
                (Err(refusal), _) => Some(refusal.clone()),
                (Ok(_), Some(Err(text))) => Some(Refusal::Earlier(text.clone())),
                _ => refused.remove(&picture.key),
            };
            if let Some(refusal) = refusal {
                self.refuse(picture, refusal, changes);
            }
        }
    }

    /// Notes the refusal and writes the sidecar; a refusal that was told already is not reported again.
    fn refuse(&mut self, found: &Found, refusal: Refusal, changes: &mut Changes) {
        if self.told.get(&found.key).is_some_and(|told| refusal.repeats(told)) {
            return;
        }
        let reason = refusal.to_string();
        self.told.insert(found.key.clone(), refusal);
        match self.folder.write_sidecar(&found.path, &format!("{reason}.\n")) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => log::warn!(
                "{}: the reason of a refusal cannot be written: {error}",
                printable(&sidecar_of(&found.path).display().to_string())
            ),
        }
        let name = found.name.as_ref().unwrap_or(&found.key);
        changes.refused.push((name.clone(), found.key.clone(), reason));
    }

    /// Takes a picture in as `facelatch enroll` brings it: judged first, written to the folder and enrolled only if it is accepted.
    /// The answer is its record, and what changed by it.
    ///
    /// # Errors
    /// The folder or the store cannot be written; then nothing is kept.
    pub fn add_picture(
        &mut self,
        name: &str,
        file_name: &str,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<Result<(EnrolledPicture, Changes), Refusal>, EnrollError> {
        let found = self.examiner.examine(bytes);
        self.add_examined(name, file_name, bytes, found, now)
    }

    /// As [`Enroller::add_picture`], with what an [`Examiner`] found on it.
    ///
    /// # Errors
    /// As there.
    pub fn add_examined(
        &mut self,
        name: &str,
        file_name: &str,
        bytes: &[u8],
        found: Result<FoundFace, Refusal>,
        now: SystemTime,
    ) -> Result<Result<(EnrolledPicture, Changes), Refusal>, EnrollError> {
        let (name, found) = match check_name(name).and_then(|name| Ok((name, found?))) {
            Ok(good) => good,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let added = self.add(&name, file_name, bytes, found, now);
        self.folder.leave();
        added
    }

    fn add(
        &mut self,
        name: &str,
        file_name: &str,
        bytes: &[u8],
        found: FoundFace,
        now: SystemTime,
    ) -> Result<Result<(EnrolledPicture, Changes), Refusal>, EnrollError> {
        let scan = self.look()?;
        let path = match self.folder.free_place(name, file_name, bytes) {
            Ok(free) => free,
            Err(taken) => return Ok(Err(Refusal::Duplicate(taken.to_string_lossy().into_owned()))),
        };
        let (key, sha256) = (path.to_string_lossy().into_owned(), digest(bytes));
        if let Some(refusal) = self.would_refuse(&scan, name, &key, sha256, &found) {
            return Ok(Err(refusal));
        }
        let failed = |source| EnrollError::Folder { path: self.config.folder.join(&path), source };
        self.folder.add(&path, bytes).map_err(failed)?;
        let added = self.take_over(&key, sha256, found, now);
        if added.is_err() {
            self.readings.remove(&key);
            self.folder.take_back(&path);
        }
        Ok(Ok(added?))
    }

    /// Why a picture that is not in the folder yet would be refused.
    fn would_refuse(
        &self,
        scan: &scan::Scan,
        name: &str,
        key: &str,
        sha256: [u8; 32],
        found: &FoundFace,
    ) -> Option<Refusal> {
        let mut pictures = scan.pictures.iter().filter(|picture| picture.name.as_deref() == Ok(name));
        if !pictures.all(|picture| self.current(picture).is_some()) {
            return Some(Refusal::Busy(name.to_owned()));
        }
        let mut faces = self.faces(scan);
        let Ok(embedding) = Embedding::new(found.embedding.clone(), found.model) else { return Some(Refusal::NoFace) };
        faces.entry(name.to_owned()).or_default().push(Face { key, sha256, embedding, enrolled: false });
        judge(&faces, &self.standard).refused.remove(key)
    }

    /// Enrols a picture that was just written to the folder.
    fn take_over(
        &mut self,
        key: &str,
        sha256: [u8; 32],
        found: FoundFace,
        now: SystemTime,
    ) -> Result<(EnrolledPicture, Changes), EnrollError> {
        let scan = self.look()?;
        let path = self.config.folder.join(key);
        let gone = || EnrollError::Folder { path: path.clone(), source: io::ErrorKind::NotFound.into() };
        let written = scan.pictures.iter().find(|picture| picture.key == key).ok_or_else(gone)?;
        let stamp = written.stamp.numbers();
        self.unwritten.insert(key.to_owned());
        self.readings.insert(key.to_owned(), Reading { stamp, rules: self.rules, sha256, found: Ok(found) });
        let mut changes = Changes::default();
        self.conclude(&scan, now, &mut changes)?;
        let record = pictures_of(&self.people).find(|picture| picture.path == key);
        Ok((record.ok_or_else(gone)?.clone(), changes))
    }
}

fn pictures_of(people: &[Person]) -> impl Iterator<Item = &EnrolledPicture> + Clone {
    people.iter().flat_map(|person| &person.pictures)
}

/// The pictures that can be somebody's. Where a link took a picture's place, the picture is gone.
fn keys_of(scan: &scan::Scan) -> HashSet<&str> {
    scan.pictures.iter().filter(|picture| picture.name.is_ok()).map(|picture| picture.key.as_str()).collect()
}

fn by_name(scan: &scan::Scan) -> BTreeMap<&str, Vec<&Found>> {
    let mut names: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
    for picture in &scan.pictures {
        if let Ok(name) = &picture.name {
            names.entry(name).or_default().push(picture);
        }
    }
    names
}

/// Who is who after pictures moved: a person is who has one of the person's pictures, under the same name or a new
/// one, else who has the name. Number 0: somebody new.
fn identify(before: &[Person], wanted: Vec<(String, Vec<EnrolledPicture>)>) -> Vec<Person> {
    let mut people: Vec<Person> =
        wanted.into_iter().map(|(name, pictures)| Person { id: PersonId(0), name, pictures }).collect();
    let mut left: Vec<&Person> = before.iter().collect();
    for likeness in [shared_and_named, shared, named] {
        left.retain(|old| {
            let free = people.iter_mut().filter(|new| new.id == PersonId(0));
            let best = free.max_by_key(|new| likeness(old, new)).filter(|new| likeness(old, new) > 0);
            best.map(|new| new.id = old.id).is_none()
        });
    }
    people
}

/// How many pictures two records of people share.
fn shared(old: &Person, new: &Person) -> usize {
    let known = |picture: &&EnrolledPicture| old.pictures.iter().any(|p| p.sha256 == picture.sha256);
    new.pictures.iter().filter(known).count()
}

fn named(old: &Person, new: &Person) -> usize {
    usize::from(old.name == new.name)
}

fn shared_and_named(old: &Person, new: &Person) -> usize {
    if old.name == new.name { shared(old, new) } else { 0 }
}

/// Of the people as they shall be, those who were enrolled before, with the pictures that were.
fn retained(before: &[Person], target: &[Person]) -> Vec<Person> {
    let retain = |person: &Person| {
        let old = before.iter().find(|old| old.id == person.id)?;
        let mut person = person.clone();
        person.pictures.retain(|picture| old.pictures.iter().any(|p| p.sha256 == picture.sha256));
        (!person.pictures.is_empty()).then_some(person)
    };
    target.iter().filter_map(retain).collect()
}

/// How far the reading of the folder is.
#[derive(Debug, Default)]
struct Progress {
    /// Whether there are pictures that another model embedded: after a change of the model everybody's.
    rebuilding: bool,
    total: usize,
    done: usize,
}

impl Progress {
    /// Between two lines.
    const STEP: usize = 25;
    /// New pictures that need no line, because they take seconds.
    const FEW: usize = 5;

    /// So many pictures wait to be read now.
    fn begin(&mut self, rebuilding: bool, waiting: usize) {
        let done = if self.done < self.total { self.done } else { 0 };
        *self = Progress { rebuilding, total: done + waiting, done };
    }

    /// Counts one more picture; a line for the log now and then and at the last.
    fn another(&mut self) -> Option<String> {
        self.done += 1;
        let Progress { rebuilding, total, done } = *self;
        let due = done % Progress::STEP == 0 || done == total;
        match rebuilding {
            true => due.then(|| format!("enroll folder: {done} of {total} pictures embedded by the new model")),
            false => (due && total > Progress::FEW).then(|| format!("enroll folder: {done} of {total} pictures read")),
        }
    }
}

/// Every template of these people.
pub fn templates_of(people: &[Person]) -> Vec<Template> {
    let of = |person: &Person| {
        let id = person.id;
        let template = move |picture: &EnrolledPicture| {
            let embedding = Embedding::new(picture.embedding.clone(), picture.model).ok()?;
            Some(Template { person: id, embedding })
        };
        person.pictures.iter().filter_map(template).collect::<Vec<_>>()
    };
    people.iter().flat_map(of).collect()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
