use super::*;
use proptest::prelude::*;

const ADA: PersonId = PersonId(1);
const GRACE: PersonId = PersonId(2);
const FRAME: Duration = Duration::from_millis(100);
const FLAW: Flaw = Flaw::TooSmall { px: 43.0, needs: 80.0 };

const LIMITS: Limits = Limits { single: 0.35, shrink: 0.6 };

fn rules() -> Rules {
    Rules {
        margin: 0.05,
        confirm: 3,
        window: 5,
        refuse_several_faces: true,
        visit_gap: Duration::from_secs(3),
        cooldown: Duration::from_secs(2),
        max_decision_age: Duration::from_secs(1),
    }
}

fn seen(track: u64, person: PersonId, distance: f32) -> Observation {
    let runner_up = Some((if person == ADA { GRACE } else { ADA }, distance + 0.3));
    Observation {
        track: TrackId(track),
        sighting: Sighting::Matched(Match { person, distance, spread: 0.0, runner_up }),
    }
}

fn flawed(track: u64) -> Observation {
    Observation { track: TrackId(track), sighting: Sighting::Rejected(FLAW) }
}

/// A door with a clock: frames arrive every tenth of a second and are judged at once.
struct Door {
    policy: Policy,
    now: Instant,
    granted: Vec<PersonId>,
    denied: Vec<Denial>,
}

impl Door {
    fn new(rules: Rules) -> Door {
        Door { policy: Policy::new(rules), now: Instant::now(), granted: Vec::new(), denied: Vec::new() }
    }

    fn frame(&mut self, observations: &[Observation]) -> Verdict {
        self.late_frame(observations, Duration::ZERO)
    }

    fn late_frame(&mut self, observations: &[Observation], age: Duration) -> Verdict {
        self.now += FRAME;
        let verdict = self.policy.judge(observations, LIMITS, self.now - age, self.now);
        self.granted.extend(verdict.grants().map(|grant| grant.person));
        self.denied.extend(verdict.denials.iter().copied());
        verdict
    }

    fn frames(&mut self, count: usize, observations: &[Observation]) {
        (0..count).for_each(|_| drop(self.frame(observations)));
    }
}

#[test]
fn k_of_n_frames_that_agree_open() {
    let mut door = Door::new(rules());
    door.frames(2, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, []);
    let verdict = door.frame(&[seen(1, ADA, 0.2)]);
    let grant = verdict.grants().next().expect("the third frame decides");
    assert_eq!((grant.person, grant.frames), (ADA, 3));
    assert_eq!(door.now - grant.first_usable, FRAME * 2);
}

#[test]
fn frames_that_disagree_do_not_add_up() {
    let mut door = Door::new(rules());
    for _ in 0..10 {
        door.frame(&[seen(1, ADA, 0.2)]);
        door.frame(&[seen(1, GRACE, 0.2)]);
        door.frame(&[seen(1, ADA, 0.9)]);
    }
    assert_eq!(door.granted, [], "two of any five frames at most speak for one person");
}

#[test]
fn evidence_of_two_faces_does_not_add_up() {
    let mut door = Door::new(Rules { refuse_several_faces: false, ..rules() });
    door.frames(2, &[seen(1, ADA, 0.2), seen(2, ADA, 0.2)]);
    assert_eq!(door.granted, []);
}

#[test]
fn one_visit_one_pulse() {
    let mut door = Door::new(rules());
    door.frames(600, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA], "a minute in front of the door opens it once");
}

#[test]
fn a_visit_goes_on_while_the_face_is_there_though_not_recognised() {
    let mut door = Door::new(rules());
    door.frames(5, &[seen(1, ADA, 0.2)]);
    door.frames(100, &[flawed(1)]);
    door.frames(100, &[seen(1, ADA, 0.8)]);
    door.frames(10, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA]);
    assert_eq!(door.denied, [], "somebody who was let in is not denied afterwards");
}

#[test]
fn a_lost_track_of_the_same_person_is_the_same_visit() {
    let mut door = Door::new(rules());
    door.frames(5, &[seen(1, ADA, 0.2)]);
    door.frames(20, &[]);
    door.frames(100, &[seen(2, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA]);
}

#[test]
fn coming_back_after_leaving_is_a_new_visit() {
    let mut door = Door::new(rules());
    door.frames(5, &[seen(1, ADA, 0.2)]);
    door.frames(31, &[]);
    door.frames(5, &[seen(2, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA, ADA]);
}

#[test]
fn a_stale_decision_never_opens() {
    let mut door = Door::new(rules());
    for _ in 0..50 {
        let verdict = door.late_frame(&[seen(1, ADA, 0.2)], Duration::from_millis(1001));
        assert_eq!(verdict.decisions, [(TrackId(1), Decision::Stay(Reason::Stale))]);
    }
    assert_eq!(door.granted, []);
    door.frames(2, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [], "stale frames are no evidence either");
}

#[test]
fn an_unknown_face_never_opens_and_is_denied_once() {
    let mut door = Door::new(rules());
    door.frames(200, &[seen(1, ADA, 0.36)]);
    assert_eq!(door.granted, []);
    assert_eq!(
        door.denied,
        [Denial { track: TrackId(1), reason: Reason::Unknown(ADA, 0.36, 0.35), frames: 5, near: Some(0.36) }]
    );
}

/// The denials and grants of a face that lies at these distances, one a frame, then leaves.
fn visit(limit: f32, distances: &[f32]) -> (Vec<Option<f32>>, usize) {
    let (mut policy, start) = (Policy::new(rules()), Instant::now());
    let (mut near, mut grants) = (Vec::new(), 0);
    let looks = distances.iter().map(|distance| vec![seen(1, ADA, *distance)]).chain([vec![]]);
    for (number, observations) in (0u32..).zip(looks) {
        let gone = if observations.is_empty() { rules().visit_gap } else { Duration::ZERO };
        let at = start + FRAME * number + gone;
        let verdict = policy.judge(&observations, Limits { single: limit, shrink: 0.6 }, at, at);
        near.extend(verdict.denials.iter().map(|denial| denial.near));
        grants += verdict.grants().count();
    }
    (near, grants)
}

#[test]
fn a_visit_that_once_lay_within_the_limit_is_no_strangers() {
    assert_eq!(visit(0.35, &[0.5, 0.9, 0.6, 0.8, 0.7]), (vec![Some(0.7)], 0));
    assert_eq!(visit(0.35, &[0.3, 0.9, 0.6, 0.8, 0.7, 0.7]), (vec![None], 0));
    assert_eq!(visit(0.35, &[0.5, 0.9, 0.6, 0.8]), (vec![None], 0), "too short to tell");
}

proptest! {
    #[test]
    fn how_near_a_stranger_came_is_the_limit_that_opens(distances in prop::collection::vec(0.4f32..1.5, 5)) {
        let (near, _) = visit(0.35, &distances);
        let near = near[0].unwrap();
        prop_assert_eq!(visit(near + 1e-3, &distances).1, 1);
        prop_assert_eq!(visit(near - 1e-3, &distances).1, 0);
    }
}

#[test]
fn the_more_was_averaged_the_nearer_it_has_to_be() {
    let averaged = |spread| {
        let matched = Match { person: ADA, distance: 0.3, spread, runner_up: None };
        Observation { track: TrackId(1), sighting: Sighting::Matched(matched) }
    };
    // 0.35² − 0.6 · 0.05 is 0.304²; with a spread of 0.06 it is 0.294².
    let (mut near, mut far) = (Door::new(rules()), Door::new(rules()));
    near.frames(10, &[averaged(0.05)]);
    far.frames(10, &[averaged(0.06)]);
    assert_eq!((near.granted.as_slice(), far.granted.as_slice()), ([ADA].as_slice(), [].as_slice()));
    assert_eq!([LIMITS.at(1.0), LIMITS.at(f32::NAN)], [0.0, 0.0], "no distance satisfies a spread that cannot be");
}

#[test]
fn a_gallery_that_grows_tightens_the_limit_of_the_next_frame() {
    let mut policy = Policy::new(rules());
    let now = Instant::now();
    let mut judge = |limits, frame: u32| {
        let at = now + FRAME * frame;
        policy.judge(&[seen(1, ADA, 0.3)], limits, at, at).grants().count()
    };
    assert_eq!([judge(LIMITS, 0), judge(LIMITS, 1)], [0, 0]);
    assert_eq!(judge(Limits { single: 0.29, ..LIMITS }, 2), 0);
}

#[test]
fn a_face_recognised_after_it_was_denied_opens() {
    let mut door = Door::new(rules());
    door.frames(20, &[seen(1, ADA, 0.5)]);
    door.frames(5, &[seen(1, ADA, 0.2)]);
    assert_eq!((door.granted.as_slice(), door.denied.len()), ([ADA].as_slice(), 1));
}

#[test]
fn a_face_between_two_people_stays_out() {
    let mut door = Door::new(rules());
    let twin = Match { person: ADA, distance: 0.3, spread: 0.0, runner_up: Some((GRACE, 0.34)) };
    door.frames(10, &[Observation { track: TrackId(1), sighting: Sighting::Matched(twin) }]);
    assert_eq!(door.granted, []);
    assert_eq!(door.denied[0].reason, Reason::Ambiguous((ADA, 0.3), (GRACE, 0.34)));
}

#[test]
fn several_faces_are_refused_when_told_so() {
    let mut door = Door::new(rules());
    door.frames(20, &[seen(1, ADA, 0.2), seen(2, GRACE, 0.9)]);
    assert_eq!(door.granted, []);
    assert_eq!(door.denied.iter().map(|d| d.reason).collect::<Vec<_>>(), [Reason::SeveralFaces(2)]);
    door.frames(5, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA], "once the other has gone");
}

#[test]
fn a_known_face_opens_beside_a_stranger_when_told_so() {
    let mut door = Door::new(Rules { refuse_several_faces: false, ..rules() });
    door.frames(20, &[seen(1, ADA, 0.2), seen(2, GRACE, 0.9)]);
    assert_eq!(door.granted, [ADA]);
    assert_eq!(door.denied.len(), 1);
}

#[test]
fn two_known_people_are_two_visits_apart_by_the_cooldown() {
    let mut door = Door::new(Rules { refuse_several_faces: false, ..rules() });
    door.frames(3, &[seen(1, ADA, 0.2), seen(2, GRACE, 0.2)]);
    assert_eq!(door.granted, [ADA]);
    door.frames(25, &[seen(1, ADA, 0.2), seen(2, GRACE, 0.2)]);
    assert_eq!(door.granted, [ADA, GRACE]);
    door.frames(200, &[seen(1, ADA, 0.2), seen(2, GRACE, 0.2)]);
    assert_eq!(door.granted, [ADA, GRACE]);
}

#[test]
fn a_face_that_was_never_good_enough_is_denied_when_it_leaves() {
    let mut door = Door::new(rules());
    door.frames(10, &[flawed(1)]);
    assert_eq!(door.denied, []);
    door.frames(40, &[]);
    assert_eq!(
        door.denied,
        [Denial { track: TrackId(1), reason: Reason::NotGoodEnough(FLAW), frames: 10, near: None }]
    );
}

#[test]
fn a_face_of_a_single_frame_is_not_worth_a_line() {
    let mut door = Door::new(rules());
    door.frame(&[seen(1, ADA, 0.9)]);
    door.frames(40, &[]);
    assert_eq!(door.denied, []);
}

#[test]
fn nobody_enrolled_nobody_let_in() {
    let mut door = Door::new(rules());
    door.frames(10, &[Observation { track: TrackId(1), sighting: Sighting::EmptyGallery }]);
    assert_eq!((door.granted.len(), door.denied[0].reason), (0, Reason::NobodyEnrolled));
}

#[test]
fn a_face_is_undecided_until_it_was_let_in_or_denied_and_again_when_a_look_speaks_for_somebody() {
    let mut door = Door::new(rules());
    let (stranger, track) = (seen(1, ADA, 0.9), TrackId(1));
    assert!(door.policy.attention().wants(track), "never seen");
    door.frames(4, &[stranger]);
    assert!(door.policy.attention().wants(track));
    door.frames(1, &[stranger]);
    assert!(door.denied.len() == 1 && !door.policy.attention().wants(track), "denied after a window");
    door.frames(1, &[Observation { track, sighting: Sighting::Skipped }]);
    assert!(!door.policy.attention().wants(track));
    door.frames(1, &[seen(1, ADA, 0.1)]);
    assert!(door.policy.attention().wants(track), "somebody known stands there now");
    door.frames(2, &[seen(1, ADA, 0.1)]);
    assert!(door.granted == [ADA] && !door.policy.attention().wants(track));
}

#[test]
fn a_face_that_is_not_examined_again_keeps_its_visit_alive_and_is_not_let_in_twice() {
    let mut door = Door::new(rules());
    door.frames(3, &[seen(1, ADA, 0.1)]);
    door.frames(100, &[Observation { track: TrackId(1), sighting: Sighting::Skipped }]);
    door.frames(3, &[seen(2, ADA, 0.1)]);
    assert_eq!((door.granted.len(), door.denied.len()), (1, 0));
}

fn unchanged(track: u64) -> Observation {
    Observation { track: TrackId(track), sighting: Sighting::Skipped }
}

#[test]
fn a_frame_that_brings_nothing_new_is_no_vote() {
    let mut door = Door::new(rules());
    door.frame(&[seen(1, ADA, 0.2)]);
    door.frames(100, &[unchanged(1)]);
    assert_eq!(door.granted, []);
    door.frame(&[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, []);
    door.frame(&[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA], "with the third fresh look");
    door.frames(100, &[unchanged(1)]);
    door.frames(5, &[seen(2, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA], "a still face keeps its visit alive");
}

#[test]
fn time_in_which_nothing_was_seen_is_no_absence() {
    for pause in [4, 60, 3600] {
        let mut door = Door::new(rules());
        door.frames(5, &[seen(1, ADA, 0.2)]);
        door.now += Duration::from_secs(pause);
        door.frames(10, &[]);
        door.frames(5, &[seen(2, ADA, 0.2)]);
        assert_eq!(door.granted, [ADA], "{pause} s without frames");
    }
}

#[test]
fn a_slow_board_sees_visitors_leave_too() {
    let mut door = Door::new(rules());
    door.frames(5, &[seen(1, ADA, 0.2)]);
    for _ in 0..3 {
        door.now += Duration::from_secs(5);
        door.frame(&[]);
    }
    door.frames(5, &[seen(2, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA, ADA]);
}

#[test]
fn a_restart_opens_for_nobody_who_has_not_left() {
    let mut door = Door::new(rules());
    door.policy.resume([ADA], door.now);
    door.frames(30, &[flawed(1)]);
    door.frames(100, &[seen(1, ADA, 0.2)]);
    door.frames(5, &[seen(2, GRACE, 0.2)]);
    assert_eq!(door.granted, [GRACE], "a visitor who came meanwhile is let in at once");
    assert_eq!(door.policy.visitors().count(), 2);
    door.frames(31, &[]);
    door.frames(5, &[seen(3, ADA, 0.2)]);
    assert_eq!(door.granted, [GRACE, ADA], "and who left and came back");
}

#[test]
fn a_visitor_who_left_before_a_restart_is_let_in() {
    let mut door = Door::new(rules());
    door.policy.resume([ADA], door.now);
    door.frames(81, &[]);
    door.frames(3, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA]);
}

#[test]
fn a_pulse_that_was_refused_is_tried_again() {
    let mut door = Door::new(Rules { cooldown: Duration::ZERO, ..rules() });
    door.frames(3, &[seen(1, ADA, 0.2)]);
    assert!(door.policy.not_opened(ADA, door.now), "said once");
    assert!(door.policy.attention().wants(TrackId(1)));
    door.frames(9, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA]);
    door.frames(1, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA, ADA], "a second later");
    assert!(!door.policy.not_opened(ADA, door.now));
    door.frames(11, &[seen(1, ADA, 0.2)]);
    door.frames(100, &[seen(1, ADA, 0.2)]);
    assert_eq!(door.granted, [ADA, ADA, ADA], "that one opened");
    door.frames(40, &[]);
    assert_eq!(door.denied, []);
}

#[test]
fn several_faces_in_view_are_said_once() {
    let mut door = Door::new(rules());
    door.frames(20, &[seen(1, ADA, 0.2), seen(2, GRACE, 0.9)]);
    door.frames(20, &[seen(1, ADA, 0.2), seen(3, GRACE, 0.9), seen(4, GRACE, 0.9)]);
    door.frames(40, &[]);
    assert_eq!(door.denied.len(), 1, "one crowd: {:?}", door.denied);
    door.frames(60, &[]);
    door.frames(20, &[seen(5, ADA, 0.2), seen(6, GRACE, 0.9)]);
    assert_eq!(door.denied.len(), 2, "another one");
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let distance = prop_oneof![9 => 0f32..1.5, 1 => Just(f32::NAN)];
    let spread = prop_oneof![9 => 0f32..0.2, 1 => Just(f32::NAN)];
    let matched = (1u32..4, distance, spread, 4u32..6, prop_oneof![9 => 0f32..2.0, 1 => Just(f32::NAN)]);
    let sighting = prop_oneof![
        8 => matched.prop_map(|(person, distance, spread, other, next)| Sighting::Matched(Match {
            person: PersonId(person),
            distance,
            spread,
            runner_up: Some((PersonId(other), next)),
        })),
        1 => Just(Sighting::EmptyGallery),
        1 => Just(Sighting::Rejected(FLAW)),
        2 => Just(Sighting::Skipped),
    ];
    (1u64..4, sighting).prop_map(|(track, sighting)| Observation { track: TrackId(track), sighting })
}

proptest! {
    /// Whatever is seen in whatever order: who is let in was near enough and clear of the runner-up in that very frame, the
    /// frame was fresh, the person was not let in within the last `visit_gap`, and nobody was within `cooldown`.
    #[test]
    fn nothing_opens_the_door_but_a_fresh_confirmed_match(
        frames in proptest::collection::vec((proptest::collection::vec(any_observation(), 0..3), 0u64..1500, 1u64..800), 1..80)
    ) {
        let rules = Rules { refuse_several_faces: false, ..rules() };
        let mut policy = Policy::new(rules);
        let mut now = Instant::now() + Duration::from_secs(10);
        let mut granted: Vec<(PersonId, Instant)> = Vec::new();
        for (mut observations, age, step) in frames {
            observations.dedup_by_key(|o| o.track);
            now += Duration::from_millis(step);
            let captured_at = now - Duration::from_millis(age);
            let verdict = policy.judge(&observations, LIMITS, captured_at, now);
            prop_assert_eq!(verdict.decisions.len(), observations.len());
            for (observation, (_, decision)) in observations.iter().zip(&verdict.decisions) {
                if let Decision::Open(grant) = decision {
                    let matched = observation.sighting.matched().expect("only a match opens");
                    prop_assert!(age <= 1000);
                    prop_assert!(matched.person == grant.person && matched.distance <= LIMITS.single);
                    prop_assert!(matched.distance.powi(2) <= LIMITS.single.powi(2) - LIMITS.shrink * matched.spread + 1e-6);
                    prop_assert!(matched.runner_up.is_none_or(|(_, next)| next - matched.distance >= rules.margin));
                    prop_assert!(grant.frames as usize >= rules.confirm);
                    for (person, at) in &granted {
                        prop_assert!(captured_at - *at >= rules.cooldown);
                        prop_assert!(*person != grant.person || now - *at >= rules.visit_gap);
                    }
                    granted.push((grant.person, captured_at));
                }
            }
        }
    }
}
