//! The answers to what the commands, the page and the broker ask.

use std::{
    sync::{PoisonError, mpsc::Receiver},
    time::{Duration, Instant, SystemTime},
};

use super::{Roster, Services, fit, kept_nearness, nearest, now_ms};
use crate::{
    api::{
        Backend, Enrolled, Failure, IdentifiedFace, Looked, MOST_EVENTS, PersonSummary, Status, UnknownFace, Verdict,
        ask,
    },
    attendance::{self, Attendance, Count, Question},
    calibrate::{AtDoor, Calibration, Histogram, Likeness, Picture},
    config::{Mode, RecognitionConfig},
    enroll::{EnrollError, check_name},
    error::ErrorKind,
    gallery::{Fusion, Template},
    latch::Refusal,
    store::{Event, EventKind, Person, StoreError, Stranger},
    telemetry::printable,
    threshold::Threshold,
    unknown,
    vision::{embed::Embedding, track::TrackId},
};

/// A face that is enrolled from the camera is given so long for its good looks.
const SITTING_PATIENCE: Duration = Duration::from_secs(6);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::new(error.kind(), error.to_string())
    }
}

impl From<EnrollError> for Failure {
    /// Not for what the picture shows: folder or store cannot be written.
    fn from(error: EnrollError) -> Failure {
        Failure::new(error.kind(), error.to_string())
    }
}

impl Backend for Services {
    fn people(&self, _: ask::People, _: &str) -> Result<Vec<PersonSummary>, Failure> {
        let last_seen = self.store.last_granted()?;
        let roster = self.roster();
        let summary = |person: &Person| PersonSummary {
            advice: roster.advice(person.id).to_vec(),
            pictures: person.pictures.len(),
            smallest_face_px: person.pictures.iter().map(|p| p.face_px).min().unwrap_or(0),
            enrolled_at_ms: person.pictures.iter().map(|p| p.enrolled_at_ms).min().unwrap_or(0),
            last_seen_ms: last_seen.get(&person.id).copied(),
            name: person.name.clone(),
        };
        let mut people: Vec<_> = roster.people.iter().map(summary).collect();
        people.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(people)
    }

    fn events(&self, question: ask::Events, _: &str) -> Result<Vec<Event>, Failure> {
        let limit = question.limit.unwrap_or(MOST_EVENTS).min(MOST_EVENTS);
        Ok(self.store.events(question.since_ms, Some(limit))?)
    }

    fn events_after(&self, question: ask::EventsAfter, _: &str) -> Result<Vec<Event>, Failure> {
        Ok(self.store.events_after(question.id, question.since_ms, MOST_EVENTS)?)
    }

    fn status(&self, _: ask::Status, _: &str) -> Result<Status, Failure> {
        Ok(Services::status(self))
    }

    fn enroll(&self, question: ask::Enroll, _: &str) -> Result<Enrolled, Failure> {
        self.take_in(&question.name, &question.file_name, &question.picture)
    }

    fn identify(&self, question: ask::Identify, _: &str) -> Result<Vec<IdentifiedFace>, Failure> {
        Services::identify(self, &question.picture).map_err(Failure::refused)
    }

    fn calibrate(&self, _: ask::Calibrate, _: &str) -> Result<Calibration, Failure> {
        let (roster, recognition) = (self.roster(), &self.config.recognition);
        let mut pictures = Vec::new();
        for person in roster.people.iter() {
            // One that has no direction cannot be matched either: nothing is lost by
            // leaving it out.
            let whole = person.pictures.iter().filter_map(|picture| {
                let embedding = Embedding::new(picture.embedding.clone(), picture.model).ok()?;
                Some(Picture { path: picture.path.clone(), template: Template { person: person.id, embedding } })
            });
            pictures.extend(whole);
        }
        let (limits, model) = (roster.threshold.limits, self.embedder.model_id());
        let fusion = Fusion::of(&self.embedder, recognition.template_fusion);
        let mut found = Calibration::of(model, fusion, &pictures, limits, |person| roster.name(person));
        let by_table = RecognitionConfig { max_distance: None, ..recognition.clone() };
        let ceiling = Threshold::choose(&self.embedder, &by_table, roster.threshold.comparisons);
        found.stranger_ceiling = ceiling.ok().map(|threshold| threshold.limits.single);
        found.at_door = self.at_door(&roster, found.stranger_ceiling);
        found.add_strangers(self.kept_strangers(&roster));
        found.reason = roster.threshold.to_string();
        Ok(found)
    }

    fn forget_strangers(&self, _: ask::ForgetStrangers, _: &str) -> Result<(), Failure> {
        Ok(Services::forget_strangers(self)?)
    }

    fn enroll_face(&self, question: ask::EnrollFace, _: &str) -> Result<Looked, Failure> {
        let ask::EnrollFace { track, name } = question;
        check_name(&name).map_err(Failure::refused)?;
        if self.running().is_none() {
            let problem = "no facelatch is running that sees somebody; start it (systemctl start facelatch)";
            return Err(Failure::new(ErrorKind::Unavailable, problem));
        }
        let looks = self
            .live
            .sit(TrackId(track), SITTING_PATIENCE)
            .ok_or_else(|| Failure::refused("another face is being enrolled just now. Try again in some seconds"))?;
        if looks.is_empty() {
            return Err(Failure::refused(
                "there was no good look at this face. Stay in view, come nearer, look into the camera, mind the light",
            ));
        }
        let verdicts = self.take_in_looks(&name, looks.iter().filter_map(unknown::jpeg))?;
        Ok(Looked { name, verdicts })
    }

    fn unknown(&self, _: ask::Unknown, _: &str) -> Result<Vec<UnknownFace>, Failure> {
        let roster = self.roster();
        let describe = |stranger: Stranger| {
            let nearest = nearest(&roster, &stranger);
            UnknownFace {
                id: stranger.id,
                first_ms: stranger.first_ms,
                last_ms: stranger.last_ms,
                visits: stranger.visits,
                pictures: stranger.looks.len(),
                nearest: nearest.map(|nearest| roster.name(nearest.person)),
                distance: nearest.map(|nearest| nearest.distance),
            }
        };
        let mut faces: Vec<_> = self.store.strangers()?.into_iter().map(describe).collect();
        faces.sort_by_key(|face| std::cmp::Reverse(face.last_ms));
        Ok(faces)
    }

    fn unknown_picture(&self, question: ask::UnknownPicture, _: &str) -> Result<Vec<u8>, Failure> {
        let ask::UnknownPicture { id, look } = question;
        let mut stranger = self.stranger(id)?;
        if look >= stranger.looks.len() {
            return Err(Failure::new(ErrorKind::NotFound, format!("unknown face {id} has no picture {look}")));
        }
        Ok(stranger.looks.swap_remove(look).picture)
    }

    fn name_unknown(&self, question: ask::NameUnknown, _: &str) -> Result<Looked, Failure> {
        let ask::NameUnknown { id, name } = question;
        let stranger = self.stranger(id)?;
        check_name(&name).map_err(Failure::refused)?;
        let verdicts = self.take_in_looks(&name, stranger.looks.into_iter().map(|look| look.picture))?;
        if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Enrolled(_))) {
            self.store.remove_stranger(id)?;
        }
        Ok(Looked { name, verdicts })
    }

    fn forget_unknown(&self, question: ask::ForgetUnknown, _: &str) -> Result<(), Failure> {
        self.stranger(question.id)?;
        Ok(self.store.remove_stranger(question.id)?)
    }

    fn attendance(&self, question: ask::Attendance, _: &str) -> Result<Attendance, Failure> {
        let ask::Attendance { from, to, person } = question;
        let invalid = |error: attendance::AttendanceError| Failure::new(error.kind(), error.to_string());
        let rules = attendance::Rules::new(&self.config.attendance);
        let (history, mut names) = (self.store.history()?, self.store.names()?);
        names.extend(self.roster().people.iter().map(|person| (person.id, person.name.clone())));
        let question = Question { from, to, person };
        let mut count = Count::new(&rules, &history, &names, &question, now_ms()).map_err(invalid)?;
        self.store.read_events(count.stretches(), |event| count.add(event))?;
        count.finish().map_err(invalid)
    }

    /// The answer, and the event, say what the relay did.
    fn open(&self, _: ask::Open, asker: &str) -> Result<(), Failure> {
        let failure = |refusal: &Refusal| Failure::new(refusal.kind(), refusal.to_string());
        if !self.config.opens() {
            let refusal = if self.config.mode == Mode::Attendance { Refusal::Attendance } else { Refusal::NoRelay };
            return Err(failure(&refusal));
        }
        let latch = self.running().as_ref().map(|running| running.latch.clone()).ok_or_else(|| {
            Failure::new(ErrorKind::Unavailable, "no facelatch is running; start it (systemctl start facelatch)")
        })?;
        let asker = printable(asker);
        latch.pulse(self.config.latch.hold, Instant::now()).map_err(|refusal| {
            log::error!("opening by hand ({asker}): refused: {refusal}");
            self.counters.increment("pulses_failed");
            let reason = format!("{asker} asked to open, but the door was not opened: {refusal}");
            self.record(EventKind::Denied { reason, nearest: None, distance: None, frames: 0 });
            failure(&refusal)
        })?;
        log::info!("opened by hand: {asker}");
        self.counters.increment("opened_by_hand");
        self.record(EventKind::Opened { by: asker });
        Ok(())
    }

    fn follow(&self) -> Receiver<Event> {
        self.store.follow()
    }
}

impl Services {
    /// How near strangers came to this door, as counted up to now.
    fn at_door(&self, roster: &Roster, table: Option<f32>) -> AtDoor {
        let kept = kept_nearness(&self.store, &self.embedder, self.precision);
        let rate = self.config.recognition.false_match_rate.0;
        AtDoor {
            visits: kept.nearness.visits(),
            distances: Histogram::of_nearness(&kept.nearness.bins()),
            own: fit(&kept, &self.embedder).map(|fit| fit.limit(rate, roster.threshold.comparisons)),
            table,
            in_force: roster.threshold.own.is_some(),
            given: self.config.recognition.max_distance.is_some(),
            visits_of_other_models: kept.of_others,
            damaged_days: kept.damaged_days,
        }
    }

    /// Unknown people who are kept, and whom each is nearest to.
    fn kept_strangers(&self, roster: &Roster) -> Vec<Likeness> {
        let limits = roster.threshold.limits;
        let likeness = |stranger: Stranger| {
            let nearest = nearest(roster, &stranger)?;
            let (picture, person) = (format!("unknown face {}", stranger.id), roster.name(nearest.person));
            Some(Likeness { picture, person, distance: limits.as_single(nearest.distance, nearest.spread) })
        };
        let kept = self.store.strangers().unwrap_or_else(|error| {
            log::error!("unknown faces cannot be read ({error}); they are left out");
            Vec::new()
        });
        kept.into_iter().filter_map(likeness).collect()
    }

    /// Takes a picture into the enroll folder.
    fn take_in(&self, name: &str, file_name: &str, picture: &[u8]) -> Result<Enrolled, Failure> {
        let name = check_name(name).map_err(Failure::refused)?;
        // Examined before the enroller is asked for: a removal never waits for this.
        let found = self.examiner.examine(picture);
        let mut enroller = self.enroller.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = enroller.add_examined(&name, file_name, picture, found, SystemTime::now())?;
        drop(enroller);
        let (picture, changes) = verdict.map_err(Failure::refused)?;
        self.note_changes(&changes);
        let roster = self.roster();
        let person = changes.accepted.iter().find(|(.., key)| *key == picture.path).map(|(person, ..)| *person);
        let advice = person.map_or(Vec::new(), |person| roster.advice(person).to_vec());
        Ok(Enrolled { name, picture: picture.path, face_px: picture.face_px, advice })
    }

    /// Takes in looks at a person as pictures; they are judged like any others.
    fn take_in_looks(&self, name: &str, looks: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Verdict>, Failure> {
        let file = format!("camera-{}.jpg", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
        let one = |picture: Vec<u8>| match self.take_in(name, &file, &picture) {
            Ok(enrolled) => Ok(Verdict::Enrolled(enrolled.picture)),
            Err(Failure { problem, kind: ErrorKind::Refused }) => Ok(Verdict::Refused(problem)),
            Err(failure) => Err(failure),
        };
        looks.map(one).collect()
    }

    fn stranger(&self, id: u32) -> Result<Stranger, Failure> {
        let found = self.store.strangers()?.into_iter().find(|stranger| stranger.id == id);
        found.ok_or_else(|| Failure::new(ErrorKind::NotFound, format!("there is no unknown face {id} (any more)")))
    }
}
