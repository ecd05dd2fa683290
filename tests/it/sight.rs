//! How much is done about a frame, and that nothing is missed by doing less.

use std::time::{Duration, Instant};

use facelatch::{
    gallery::{Gallery, PersonId, Template, TemplateFusion},
    policy::{Limits, Policy, Rules, Verdict},
    sight::{Sight, Tally},
    vision::{
        Vision,
        frame::{Frame, PixelFormat},
        fuse::{FuseRules, Fuser},
        model::Precision,
        pixels::turned,
        quality::QualityLimits,
        track::Tracker,
    },
};
use image::{Rgb, RgbImage, imageops};

use crate::support::{portrait, vision};

const SIZE: (u32, u32) = (640, 480);
const FRAME: Duration = Duration::from_millis(66);
const OBAMA: PersonId = PersonId(1);
const BIDEN: PersonId = PersonId(2);

/// A portrait pasted with its left upper corner there.
type Person = (&'static str, (i64, i64));

/// A wall, and people before it; of so much light, with a little noise.
fn scene(people: &[Person], light: f32, seed: u32) -> RgbImage {
    let mut picture = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| Rgb([(90 + x / 20 + y / 30) as u8; 3]));
    for (name, (x, y)) in people {
        let person = imageops::resize(&portrait(name), 240, 240, imageops::FilterType::Triangle);
        imageops::overlay(&mut picture, &person, *x, *y);
    }
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    for sample in picture.iter_mut() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *sample = (f32::from(*sample) * light + (state % 9) as f32 - 4.0).clamp(0.0, 255.0) as u8;
    }
    picture
}

fn yuyv(picture: &RgbImage) -> Vec<u8> {
    let yuv = |&Rgb([r, g, b]): &Rgb<u8>| {
        let [r, g, b] = [r, g, b].map(f32::from);
        let y = 16.0 + 0.257 * r + 0.504 * g + 0.098 * b;
        [y, 128.0 - 0.148 * r - 0.291 * g + 0.439 * b, 128.0 + 0.439 * r - 0.368 * g - 0.071 * b]
    };
    let pixels: Vec<[f32; 3]> = picture.pixels().map(yuv).collect();
    let pair = |[a, b]: &[[f32; 3]; 2]| [a[0], (a[1] + b[1]) / 2.0, b[0], (a[2] + b[2]) / 2.0].map(|v| v as u8);
    pixels.as_chunks::<2>().0.iter().flat_map(pair).collect()
}

/// A door with two people enrolled, and a clock.
struct Door {
    sight: Sight,
    policy: Policy,
    gallery: Gallery,
    now: Instant,
    seed: u32,
    /// By how much the camera itself is turned, clockwise.
    hangs: u32,
    /// A portrait of this size is behind the others.
    behind: Option<(Person, u32)>,
    verdicts: Vec<Verdict>,
}

impl Door {
    fn new(rotate: u32) -> Door {
        let mut vision = vision(Precision::W8, 80.0);
        let model = vision.embedder().model();
        let mut template = |person, name| Template { person, embedding: embedding(&mut vision, name) };
        let enrolled = [template(OBAMA, "barack_obama_1.png"), template(BIDEN, "joe_biden_1.png")];
        let gallery = Gallery::new(model, TemplateFusion::Mean, &enrolled);
        let visit_gap = Duration::from_secs(3);
        let rules = Rules {
            margin: 0.05,
            confirm: 3,
            window: 5,
            refuse_several_faces: true,
            visit_gap,
            cooldown: Duration::from_secs(2),
            max_decision_age: Duration::from_secs(1),
        };
        let limits = QualityLimits {
            min_face_px: 60.0,
            min_sharpness: 0.2,
            min_brightness: 40.0,
            max_brightness: 220.0,
            max_turn: 0.6,
        };
        let fuser = Fuser::new(FuseRules { window: 5, same_face: 0.5, one_moment: 0.14, keep: visit_gap });
        let sight = Sight::new(vision, Tracker::new(visit_gap), fuser, limits, rotate);
        Door {
            sight,
            policy: Policy::new(rules),
            gallery,
            now: Instant::now(),
            seed: 1,
            hangs: rotate,
            behind: None,
            verdicts: Vec::new(),
        }
    }

    /// What the camera sends of a scene.
    fn frame(&mut self, people: &[Person], light: f32) -> Frame {
        self.seed += 1;
        let mut upright = scene(people, light, self.seed);
        if let Some(((name, (x, y)), size)) = self.behind {
            let person = imageops::resize(&portrait(name), size, size, imageops::FilterType::Triangle);
            imageops::overlay(&mut upright, &person, x, y);
        }
        let picture = turned(&upright, (360 - self.hangs) % 360);
        self.now += FRAME;
        let (width, height) = picture.dimensions();
        let (bytes, format, captured_at) = (yuyv(&picture), PixelFormat::Yuyv, self.now);
        Frame { bytes, format, width, height, stride: 0, sequence: 0, captured_at }
    }

    fn look(&mut self, frame: &Frame) -> Verdict {
        let observations = self.sight.look(frame, &self.gallery, self.policy.attention()).unwrap();
        let limits = Limits { single: 0.36, shrink: 0.0 };
        self.policy.judge(&observations, limits, frame.captured_at, frame.captured_at)
    }

    /// Shows the same for so many frames, and what was done in them.
    fn watch(&mut self, frames: u32, people: &[Person], light: impl Fn(u32) -> f32) -> Tally {
        let before = self.sight.tally();
        for i in 0..frames {
            let frame = self.frame(people, light(i));
            let verdict = self.look(&frame);
            self.verdicts.push(verdict);
        }
        let after = self.sight.tally();
        Tally {
            searched: after.searched - before.searched,
            confirmed: after.confirmed - before.confirmed,
            examined: after.examined - before.examined,
            embedded: after.embedded - before.embedded,
            finer: after.finer - before.finer,
        }
    }

    fn let_in(&self) -> Vec<PersonId> {
        self.verdicts.iter().flat_map(Verdict::grants).map(|grant| grant.person).collect()
    }

    fn denied(&self) -> usize {
        self.verdicts.iter().map(|verdict| verdict.denials.len()).sum()
    }
}

fn embedding(vision: &mut Vision, name: &str) -> facelatch::vision::embed::Embedding {
    vision.faces(&portrait(name)).unwrap().remove(0).embedding
}

const KNOWN: Person = ("barack_obama_2.png", (60, 120));
const UNKNOWN: Person = ("eileen_collins_1.png", (340, 120));

#[test]
fn an_empty_doorway_costs_a_search_now_and_then() {
    let mut door = Door::new(0);
    // 3.3 s each; one search every two seconds.
    assert_eq!(door.watch(50, &[], |_| 1.0), Tally { searched: 2, ..Tally::default() });
    assert_eq!(door.watch(50, &[], |_| 1.0), Tally { searched: 2, ..Tally::default() });
    // A cloud.
    assert_eq!(door.watch(50, &[], |i| 1.0 - i as f32 / 200.0).confirmed, 0);
}

#[test]
fn a_frame_without_news_allocates_nothing() {
    let mut door = Door::new(0);
    door.watch(2, &[], |_| 1.0);
    let frames: Vec<Frame> = (0..20).map(|_| door.frame(&[], 1.0)).collect();
    let counted = allocation_counter::measure(|| frames.iter().for_each(|frame| drop(door.look(frame))));
    assert_eq!((counted.count_total, counted.bytes_total), (0, 0));
}

#[test]
fn a_known_person_is_embedded_until_let_in_and_then_now_and_then() {
    for rotate in [0, 90] {
        let mut door = Door::new(rotate);
        door.watch(2, &[], |_| 1.0);
        let came = door.watch(4, &[KNOWN], |_| 1.0);
        assert_eq!(door.let_in(), [OBAMA], "{rotate}: {came:?}");
        assert_eq!(came.embedded, 3, "{rotate}: each vote is a look of its own");
        let stays = door.watch(45, &[KNOWN], |_| 1.0);
        assert!(stays.searched <= 4 && stays.confirmed <= 16 && stays.examined <= 4, "{rotate}: {stays:?}");
        assert_eq!(door.let_in().len(), 1);
    }
}

#[test]
fn the_same_frame_again_is_no_vote() {
    for rotate in [0, 90] {
        let mut door = Door::new(rotate);
        door.watch(2, &[], |_| 1.0);
        let frozen = [door.frame(&[KNOWN], 1.0), door.frame(&[KNOWN], 1.0)];
        for tick in 0..60 {
            door.now += FRAME;
            // Two buffers that come in turns are no better than one.
            let shown = &frozen[usize::from(tick % 2)];
            let mut frame = Frame { captured_at: door.now, bytes: shown.bytes.clone(), ..*shown };
            // A clock in the corner goes on.
            frame.bytes[..2000].fill(tick);
            let verdict = door.look(&frame);
            door.verdicts.push(verdict);
        }
        assert_eq!((door.let_in().len(), door.sight.tally().embedded), (0, 2), "{rotate}");
        // The camera works again, and the person stands where she stood.
        door.watch(1, &[KNOWN], |_| 1.0);
        assert_eq!(door.let_in(), [OBAMA], "{rotate}");
    }
}

#[test]
fn an_unknown_person_is_denied_once_and_looked_at_again_now_and_then() {
    let mut door = Door::new(0);
    door.watch(2, &[], |_| 1.0);
    door.watch(60, &[UNKNOWN], |_| 1.0);
    assert_eq!((door.let_in().len(), door.denied()), (0, 1));
    let stays = door.watch(45, &[UNKNOWN], |_| 1.0);
    assert!(stays.examined <= 4, "{stays:?}");
}

#[test]
fn nobody_is_let_in_while_somebody_else_is_in_view_however_long_that_face_is_followed() {
    let mut door = Door::new(0);
    door.watch(20, &[UNKNOWN], |_| 1.0);
    door.watch(40, &[UNKNOWN, KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), []);
    // The other leaves; within a second the known one is looked at again.
    door.watch(25, &[KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), [OBAMA]);
}

#[test]
fn somebody_else_in_the_same_place_is_let_in_too() {
    let mut door = Door::new(0);
    door.watch(20, &[KNOWN], |_| 1.0);
    door.watch(60, &[("joe_biden_1.png", KNOWN.1)], |_| 1.0);
    assert_eq!(door.let_in(), [OBAMA, BIDEN]);
}

#[test]
fn a_face_a_step_behind_is_counted() {
    let mut door = Door::new(0);
    // Half as large as the smallest face that is let in.
    door.behind = Some((("eileen_collins_1.png", (420, 150)), 110));
    door.watch(40, &[KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), []);
    door.behind = None;
    door.watch(40, &[KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), [OBAMA]);
}

#[test]
fn a_face_half_in_view_is_counted() {
    let mut door = Door::new(0);
    // The right half lies beyond the picture's edge.
    door.behind = Some((("eileen_collins_1.png", (540, 140)), 200));
    door.watch(40, &[KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), []);
    door.behind = None;
    door.watch(40, &[KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), [OBAMA]);
}

#[test]
fn smaller_faces_are_searched_for_only_before_the_door_opens() {
    let mut door = Door::new(0);
    door.watch(2, &[], |_| 1.0);
    door.watch(8, &[KNOWN], |_| 1.0);
    assert_eq!(door.let_in(), [OBAMA]);
    assert_eq!(door.sight.tally().finer, 1);
    door.watch(45, &[KNOWN], |_| 1.0);
    door.watch(60, &[UNKNOWN], |_| 1.0);
    assert_eq!(door.sight.tally().finer, 1);
}

#[test]
fn a_camera_that_hangs_upside_down_is_noticed() {
    for (rotate, hangs, advice) in [(0, 180, 180), (0, 90, 90), (90, 270, 270)] {
        let mut door = Door::new(rotate);
        door.hangs = hangs;
        let mut advised = Vec::new();
        for step in 0..80 {
            let people: &[Person] = if step % 2 == 0 { &[] } else { &[UNKNOWN] };
            door.now += Duration::from_secs(1);
            door.watch(1, people, |_| 1.0);
            advised.extend(door.sight.take_rotation_advice());
        }
        assert_eq!(advised, [advice], "{rotate}, hangs {hangs}");
    }
}

#[test]
fn a_camera_that_stands_upright_is_never_called_turned() {
    let mut door = Door::new(0);
    for step in 0..60 {
        let people: &[Person] = if step % 2 == 0 { &[] } else { &[UNKNOWN] };
        door.now += Duration::from_secs(1);
        door.watch(1, people, |_| 1.0);
        assert_eq!(door.sight.take_rotation_advice(), None);
    }
}
