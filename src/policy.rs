//! The only place that decides to open: a pure function of what was seen and of the time passed in.
//!
//! Evidence is gathered per followed face (track). Each usable frame brings a probe, fused of the last looks at that face, and speaks
//! for the person nearest to it. A face opens when k of its last n usable frames spoke for the same person, each of them near
//! enough, clear of the runner-up and young enough. From then on the person's *visit* lasts
//! until none of that person's faces was seen for `visit_gap`: one visit, one pulse. A face that stays unknown is denied once.
//!
//! Only fresh evidence counts: a frame that shows nothing new of a face is no vote, and time in
//! which nothing was seen (no frames, a reload, a restart) is no absence.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    gallery::{Match, PersonId},
    sighting::{Attention, Observation, Sighting},
    vision::{quality::Flaw, track::TrackId},
};

/// After a pulse that the relay refused, nobody is let in for this long.
const RETRY: Duration = Duration::from_secs(1);
/// A camera that was opened gets this long to show a visitor who never left.
const SETTLING: Duration = Duration::from_secs(5);

/// The largest distance of a match. It depends on who is enrolled, so it comes with each frame and not with the rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// One picture against one, in (0, 2).
    pub single: f32,
    /// By how much its square falls with the spread of the pictures that were averaged, 0 to 1 (see
    /// `vision/manifest.rs`). Less counts if pictures that match one by one would not match together.
    pub shrink: f32,
}

impl Limits {
    /// The mean's squared distance is less than that of the single pictures by their spread times
    /// 1 − half that square, at least. If the limit falls by no more, averaging shuts nobody out.
    fn counted(&self) -> f32 {
        self.shrink.min((1.0 - self.single * self.single / 2.0).max(0.0))
    }

    /// The limit for a match with this [`Match::spread`]; 0, which nothing reaches but the picture itself, for a spread that is not a number.
    pub fn at(&self, spread: f32) -> f32 {
        (self.single * self.single - self.counted() * spread).max(0.0).sqrt()
    }

    /// The distance of one picture against one that is as far within (or beyond) its limit as this distance with this spread is
    /// within its own: what lies on one scale can be compared.
    pub fn as_single(&self, distance: f32, spread: f32) -> f32 {
        (distance * distance + self.counted() * spread).sqrt()
    }

    /// How far apart two embeddings are on that scale when so much was averaged out in both.
    pub fn apart(&self, a: &[f32], b: &[f32], spread: f32) -> f32 {
        let square = |(a, b): (&f32, &f32)| (a - b) * (a - b);
        self.as_single(a.iter().zip(b).map(square).sum::<f32>().sqrt(), spread)
    }
}

/// What a decision has to satisfy besides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How much farther away the runner-up must be.
    pub margin: f32,
    /// k: frames that must agree ...
    pub confirm: usize,
    /// ... of the last n usable frames of a face.
    pub window: usize,
    /// More than one face in view: nobody is let in.
    pub refuse_several_faces: bool,
    pub visit_gap: Duration,
    /// No second pulse for anybody within this time.
    pub cooldown: Duration,
    /// A frame older than this is not decided on.
    pub max_decision_age: Duration,
}

/// What is to be done about one face of one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    Open(Grant),
    Stay(Reason),
}

/// Why the door opens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    pub person: PersonId,
    /// Distance of the deciding frame's probe, and how large it might have been.
    pub distance: f32,
    pub limit: f32,
    /// Frames of this face that were looked at, from the first to the deciding one.
    pub frames: u32,
    /// When the first usable frame of this face was captured.
    pub first_usable: Instant,
}

/// Why the door stays shut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// The frame was older than `max_decision_age` when its turn came.
    Stale,
    SeveralFaces(usize),
    NobodyEnrolled,
    NotGoodEnough(Flaw),
    /// The frame brings no evidence of this face.
    Skipped,
    /// Nearest person and distance, and the limit it exceeds.
    Unknown(PersonId, f32, f32),
    /// Too near to call: nearest and runner-up with their distances.
    Ambiguous((PersonId, f32), (PersonId, f32)),
    /// Agreeing frames so far.
    NotYet(PersonId, usize),
    /// This visit was decided already.
    SameVisit(PersonId),
    Cooldown(PersonId),
}

impl Reason {
    fn is_unknown(&self) -> bool {
        matches!(self, Reason::Unknown(..))
    }

    /// One word for counting.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::Stale => "stale",
            Reason::SeveralFaces(_) => "several_faces",
            Reason::NobodyEnrolled => "nobody_enrolled",
            Reason::NotGoodEnough(_) => "not_good_enough",
            Reason::Skipped => "skipped",
            Reason::Unknown(..) => "unknown",
            Reason::Ambiguous(..) => "ambiguous",
            Reason::NotYet(..) => "not_yet",
            Reason::SameVisit(_) => "same_visit",
            Reason::Cooldown(_) => "cooldown",
        }
    }
}

/// A visit that ended, or went on for a whole window, without a grant. Said once per face.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Denial {
    pub track: TrackId,
    /// The reason that held for its last usable frame, or for its last frame if none was usable.
    pub reason: Reason,
    pub frames: u32,
    /// At which limit a stranger's visit would have been granted, as of one picture against one.
    /// None: it was no stranger's, or too short to tell.
    pub near: Option<f32>,
}

/// The outcome of one frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// One decision per observation, in their order.
    pub decisions: Vec<(TrackId, Decision)>,
    pub denials: Vec<Denial>,
}

impl Verdict {
    /// The people let in by this frame.
    pub fn grants(&self) -> impl Iterator<Item = Grant> {
        self.decisions.iter().filter_map(|(_, decision)| match decision {
            Decision::Open(grant) => Some(*grant),
            Decision::Stay(_) => None,
        })
    }
}

/// Evidence about one followed face.
#[derive(Debug)]
struct Evidence {
    /// The last n usable frames: the person each of them speaks for, if it does.
    votes: VecDeque<Option<PersonId>>,
    /// For each of them, the distance of an unknown face, as of one picture against one; None: it was
    /// not unknown.
    distances: VecDeque<Option<f32>>,
    /// A frame lay within the limit.
    was_within: bool,
    frames: u32,
    usable: u32,
    first_usable: Instant,
    last_seen: Instant,
    reason: Reason,
    /// Granted or denied: nothing more is said about this face.
    settled: bool,
    /// The relay refused a pulse for this face.
    refused: bool,
}

/// A known person's stay, from the grant until `visit_gap` after the last sight of any of that person's faces.
#[derive(Debug)]
struct Visit {
    tracks: Vec<TrackId>,
    last_seen: Instant,
}

/// Remembers what is needed to judge the next frame.
#[derive(Debug)]
pub struct Policy {
    rules: Rules,
    faces: HashMap<TrackId, Evidence>,
    visits: HashMap<PersonId, Visit>,
    last_grant: Option<Instant>,
    last_frame: Option<Instant>,
    /// The relay refused: nobody is let in before this.
    retry_at: Option<Instant>,
    /// When more than one face was in view last, if that was said.
    several_said: Option<Instant>,
    attention: Attention,
}

impl Policy {
    pub fn new(rules: Rules) -> Policy {
        Policy {
            rules,
            faces: HashMap::new(),
            visits: HashMap::new(),
            last_grant: None,
            last_frame: None,
            retry_at: None,
            several_said: None,
            attention: Attention { confirm: rules.confirm, alone: rules.refuse_several_faces, ..Attention::default() },
        }
    }

    /// Which faces deserve a look now.
    pub fn attention(&self) -> &Attention {
        &self.attention
    }

    fn turn_attention(&mut self) {
        let mut attention = std::mem::take(&mut self.attention);
        attention.decided.clear();
        attention.decided.extend(self.faces.keys().filter(|track| !self.is_undecided(**track)));
        attention.nearly_open.clear();
        attention
            .nearly_open
            .extend(self.faces.iter().filter(|(_, face)| self.nearly_opens(face)).map(|(track, _)| *track));
        self.attention = attention;
    }

    /// Judges one frame's faces by the limits of the gallery they were looked for in. `captured_at` is the frame's moment, `now` the
    /// present one; an empty list is a frame without faces.
    pub fn judge(
        &mut self,
        observations: &[Observation],
        limits: Limits,
        captured_at: Instant,
        now: Instant,
    ) -> Verdict {
        let stale = now.saturating_duration_since(captured_at) > self.rules.max_decision_age;
        self.pass_over_blindness(captured_at);
        for observation in observations {
            self.keep_visit_alive(observation.track, captured_at);
        }
        self.visits.retain(|_, visit| now.saturating_duration_since(visit.last_seen) < self.rules.visit_gap);
        let mut verdict = Verdict::default();
        for observation in observations {
            let decision = match stale {
                true => Decision::Stay(Reason::Stale),
                false => self.judge_face(observation, observations.len(), limits, captured_at),
            };
            let denial = self.remember(observation, &decision, captured_at);
            verdict.decisions.push((observation.track, decision));
            verdict.denials.extend(denial);
        }
        verdict.denials.extend(self.forget_faces_that_left(now));
        self.say_several_once(&mut verdict.denials, observations.len(), now);
        self.turn_attention();
        verdict
    }

    /// Of a pause between two frames at most half a `visit_gap` counts as absence.
    fn pass_over_blindness(&mut self, captured_at: Instant) {
        let before = self.last_frame.replace(captured_at).unwrap_or(captured_at);
        let pause = captured_at.saturating_duration_since(before);
        let unseen = pause.saturating_sub(self.rules.visit_gap / 2);
        self.visits.values_mut().for_each(|visit| visit.last_seen += unseen);
    }

    /// Several faces in view are one situation: one of them is denied aloud.
    fn say_several_once(&mut self, denials: &mut Vec<Denial>, in_view: usize, now: Instant) {
        let lasts = self.rules.visit_gap * 2;
        let mut said = self.several_said.filter(|at| now.saturating_duration_since(*at) < lasts);
        said = said.map(|at| if in_view > 1 { now } else { at });
        denials.retain(|denial| !matches!(denial.reason, Reason::SeveralFaces(_)) || said.replace(now).is_none());
        self.several_said = said;
    }

    /// The people who were let in and have not left.
    pub fn visitors(&self) -> impl Iterator<Item = PersonId> {
        self.visits.keys().copied()
    }

    /// These people were let in before nothing was seen any more, and nobody saw them leave. The
    /// frame of `at` is the first since.
    pub fn resume(&mut self, visitors: impl IntoIterator<Item = PersonId>, at: Instant) {
        for person in visitors {
            let visit = self.visits.entry(person).or_insert(Visit { tracks: Vec::new(), last_seen: at });
            visit.last_seen = at + SETTLING;
        }
    }

    /// The relay refused the pulse of a grant: there is no visit, and the person is let in later
    /// without having to leave first. Whether this is the first refusal for that face.
    pub fn not_opened(&mut self, person: PersonId, at: Instant) -> bool {
        self.retry_at = Some(at + RETRY);
        let tracks = self.visits.remove(&person).map(|visit| visit.tracks).unwrap_or_default();
        let mut first = false;
        for (_, face) in self.faces.iter_mut().filter(|(track, _)| tracks.contains(track)) {
            face.reason = Reason::Cooldown(person);
            first |= !std::mem::replace(&mut face.refused, true);
        }
        self.turn_attention();
        first
    }

    /// Nothing was decided about the face yet, or its last look spoke for somebody who
    /// was not let in.
    fn is_undecided(&self, track: TrackId) -> bool {
        let undecided = |reason| matches!(reason, Reason::NotYet(..) | Reason::Cooldown(_));
        self.faces.get(&track).is_none_or(|face| !face.settled || undecided(face.reason))
    }

    /// One more frame that speaks for the same person would be enough.
    fn nearly_opens(&self, face: &Evidence) -> bool {
        let agreeing = |person: &Option<PersonId>| {
            person.is_some() && face.votes.iter().filter(|vote| *vote == person).count() + 1 >= self.rules.confirm
        };
        face.votes.iter().any(agreeing)
    }

    /// A visit lasts as long as the face it began with is followed, recognised in this frame or not.
    fn keep_visit_alive(&mut self, track: TrackId, at: Instant) {
        if let Some(visit) = self.visits.values_mut().find(|visit| visit.tracks.contains(&track)) {
            visit.last_seen = visit.last_seen.max(at);
        }
    }

    fn judge_face(
        &mut self,
        observation: &Observation,
        faces_in_view: usize,
        limits: Limits,
        captured_at: Instant,
    ) -> Decision {
        let matched = match observation.sighting {
            Sighting::Rejected(flaw) => return Decision::Stay(Reason::NotGoodEnough(flaw)),
            Sighting::Skipped => return Decision::Stay(Reason::Skipped),
            Sighting::EmptyGallery => None,
            Sighting::Matched(matched) => Some(matched),
        };
        let vote = if self.rules.refuse_several_faces && faces_in_view > 1 {
            Err(Reason::SeveralFaces(faces_in_view))
        } else {
            self.person_of(matched, limits)
        };
        let agreeing = self.count_vote(observation.track, vote.ok().map(|matched| matched.person), captured_at);
        self.note_distance(observation.track, matched, limits, vote.is_err_and(|reason| reason.is_unknown()));
        let matched = match vote {
            Err(reason) => return Decision::Stay(reason),
            Ok(matched) => matched,
        };
        let person = matched.person;
        if let Some(visit) = self.visits.get_mut(&person) {
            visit.last_seen = visit.last_seen.max(captured_at);
            if !visit.tracks.contains(&observation.track) {
                visit.tracks.push(observation.track);
            }
            return Decision::Stay(Reason::SameVisit(person));
        }
        if agreeing < self.rules.confirm {
            return Decision::Stay(Reason::NotYet(person, agreeing));
        }
        let since = |last| captured_at.saturating_duration_since(last);
        if self.last_grant.is_some_and(|last| since(last) < self.rules.cooldown)
            || self.retry_at.is_some_and(|at| captured_at < at)
        {
            return Decision::Stay(Reason::Cooldown(person));
        }
        self.grant(observation.track, matched, limits, captured_at)
    }

    /// The match, if this frame speaks for somebody. A distance or spread that is not a number speaks for nobody.
    fn person_of(&self, matched: Option<Match>, limits: Limits) -> Result<Match, Reason> {
        let matched = matched.ok_or(Reason::NobodyEnrolled)?;
        let Match { person, distance, spread, runner_up } = matched;
        let limit = limits.at(spread);
        let near = distance <= limit;
        if !near {
            return Err(Reason::Unknown(person, distance, limit));
        }
        match runner_up {
            None => Ok(matched),
            Some((_, next)) if next - distance >= self.rules.margin => Ok(matched),
            Some(next) => Err(Reason::Ambiguous((person, distance), next)),
        }
    }

    /// Adds a usable frame to the face's window; how many frames of the window speak for the same person.
    fn count_vote(&mut self, track: TrackId, vote: Option<PersonId>, at: Instant) -> usize {
        let window = self.rules.window;
        let face = self.faces.entry(track).or_insert_with(|| Evidence::new(at));
        if face.usable == 0 {
            face.first_usable = at;
        }
        face.usable += 1;
        face.votes.push_back(vote);
        while face.votes.len() > window {
            face.votes.pop_front();
        }
        face.votes.iter().filter(|earlier| vote.is_some() && **earlier == vote).count()
    }

    fn note_distance(&mut self, track: TrackId, matched: Option<Match>, limits: Limits, unknown: bool) {
        let window = self.rules.window;
        let Some(face) = self.faces.get_mut(&track) else { return };
        let distance = matched.map(|matched| limits.as_single(matched.distance, matched.spread));
        face.was_within |= distance.is_some_and(|distance| distance <= limits.single);
        face.distances.push_back(distance.filter(|_| unknown));
        while face.distances.len() > window {
            face.distances.pop_front();
        }
    }

    fn grant(&mut self, track: TrackId, matched: Match, limits: Limits, at: Instant) -> Decision {
        let Match { person, distance, spread, .. } = matched;
        self.last_grant = Some(at);
        self.visits.insert(person, Visit { tracks: vec![track], last_seen: at });
        let (frames, first_usable) =
            self.faces.get(&track).map_or((1, at), |face| (face.frames + 1, face.first_usable));
        Decision::Open(Grant { person, distance, limit: limits.at(spread), frames, first_usable })
    }

    /// Notes the frame; the denial, if this face's whole window has spoken for nobody.
    fn remember(&mut self, observation: &Observation, decision: &Decision, at: Instant) -> Option<Denial> {
        let (window, confirm) = (self.rules.window, self.rules.confirm);
        let face = self.faces.entry(observation.track).or_insert_with(|| Evidence::new(at));
        face.frames += 1;
        face.last_seen = face.last_seen.max(at);
        match decision {
            Decision::Open(Grant { person, .. }) | Decision::Stay(Reason::SameVisit(person)) => {
                face.settled = true;
                face.reason = Reason::SameVisit(*person);
            }
            Decision::Stay(Reason::Stale | Reason::Skipped) => {}
            Decision::Stay(Reason::NotGoodEnough(_)) if face.usable > 0 => {}
            Decision::Stay(reason) => face.reason = *reason,
        }
        let in_vain = face.votes.len() >= window && face.votes.iter().all(Option::is_none);
        (in_vain && !face.settled).then(|| {
            face.settled = true;
            Denial { track: observation.track, reason: face.reason, frames: face.frames, near: face.near(confirm) }
        })
    }

    /// Faces out of sight for `visit_gap` are forgotten; those about which nothing was said yet, and that were seen more than once, are denied.
    fn forget_faces_that_left(&mut self, now: Instant) -> Vec<Denial> {
        let gap = self.rules.visit_gap;
        let mut denials = Vec::new();
        self.faces.retain(|&track, face| {
            let here = now.saturating_duration_since(face.last_seen) < gap;
            // One frame alone is as often a pattern on a coat as a face: it makes no line in the log.
            if !here && !face.settled && face.frames > 1 {
                denials.push(Denial { track, reason: face.reason, frames: face.frames, near: None });
            }
            here
        });
        denials.sort_by_key(|denial| denial.track);
        denials
    }
}

impl Evidence {
    fn new(at: Instant) -> Evidence {
        Evidence {
            votes: VecDeque::new(),
            distances: VecDeque::new(),
            was_within: false,
            frames: 0,
            usable: 0,
            first_usable: at,
            last_seen: at,
            reason: Reason::Stale,
            settled: false,
            refused: false,
        }
    }

    /// The limit at which `confirm` frames of a window of strangers' frames would have agreed.
    fn near(&self, confirm: usize) -> Option<f32> {
        let mut distances = self.distances.iter().copied().collect::<Option<Vec<f32>>>()?;
        distances.sort_by(f32::total_cmp);
        distances.get(confirm.checked_sub(1)?).copied().filter(|_| !self.was_within)
    }
}

#[cfg(test)]
mod tests;
