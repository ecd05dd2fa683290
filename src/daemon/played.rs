//! A visit played from pictures through the daemon's pipeline and policy, on the frames' clock.
//!
//! Nothing is driven, recorded or waited for.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    camera::{CameraError, files},
    gallery::PersonId,
    policy::{Decision, Denial, Policy, Reason, Verdict},
    service::Services,
    sight::SightError,
    vision::{VisionError, frame::Frame},
};

/// From one frame of a played visit to the next.
pub const PERIOD: Duration = Duration::from_millis(100);

/// How a visit went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlayedVisit {
    /// The people for whom the door opened.
    pub opened: Vec<PersonId>,
    /// Why it stayed shut: the last denial of a face that was good enough, of any face, or
    /// else the last reason of a frame.
    denied: Option<Reason>,
    stayed: Option<Reason>,
    /// Frames that could not be decoded; as in the daemon, they are skipped.
    pub broken: usize,
}

impl PlayedVisit {
    /// Why the visit ended without opening, in one word: [`Reason::word`], or `no_face`.
    pub fn reason(&self) -> &'static str {
        self.denied.or(self.stayed).map_or("no_face", |reason| reason.word())
    }

    fn note(&mut self, verdict: &Verdict) {
        self.opened.extend(verdict.grants().map(|grant| grant.person));
        for (_, decision) in &verdict.decisions {
            if let Decision::Stay(reason) = decision
                && !matches!(reason, Reason::Skipped)
            {
                self.stayed = Some(*reason);
            }
        }
        // A face in the background that is too small says nothing of the visitor's.
        let poor = |reason: &Reason| matches!(reason, Reason::NotGoodEnough(_) | Reason::Stale);
        for Denial { reason, .. } in &verdict.denials {
            if !poor(reason) || self.denied.is_none() {
                self.denied = Some(*reason);
            }
        }
    }
}

/// Why a visit cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error(transparent)]
    Frame(#[from] CameraError),
    #[error(transparent)]
    Vision(#[from] VisionError),
}

/// Plays pictures as one visit, a frame every [`PERIOD`], at a door that saw nothing before.
///
/// # Errors
/// A file is no picture, or a net failed.
pub fn play_visit(services: &Services, pictures: &[PathBuf]) -> Result<PlayedVisit, PlayError> {
    let (roster, mut sight) = (services.roster(), services.sight());
    let (mut policy, mut visit) = (Policy::new(services.rules), PlayedVisit::default());
    let (limits, start) = (roster.threshold.limits, Instant::now());
    let mut at = start;
    for (number, path) in (0u32..).zip(pictures) {
        at = start + PERIOD * number;
        let frame = Frame { captured_at: at, ..files::read_frame(path, number.into())? };
        match sight.look(&frame, &roster.gallery, policy.attention()) {
            Ok(observations) => visit.note(&policy.judge(&observations, limits, at, at)),
            Err(SightError::Frame(_)) => visit.broken += 1,
            Err(SightError::Vision(error)) => return Err(error.into()),
        }
    }
    // The visitor leaves: what was undecided so far is denied.
    let left = at + services.rules.visit_gap;
    visit.note(&policy.judge(&[], limits, left, left));
    Ok(visit)
}
