//! The border between sight and policy: what was seen of a face, and which faces deserve
//! a look.

use std::collections::HashSet;

use crate::{
    gallery::Match,
    vision::{quality::Flaw, track::TrackId},
};

/// One face of one frame, as the vision part and the gallery saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    pub track: TrackId,
    pub sighting: Sighting,
}

/// What there is to say about a face.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sighting {
    /// The gallery's answer to the probe fused up to this frame.
    Matched(Match),
    /// There is nobody whom it could be compared with.
    EmptyGallery,
    /// Not good enough to be compared.
    Rejected(Flaw),
    /// The face is there, but brings no evidence: it was decided on, or the frame shows
    /// nothing new of it.
    Skipped,
}

impl Sighting {
    pub fn matched(&self) -> Option<Match> {
        if let Sighting::Matched(matched) = self { Some(*matched) } else { None }
    }
}

/// Which faces deserve a look, as of the last decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Faces decided on: these need a look only now and then, in case another person
    /// stands there.
    pub decided: HashSet<TrackId>,
    /// Faces for which all frames but one agree.
    pub nearly_open: HashSet<TrackId>,
    /// Frames that must agree before the door opens.
    pub confirm: usize,
    /// A face is let in only while it is alone in the picture.
    pub alone: bool,
}

impl Attention {
    /// Whether a look could change anything now.
    pub fn wants(&self, track: TrackId) -> bool {
        !self.decided.contains(&track)
    }

    /// Whether the next look at the face may open: the moment to see whether it is alone.
    pub fn may_open(&self, track: TrackId) -> bool {
        self.wants(track) && (self.confirm <= 1 || self.nearly_open.contains(&track))
    }
}
