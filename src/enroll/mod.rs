//! The enroll folder: the truth about who is known. Pictures in, verdicts and templates out.
//!
//! `NAME.jpg`, or `NAME/*.jpg`: what is dropped in is read once it has not changed for a while, what is removed is
//! forgotten, a renamed folder renames the person. A refused picture gets a sidecar `PICTURE.rejected.txt` with reason and
//! remedy. All that changes about one person in a scan is written as one record.

mod judge;
mod picture;
mod scan;
mod verdict;
pub mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use image::RgbImage;
use sha2::{Digest, Sha256};

pub use judge::{LimitsFor, Standard};
pub use picture::decode as decode_picture;
pub use scan::check_name;
pub use verdict::Refusal;

use crate::{
    config::EnrollConfig,
    gallery::{PersonId, Template, TemplateFusion},
    store::{EnrolledPicture, EnrolmentChange, FoundFace, Person, Reading, Store, StoreError},
    telemetry::printable,
    vision::embed::{Embedding, ModelId},
};
use judge::{Face, Judgement, judge};
use scan::{Found, SIDECAR, Stamp, scan};

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

fn folder_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room; nothing was changed",
        _ => "enroll.folder must be a folder this program can read and write",
    }
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
        let (embedding, face_px) = self.reader.read(&picture, self.min_face)?;
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
const EXAMINATION: u32 = 1;

fn program_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// See the module.
pub struct Enroller {
    config: EnrollConfig,
    store: Store,
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
    /// What the owner was told about a picture, by key.
    told: HashMap<String, Refusal>,
    progress: Progress,
    /// The last attempt to write the store failed.
    failing: bool,
}

impl Enroller {
    /// Creates the folder (writable by owner and group) if it is not there.
    ///
    /// # Errors
    /// It cannot be created or read, or the store cannot be read.
    pub fn new(
        config: EnrollConfig,
        store: Store,
        reader: Arc<dyn FaceReader>,
        fusion: TemplateFusion,
        limits: LimitsFor,
    ) -> Result<Enroller, EnrollError> {
        let folder_error = |source| EnrollError::Folder { path: config.folder.clone(), source };
        if !config.folder.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o770).create(&config.folder).map_err(folder_error)?;
            fs::set_permissions(&config.folder, fs::Permissions::from_mode(0o770)).map_err(folder_error)?;
        }
        fs::read_dir(&config.folder).map_err(folder_error)?;
        let EnrollConfig { min_face, max_megapixels, max_spread, .. } = config;
        let examiner = Examiner { reader, min_face, max_megapixels };
        let stored = store.people()?;
        Ok(Enroller {
            rules: examiner.rules(),
            people: stored.clone(),
            readings: store.readings()?,
            standard: Standard { max_spread, fusion, limits },
            stored,
            examiner,
            config,
            store,
            replaced: Vec::new(),
            unwritten: HashSet::new(),
            waiting: HashMap::new(),
            told: HashMap::new(),
            progress: Progress::default(),
            failing: false,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.config.folder
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
    /// The folder cannot be read.
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
    /// The folder cannot be read; nothing is changed then.
    pub fn round(&mut self, now: SystemTime, go_on: impl Fn() -> bool) -> Result<Changes, EnrollError> {
        let scan = self.look()?;
        let mut changes = Changes::default();
        self.remove_orphans(&scan);
        let due = self.due(&scan.pictures, now, &mut changes);
        let gone = self.gone(&scan);
        if gone.is_empty() {
            self.read(&due, go_on, &mut changes);
        } else {
            changes.more = self.follow(&due, &gone);
        }
        self.replaced.clear();
        let written = self.conclude(&scan, now, &mut changes);
        // A store that stays as it is is said once.
        changes.unwritten = written.as_ref().err().filter(|_| !self.failing).map(StoreError::to_string);
        self.failing = written.is_err();
        changes.unsettled |= changes.more;
        Ok(changes)
    }

    /// Sidecars whose picture is gone, and memories of files that are gone.
    fn remove_orphans(&mut self, found: &scan::Scan) {
        let present: HashSet<&Path> = found.pictures.iter().map(|picture| picture.path.as_path()).collect();
        for sidecar in &found.sidecars {
            let picture = sidecar.to_string_lossy().trim_end_matches(SIDECAR).to_owned();
            let exists = present.iter().any(|path| path.to_string_lossy() == picture);
            if !exists {
                let _ = fs::remove_file(sidecar);
            }
        }
        let keys: HashSet<&str> = found.pictures.iter().map(|picture| picture.key.as_str()).collect();
        self.waiting.retain(|path, _| present.contains(path.as_path()));
        self.told.retain(|key, _| keys.contains(key.as_str()));
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
            if same || now.duration_since(since).unwrap_or(Duration::ZERO) >= self.config.settle {
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

    fn read(&mut self, due: &[&Found], go_on: impl Fn() -> bool, changes: &mut Changes) {
        let model = self.examiner.reader.model();
        let rebuilding = pictures_of(&self.people).any(|picture| picture.model != model);
        self.progress.begin(rebuilding, due.len());
        for picture in due {
            if !go_on() {
                changes.more = true;
                return;
            }
            self.read_one(picture, true);
            if let Some(line) = self.progress.another() {
                log::info!("{line}");
            }
        }
    }

    /// Enrolled pictures that are not in the folder any more: their sizes as far as they are known.
    fn gone(&self, scan: &scan::Scan) -> Vec<Option<i64>> {
        let present: HashSet<&str> = scan.pictures.iter().map(|picture| picture.key.as_str()).collect();
        let gone = pictures_of(&self.people).filter(|picture| !present.contains(picture.path.as_str()));
        gone.map(|picture| self.readings.get(&picture.path)?.stamp.get(1).copied()).collect()
    }

    /// Finds those that are gone under a new name, by size and content, and examines nothing else meanwhile; whether
    /// pictures are left to read.
    fn follow(&mut self, due: &[&Found], gone: &[Option<i64>]) -> bool {
        let mut left = false;
        for picture in due {
            let size = picture.stamp.numbers().get(1).copied();
            let candidate = gone.contains(&size) || gone.contains(&None);
            left |= !(candidate && self.read_one(picture, false));
        }
        left
    }

    /// Reads a picture; one whose content was found under another name needs no new examination. Whether it has a reading now.
    fn read_one(&mut self, picture: &Found, examine: bool) -> bool {
        let mut sha256 = [0; 32];
        let bytes = picture::read_file(&picture.path).inspect(|bytes| sha256 = digest(bytes));
        let mut all = self.readings.values().chain(&self.replaced);
        let known = all.find(|read| read.sha256 == sha256 && read.rules == self.rules);
        let found = match (bytes, known.map(|known| known.found.clone())) {
            (Ok(_), Some(found)) => found.map_err(Refusal::Earlier),
            (Ok(bytes), None) if examine => self.examiner.examine(&bytes),
            (Err(refusal), _) if examine => Err(refusal),
            _ => return false,
        };
        // What may be otherwise tomorrow is not kept for then.
        if found.as_ref().err().is_none_or(Refusal::lasts) {
            self.unwritten.insert(picture.key.clone());
        }
        let (stamp, found) = (picture.stamp.numbers(), found.map_err(|refusal| refusal.to_string()));
        let reading = Reading { stamp, rules: self.rules, sha256, found };
        self.replaced.extend(self.readings.insert(picture.key.clone(), reading));
        true
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
        let present: HashSet<&str> = scan.pictures.iter().map(|picture| picture.key.as_str()).collect();
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
    fn write(&self, target: &mut Vec<Person>) -> Result<(), StoreError> {
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
                let sidecar = sidecar_of(&picture.path);
                if sidecars.contains(sidecar.as_path()) {
                    let _ = fs::remove_file(sidecar);
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
        let sidecar = sidecar_of(&found.path);
        let (text, reason) = (format!("{refusal}.\n"), refusal.to_string());
        self.told.insert(found.key.clone(), refusal);
        if fs::read_to_string(&sidecar).is_ok_and(|old| old == text) {
            return;
        }
        if let Err(error) =
            fs::write(&sidecar, &text).and_then(|()| fs::set_permissions(&sidecar, fs::Permissions::from_mode(0o660)))
        {
            log::warn!(
                "{}: the reason of a refusal cannot be written: {error}",
                printable(&sidecar.display().to_string())
            );
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
        if let Err(refusal) = scan::check_name(name) {
            return Ok(Err(refusal));
        }
        let folder = self.config.folder.join(name);
        let path = unused_path(&folder, file_name, bytes);
        let key = path.strip_prefix(&self.config.folder).unwrap_or(&path).to_string_lossy().into_owned();
        // Its name comes from its content then.
        if path.exists() {
            return Ok(Err(Refusal::Duplicate(key)));
        }
        let found = match found {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let sha256 = digest(bytes);
        if let Some(refusal) = self.would_refuse(name, &key, sha256, &found)? {
            return Ok(Err(refusal));
        }
        write_new(&folder, &path, bytes).map_err(|source| EnrollError::Folder { path: path.clone(), source })?;
        let added = self.take_over(&key, sha256, found, now);
        if added.is_err() {
            self.readings.remove(&key);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&folder);
        }
        Ok(Ok(added?))
    }

    fn look(&self) -> Result<scan::Scan, EnrollError> {
        scan(&self.config.folder).map_err(|source| EnrollError::Folder { path: self.config.folder.clone(), source })
    }

    /// Why a picture that is not in the folder yet would be refused.
    fn would_refuse(
        &self,
        name: &str,
        key: &str,
        sha256: [u8; 32],
        found: &FoundFace,
    ) -> Result<Option<Refusal>, EnrollError> {
        let scan = self.look()?;
        let mut pictures = scan.pictures.iter().filter(|picture| picture.name.as_deref() == Ok(name));
        if !pictures.all(|picture| self.current(picture).is_some()) {
            return Ok(Some(Refusal::Busy(name.to_owned())));
        }
        let mut faces = self.faces(&scan);
        let Ok(embedding) = Embedding::new(found.embedding.clone(), found.model) else {
            return Ok(Some(Refusal::NoFace));
        };
        faces.entry(name.to_owned()).or_default().push(Face { key, sha256, embedding, enrolled: false });
        Ok(judge(&faces, &self.standard).refused.remove(key))
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

fn pictures_of(people: &[Person]) -> impl Iterator<Item = &EnrolledPicture> {
    people.iter().flat_map(|person| &person.pictures)
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
    let shared = |old: &Person, new: &Person| {
        new.pictures.iter().filter(|picture| old.pictures.iter().any(|p| p.sha256 == picture.sha256)).count()
    };
    let same_name = |old: &Person, new: &Person| usize::from(old.name == new.name);
    let likenesses: [&dyn Fn(&Person, &Person) -> usize; 3] =
        [&|old, new| same_name(old, new) * shared(old, new), &shared, &same_name];
    let mut left: Vec<&Person> = before.iter().collect();
    for likeness in likenesses {
        left.retain(|old| {
            let free = people.iter_mut().filter(|new| new.id == PersonId(0));
            let best = free.max_by_key(|new| likeness(old, new)).filter(|new| likeness(old, new) > 0);
            best.map(|new| new.id = old.id).is_none()
        });
    }
    people
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

impl Found {
    /// When the file was last written, as its own time stamp says.
    fn modified(&self) -> SystemTime {
        fs::metadata(&self.path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH)
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

fn sidecar_of(picture: &Path) -> PathBuf {
    let mut name = picture.as_os_str().to_owned();
    name.push(SIDECAR);
    PathBuf::from(name)
}

/// A place for a picture: its own file name as far as that is one, made unique by its content.
fn unused_path(folder: &Path, file_name: &str, bytes: &[u8]) -> PathBuf {
    let file = Path::new(file_name);
    let stem: String = file
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or("picture")
        .chars()
        .filter(|c| !crate::telemetry::is_unprintable(*c))
        .take(40)
        .collect();
    let stem = stem.trim_start_matches('.');
    let stem = if stem.is_empty() { "picture" } else { stem };
    let extension = if bytes.starts_with(b"\x89PNG") { "png" } else { "jpg" };
    let plain = folder.join(format!("{stem}.{extension}"));
    if !plain.exists() {
        return plain;
    }
    let mark: String = digest(bytes)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{stem}-{mark}.{extension}"))
}

/// Writes a file so that it is there as a whole or not at all.
fn write_new(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if !folder.exists() {
        fs::DirBuilder::new().mode(0o770).create(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o770))?;
    }
    let hidden = folder.join(format!(".{}.tmp", path.file_name().unwrap_or_default().to_string_lossy()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&hidden)?;
        // Whatever the umask is: the folder is shared with its group.
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&hidden, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&hidden);
        let _ = fs::remove_dir(folder);
    }
    written
}

#[cfg(test)]
mod tests;
