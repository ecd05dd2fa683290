//! What is done about each frame: seen, judged, granted or denied, told to whoever looks on. The recognise thread is this loop.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Zoned;

use super::{
    RunError, Signals,
    denials::Denials,
    strangers::{Stranger, Strangers},
    visits::Visits,
};
use crate::{
    camera::capture::{Capture, Captured},
    clock::{ClockWatch, span_in_words},
    config::{Config, Mode},
    gallery::{Match, PersonId},
    latch::{Latch, LatchCommand, LatchHandle, Refusal},
    live::{FaceState, LiveFace},
    policy::{Decision, Denial, Grant, Policy, Reason},
    service::{Roster, Services, clocks_ms, now_ms},
    sight::{Sight, SightError, Spent},
    sighting::Observation,
    store::EventKind,
    telemetry::{ServiceManager, count, printable},
    unknown::{Looks, UnknownFaces},
    vision::{
        frame::{Frame, FrameError},
        geometry::Detection,
        track::TrackId,
    },
};

/// How often the loop looks whether it has to stop, when no frame comes.
const LOOK_UP: Duration = Duration::from_millis(200);
/// Faces whose looks are kept until their end is told.
const MOST_LOOKED_AT: usize = 16;
/// How often the wall clock is compared with the time since boot.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// Why a running daemon stopped serving.
pub(super) enum Ended {
    Stopped,
    Reload(Box<Config>),
}

/// What decides in front of the door.
pub(super) struct Door {
    services: Arc<Services>,
    latch: LatchHandle,
    /// Since when the relay cannot be released.
    stuck_since: Option<Instant>,
    sight: Sight,
    policy: Policy,
    visits: Visits,
    /// Who was on a visit when nothing was seen any more; None: the camera shows frames.
    unseen: Option<BTreeSet<PersonId>>,
    /// What was decided last about each face in view.
    notes: HashMap<TrackId, Note>,
    unknown: UnknownFaces,
    /// Looks at faces that may turn out to be nobody's.
    looks: HashMap<TrackId, Looks>,
    /// What had been spent when the last frame was done.
    spent: Spent,
    manager: ServiceManager,
    camera_lost: Option<String>,
    last_visit: String,
    denials: Denials,
    strangers: Strangers,
    clock: ClockWatch,
    clock_due: Instant,
    first_decision_told: bool,
    started: Instant,
}

/// What was decided about a face, and the last match it was decided by.
struct Note {
    decision: Decision,
    matched: Option<Match>,
}

impl Door {
    pub(super) fn new(services: Arc<Services>, latch: LatchHandle, unknown: UnknownFaces, same_store: bool) -> Door {
        let mut sight = services.sight();
        sight.keep_portraits(unknown.wanted());
        let policy = Policy::new(services.rules);
        let now = Instant::now();
        let mut visits = Visits::new(services.store.clone());
        let visitors = visits_before(&mut visits, &services, same_store);
        let strangers = Strangers::new(services.loosest());
        Door {
            services,
            latch,
            stuck_since: None,
            sight,
            policy,
            visits,
            unseen: Some(visitors),
            notes: HashMap::new(),
            unknown,
            looks: HashMap::new(),
            spent: Spent::default(),
            manager: ServiceManager::new(),
            camera_lost: None,
            last_visit: "no visit yet".into(),
            denials: Denials::default(),
            strangers,
            clock: ClockWatch::default(),
            clock_due: now,
            first_decision_told: false,
            started: now,
        }
    }

    pub(super) fn serve(&mut self, capture: &Capture, latch: &Latch, signals: &Signals) -> Result<Ended, RunError> {
        let ended = self.watch(capture, latch, signals);
        self.tell_more_denials(true);
        self.count_strangers(true);
        ended
    }

    fn watch(&mut self, capture: &Capture, latch: &Latch, signals: &Signals) -> Result<Ended, RunError> {
        self.manager.ready();
        self.tell_status();
        while !signals.stop.load(Ordering::Relaxed) {
            if !latch.is_running() {
                return Err(RunError::Died("latch"));
            }
            match capture.next(LOOK_UP) {
                Captured::Frame(frame) => capture.decoded(self.look(frame)),
                Captured::Ready { description, lost_for } => self.camera_ready(description, lost_for),
                Captured::Lost { problem } => self.camera_lost(problem),
                Captured::Nothing if !capture.is_running() => return Err(RunError::Died("camera thread")),
                // Nobody is seen to leave while no frames come.
                Captured::Nothing => {}
                Captured::Ended => {
                    self.finish();
                    return Ok(Ended::Stopped);
                }
            }
            // Nor is a service fed in which nobody can be removed any more.
            let enrolling = self.services.enroll_health.is_alive(Instant::now());
            self.watch_relay(Instant::now());
            // With a stuck relay the service manager kills this process, and `lock` takes
            // the line again.
            if self.stuck_since.is_none() && enrolling {
                self.manager.cycle_completed(Instant::now());
            }
            if self.unseen.is_none() {
                self.visits.keep(self.policy.visitors(), Instant::now(), now_ms());
            }
            self.watch_clock();
            self.tell_more_denials(false);
            self.count_strangers(false);
            // Who is on a visit could not be recorded, and would be let in once more.
            if self.services.wants_new_start.load(Ordering::Relaxed)
                && !self.latch.relay_active()
                && self.policy.visitors().next().is_none()
            {
                return Err(RunError::StoreBroken(self.services.config.store.path.clone()));
            }
            // A pulse that has begun is carried out first.
            if (!self.latch.relay_active() || self.stuck_since.is_some())
                && signals.reload.swap(false, Ordering::Relaxed)
                && let Some(config) = self.reload(signals.configuration.as_deref())
            {
                return Ok(Ended::Reload(config));
            }
        }
        Ok(Ended::Stopped)
    }

    /// The new configuration, if there is one and it can be right.
    fn reload(&self, file: Option<&Path>) -> Option<Box<Config>> {
        let file = file?;
        self.manager.reloading();
        match Config::load(file) {
            Ok(config) if config == self.services.config => log::info!("{}: nothing changed", file.display()),
            Ok(config) => {
                log::info!("{}: the new configuration comes into force", file.display());
                return Some(Box::new(config));
            }
            Err(error) => log::error!("the new configuration is refused, the old one stays in force: {error}"),
        }
        self.manager.ready();
        None
    }

    /// One line for `systemctl status`.
    fn tell_status(&self) {
        let people = self.services.roster().gallery.people();
        let watching = match &self.camera_lost {
            _ if self.stuck_since.is_some() => "RELAY STUCK".to_owned(),
            None => "watching".to_owned(),
            Some(problem) => format!("CAMERA LOST ({problem})"),
        };
        self.manager.status(&format!(
            "{watching}; {} enrolled; {}",
            count(people, "person", "people"),
            self.last_visit
        ));
    }

    fn visited(&mut self, what: &str) {
        self.last_visit = format!("{what} at {}", Zoned::now().strftime("%a %H:%M"));
        self.tell_status();
    }

    /// The last visits of a folder that was played to its end are decided too: time goes on until everybody has left, and the relay with them.
    fn finish(&mut self) {
        let later = Instant::now() + self.services.rules.visit_gap;
        let roster = self.services.roster();
        let verdict = self.policy.judge(&[], roster.threshold.limits, later, later);
        verdict.denials.iter().for_each(|denial| self.deny(denial, &roster));
        while self.latch.relay_active() && self.latch.stuck(Instant::now()).is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        log::info!("no more pictures");
    }

    /// # Errors
    /// The frame cannot be decoded.
    fn look(&mut self, frame: Frame) -> Result<(), FrameError> {
        let mut decoded = Ok(());
        let roster = self.services.roster();
        if let Some(visitors) = self.unseen.take() {
            self.policy.resume(visitors, frame.captured_at);
        }
        self.sight.sit(self.services.live.sitter());
        match self.sight.look(&frame, &roster.gallery, self.policy.attention()) {
            Ok(observations) => {
                self.services.counters.add("faces", observations.len() as u64);
                self.keep_looks(frame.captured_at);
                self.judge(&observations, frame.captured_at, &roster);
            }
            Err(SightError::Frame(problem)) => {
                let counter = if problem.is_torn() { "frames_torn" } else { "frames_broken" };
                self.services.counters.increment(counter);
                log::debug!("{counter}: {problem}");
                decoded = Err(problem);
            }
            Err(SightError::Vision(error)) => {
                self.services.counters.increment("frames_failed");
                log::error!("a frame could not be examined: {error}");
            }
        }
        if let Some(rotate) = self.sight.take_rotation_advice() {
            let advice = format!("faces lie on their side or head in the picture; set camera.rotate = {rotate}");
            log::warn!("camera: {advice}");
            self.services.advise_on_camera(&advice);
        }
        self.observe_times();
        if self.services.live.viewers() > 0 {
            let faces = self.sight.present().iter().map(|(track, face)| self.live_face(*track, face, &roster));
            let faces = faces.collect();
            self.services.live.show(frame, self.services.config.camera.rotate, faces);
        }
        if !self.first_decision_told {
            self.first_decision_told = true;
            log::info!("first frame decided {:.0?} after the camera was asked for", self.started.elapsed());
        }
        decoded
    }

    fn judge(&mut self, observations: &[Observation], captured_at: Instant, roster: &Roster) {
        let verdict = self.policy.judge(observations, roster.threshold.limits, captured_at, Instant::now());
        for ((track, decision), observation) in verdict.decisions.iter().zip(observations) {
            log::debug!("face {}: {decision:?}", track.0);
            self.note(*track, *decision, observation);
            if matches!(decision, Decision::Open(_)) {
                self.looks.remove(track);
            }
        }
        self.notes.retain(|track, _| self.sight.present().iter().any(|(present, _)| present == track));
        if verdict.decisions.iter().any(|(_, d)| matches!(d, Decision::Stay(Reason::Stale))) {
            self.services.counters.increment("frames_stale");
        }
        for (track, decision) in &verdict.decisions {
            if let Decision::Open(grant) = decision
                && !self.grant(grant, captured_at, roster)
                && let Some(note) = self.notes.get_mut(track)
            {
                note.decision = Decision::Stay(Reason::Cooldown(grant.person));
            }
        }
        verdict.denials.iter().for_each(|denial| self.deny(denial, roster));
    }

    /// Portraits of the last frame, for whoever is being enrolled and in case somebody turns out to be unknown.
    fn keep_looks(&mut self, at: Instant) {
        for portrait in self.sight.take_portraits() {
            self.services.live.offer(&portrait, at);
            if self.unknown.wanted() && self.policy.attention().wants(portrait.track) {
                self.looks.entry(portrait.track).or_default().add(portrait);
            }
        }
        // Of most faces the end is told, and their looks go with it; of those that were seen once only it is not.
        if self.looks.len() > MOST_LOOKED_AT {
            let present = self.sight.present();
            self.looks.retain(|track, _| present.iter().any(|(face, _)| face == track));
        }
    }

    /// What this frame cost, stage by stage.
    fn observe_times(&mut self) {
        let spent = self.sight.spent();
        for ((stage, total), (_, before)) in spent.stages().into_iter().zip(self.spent.stages()) {
            if total > before {
                self.services.times.observe(stage, total - before);
            }
        }
        self.spent = spent;
    }

    fn note(&mut self, track: TrackId, decision: Decision, observation: &Observation) {
        if matches!(decision, Decision::Stay(Reason::Skipped)) {
            return;
        }
        let before = self.notes.get(&track).and_then(|note| note.matched);
        self.notes.insert(track, Note { decision, matched: observation.sighting.matched().or(before) });
    }

    /// A face in view, as it is shown to whoever looks on.
    fn live_face(&self, track: TrackId, face: &Detection, roster: &Roster) -> LiveFace {
        let note = self.notes.get(&track);
        let matched = note.and_then(|note| note.matched);
        let (state, text) = match note.map(|note| note.decision) {
            None => (FaceState::Undecided, "looking".into()),
            Some(Decision::Open(_) | Decision::Stay(Reason::SameVisit(_))) => (FaceState::Known, self.welcome().into()),
            Some(Decision::Stay(reason)) => {
                let state = match reason {
                    Reason::Unknown(..) | Reason::NobodyEnrolled | Reason::Ambiguous(..) => FaceState::Unknown,
                    _ => FaceState::Undecided,
                };
                (state, self.words(&reason, roster).0)
            }
        };
        let b = face.bounding_box;
        LiveFace {
            track: track.0,
            bounding_box: [b.x1, b.y1, b.x2, b.y2],
            landmarks: face.landmarks.0.map(|point| [point.x, point.y]),
            state,
            name: matched.filter(|_| state == FaceState::Known).map(|matched| roster.name(matched.person)),
            distance: matched.map(|matched| matched.distance),
            limit: matched.map(|matched| roster.threshold.limits.at(matched.spread)),
            text,
        }
    }

    fn welcome(&self) -> &'static str {
        match self.services.config.mode {
            Mode::Unlock => "let in",
            Mode::Attendance => "counted in",
        }
    }

    /// Opens, or counts in, and records it; false: the relay refused.
    fn grant(&mut self, grant: &Grant, captured_at: Instant, roster: &Roster) -> bool {
        let (name, hold) = (roster.name(grant.person), self.services.config.latch.hold);
        let pulsed = self.services.config.mode == Mode::Unlock;
        let done_at = if pulsed {
            match self.latch.pulse(hold, captured_at) {
                Ok(at) => at,
                Err(refusal) => {
                    self.not_opened(grant, name, &refusal, captured_at);
                    return false;
                }
            }
        } else {
            Instant::now()
        };
        self.latch.send(LatchCommand::ShowGranted(hold));
        let latency = done_at.saturating_duration_since(captured_at);
        let since_first = done_at.saturating_duration_since(grant.first_usable);
        log::info!(
            "{name} {}: distance {:.2} (limit {:.2}), {} frames in {since_first:.1?}, {} {latency:.0?} after the last",
            if pulsed { "let in" } else { "counted in" },
            grant.distance,
            grant.limit,
            grant.frames,
            if pulsed { "relay" } else { "signal" },
        );
        self.services.counters.increment("granted");
        self.strangers.granted(grant.person, Instant::now());
        self.visited(&format!("{name} {}", if pulsed { "let in" } else { "counted in" }));
        self.services.record(EventKind::Granted {
            person: grant.person,
            name,
            distance: grant.distance,
            frames: grant.frames,
            latency_ms: latency.as_millis() as u32,
            pulsed,
        });
        true
    }

    /// Said once for each face; it is tried again while that is in view.
    fn not_opened(&mut self, grant: &Grant, name: String, refusal: &Refusal, at: Instant) {
        self.services.counters.increment("pulses_failed");
        if !self.policy.not_opened(grant.person, at) {
            return log::debug!("{name}: still not opened: {refusal}");
        }
        log::error!("{name} recognised, but the door was not opened: {refusal}; trying again");
        self.services.record(EventKind::Denied {
            reason: format!("recognised, but the door was not opened: {refusal}"),
            nearest: Some((grant.person, name)),
            distance: Some(grant.distance),
            frames: grant.frames,
        });
    }

    /// Tells once that the relay is stuck, and once that it is released.
    pub(super) fn watch_relay(&mut self, now: Instant) {
        match (self.stuck_since, self.latch.stuck(now)) {
            (None, Some(problem)) => {
                log::error!("relay: stuck, the door may stand open ({problem}); retrying");
                self.stuck_since = Some(now);
                self.services.counters.increment("relay_stuck");
                self.services.record(EventKind::RelayStuck { problem: printable(&problem) });
                self.tell_status();
            }
            (Some(since), None) => {
                let after = now.saturating_duration_since(since);
                log::warn!("relay: released after {after:.1?}");
                self.stuck_since = None;
                self.services.record(EventKind::RelayFreed { after });
                self.tell_status();
            }
            _ => {}
        }
    }

    fn deny(&mut self, denial: &Denial, roster: &Roster) {
        let (reason, nearest) = self.words(&denial.reason, roster);
        self.tell_more_denials(false);
        let listed = self.denials.listed(Instant::now());
        if listed {
            log::info!("nobody let in: {reason} ({} frames)", denial.frames);
        }
        let looks = self.looks.remove(&denial.track).unwrap_or_default();
        let stranger = matches!(denial.reason, Reason::Unknown(..) | Reason::NobodyEnrolled);
        if stranger && !self.unknown.note(looks, now_ms()) {
            self.services.counters.increment("unknown_lost");
        }
        self.note_stranger(denial, roster);
        self.services.counters.increment("denied");
        self.services.denials.increment(denial.reason.word());
        self.latch.send(LatchCommand::ShowDenied);
        self.visited("nobody let in");
        if listed {
            self.services.record(EventKind::Denied {
                reason,
                nearest: nearest.map(|(person, _)| (person, roster.name(person))),
                distance: nearest.map(|(_, distance)| distance),
                frames: denial.frames,
            });
        }
    }

    /// Denials past some a minute are one event.
    fn tell_more_denials(&mut self, at_once: bool) {
        let Some((count, over)) = self.denials.over(Instant::now(), at_once) else { return };
        log::info!("nobody let in: {count} more times within {over:.0?}, not listed one by one");
        self.services.record(EventKind::DeniedMore { count, over });
    }

    /// A visit that shows how near strangers come.
    fn note_stranger(&mut self, denial: &Denial, roster: &Roster) {
        let (Reason::Unknown(nearest, ..), Some(distance)) = (denial.reason, denial.near) else { return };
        let Some(face) = self.sight.template(denial.track).cloned() else { return };
        let comparisons = roster.gallery.comparisons();
        self.strangers.denied(Stranger { nearest, distance, comparisons, face }, Instant::now());
    }

    fn count_strangers(&mut self, at_once: bool) {
        if !at_once && self.strangers.is_idle(Instant::now(), now_ms()) {
            return;
        }
        let same_face = self.services.roster().threshold.limits.single;
        for stranger in self.strangers.due(Instant::now(), now_ms(), same_face, at_once) {
            self.services.count_stranger(stranger.comparisons, stranger.distance);
        }
    }

    /// A reason in words, and the nearest person with the distance if somebody was near.
    fn words(&self, reason: &Reason, roster: &Roster) -> (String, Option<(crate::gallery::PersonId, f32)>) {
        let rules = &self.services.rules;
        match *reason {
            Reason::Stale => ("every frame came too late; the board is too slow or too busy".into(), None),
            Reason::SeveralFaces(count) => (format!("{count} faces in view"), None),
            Reason::NobodyEnrolled => (roster.nobody(), None),
            Reason::NotGoodEnough(flaw) => (flaw.to_string(), None),
            Reason::Skipped => ("the frame brings no evidence".into(), None),
            Reason::Unknown(person, distance, limit) => (
                format!("not in the database, nearest {} at {distance:.2} (limit {limit:.2})", roster.name(person)),
                Some((person, distance)),
            ),
            Reason::Ambiguous((person, distance), (next, farther)) => (
                format!(
                    "too close to call, {} at {distance:.2} and {} at {farther:.2}",
                    roster.name(person),
                    roster.name(next)
                ),
                Some((person, distance)),
            ),
            Reason::NotYet(person, frames) => {
                (format!("only {frames} of {} frames agreed on {}", rules.confirm, roster.name(person)), None)
            }
            Reason::SameVisit(person) | Reason::Cooldown(person) => {
                (format!("{} came too soon after the last pulse", roster.name(person)), None)
            }
        }
    }

    fn camera_ready(&mut self, description: String, lost_for: Option<Duration>) {
        match lost_for {
            None => log::info!("camera: {description}"),
            Some(after) => {
                log::info!("camera back after {after:.1?}: {description}");
                self.services.record(EventKind::CameraBack { after });
            }
        }
        self.latch.send(LatchCommand::ShowReady(true));
        self.services.set_camera(description, true);
        self.camera_lost = None;
        self.tell_status();
    }

    fn camera_lost(&mut self, problem: String) {
        let problem = printable(&problem);
        log::error!("camera lost: {problem}; trying again");
        self.unseen.get_or_insert_default().extend(self.policy.visitors());
        self.latch.send(LatchCommand::ShowReady(false));
        self.services.counters.increment("camera_lost");
        // In this order: whoever hears of the loss finds it in the status.
        self.services.set_camera(problem.clone(), false);
        self.services.record(EventKind::CameraLost { problem: problem.clone() });
        self.camera_lost = Some(problem);
        self.tell_status();
    }

    /// What was recorded under the clock as it was is dated by the clock as it is, see
    /// [`crate::clock::History`].
    fn watch_clock(&mut self) {
        let now = Instant::now();
        if now < self.clock_due {
            return;
        }
        self.clock_due = now + CLOCK_LOOK;
        let (wall, since_boot) = clocks_ms();
        if let Some(by_ms) = self.clock.look(wall, since_boot) {
            let direction = if by_ms > 0 { "forward" } else { "back" };
            log::warn!("the clock was set {direction} by {}", span_in_words(by_ms));
            self.services.counters.increment("clock_set");
            self.services.record(EventKind::ClockSet { by_ms });
        }
    }
}

/// Who may stand before the door since before this start.
fn visits_before(visits: &mut Visits, services: &Services, same_store: bool) -> BTreeSet<PersonId> {
    let everyone = || services.roster().everyone().collect();
    if !same_store {
        return everyone();
    }
    visits.recall(services.rules.visit_gap, now_ms()).unwrap_or_else(|error| {
        log::error!("visits: unreadable ({error}); a visitor in view now has to leave first");
        everyone()
    })
}
