//! What the daemon and the commands share: models, store, enroll folder and gallery, and the answers to questions about them.

mod advice;
mod answers;
mod nets;
mod pictures;

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    api::Status,
    calibrate,
    config::{Config, DetectionConfig, Mode, RecognitionConfig, SeveralFaces},
    enroll::{self, Changes, EnrollError, Enroller, Examiner, FolderNews, LimitsFor, Standard, templates_of},
    error::ErrorKind,
    evidence::{Fit, Width},
    gallery::{Fusion, Gallery, Match, PersonId},
    latch::LatchHandle,
    live::Live,
    policy::Rules,
    scale::Scale,
    sight::Sight,
    store::{Event, EventKind, KeptNearness, Measure, Moment, Person, RecoveryNote, Store, StoreError, Stranger},
    telemetry::{Counters, Times, printable},
    threshold::{Threshold, ThresholdError},
    unknown::UnknownRules,
    vision::{
        Vision, VisionError,
        embed::Embedding,
        fuse::{FuseRules, Fuser},
        manifest::{Manifest, ManifestError, NetEntry},
        model::Precision,
        mtcnn::MtcnnSettings,
        quality::{Flaw, QualityLimits},
        track::Tracker,
    },
};

use advice::{Advice, advise};
pub(crate) use nets::{Fastest, cpu_model};
use nets::{Loaded, load_vision};
use pictures::PictureReader;

/// Why the parts cannot be put together; nothing has been driven then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Vision(#[from] VisionError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    #[error(transparent)]
    Threshold(#[from] ThresholdError),
}

impl StartError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StartError::Vision(error) => error.kind(),
            StartError::Manifest(error) => error.kind(),
            StartError::Store(error) => error.kind(),
            StartError::Enroll(error) => error.kind(),
            StartError::Threshold(_) => ErrorKind::Conflict,
        }
    }
}

/// Everybody who can be recognised now, what they are called, and how near a match with them has to be.
#[derive(Clone)]
pub struct Roster {
    pub gallery: Arc<Gallery>,
    pub threshold: Threshold,
    names: Arc<HashMap<PersonId, String>>,
    /// Everybody enrolled, whether the door lets them in or not.
    people: Arc<Vec<Person>>,
    /// What to better about them.
    advice: Arc<Advice>,
    /// Who of them is not let in, and why.
    pub shut_out: Option<ShutOut>,
}

/// People who are enrolled and are not let in.
#[derive(Clone, Debug, PartialEq)]
pub struct ShutOut {
    /// None: nobody is let in.
    pub names: Option<Vec<String>>,
    /// With the remedy.
    pub reason: String,
}

impl Roster {
    /// Everybody enrolled.
    pub fn everyone(&self) -> impl Iterator<Item = PersonId> {
        self.names.keys().copied()
    }

    /// Of the people enrolled. Without a threshold nobody is let in; at a door that unlocks, neither is who may be taken for
    /// another.
    fn of(config: &Config, embedder: &NetEntry, scale: &Scale, people: &[Person], strangers: Option<&Fit>) -> Roster {
        let (model, fusion) = (embedder.model_id(), Fusion::of(embedder, config.recognition.template_fusion));
        let names = people.iter().map(|person| (person.id, person.name.clone())).collect();
        let mut roster = Roster {
            gallery: Arc::new(Gallery::new(model, fusion, &templates_of(people))),
            threshold: Threshold::none(0),
            names: Arc::new(names),
            people: Arc::new(people.to_vec()),
            advice: Arc::default(),
            shut_out: None,
        };
        let comparisons = roster.gallery.comparisons();
        match Threshold::choose(embedder, &config.recognition, comparisons) {
            Ok(threshold) => roster.threshold = threshold.heeding(strangers),
            Err(error) => {
                roster.gallery = Arc::new(Gallery::new(model, fusion, &[]));
                roster.threshold = Threshold::none(comparisons);
                roster.shut_out = Some(ShutOut { names: None, reason: format!("nobody is let in: {error}") });
            }
        }
        let (gallery, limits) = (&roster.gallery, roster.threshold.limits);
        let advice = advise(people, gallery, limits, scale, |person| roster.name(person));
        roster.advice = Arc::new(advice);
        let pairs = roster.confusable();
        if config.mode == Mode::Unlock && !pairs.is_empty() {
            let ids: BTreeSet<PersonId> = pairs.iter().flat_map(|(one, other, _)| [*one, *other]).collect();
            let rest: Vec<Person> = people.iter().filter(|person| !ids.contains(&person.id)).cloned().collect();
            let names: Vec<String> = ids.into_iter().map(|person| roster.name(person)).collect();
            let reason = format!("{} are not let in: {}", names.join(", "), roster.too_near(&pairs));
            roster.gallery = Arc::new(Gallery::new(model, fusion, &templates_of(&rest)));
            roster.shut_out = Some(ShutOut { names: Some(names), reason });
        }
        roster
    }

    /// Why a probe is compared with nobody.
    pub fn nobody(&self) -> String {
        self.shut_out.as_ref().map_or_else(|| "nobody is enrolled".into(), |shut_out| shut_out.reason.clone())
    }

    /// People in the gallery who are nearer to each other than a match may be far. By the table
    /// alone: strangers change nobody's place.
    fn confusable(&self) -> Vec<(PersonId, PersonId, f32)> {
        calibrate::confusable(&self.gallery, self.threshold.by_table())
    }

    /// The nearest of these pairs, in words with the remedy.
    fn too_near(&self, pairs: &[(PersonId, PersonId, f32)]) -> String {
        let [(one, other, distance), more @ ..] = pairs else { return String::new() };
        let (one, other) = (self.name(*one), self.name(*other));
        let more = if more.is_empty() { String::new() } else { format!(" (and {} more pairs)", more.len()) };
        // A distance that is set takes no notice of a rate.
        let or_rate = if self.threshold.per_visit.is_some() { " (or a smaller false_match_rate)" } else { "" };
        format!(
            "a match may be {:.3} away, but {one} and {other} are only {distance:.3} apart{more}: one may be taken for \
             the other. If they are one person, put the pictures into one folder; else set \
             recognition.max_distance = {:.2}{or_rate}, or take better pictures of both; facelatch calibrate \
             says more",
            self.threshold.by_table().single,
            // What is set has to be smaller.
            ((distance * 100.0).ceil() - 1.0) / 100.0
        )
    }

    /// What to better, in the order of names.
    fn advice_by_name(&self) -> Vec<String> {
        let of = |(person, advice): (&PersonId, &Vec<String>)| {
            advice.iter().map(|advice| format!("{}: {advice}", self.name(*person))).collect::<Vec<_>>()
        };
        let mut all: Vec<String> = self.advice.iter().flat_map(of).collect();
        all.sort();
        all
    }

    /// What to better about a person who is enrolled.
    fn advice(&self, person: PersonId) -> &[String] {
        self.advice.get(&person).map_or(&[], Vec::as_slice)
    }

    /// The person's name as it may be printed.
    pub fn name(&self, person: PersonId) -> String {
        self.names.get(&person).map_or_else(|| person.to_string(), |name| printable(name))
    }
}

/// What only a running daemon has.
struct Running {
    latch: LatchHandle,
    camera: (String, bool),
    /// What to do about the camera.
    camera_advice: Option<String>,
    relay: String,
}

impl Running {
    /// The camera's description, with what to do about it.
    fn camera(&self) -> String {
        let advice = self.camera_advice.as_ref().map_or_else(String::new, |advice| format!("; {advice}"));
        format!("{}{advice}", self.camera.0)
    }
}

/// See the module.
pub struct Services {
    pub config: Config,
    pub store: Store,
    pub enroller: Arc<Mutex<Enroller>>,
    pub enroll_health: Arc<enroll::Health>,
    pub counters: Counters,
    /// Visits that ended in no pulse, by the reason's word.
    pub denials: Counters,
    /// What the stages of recognition took.
    pub times: Times,
    /// For whoever looks on.
    pub live: Arc<Live>,
    /// The store was full or could not be written, and can be now; only a new start opens it.
    pub wants_new_start: AtomicBool,
    /// What was repaired when the store was opened.
    pub notes: Vec<RecoveryNote>,
    /// The events of them, for followers who come later.
    pub opening: Vec<Event>,
    pub rules: Rules,
    /// The embedder's.
    pub precision: Precision,
    /// That of all nets, where each has its own.
    precisions: String,
    /// The manifest's entry of the embedder in use.
    pub embedder: NetEntry,
    /// Its distances besides the limit of a match.
    pub scale: Scale,
    vision: Vision,
    reader: Mutex<Vision>,
    roster: RwLock<Roster>,
    /// What this door's own strangers say; renewed once a day.
    strangers: RwLock<Option<Fit>>,
    /// Taken while the roster is renewed: an older list of people must not replace a newer one.
    renewing: Mutex<()>,
    examiner: Examiner,
    running: Mutex<Option<Running>>,
    started: Instant,
}

/// What a daemon that reloads its configuration need not open anew, as far as that did not change.
pub struct Kept {
    config: Config,
    store: Store,
    loaded: Loaded,
}

impl Kept {
    /// How long a pulse of the relay was.
    pub fn hold(&self) -> Duration {
        self.config.latch.hold
    }

    /// Whether a daemon of this configuration goes on with the same store.
    pub fn keeps_store(&self, config: &Config) -> bool {
        self.config.store.path == config.store.path
    }
}

impl Services {
    /// Loads the models, opens the store and takes in what changed in the enroll folder meanwhile.
    ///
    /// # Errors
    /// Whatever of it cannot be used.
    pub fn open(config: Config) -> Result<(Arc<Services>, Changes), StartError> {
        Services::open_keeping(config, None, || true)
    }

    /// As [`Services::open`], with what was kept of the time before a reload, and reading pictures of the enroll folder only as
    /// long as `go_on` says so.
    ///
    /// # Errors
    /// As [`Services::open`].
    pub fn open_keeping(
        config: Config,
        kept: Option<&Kept>,
        go_on: impl Fn() -> bool,
    ) -> Result<(Arc<Services>, Changes), StartError> {
        let manifest = Manifest::load(&config.models.dir)?;
        let embedder = manifest.embedder(&config.models.embedder)?.mirroring(config.models.mirror);
        let (store, notes) = match kept.filter(|kept| kept.keeps_store(&config)) {
            Some(kept) => (kept.store.clone(), Vec::new()),
            None => Store::open(&config.store.path, now_ms())?,
        };
        let opening = record_notes(&store, &notes);
        let Loaded { vision, precision, precisions } = match kept.filter(|kept| kept.config.models == config.models) {
            Some(Kept { loaded, .. }) => {
                Loaded { vision: loaded.vision.with_settings(detector_settings(&config.detection)), ..loaded.clone() }
            }
            None => load_vision(&config, &store, &embedder)?,
        };
        let limits = quality_limits(&config.detection, config.enroll.min_face);
        let reader = PictureReader { vision: Mutex::new(vision.clone()), limits };
        // A rate that cannot be kept for anybody is a fault of the configuration.
        let scale = Scale::of(&embedder, &config)?;
        let mut enroller = Enroller::new(
            config.enroll.clone(),
            store.clone(),
            Arc::new(reader),
            Standard {
                max_spread: scale.max_spread,
                fusion: Fusion::of(&embedder, config.recognition.template_fusion),
                limits: limits_for(&embedder, &config.recognition),
            },
        )?;
        let changes = enroller.sync(SystemTime::now(), go_on)?;
        let services = Services {
            rules: rules(&config, &scale),
            roster: RwLock::new(Roster::of(&config, &embedder, &scale, &[], None)),
            scale,
            strangers: RwLock::new(fit(&kept_nearness(&store, &embedder, precision), &embedder)),
            renewing: Mutex::new(()),
            examiner: enroller.examiner(),
            embedder,
            enroll_health: enroller.health(),
            enroller: Arc::new(Mutex::new(enroller)),
            counters: Counters::default(),
            denials: Counters::default(),
            times: Times::default(),
            live: Arc::default(),
            wants_new_start: AtomicBool::new(false),
            reader: Mutex::new(vision.clone()),
            running: Mutex::new(None),
            started: Instant::now(),
            config,
            store,
            notes,
            opening,
            precision,
            precisions,
            vision,
        };
        services.note_changes(&changes);
        Ok((Arc::new(services), changes))
    }

    /// For the next configuration.
    pub fn keep(&self) -> Kept {
        let (vision, precisions) = (self.vision.clone(), self.precisions.clone());
        let loaded = Loaded { vision, precision: self.precision, precisions };
        Kept { config: self.config.clone(), store: self.store.clone(), loaded }
    }

    /// A vision chain for a thread of its own.
    pub fn vision(&self) -> Vision {
        self.vision.clone()
    }

    pub fn roster(&self) -> Roster {
        self.roster.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the looks at a face are fused.
    pub fn fuse_rules(&self) -> FuseRules {
        let Scale { same_face, one_moment, .. } = self.scale;
        let one_moment = one_moment.unwrap_or(0.0);
        FuseRules { window: self.rules.window, same_face, one_moment, keep: self.rules.visit_gap }
    }

    /// What follows faces through frames, as configured, with no face seen yet.
    pub fn sight(&self) -> Sight {
        let (tracker, fuser) = (Tracker::new(self.rules.visit_gap), Fuser::new(self.fuse_rules()));
        Sight::new(self.vision(), tracker, fuser, self.quality_limits(), self.config.camera.rotate)
    }

    /// Which unknown people are kept. Two of their faces are one person's where a face would match an enrolled picture of it.
    pub fn unknown_rules(&self) -> UnknownRules {
        let enroll = &self.config.enroll;
        UnknownRules {
            limit: enroll.keep_unknown as usize,
            expiry: enroll.unknown_expiry,
            same_person: self.roster().threshold.limits.single,
        }
    }

    /// What a face in a frame has to be like to decide.
    pub fn quality_limits(&self) -> QualityLimits {
        quality_limits(&self.config.detection, self.config.detection.min_face)
    }

    /// From now on there is a latch, and a relay of this description.
    pub fn set_running(&self, latch: LatchHandle, relay: String) {
        *self.running() = Some(Running { latch, camera: ("opening".into(), false), camera_advice: None, relay });
    }

    pub fn set_camera(&self, description: String, ok: bool) {
        if let Some(running) = self.running().as_mut() {
            (running.camera, running.camera_advice) = ((description, ok), None);
        }
    }

    /// What should be done about the camera.
    pub fn advise_on_camera(&self, advice: &str) {
        if let Some(running) = self.running().as_mut() {
            running.camera_advice = Some(advice.to_owned());
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an event; one that cannot be written is said, and counted.
    pub fn record(&self, kind: EventKind) {
        if let Err(error) = self.store.append_event(moment(), kind) {
            self.counters.increment("events_lost");
            log::error!("an event could not be recorded: {error}");
        }
    }

    /// Whoever was enrolled a moment ago is recognised from the next frame on, by a limit that counts them too; whoever was
    /// removed is not.
    fn renew_roster(&self) {
        let _one_at_a_time = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let enroller = self.enroller.lock().unwrap_or_else(PoisonError::into_inner);
        let people = enroller.people();
        let renewed = Roster::of(&self.config, &self.embedder, &self.scale, people, self.strangers().as_ref());
        drop(enroller);
        let before = self.roster();
        *self.roster.write().unwrap_or_else(PoisonError::into_inner) = renewed.clone();
        if renewed.threshold != before.threshold && renewed.threshold.limits.single > 0.0 {
            log::info!("{}", renewed.threshold);
        }
        match &renewed.shut_out {
            Some(shut_out) if before.shut_out.as_ref() != Some(shut_out) => {
                log::error!("{}", shut_out.reason);
                if self.running().is_some() {
                    self.record_shut_out();
                }
            }
            None if before.shut_out.is_some() => log::info!("everybody enrolled is let in again"),
            _ => {}
        }
        if let Err(error) = self.forget_named() {
            log::error!("unknown faces who have a name now could not be forgotten: {error}");
        }
        if let Some(problem) = self.confusable() {
            log::warn!("{problem}");
        }
    }

    /// The largest distance at which a match was measured; 0: none was.
    pub fn loosest(&self) -> f32 {
        self.embedder.thresholds.first().map_or(0.0, |threshold| threshold.distance)
    }

    fn strangers(&self) -> Option<Fit> {
        *self.strangers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a visit of a stranger, see [`crate::evidence`].
    pub fn count_stranger(&self, comparisons: usize, distance: f32) {
        let measure = measure(&self.embedder, self.precision);
        if let Err(error) = self.store.count_stranger(measure, now_ms(), comparisons, distance) {
            self.counters.increment("strangers_lost");
            log::error!("strangers: a visit was not counted ({error})");
        }
    }

    /// Looks at what this door's own strangers say now; the limit follows.
    pub fn weigh_strangers(&self) {
        let fit = fit(&kept_nearness(&self.store, &self.embedder, self.precision), &self.embedder);
        if fit != self.strangers() {
            *self.strangers.write().unwrap_or_else(PoisonError::into_inner) = fit;
            self.renew_roster();
        }
    }

    /// Begins to count strangers from nothing.
    fn forget_strangers(&self) -> Result<(), StoreError> {
        let days = self.store.forget_nearness(None)?;
        log::warn!("strangers: {days} days of visits forgotten on demand");
        self.weigh_strangers();
        Ok(())
    }

    /// Writes down who is enrolled and is not let in.
    pub fn record_shut_out(&self) {
        if let Some(ShutOut { names, reason }) = self.roster().shut_out {
            self.record(EventKind::ShutOut { names: names.unwrap_or_default(), reason });
        }
    }

    /// Takes changes of the enroll folder into the gallery, the log and the events.
    pub fn note_changes(&self, changes: &Changes) {
        self.renew_roster();
        match &changes.folder {
            Some(FolderNews::Lost(problem)) => {
                log::error!("enroll folder lost: {problem}; those known stay known");
                self.counters.increment("folder_lost");
                self.record(EventKind::FolderLost { problem: problem.clone() });
            }
            Some(FolderNews::Back) => {
                log::info!("enroll folder back");
                self.record(EventKind::FolderBack);
            }
            None => {}
        }
        if let Some(problem) = &changes.unwritten {
            log::error!("enroll folder: {problem}; who was removed is not let in, the rest is tried again every 30 s");
        }
        for (person, from, to) in &changes.renamed {
            log::info!("{} is called {} now", printable(from), printable(to));
            self.record(EventKind::Renamed { person: *person, from: from.clone(), to: to.clone() });
        }
        for (person, name, picture) in &changes.forgotten {
            log::info!("{}: picture {} forgotten", printable(name), printable(picture));
            self.record(EventKind::Forgotten { person: *person, name: name.clone(), picture: picture.clone() });
        }
        for (person, name, picture) in &changes.accepted {
            log::info!("{} enrolled with {}", printable(name), printable(picture));
            self.record(EventKind::Enrolled { person: *person, name: name.clone(), picture: picture.clone() });
        }
        let (roster, mut told) = (self.roster(), BTreeSet::new());
        for (person, name, _) in changes.accepted.iter().filter(|(person, ..)| told.insert(*person)) {
            roster.advice(*person).iter().for_each(|advice| log::info!("{}: {advice}", printable(name)));
        }
        for (name, picture, reason) in &changes.refused {
            log::warn!("picture {} refused: {reason}", printable(picture));
            self.record(EventKind::Refused { name: name.clone(), picture: picture.clone(), reason: reason.clone() });
        }
    }

    /// Two people in the gallery who are nearer to each other than a match may be far, in words with the remedy.
    pub fn confusable(&self) -> Option<String> {
        let roster = self.roster();
        let pairs = roster.confusable();
        (!pairs.is_empty()).then(|| roster.too_near(&pairs))
    }

    pub fn status(&self) -> Status {
        let roster = self.roster();
        let running = self.running();
        let running = running.as_ref();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: running.map_or(0, |_| std::process::id()),
            uptime_s: self.started.elapsed().as_secs(),
            mode: if self.config.mode == Mode::Unlock { "unlock" } else { "attendance" }.into(),
            camera: running.map_or_else(String::new, Running::camera),
            camera_advice: running.and_then(|running| running.camera_advice.clone()),
            camera_ok: running.is_some_and(|running| running.camera.1),
            relay: running.map_or_else(String::new, |running| running.relay.clone()),
            relay_active: running.is_some_and(|running| running.latch.relay_active()),
            relay_problem: running.and_then(|running| running.latch.stuck(Instant::now())),
            model: format!("{} ({})", self.config.models.embedder, self.vision.embedder().model()),
            precision: self.precisions.clone(),
            max_distance: roster.threshold.limits.single,
            false_match_rate: roster.threshold.rate_of_visits(),
            limit_basis: roster.threshold.basis(),
            people: roster.gallery.people(),
            templates: roster.gallery.templates(),
            advice: roster.advice_by_name(),
            problems: roster.shut_out.into_iter().map(|shut_out| shut_out.reason).collect(),
            enroll_problem: self.enroll_health.problem(Instant::now()),
            counters: self.counters.snapshot(),
        }
    }

    /// Whoever was kept as unknown and would be recognised now is unknown no longer.
    fn forget_named(&self) -> Result<(), StoreError> {
        let roster = self.roster();
        for stranger in self.store.strangers()? {
            let nearest = nearest(&roster, &stranger);
            if nearest.is_some_and(|nearest| nearest.distance <= roster.threshold.limits.at(nearest.spread)) {
                self.store.remove_stranger(stranger.id)?;
            }
        }
        Ok(())
    }
}

/// What opening the store showed becomes events; only once, as the numbers go on behind
/// what is missing.
pub(crate) fn record_notes(store: &Store, notes: &[RecoveryNote]) -> Vec<Event> {
    let record = |note: &RecoveryNote| {
        let recorded = store.append_event(moment(), note.event());
        recorded.inspect_err(|error| log::error!("an event could not be recorded: {error}")).ok()
    };
    notes.iter().filter_map(record).collect()
}

/// The reason a single look at this face would not be enough, in words; None when nothing speaks against it.
pub fn why_not(rules: &Rules, roster: &Roster, quality: Result<(), Flaw>, matched: Option<Match>) -> Option<String> {
    if let Err(flaw) = quality {
        return Some(flaw.to_string());
    }
    let Some(matched) = matched else { return Some(roster.nobody()) };
    let limit = roster.threshold.limits.at(matched.spread);
    let near = matched.distance <= limit;
    if !near {
        return Some(format!(
            "not in the database: nearest {} at {:.2}, needs {limit:.2}",
            roster.name(matched.person),
            matched.distance
        ));
    }
    matched.runner_up.filter(|(_, next)| next - matched.distance < rules.margin).map(|(next, distance)| {
        format!(
            "too close to call: {} at {:.2}, {} at {distance:.2}",
            roster.name(matched.person),
            matched.distance,
            roster.name(next)
        )
    })
}

/// Whom the best picture of an unknown person is nearest to.
fn nearest(roster: &Roster, stranger: &Stranger) -> Option<Match> {
    let best = stranger.looks.first()?;
    roster.gallery.search(&Embedding::new(best.embedding.clone(), best.model).ok()?)
}

/// What people are told apart by at enrolment: the very threshold that the door has for so many.
fn limits_for(embedder: &NetEntry, recognition: &RecognitionConfig) -> LimitsFor {
    let (embedder, recognition) = (embedder.clone(), recognition.clone());
    Box::new(move |comparisons| {
        let threshold = Threshold::choose(&embedder, &recognition, comparisons);
        threshold.map(|threshold| threshold.limits).map_err(|error| error.to_string())
    })
}

fn measure(embedder: &NetEntry, precision: Precision) -> Measure {
    Measure { model: embedder.model_id(), precision }
}

/// What is counted of strangers; where it cannot be read, nothing.
fn kept_nearness(store: &Store, embedder: &NetEntry, precision: Precision) -> KeptNearness {
    store.nearness(measure(embedder, precision)).unwrap_or_else(|error| {
        log::error!("strangers: what was counted cannot be read ({error}); the measured table stands");
        KeptNearness::default()
    })
}

fn fit(kept: &KeptNearness, embedder: &NetEntry) -> Option<Fit> {
    Fit::of(&kept.nearness, Width::of(embedder)?)
}

fn rules(config: &Config, scale: &Scale) -> Rules {
    let recognition = &config.recognition;
    Rules {
        margin: scale.margin,
        confirm: recognition.confirm as usize,
        window: recognition.window as usize,
        refuse_several_faces: recognition.several_faces == SeveralFaces::Refuse,
        visit_gap: recognition.visit_gap,
        cooldown: recognition.cooldown,
        max_decision_age: recognition.max_decision_age,
    }
}

fn quality_limits(detection: &DetectionConfig, min_face: u32) -> QualityLimits {
    QualityLimits {
        min_face_px: min_face as f32,
        min_sharpness: detection.min_sharpness,
        min_brightness: detection.min_brightness,
        max_brightness: detection.max_brightness,
        max_turn: detection.max_turn,
    }
}

pub(crate) fn detector_settings(detection: &DetectionConfig) -> MtcnnSettings {
    MtcnnSettings { min_face: detection.min_face as f32, thresholds: detection.thresholds }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Wall clock and time since boot at the same moment, in milliseconds.
pub fn clocks_ms() -> (i64, i64) {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now_ms(), since_boot.tv_sec.saturating_mul(1000).saturating_add(since_boot.tv_nsec / 1_000_000))
}

/// Now, by every clock there is.
pub fn moment() -> Moment {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let uptime = fs::read_to_string(Path::new("/proc/uptime")).unwrap_or_default();
    let seconds = uptime.split(' ').next().and_then(|s| s.parse::<f64>().ok()).filter(|s| s.is_finite() && *s >= 0.0);
    Moment { at_ms: now_ms(), boot_id, since_boot: seconds.map_or(Duration::ZERO, Duration::from_secs_f64) }
}
