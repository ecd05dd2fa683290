//! From a frame to what is seen in it, doing no more than the frame is worth.
//!
//! Nearly all frames of a door show nothing new. What is done about a frame is, from cheap to dear:
//!
//! 1. its luma is compared with that of the last search, cell by cell ([`crate::vision::motion`]);
//! 2. faces that are followed are confirmed where they were, by O-Net alone, on the part of the picture around them;
//! 3. the picture is searched by the whole cascade: when something moved away from the followed faces, when one of them was
//!    lost, before a look that may count, and now and then in any case;
//! 4. a face about which nothing is decided yet is aligned, judged and embedded; one that was decided on only now and then, in case
//!    somebody else stands there.
//!
//! A look that may count is one at an undecided face that is good enough: the picture is searched first, so that whoever else is
//! in it is known before somebody is let in. The look that may open is preceded by a finer search, see [`SMALLER`].

mod upright;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use image::{RgbImage, imageops};

use crate::{
    gallery::Gallery,
    sighting::{Attention, Observation, Sighting},
    vision::{
        Vision, VisionError,
        align::AlignedFace,
        embed::{EmbedError, Embedding},
        frame::{Frame, FrameError},
        fuse::{Fuser, Probe},
        geometry::{BoundingBox, Detection},
        motion::{self, Motion},
        mtcnn::MtcnnSettings,
        pixels::{CELL, turned},
        quality::{Flaw, Quality, QualityLimits},
        resize::Region,
        track::{TrackId, Tracker},
    },
};
use upright::UprightWatch;

/// With nobody in view the picture is searched this often even if nothing moved: somebody may stand still in poor light ...
const SEARCH_IDLE: Duration = Duration::from_secs(2);
/// ... with somebody in view this often, since what moves there hides other movement ...
const SEARCH_OCCUPIED: Duration = Duration::from_secs(1);
/// ... and no oftener than this while something moves: at 15 frames a second every second frame.
const SEARCH_MOVING: Duration = Duration::from_millis(100);
/// Faces that are all decided on are confirmed this often, well within any gap between two visits.
const CONFIRM_DECIDED: Duration = Duration::from_millis(200);
/// A face that was decided on is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// This share of the cells that the smallest face covers must change to be worth a search.
const MOVED_SHARE: f32 = 1.0 / 6.0;
/// A confirmed face that overlaps less with where it was is another one; two that overlap more are one.
const SAME_PLACE: f32 = 0.3;
/// So far around a face, in sides of its box from its middle, the picture is needed: its aligned cut reaches .95 if the head
/// is tilted, and it may have moved by half a side.
const AROUND: f32 = 1.5;
/// So far around a face a portrait reaches, in sides of its box from its middle: less than what is decoded.
const PORTRAIT: f32 = 1.0;
/// Two looks whose aligned faces differ by less in every cell (mean luma) are one: a face that was
/// decided on is not embedded again for it, and it makes no portrait.
const SAME_LOOK: f32 = 2.0;

/// Before the door opens the picture is searched for faces down to this share of the smallest that is let in: two levels of
/// the detector's pyramid. A person a step behind counts as one more face in view.
pub const SMALLER: f32 = 0.5027;
/// Minimum probabilities of such a face at P-, R- and O-Net. The last is lower than elsewhere: it finds
/// more people half hidden or in profile. Lower ones at P- and R-Net take things for faces
/// (docs/accuracy-hidden.md).
pub const SMALLER_THRESHOLDS: [f32; 3] = [0.6, 0.7, 0.5];

/// Follows faces through frames.
pub struct Sight {
    vision: Vision,
    /// The same nets looking for smaller faces.
    finer: Vision,
    tracker: Tracker,
    fuser: Fuser,
    limits: QualityLimits,
    /// Degrees, clockwise: 0, 90, 180 or 270.
    rotate: u32,
    motion: Motion,
    /// As the camera gave it, and upright if that is not the same. They hold what was decoded last.
    decoded: RgbImage,
    turned: RgbImage,
    /// The faces of the last frame that was examined.
    present: Vec<(TrackId, Detection)>,
    looks: HashMap<TrackId, LastLook>,
    /// Whether somebody wants portraits, and of the last frame those that were new.
    keep_portraits: bool,
    portraits: Vec<Portrait>,
    /// The face that is being enrolled from the camera: looked at in every frame.
    sitter: Option<TrackId>,
    upright: UprightWatch,
    searched_at: Option<Instant>,
    confirmed_at: Option<Instant>,
    tally: Tally,
    spent: Spent,
}

/// The last time a face was examined.
struct LastLook {
    at: Instant,
    /// Its pixels then, and at the looks before, newest last: as many as may be repeated in a loop
    /// without enough different ones for a grant.
    pixels: VecDeque<Cut>,
    /// The last look that was good enough to embed.
    embedded: Option<(Vec<f32>, Probe)>,
}

/// A face cut out of its frame with some of what is around it, so that it can be enrolled like any picture.
#[derive(Clone, Debug)]
pub struct Portrait {
    pub track: TrackId,
    pub picture: RgbImage,
    /// See [`crate::vision::quality::Quality`].
    pub sharpness: f32,
    pub embedding: Embedding,
}

/// A part of a picture, and where its left upper corner was.
struct Cut {
    x: u32,
    y: u32,
    picture: RgbImage,
}

impl Cut {
    /// Samples of a row from there on.
    fn row(&self, x: u32, y: u32, samples: usize) -> &[u8] {
        let begin = ((y - self.y) * self.picture.width() + x - self.x) as usize * 3;
        &self.picture.as_raw()[begin..begin + samples]
    }

    /// Whether two cuts overlap by half of this one and are the same there, bit by bit: a camera's
    /// noise alone makes a difference.
    fn shows_the_same_as(&self, other: &Cut) -> bool {
        let (left, top) = (self.x.max(other.x), self.y.max(other.y));
        let right = (self.x + self.picture.width()).min(other.x + other.picture.width());
        let bottom = (self.y + self.picture.height()).min(other.y + other.picture.height());
        let overlap = right.saturating_sub(left) * bottom.saturating_sub(top);
        let width = (right.saturating_sub(left)) as usize * 3;
        overlap > 0
            && overlap >= self.picture.width() * self.picture.height() / 2
            && (top..bottom).all(|y| self.row(left, y, width) == other.row(left, y, width))
    }
}

/// A face of the frame that is being looked at.
struct Seen {
    track: TrackId,
    face: Detection,
    look: Look,
}

enum Look {
    NotDue,
    /// Landmarks that cannot be aligned: there is nothing to say about such a face.
    Degenerate,
    /// There is nothing new of this face in the frame.
    Unchanged,
    Flawed(Flaw),
    Good(Quality, AlignedFace),
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames searched by the whole cascade.
    pub searched: u64,
    /// Faces confirmed by O-Net.
    pub confirmed: u64,
    /// Faces aligned and judged.
    pub examined: u64,
    /// Faces embedded.
    pub embedded: u64,
    /// Of the frames searched, those in which smaller faces were looked for too.
    pub finer: u64,
}

/// The time that was spent since the start, on the thread that looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub decode: Duration,
    pub motion: Duration,
    pub search: Duration,
    pub confirm: Duration,
    /// Alignment and quality.
    pub examine: Duration,
    /// Embedding and search in the gallery.
    pub embed: Duration,
}

impl Spent {
    /// Each stage with its name.
    pub fn stages(&self) -> [(&'static str, Duration); 6] {
        [
            ("decode", self.decode),
            ("motion", self.motion),
            ("search", self.search),
            ("confirm", self.confirm),
            ("examine", self.examine),
            ("embed", self.embed),
        ]
    }
}

/// Why a frame could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum SightError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Vision(#[from] VisionError),
}

impl From<EmbedError> for SightError {
    fn from(error: EmbedError) -> SightError {
        SightError::Vision(error.into())
    }
}

impl Sight {
    pub fn new(vision: Vision, tracker: Tracker, fuser: Fuser, limits: QualityLimits, rotate: u32) -> Sight {
        let MtcnnSettings { min_face, .. } = vision.settings();
        let settings = MtcnnSettings { min_face: (min_face * SMALLER).max(12.0), thresholds: SMALLER_THRESHOLDS };
        Sight {
            finer: vision.with_settings(settings),
            vision,
            tracker,
            fuser,
            limits,
            rotate,
            motion: Motion::default(),
            decoded: RgbImage::default(),
            turned: RgbImage::default(),
            present: Vec::new(),
            looks: HashMap::new(),
            keep_portraits: false,
            portraits: Vec::new(),
            sitter: None,
            upright: UprightWatch::default(),
            searched_at: None,
            confirmed_at: None,
            tally: Tally::default(),
            spent: Spent::default(),
        }
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// The faces of the last frame that was examined; most frames are not.
    pub fn present(&self) -> &[(TrackId, Detection)] {
        &self.present
    }

    /// The template that the face was compared by last, while it is followed.
    pub fn template(&self, track: TrackId) -> Option<&Embedding> {
        let (_, probe) = self.looks.get(&track)?.embedded.as_ref()?;
        Some(&probe.embedding)
    }

    /// From now on portraits are made of faces that are good enough, or no longer.
    pub fn keep_portraits(&mut self, keep: bool) {
        self.keep_portraits = keep;
    }

    /// The portraits of the last frame: none when its faces looked as before.
    pub fn take_portraits(&mut self) -> Vec<Portrait> {
        std::mem::take(&mut self.portraits)
    }

    /// This face is being enrolled: it is looked at in every frame, decided on or not.
    pub fn sit(&mut self, sitter: Option<TrackId>) {
        if sitter.is_some() && sitter != self.sitter {
            // Its last look counts as new: whoever holds still has only that one.
            if let Some(last) = sitter.and_then(|track| self.looks.get_mut(&track)) {
                (last.embedded, last.pixels) = (None, VecDeque::new());
            }
        }
        self.sitter = sitter;
    }

    fn wants(&self, track: TrackId, attention: &Attention) -> bool {
        attention.wants(track) || self.sitter == Some(track)
    }

    /// What there is to say about a frame. Faces that are still there but were not worth a look in it are left out.
    ///
    /// # Errors
    /// The frame is broken, or a net failed.
    pub fn look(
        &mut self,
        frame: &Frame,
        gallery: &Gallery,
        attention: &Attention,
    ) -> Result<Vec<Observation>, SightError> {
        let at = frame.captured_at;
        self.portraits.clear();
        let due = |since: Option<Instant>, every: Duration| {
            since.is_none_or(|since| at.saturating_duration_since(since) >= every)
        };
        let mut whole = false;
        let begun = Instant::now();
        let raw = self.motion.look(frame)?;
        self.spent.motion += begun.elapsed();
        if !raw {
            whole = self.decode(frame, frame.region())?;
            self.motion.look_at_picture(&self.decoded);
        }
        let nobody = self.present.is_empty();
        let begun = Instant::now();
        let moved = self.moved(frame);
        self.spent.motion += begun.elapsed();
        let mut search = due(self.searched_at, if nobody { SEARCH_IDLE } else { SEARCH_OCCUPIED })
            || moved && due(self.searched_at, SEARCH_MOVING);
        let undecided = self.present.iter().any(|(track, _)| self.wants(*track, attention));
        let confirm = !nobody && (search || undecided || due(self.confirmed_at, CONFIRM_DECIDED));
        if !search && !confirm {
            return Ok(Vec::new());
        }

        if !whole {
            let region = if search || self.rotate != 0 { frame.region() } else { self.around_faces(frame) };
            whole = self.decode(frame, region)?;
        }
        let mut seen = Vec::new();
        if confirm {
            self.confirmed_at = Some(at);
            seen = self.confirm(at, attention)?;
            search |= seen.len() < self.present.len();
        }
        search |= attention.alone && seen.iter().any(|seen| matches!(seen.look, Look::Good(..)));
        if search {
            if !whole {
                self.decode(frame, frame.region())?;
            }
            let finer = may_open(&seen, attention);
            self.search(at, attention, &mut seen, finer)?;
            // A face found this moment may open where one frame is enough.
            if !finer && may_open(&seen, attention) {
                self.search(at, attention, &mut seen, true)?;
            }
            if moved {
                self.watch_turn(&seen, at)?;
            }
        }
        self.looks.retain(|track, _| self.tracker.follows(*track));
        self.present = seen.iter().map(|seen| (seen.track, seen.face)).collect();
        let observed = seen.into_iter().filter_map(|seen| self.observe(seen, at, gallery, attention).transpose());
        observed.collect()
    }

    /// The faces of the last examined frame that are still where they were.
    fn confirm(&mut self, at: Instant, attention: &Attention) -> Result<Vec<Seen>, VisionError> {
        let mut confirmed: Vec<Seen> = Vec::new();
        for (track, before) in std::mem::take(&mut self.present) {
            self.tally.confirmed += 1;
            let picture = if self.rotate == 0 { &self.decoded } else { &self.turned };
            let begun = Instant::now();
            let found = self.vision.confirm(picture, &before.bounding_box)?;
            self.spent.confirm += begun.elapsed();
            let found = found.filter(|face| {
                let overlap = |other: &Detection| other.bounding_box.iou(&face.bounding_box);
                overlap(&before) >= SAME_PLACE && confirmed.iter().all(|other| overlap(&other.face) < SAME_PLACE)
            });
            self.present.push((track, before));
            if let Some(face) = found {
                self.tracker.follow(track, face.bounding_box, at);
                confirmed.push(self.examine(track, face, at, attention));
            }
        }
        Ok(confirmed)
    }

    /// Adds the faces that are in the picture besides those seen already, the smaller ones too if `finer` says so.
    fn search(
        &mut self,
        at: Instant,
        attention: &Attention,
        seen: &mut Vec<Seen>,
        finer: bool,
    ) -> Result<(), VisionError> {
        self.tally.searched += 1;
        self.tally.finer += u64::from(finer);
        self.searched_at = Some(at);
        self.motion.searched();
        let known: Vec<Detection> = seen.iter().map(|seen| seen.face).collect();
        let picture = if self.rotate == 0 { &self.decoded } else { &self.turned };
        let begun = Instant::now();
        let vision = if finer { &mut self.finer } else { &mut self.vision };
        let found = vision.detect_beside(picture, &known)?;
        self.spent.search += begun.elapsed();
        let tracks = self.tracker.assign(&found, at);
        for (track, face) in tracks.into_iter().zip(found) {
            seen.push(self.examine(track, face, at, attention));
        }
        Ok(())
    }

    /// Looks now and then whether the camera is turned.
    fn watch_turn(&mut self, seen: &[Seen], at: Instant) -> Result<(), VisionError> {
        let certainty = seen.iter().map(|seen| seen.face.score).fold(0.0, f32::max);
        let picture = if self.rotate == 0 { &self.decoded } else { &self.turned };
        let begun = Instant::now();
        self.upright.look(&mut self.vision, picture, certainty, at)?;
        self.spent.search += begun.elapsed();
        Ok(())
    }

    /// What `camera.rotate` should be, if faces are found only in a frame that is turned otherwise; said once.
    pub fn take_rotation_advice(&mut self) -> Option<u32> {
        self.upright.take_advice().map(|degrees| (self.rotate + degrees) % 360)
    }

    /// Aligns and judges a face if that is due.
    fn examine(&mut self, track: TrackId, face: Detection, at: Instant, attention: &Attention) -> Seen {
        let last = self.looks.get(&track).map(|last| last.at);
        let again = last.is_none_or(|last| at.saturating_duration_since(last) >= LOOK_AGAIN);
        if !again && !self.wants(track, attention) {
            return Seen { track, face, look: Look::NotDue };
        }
        let pixels = self.cut(&face.bounding_box, 0.5);
        let last = self.looks.entry(track).or_insert(LastLook { at, pixels: VecDeque::new(), embedded: None });
        last.at = at;
        if last.pixels.iter().any(|before| pixels.shows_the_same_as(before)) {
            return Seen { track, face, look: Look::Unchanged };
        }
        last.pixels.push_back(pixels);
        if last.pixels.len() >= attention.confirm.max(2) {
            last.pixels.pop_front();
        }
        self.tally.examined += 1;
        let picture = if self.rotate == 0 { &self.decoded } else { &self.turned };
        let begun = Instant::now();
        let look = match self.vision.look(picture, &face) {
            None => Look::Degenerate,
            Some((quality, aligned)) => match quality.check(&self.limits) {
                Err(flaw) => Look::Flawed(flaw),
                Ok(()) => Look::Good(quality, aligned),
            },
        };
        self.spent.examine += begun.elapsed();
        Seen { track, face, look }
    }

    fn observe(
        &mut self,
        seen: Seen,
        at: Instant,
        gallery: &Gallery,
        attention: &Attention,
    ) -> Result<Option<Observation>, SightError> {
        let sighting = match seen.look {
            Look::Degenerate => return Ok(None),
            Look::NotDue | Look::Unchanged => Sighting::Skipped,
            Look::Flawed(flaw) => Sighting::Rejected(flaw),
            Look::Good(quality, aligned) => {
                let begun = Instant::now();
                // A look that may become a vote is embedded again.
                let reuse = !self.wants(seen.track, attention);
                let probe = self.probe(seen.track, &seen.face, quality, &aligned, at, reuse)?;
                let matched = gallery.search_fused(&probe);
                self.spent.embed += begun.elapsed();
                matched.map_or(Sighting::EmptyGallery, Sighting::Matched)
            }
        };
        Ok(Some(Observation { track: seen.track, sighting }))
    }

    /// The probe made of this look and those before it. With `reuse`, a look that shows hardly
    /// anything new gets the last probe.
    fn probe(
        &mut self,
        track: TrackId,
        face: &Detection,
        quality: Quality,
        aligned: &AlignedFace,
        at: Instant,
        reuse: bool,
    ) -> Result<Probe, EmbedError> {
        let cells = motion::cells(&aligned.0);
        let last = self.looks.get(&track).and_then(|last| last.embedded.as_ref());
        let same =
            last.filter(|(before, _)| before.iter().zip(&cells).all(|(before, now)| (before - now).abs() < SAME_LOOK));
        let new = same.is_none();
        if let Some((_, probe)) = same.filter(|_| reuse) {
            return Ok(probe.clone());
        }
        self.tally.embedded += 1;
        let embedding = self.vision.embedder().embed(aligned)?;
        if new && (self.keep_portraits || self.sitter == Some(track)) {
            let picture = self.cut(&face.bounding_box, PORTRAIT).picture;
            self.portraits.push(Portrait {
                track,
                picture,
                sharpness: quality.sharpness,
                embedding: embedding.clone(),
            });
        }
        let last = self.looks.get_mut(&track);
        let probe = self.fuser.add(track, embedding, at)?;
        if let Some(last) = last {
            // What hardly differs is compared with the same look as before: slow changes add up.
            let cells = last.embedded.take().filter(|_| !new).map_or(cells, |(before, _)| before);
            last.embedded = Some((cells, probe.clone()));
        }
        Ok(probe)
    }

    /// The face and its surroundings up to `reach` sides of its box from its middle, as far as
    /// the picture goes.
    fn cut(&self, face: &BoundingBox, reach: f32) -> Cut {
        let picture = if self.rotate == 0 { &self.decoded } else { &self.turned };
        let (center, reach) = (face.center(), face.side() * reach);
        let (x1, y1) = ((center.x - reach).max(0.0) as u32, (center.y - reach).max(0.0) as u32);
        let (x2, y2) = ((center.x + reach) as u32, (center.y + reach) as u32);
        let (x2, y2) = (x2.min(picture.width()), y2.min(picture.height()));
        let picture = imageops::crop_imm(picture, x1, y1, x2.saturating_sub(x1), y2.saturating_sub(y1)).to_image();
        Cut { x: x1, y: y1, picture }
    }

    /// Decodes at least a region (in the camera's own coordinates) and turns the picture upright if it is not. Whether all of the frame
    /// was decoded comes back.
    fn decode(&mut self, frame: &Frame, region: Region) -> Result<bool, FrameError> {
        let begun = Instant::now();
        let decoded = frame.decode(region, &mut self.decoded)?;
        if self.rotate != 0 {
            self.turned = turned(&self.decoded, self.rotate);
        }
        self.spent.decode += begun.elapsed();
        Ok(decoded == frame.region())
    }

    /// The part of the frame around the faces that are followed, all of it needed to confirm and to align them.
    fn around_faces(&self, frame: &Frame) -> Region {
        let (mut x1, mut y1, mut x2, mut y2) = (frame.width, frame.height, 0, 0);
        for (_, face) in &self.present {
            let (center, reach) = (face.bounding_box.center(), face.bounding_box.side() * AROUND);
            // A cast keeps what is negative at 0.
            (x1, y1) = (x1.min((center.x - reach) as u32), y1.min((center.y - reach) as u32));
            (x2, y2) = (x2.max((center.x + reach) as u32), y2.max((center.y + reach) as u32));
        }
        let (x2, y2) = (x2.min(frame.width), y2.min(frame.height));
        Region { x: x1.min(x2), y: y1.min(y2), width: x2 - x1.min(x2), height: y2 - y1.min(y2) }
    }

    /// Whether enough changed since the last search, away from the faces that are known, to be a face.
    fn moved(&mut self, frame: &Frame) -> bool {
        let (width, height) = (frame.width as f32, frame.height as f32);
        let known: Vec<BoundingBox> =
            self.present.iter().map(|(_, face)| as_captured(with_body(face), self.rotate, width, height)).collect();
        let cells = self.vision.settings().min_face / CELL as f32;
        self.motion.changed_outside(&known) as f32 >= (cells * cells * MOVED_SHARE).max(1.0)
    }
}

/// Whether a look at one of these faces may open the door if it is alone.
fn may_open(seen: &[Seen], attention: &Attention) -> bool {
    let good = |seen: &Seen| matches!(seen.look, Look::Good(..)) && attention.may_open(seen.track);
    attention.alone && seen.iter().any(good)
}

/// The part of an upright picture that moves with a face: head, shoulders and all below.
fn with_body(face: &Detection) -> BoundingBox {
    let (center, side) = (face.bounding_box.center(), face.bounding_box.side());
    BoundingBox { x1: center.x - 1.5 * side, y1: center.y - 1.2 * side, x2: center.x + 1.5 * side, y2: f32::INFINITY }
}

/// A box of the upright picture in the camera's coordinates; `width` and `height` are the camera's.
fn as_captured(b: BoundingBox, rotate: u32, width: f32, height: f32) -> BoundingBox {
    let BoundingBox { x1, y1, x2, y2 } = b;
    match rotate {
        90 => BoundingBox { x1: y1, y1: height - x2, x2: y2, y2: height - x1 },
        180 => BoundingBox { x1: width - x2, y1: height - y2, x2: width - x1, y2: height - y1 },
        270 => BoundingBox { x1: width - y2, y1: x1, x2: width - y1, y2: x2 },
        _ => b,
    }
}
