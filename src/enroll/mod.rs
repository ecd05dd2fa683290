//! The enroll folder: the truth about who is known. Pictures in, verdicts and templates out.
//!
//! `NAME.jpg`, or `NAME/*.jpg`: what is dropped in is read once it has not changed for a while, what is removed is
//! forgotten, a renamed folder renames the person. A refused picture gets a sidecar `PICTURE.rejected.txt` with reason and
//! remedy. All that changes about one person in a scan is written as one record.

mod begun;
mod folder;
mod health;
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
pub use picture::{decode as decode_picture, decode_at_once as decode_picture_at_once};
pub use scan::check_name;
pub use verdict::Refusal;

use crate::{
    config::EnrollConfig,
    gallery::{PersonId, Template},
    names::canonical,
    store::{EnrolledPicture, Person, Store, StoreError},
    telemetry::printable,
    vision::embed::{Embedding, ModelId},
};
use begun::Begun;
use folder::{Folder, sidecar_of};
use scan::{Found, Stamp};

/// So long a file that is not complete is taken for one that is still being written.
const SLOW_UPLOAD: Duration = Duration::from_secs(60);

/// Finds the one face of a picture. The vision part implements it; tests have one of their own.
pub trait FaceReader: Send + Sync {
    fn model(&self) -> ModelId;

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
    /// Pictures that are still being written: look again soon.
    pub unsettled: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Changes { unsettled: self.unsettled, ..Changes::default() }
    }
}

/// See the module.
pub struct Enroller {
    config: EnrollConfig,
    store: Store,
    reader: Arc<dyn FaceReader>,
    /// A picture nearer than this to somebody else is refused.
    lookalike_distance: f32,
    folder: Folder,
    health: Arc<Health>,
    /// The folders in it that could be read at the last look.
    folders: Vec<PathBuf>,
    /// What could not be read at the last look.
    problems: Vec<String>,
    /// Files that need no second look while they have this stamp.
    settled: HashMap<PathBuf, Stamp>,
    /// Files that were seen once, and when; their stamp must stay.
    waiting: HashMap<PathBuf, (Stamp, SystemTime)>,
    /// Files that were read and are not complete, and when that was first seen.
    incomplete: HashMap<PathBuf, (Stamp, SystemTime)>,
    begun: Begun,
}

impl Enroller {
    /// Creates the folder (writable by owner and group) if it is not there. If people are known, a
    /// folder that is not there is lost instead, which the first look says.
    ///
    /// # Errors
    /// It cannot be created or read, or the store cannot be read.
    pub fn new(
        config: EnrollConfig,
        store: Store,
        reader: Arc<dyn FaceReader>,
        lookalike_distance: f32,
    ) -> Result<Enroller, EnrollError> {
        let health = Arc::new(Health::default());
        let mut folder = Folder::new(config.folder.clone(), Arc::clone(&health));
        if store.people()?.is_empty() {
            folder.create().map_err(|source| EnrollError::Folder { path: config.folder.clone(), source })?;
            folder.leave();
        }
        let begun = Begun::open(store.folder().join("reading"));
        Ok(Enroller {
            config,
            store,
            reader,
            lookalike_distance,
            folder,
            health,
            folders: Vec::new(),
            problems: Vec::new(),
            settled: HashMap::new(),
            waiting: HashMap::new(),
            incomplete: HashMap::new(),
            begun,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.config.folder
    }

    /// How enrolment goes; it can be asked while a look lasts.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// The picture that is read now; an orderly end of the program clears its name.
    fn reading(&self) -> begun::Reading {
        self.begun.now()
    }

    /// Every template of the people enrolled.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn templates(&self) -> Result<Vec<Template>, StoreError> {
        Ok(templates_of(&self.store.people()?))
    }

    /// Brings the store in line with the folder. Asks `go_on` before each person's pictures are read: when that says no, the rest is
    /// left for the next time (`Changes::unsettled`); what has to be forgotten is forgotten before.
    ///
    /// # Errors
    /// The store cannot be written, or the folder went during the look; what was done for people before
    /// that stands, and the rest is done the next time.
    pub fn sync(&mut self, now: SystemTime, go_on: impl Fn() -> bool) -> Result<Changes, EnrollError> {
        let changes = self.look(now, go_on);
        self.folder.leave();
        changes
    }

    fn look(&mut self, now: SystemTime, go_on: impl Fn() -> bool) -> Result<Changes, EnrollError> {
        let mut changes = Changes::default();
        let Some(found) = self.survey(&mut changes)? else { return Ok(changes) };
        self.remove_orphans(&found);
        let mut people = self.store.people()?;
        self.respell(&mut people, &mut changes)?;
        self.follow_moves(&found.pictures, &mut people, &mut changes)?;
        self.forget_missing(&found.pictures, &mut people, &mut changes)?;
        let mut by_name: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
        let known = people.iter().flat_map(|p| &p.pictures);
        let rebuilding = known.into_iter().any(|picture| picture.model != self.reader.model());
        for picture in self.due(&found.pictures, &people, now, &mut changes) {
            match &picture.name {
                Ok(name) => by_name.entry(name).or_default().push(picture),
                Err(refusal) => self.refuse(picture, &picture.key, refusal, &mut changes),
            }
        }
        let mut progress = Progress { rebuilding, total: by_name.values().map(Vec::len).sum(), done: 0 };
        for (name, pictures) in by_name {
            if !go_on() {
                changes.unsettled = true;
                break;
            }
            self.take_up(name, &pictures, &mut people, now, &mut changes, &mut progress)?;
        }
        Ok(changes)
    }

    /// Sidecars whose picture is gone, files half written, and memories of files that are gone.
    fn remove_orphans(&mut self, found: &scan::Scan) {
        let present: HashSet<&Path> = found.pictures.iter().map(|picture| picture.path.as_path()).collect();
        let kept: HashSet<PathBuf> = present.iter().map(|picture| sidecar_of(picture)).collect();
        for left in found.sidecars.iter().filter(|sidecar| !kept.contains(*sidecar)).chain(&found.drafts) {
            let _ = self.folder.remove(left);
        }
        self.settled.retain(|path, _| present.contains(path.as_path()));
        self.waiting.retain(|path, _| present.contains(path.as_path()));
        self.incomplete.retain(|path, _| present.contains(path.as_path()));
        self.begun.forget_others(&found.pictures);
    }

    /// People whom an older program stored under another spelling of their name get the one there is
    /// now; two of one name become one person.
    fn respell(&self, people: &mut Vec<Person>, changes: &mut Changes) -> Result<(), EnrollError> {
        while let Some(index) = people.iter().position(|person| canonical(&person.name) != person.name) {
            let mut person = people.remove(index);
            let (id, old, name) = (person.id, person.name.clone(), canonical(&person.name));
            match people.iter_mut().find(|other| other.name == name) {
                Some(other) => {
                    other.pictures.append(&mut person.pictures);
                    self.store.put_person(other)?;
                    self.store.remove_person(id)?;
                }
                None => {
                    person.name.clone_from(&name);
                    self.store.put_person(&person)?;
                    people.insert(index, person);
                }
            }
            changes.renamed.push((id, old, name));
        }
        Ok(())
    }

    /// A picture that is gone from one name and there under another, byte for byte, was moved: the template goes with it,
    /// and a person all of whose pictures went to a new name is renamed.
    fn follow_moves(&self, found: &[Found], people: &mut [Person], changes: &mut Changes) -> Result<(), EnrollError> {
        let present = keys_of(found);
        let known: HashSet<String> = people.iter().flat_map(|p| p.pictures.iter().map(|e| e.path.clone())).collect();
        let gone = people.iter().flat_map(|p| &p.pictures).any(|picture| !present.contains(picture.path.as_str()));
        if !gone {
            return Ok(());
        }
        let mut moved_to: HashMap<[u8; 32], &Found> = HashMap::new();
        for picture in found.iter().filter(|picture| !known.contains(&picture.key) && picture.name.is_ok()) {
            if let Ok(bytes) = self.folder.read(&picture.path) {
                moved_to.insert(digest(&bytes), picture);
            }
        }
        let names: HashSet<String> = people.iter().map(|person| person.name.clone()).collect();
        for person in people {
            let all_moved = !person.pictures.is_empty()
                && person
                    .pictures
                    .iter()
                    .all(|p| !present.contains(p.path.as_str()) && moved_to.contains_key(&p.sha256));
            let target: HashSet<&String> =
                person.pictures.iter().filter_map(|p| moved_to.get(&p.sha256)?.name.as_ref().ok()).collect();
            let Some(name) =
                target.iter().next().filter(|_| all_moved && target.len() == 1).map(|name| (*name).clone())
            else {
                continue;
            };
            if names.contains(&name) && name != person.name {
                continue;
            }
            for picture in &mut person.pictures {
                picture.path = moved_to[&picture.sha256].key.clone();
            }
            let old = std::mem::replace(&mut person.name, name.clone());
            self.store.put_person(person)?;
            if old != name {
                changes.renamed.push((person.id, old, name));
            }
        }
        Ok(())
    }

    fn forget_missing(
        &self,
        found: &[Found],
        people: &mut Vec<Person>,
        changes: &mut Changes,
    ) -> Result<(), EnrollError> {
        let present = keys_of(found);
        for person in people.iter_mut() {
            let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut person.pictures)
                .into_iter()
                .partition(|picture| present.contains(picture.path.as_str()));
            person.pictures = kept;
            if gone.is_empty() {
                continue;
            }
            match person.pictures.is_empty() {
                true => self.store.remove_person(person.id)?,
                false => self.store.put_person(person)?,
            }
            changes.forgotten.extend(gone.into_iter().map(|picture| (person.id, person.name.clone(), picture.path)));
        }
        people.retain(|person| !person.pictures.is_empty());
        Ok(())
    }

    /// The pictures that have to be looked at now: new or changed and completely written, or of another model.
    fn due<'a>(
        &mut self,
        found: &'a [Found],
        people: &[Person],
        now: SystemTime,
        changes: &mut Changes,
    ) -> Vec<&'a Found> {
        let model = self.reader.model();
        let outdated: HashSet<&str> =
            people.iter().flat_map(|p| &p.pictures).filter(|p| p.model != model).map(|p| p.path.as_str()).collect();
        let mut due = Vec::new();
        for picture in found {
            if self.settled.get(&picture.path) == Some(&picture.stamp) && !outdated.contains(picture.key.as_str()) {
                continue;
            }
            let since = match self.waiting.get(&picture.path) {
                Some((stamp, since)) if *stamp == picture.stamp => *since,
                _ => picture.modified().min(now),
            };
            let judged = self.incomplete.get(&picture.path).filter(|(stamp, _)| *stamp == picture.stamp);
            let patience = judged.map_or(self.config.settle, |_| SLOW_UPLOAD);
            if now.duration_since(since).unwrap_or(Duration::ZERO) >= patience {
                self.waiting.remove(&picture.path);
                due.push(picture);
            } else {
                self.waiting.insert(picture.path.clone(), (picture.stamp, since));
                changes.unsettled = true;
            }
        }
        due
    }

    /// Judges one person's due pictures and writes the person once.
    fn take_up(
        &mut self,
        name: &str,
        due: &[&Found],
        people: &mut Vec<Person>,
        now: SystemTime,
        changes: &mut Changes,
        progress: &mut Progress,
    ) -> Result<(), EnrollError> {
        let known = people.iter().position(|person| person.name == name);
        let mut person = match known {
            Some(index) => people[index].clone(),
            None => Person { id: PersonId(0), name: name.to_owned(), pictures: Vec::new() },
        };
        let before = person.clone();
        let mut accepted = Vec::new();
        for found in due {
            let earlier = person.pictures.iter().position(|picture| picture.path == found.key);
            let earlier = earlier.map(|index| person.pictures.remove(index));
            match self.judge_file(found, &person, people, earlier.as_ref(), now) {
                Ok((picture, fresh)) => {
                    if fresh {
                        accepted.push(found.key.clone());
                    }
                    person.pictures.push(picture);
                    self.folder.remove_sidecar(&found.path);
                    self.settled.insert(found.path.clone(), found.stamp);
                }
                Err(Refusal::Incomplete(_)) if self.may_grow(found, now) => {
                    person.pictures.extend(earlier);
                    changes.unsettled = true;
                }
                Err(refusal) => {
                    self.still_there()?;
                    if let Some(lost) = earlier {
                        changes.forgotten.push((person.id, name.to_owned(), lost.path));
                    }
                    self.refuse(found, name, &refusal, changes);
                }
            }
            if let Some(line) = progress.another() {
                log::info!("{line}");
            }
        }
        person.pictures.sort_by(|a, b| a.path.cmp(&b.path));
        if person != before {
            if person.id == PersonId(0) {
                person.id = self.store.fresh_person_id()?;
            }
            match person.pictures.is_empty() {
                true => self.store.remove_person(person.id)?,
                false => self.store.put_person(&person)?,
            }
            changes.accepted.extend(accepted.into_iter().map(|picture| (person.id, name.to_owned(), picture)));
            match known {
                Some(index) if person.pictures.is_empty() => drop(people.remove(index)),
                Some(index) => people[index] = person,
                None if !person.pictures.is_empty() => people.push(person),
                None => {}
            }
        }
        Ok(())
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
        match may_grow {
            true => self.incomplete.insert(found.path.clone(), (found.stamp, seen)),
            false => self.incomplete.remove(&found.path),
        };
        if may_grow {
            self.waiting.insert(found.path.clone(), (found.stamp, seen));
        }
        may_grow
    }

    /// The picture's record, and whether it was not there before with the same content.
    fn judge_file(
        &self,
        found: &Found,
        person: &Person,
        people: &[Person],
        earlier: Option<&EnrolledPicture>,
        now: SystemTime,
    ) -> Result<(EnrolledPicture, bool), Refusal> {
        if self.begun.ended_in(found) {
            return Err(Refusal::EndedProgram);
        }
        let bytes = self.folder.read(&found.path)?;
        if let Some(earlier) = earlier.filter(|e| e.sha256 == digest(&bytes) && e.model == self.reader.model()) {
            return Ok((earlier.clone(), false));
        }
        let picture = self.begun.during(found, || self.judge(&bytes, &found.key, person, people, now))?;
        let fresh = earlier.is_none_or(|earlier| earlier.sha256 != picture.sha256);
        Ok((picture, fresh))
    }

    /// Everything a picture has to pass to become `person`'s.
    fn judge(
        &self,
        bytes: &[u8],
        key: &str,
        person: &Person,
        people: &[Person],
        now: SystemTime,
    ) -> Result<EnrolledPicture, Refusal> {
        let sha256 = digest(bytes);
        let others = || people.iter().filter(|other| other.name != person.name);
        let same = person
            .pictures
            .iter()
            .chain(others().flat_map(|other| &other.pictures))
            .find(|p| p.sha256 == sha256 && p.path != key);
        if let Some(same) = same {
            return Err(Refusal::Duplicate(same.path.clone()));
        }
        let picture = picture::decode(bytes, self.config.max_megapixels)?;
        let (embedding, face_px) = self.reader.read(&picture.picture, self.config.min_face)?;
        let distance_to = |known: &EnrolledPicture| {
            let known = Embedding::new(known.embedding.clone(), known.model).ok()?;
            known.distance(&embedding)
        };
        let farthest = person.pictures.iter().filter_map(distance_to).fold(0.0, f32::max);
        if farthest > self.config.max_spread {
            let limit = self.config.max_spread;
            return Err(Refusal::UnlikeOthers { name: person.name.clone(), distance: farthest, limit });
        }
        for other in others() {
            let nearest = other.pictures.iter().filter_map(distance_to).fold(f32::INFINITY, f32::min);
            if nearest < self.lookalike_distance {
                let limit = self.lookalike_distance;
                return Err(Refusal::LooksLike { name: other.name.clone(), distance: nearest, limit });
            }
        }
        Ok(EnrolledPicture {
            path: key.to_owned(),
            sha256,
            model: embedding.model(),
            embedding: embedding.values().to_vec(),
            face_px,
            enrolled_at_ms: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
        })
    }

    /// Notes the refusal and writes the sidecar; a refusal that the sidecar says already is not reported again.
    fn refuse(&mut self, found: &Found, name: &str, refusal: &Refusal, changes: &mut Changes) {
        self.settled.insert(found.path.clone(), found.stamp);
        match self.folder.write_sidecar(&found.path, &format!("{refusal}.\n")) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => log::warn!(
                "{}: the reason of a refusal cannot be written: {error}",
                printable(&sidecar_of(&found.path).display().to_string())
            ),
        }
        changes.refused.push((name.to_owned(), found.key.clone(), refusal.to_string()));
    }

    /// Takes a picture in as `facelatch enroll` brings it: judged first, written to the folder and enrolled only if it is accepted.
    /// The second half of the answer is the picture's place in the folder.
    ///
    /// # Errors
    /// The folder or the store cannot be written; then nothing is kept.
    pub fn add_picture(
        &mut self,
        name: &str,
        file_name: &str,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<Result<(EnrolledPicture, PersonId), Refusal>, EnrollError> {
        let added = self.add(name, file_name, bytes, now);
        self.folder.leave();
        added
    }

    fn add(
        &mut self,
        name: &str,
        file_name: &str,
        bytes: &[u8],
        now: SystemTime,
    ) -> Result<Result<(EnrolledPicture, PersonId), Refusal>, EnrollError> {
        let name = match check_name(name) {
            Ok(name) => name,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let people = self.store.people()?;
        let known = people.iter().find(|person| person.name == name);
        let mut person = known.cloned().unwrap_or(Person { id: PersonId(0), name: name.clone(), pictures: Vec::new() });
        self.enter()?;
        let failed = |source| EnrollError::Folder { path: self.config.folder.join(&name), source };
        let path = match self.folder.free_place(&name, file_name, bytes) {
            Ok(free) => free,
            Err(taken) => return Ok(Err(Refusal::Duplicate(taken.to_string_lossy().into_owned()))),
        };
        let key = path.to_string_lossy().into_owned();
        let picture = match self.judge(bytes, &key, &person, &people, now) {
            Ok(picture) => picture,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.folder.add(&path, bytes).map_err(failed)?;
        person.pictures.push(picture.clone());
        let stored = match person.id {
            PersonId(0) => self.store.fresh_person_id().map(|id| person.id = id),
            _ => Ok(()),
        };
        if let Err(error) = stored.and_then(|()| self.store.put_person(&person)) {
            self.folder.take_back(&path);
            return Err(error.into());
        }
        Ok(Ok((picture, person.id)))
    }
}

/// How far one look at the folder is.
#[derive(Debug)]
struct Progress {
    /// Whether there are pictures that another model embedded: after a change of the model everybody's.
    rebuilding: bool,
    total: usize,
    done: usize,
}

impl Progress {
    /// Between two lines; also the number of new pictures that need none, because it takes seconds.
    const STEP: usize = 5;

    /// Counts one more picture; a line for the log every few pictures and at the last.
    fn another(&mut self) -> Option<String> {
        self.done += 1;
        let Progress { rebuilding, total, done } = *self;
        let due = done % Progress::STEP == 0 || done == total;
        match rebuilding {
            true => due.then(|| format!("the model was changed: re-embedding {done} of {total}")),
            false => (due && total > Progress::STEP).then(|| format!("enroll folder: {done} of {total} pictures read")),
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

/// The pictures that can be somebody's. Where a link took a picture's place, the picture is gone.
fn keys_of(found: &[Found]) -> HashSet<&str> {
    found.iter().filter(|picture| picture.name.is_ok()).map(|picture| picture.key.as_str()).collect()
}

#[cfg(test)]
mod tests;
