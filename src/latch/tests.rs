use super::*;
use crate::{
    config::LineChoice,
    gpio::simulated::{Record, SimulatedLine},
};
use LineState::{Active, Inactive};
use proptest::prelude::*;

const HOLD: Duration = Duration::from_millis(150);
const SETTINGS: Settings = Settings {
    opens: true,
    max_hold: Duration::from_millis(400),
    max_active_per_minute: Duration::from_secs(30),
    max_decision_age: Duration::from_secs(1),
};

struct Door {
    latch: Latch,
    handle: LatchHandle,
    record: Arc<Mutex<Record>>,
}

impl Door {
    fn new() -> Door {
        Door::with(SETTINGS)
    }

    fn with(settings: Settings) -> Door {
        let (lines, record) = relay();
        let latch = Latch::start(lines, settings).unwrap();
        Door { handle: latch.handle(), latch, record }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    fn states(&self) -> Vec<LineState> {
        self.record().states.clone()
    }

    fn pulse(&self) -> Result<Instant, Refusal> {
        self.handle.pulse(HOLD, Instant::now())
    }

    fn stuck(&self) -> Option<String> {
        self.handle.stuck(Instant::now())
    }
}

fn relay() -> (Lines, Arc<Mutex<Record>>) {
    let line = SimulatedLine::new("relay", &LineChoice::Number(17));
    let record = line.record();
    (Lines { relay: Some(Box::new(line)), ..Lines::default() }, record)
}

fn wait_until(done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "it did not come to that");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_relay_is_inactive_first_thing() {
    assert_eq!(Door::new().states(), [Inactive]);
}

#[test]
fn the_relay_releases_by_itself_when_nobody_speaks() {
    let door = Door::new();
    let asked = Instant::now();
    let at = door.pulse().unwrap();
    assert!(at >= asked && door.handle.relay_active());
    wait_until(|| !door.handle.relay_active());
    assert!(at.elapsed() >= HOLD - Duration::from_millis(1));
    assert_eq!(door.states(), [Inactive, Active, Inactive]);
}

#[test]
fn a_stale_decision_never_opens() {
    let door = Door::new();
    let long_ago = Instant::now() - Duration::from_millis(1500);
    let refusal = door.handle.pulse(HOLD, long_ago).unwrap_err();
    assert!(matches!(refusal, Refusal::Stale { age } if age > Duration::from_secs(1)));
    door.latch.stop().unwrap();
    assert!(!door.record.lock().unwrap().states.contains(&Active));
}

#[test]
fn stopping_in_the_middle_of_a_pulse_releases_the_relay() {
    let door = Door::new();
    door.pulse().unwrap();
    door.latch.stop().unwrap();
    assert_eq!(door.record.lock().unwrap().states.last(), Some(&Inactive));
    let refusal = door.handle.pulse(HOLD, Instant::now());
    assert_eq!(refusal, Err(Refusal::Silent), "and it stays so");
}

#[test]
fn in_attendance_mode_nothing_drives_the_relay() {
    let door = Door::with(Settings { opens: false, ..SETTINGS });
    door.handle.send(LatchCommand::ShowGranted(HOLD));
    for hold in [HOLD, SETTINGS.max_hold] {
        assert_eq!(door.handle.pulse(hold, Instant::now()), Err(Refusal::Attendance));
    }
    door.latch.stop().unwrap();
    assert!(!door.record.lock().unwrap().states.contains(&Active));
}

#[test]
fn without_a_relay_nothing_is_answered_as_opened() {
    let latch = Latch::start(Lines::default(), SETTINGS).unwrap();
    assert_eq!(latch.handle().pulse(HOLD, Instant::now()), Err(Refusal::NoRelay));
}

#[test]
fn what_is_answered_as_opened_was_opened() {
    let door = Door::new();
    let mut answers = Vec::new();
    for _ in 0..40 {
        let answer = door.pulse();
        assert!(answer.is_err() || door.record().states.last() == Some(&Active));
        answers.push(answer.is_ok());
        thread::sleep(Duration::from_millis(50));
    }
    let opened = answers.iter().filter(|opened| **opened).count();
    assert!(opened > 0 && opened < 40, "max_hold refuses some: {answers:?}");
}

#[test]
fn each_asker_hears_of_its_own_pulse() {
    let door = Door::new();
    let long_ago = Instant::now() - Duration::from_secs(2);
    thread::scope(|scope| {
        for asker in 0..8 {
            let handle = door.handle.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    let moment = if asker % 2 == 0 { Instant::now() } else { long_ago };
                    let answer = handle.pulse(HOLD, moment);
                    let stale = matches!(answer, Err(Refusal::Stale { .. }));
                    assert_eq!(stale, asker % 2 == 1, "{answer:?}");
                }
            });
        }
    });
}

#[test]
fn a_pulse_whose_asker_has_gone_is_taken_back() {
    let (lines, record) = relay();
    let mut worker = Worker::new(lines, SETTINGS, Arc::default());
    let now = Instant::now();
    let (answer, _) = mpsc::channel();
    worker.pulse(&Pulse { hold: HOLD, captured_at: now, answer_by: now, answer: answer.clone() }, now);
    assert_eq!(record.lock().unwrap().states, [Active, Inactive]);
    let (answer, answered) = mpsc::channel();
    let answer_by = now - Duration::from_millis(1);
    worker.pulse(&Pulse { hold: HOLD, captured_at: now, answer_by, answer }, now);
    assert_eq!(answered.recv().unwrap(), Err(Refusal::Silent), "nor is one begun too late");
    assert_eq!(record.lock().unwrap().states, [Active, Inactive]);
}

/// A line that panics, or does not return, when it is driven active; or when it is driven inactive
/// after that.
struct Broken {
    active: bool,
    act: fn(LineState, bool),
}

impl OutputLine for Broken {
    fn set(&mut self, state: LineState) -> Result<(), GpioError> {
        (self.act)(state, self.active);
        self.active |= state == Active;
        Ok(())
    }

    fn describe(&self) -> String {
        "broken".into()
    }
}

#[test]
fn a_panic_in_the_latch_itself_releases_the_relay() {
    let (mut lines, record) = relay();
    let act = |state, _| assert_eq!(state, Inactive, "on purpose, by the test");
    lines.denied = Some(Box::new(Broken { active: false, act }));
    let latch = Latch::start(lines, SETTINGS).unwrap();
    latch.handle().pulse(HOLD, Instant::now()).unwrap();
    latch.handle().send(LatchCommand::ShowDenied);
    wait_until(|| !latch.is_running());
    assert_eq!(record.lock().unwrap().states, [Inactive, Active, Inactive]);
    assert!(!latch.handle().relay_active());
}

#[test]
fn a_relay_that_cannot_be_released_is_tried_until_it_is() {
    let door = Door::new();
    door.pulse().unwrap();
    door.record().failures_to_come = 3;
    wait_until(|| !door.handle.relay_active());
    assert_eq!(door.record().failures_to_come, 0);
    assert_eq!((door.states().last(), door.stuck()), (Some(&Inactive), None));
}

#[test]
fn a_relay_that_cannot_be_released_is_told_until_it_is() {
    let door = Door::new();
    door.pulse().unwrap();
    door.record().failures_to_come = usize::MAX;
    wait_until(|| door.stuck().is_some());
    assert!(door.stuck().unwrap().contains("told to fail"));
    assert!(door.handle.relay_active() && door.latch.is_running());
    assert!(matches!(door.pulse(), Err(Refusal::Stuck(_))), "it is no door that opens");
    door.record().failures_to_come = 0;
    wait_until(|| door.stuck().is_none());
    assert_eq!((door.states().last(), door.handle.relay_active()), (Some(&Inactive), false));
    thread::sleep(REST);
    door.pulse().unwrap();
}

#[test]
fn a_stop_ends_though_the_relay_is_stuck_and_says_so() {
    let door = Door::new();
    door.pulse().unwrap();
    door.record().failures_to_come = usize::MAX;
    let begun = Instant::now();
    assert!(door.latch.stop().unwrap_err().contains("told to fail"));
    assert!(begun.elapsed() < GIVE_UP + OVERDUE, "{:?}", begun.elapsed());
    assert!(door.handle.relay_active());
}

#[test]
fn a_line_that_never_returns_is_a_stuck_relay() {
    let act = |state, active| {
        if active && state == Inactive {
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        }
    };
    let relay: Box<dyn OutputLine> = Box::new(Broken { active: false, act });
    let latch = Latch::start(Lines { relay: Some(relay), ..Lines::default() }, SETTINGS).unwrap();
    let handle = latch.handle();
    handle.pulse(HOLD, Instant::now()).unwrap();
    wait_until(|| handle.stuck(Instant::now()).is_some());
    assert_eq!(handle.pulse(HOLD, Instant::now()), Err(Refusal::Silent));
    assert!(latch.stop().is_err(), "and a stop ends");
}

#[test]
fn a_relay_that_cannot_be_activated_stays_inactive_and_says_so() {
    let door = Door::new();
    door.record().failures_to_come = 1;
    assert!(matches!(door.pulse(), Err(Refusal::Line(_))));
    wait_until(|| !door.handle.relay_active());
    assert_eq!(door.states(), [Inactive, Inactive]);
}

#[test]
fn a_relay_that_cannot_be_driven_at_start_starts_nothing() {
    let (lines, record) = relay();
    record.lock().unwrap().failures_to_come = 1;
    assert!(Latch::start(lines, SETTINGS).is_err());
}

#[test]
fn a_refusal_blinks_three_times() {
    let line = SimulatedLine::new("LED denied", &LineChoice::Number(24));
    let record = line.record();
    let lines = Lines { denied: Some(Box::new(line)), ..Lines::default() };
    let latch = Latch::start(lines, SETTINGS).unwrap();
    latch.handle().send(LatchCommand::ShowDenied);
    thread::sleep(BLINK * 8);
    let lit = record.lock().unwrap().states.iter().filter(|state| **state == Active).count();
    assert_eq!((lit, record.lock().unwrap().states.last()), (3, Some(&Inactive)));
}

/// When a relay was active.
#[derive(Default)]
struct History(Vec<(Instant, Instant)>);

impl History {
    /// The longest time without [`REST`].
    fn longest_stretch(&self) -> Duration {
        let (mut longest, mut began, mut ended) = (Duration::ZERO, None, None::<Instant>);
        for (since, until) in &self.0 {
            if ended.is_none_or(|ended| *since - ended >= REST) {
                began = Some(*since);
            }
            ended = Some(*until);
            longest = longest.max(*until - began.unwrap());
        }
        longest
    }

    /// The most of any minute; at its worst a minute ends with a pulse.
    fn most_in_a_minute(&self) -> Duration {
        let share = |end: Instant| {
            let age = |moment: Instant| end.saturating_duration_since(moment).min(MINUTE);
            self.0.iter().map(|(since, until)| age(*since) - age(*until)).sum()
        };
        self.0.iter().map(|(_, end)| share(*end)).max().unwrap_or_default()
    }
}

/// Plays pulses of so long, so long after each other, in milliseconds; the thread wakes up at each
/// deadline.
fn played(timer: &mut PulseTimer, pulses: &[(u64, u64)]) -> History {
    let (mut now, mut since, mut history) = (Instant::now(), None, History::default());
    let release = |timer: &mut PulseTimer, until, since: &mut Option<Instant>, history: &mut History| {
        if let Some(deadline) = timer.deadline().filter(|deadline| *deadline <= until) {
            assert!(timer.expired(deadline));
            history.0.push((since.take().expect("it was active"), deadline));
        }
    };
    for (pause, hold) in pulses {
        let hold = Duration::from_millis(*hold);
        now += Duration::from_millis(*pause);
        release(timer, now, &mut since, &mut history);
        if let Ok(until) = timer.pulse(hold, now) {
            assert!(until - now >= hold.min(LEAST) && until - now <= timer.max_hold);
            assert_eq!(timer.deadline(), Some(until));
            since.get_or_insert(now);
        }
    }
    release(timer, now + MINUTE, &mut since, &mut history);
    assert!(timer.pulse(LEAST, now + MINUTE * 3).is_ok(), "after a rest it opens");
    history
}

#[test]
fn what_was_active_before_a_start_counts() {
    let mut timer = PulseTimer::new(Duration::from_secs(10), Duration::from_secs(24));
    let now = Instant::now();
    let ago = |seconds: u64| now - Duration::from_secs(seconds);
    // Two pulses that overlap: 22 seconds in all.
    timer.remember(vec![(ago(30), ago(12)), (ago(20), ago(8))]);
    assert!(matches!(timer.pulse(Duration::from_secs(3), now), Err(Refusal::Budget)));
    assert!(timer.pulse(Duration::from_secs(2), now).is_ok());
}

#[test]
fn a_door_at_rush_hour_stays_within_the_default_budget() {
    let mut timer = PulseTimer::new(Duration::from_secs(10), Duration::from_secs(30));
    // Ten people a minute, three seconds each.
    let people = [(6_000, 3_000); 50];
    assert_eq!(played(&mut timer, &people).0.len(), 50, "all of them are let in");
}

#[test]
fn pulses_that_fit_between_releases_hold_no_door_open() {
    let mut timer = PulseTimer::new(Duration::from_secs(2), Duration::from_secs(30));
    // Each a moment after the last was released.
    let history = played(&mut timer, &[(1_001, 1_000); 300]);
    assert!(history.longest_stretch() <= Duration::from_secs(2));
    assert!(history.most_in_a_minute() <= Duration::from_secs(30));
}

proptest! {
    /// Any pulses at any time: no stretch is longer than `max_hold`, and only a rest ends one.
    #[test]
    fn the_relay_is_never_active_longer_than_max_hold(
        pulses in proptest::collection::vec((0u64..2_000, 1u64..1_000), 1..80)
    ) {
        let max_hold = Duration::from_secs(1);
        let history = played(&mut PulseTimer::new(max_hold, MINUTE), &pulses);
        prop_assert!(history.longest_stretch() <= max_hold);
    }

    /// Any pulses at any time: in no minute is the relay active for longer than its budget.
    #[test]
    fn no_minute_is_active_for_longer_than_its_budget(
        pulses in proptest::collection::vec((0u64..6_000, 1u64..5_000), 1..150), budget in 5u64..40
    ) {
        let budget = Duration::from_secs(budget);
        let history = played(&mut PulseTimer::new(Duration::from_secs(5), budget), &pulses);
        prop_assert!(history.most_in_a_minute() <= budget);
    }

    /// The whole worker, its line failing now and then: within `max_hold` of the last answer that
    /// it is open the relay is inactive, or it is being tried and told.
    #[test]
    fn any_sequence_leaves_the_relay_inactive_within_max_hold(
        steps in proptest::collection::vec((0u64..700, 1u64..600, 0u64..1_200, 0usize..4, any::<bool>()), 1..60)
    ) {
        let (lines, record) = relay();
        let mut worker = Worker::new(lines, SETTINGS, Arc::default());
        let (start, mut opened) = (Instant::now() + Duration::from_secs(10), None);
        let mut now = start;
        for (pause, hold, age, failures, goes) in steps {
            let until = now + Duration::from_millis(pause);
            while let Some(at) = worker.deadline().filter(|at| *at <= until) {
                worker.advance(at);
            }
            now = until;
            let last = record.lock().unwrap().states.last().copied();
            let trying = worker.relay.failing.is_some();
            let due = opened.is_none_or(|at| now - at > SETTINGS.max_hold);
            prop_assert!(!due || trying || last != Some(Active), "active after max_hold");
            record.lock().unwrap().failures_to_come = failures;
            let (answer, answered) = mpsc::channel();
            let answered = (!goes).then_some(answered);
            let captured_at = now - Duration::from_millis(age);
            worker.pulse(&Pulse { hold: Duration::from_millis(hold), captured_at, answer_by: now, answer }, now);
            let ok = answered.is_some_and(|answered| answered.recv().unwrap().is_ok());
            prop_assert!(!ok || record.lock().unwrap().states.last() == Some(&Active));
            prop_assert!(!ok || age <= 1_000);
            opened = if ok { Some(now) } else { opened };
        }
        record.lock().unwrap().failures_to_come = 0;
        worker.relay.close();
        let last = record.lock().unwrap().states.last().copied();
        prop_assert_eq!(last, Some(Inactive));
    }
}
