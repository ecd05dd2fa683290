use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::{
    config::LineChoice,
    gpio::simulated::{Record, SimulatedLine},
};
use LineState::{Active, Inactive};

const HOLD: Duration = Duration::from_millis(150);
const SETTINGS: Settings = Settings { max_hold: Duration::from_millis(400), max_decision_age: Duration::from_secs(1) };

struct Door {
    latch: Option<Latch>,
    handle: LatchHandle,
    record: Arc<Mutex<Record>>,
    reports: Receiver<LatchReport>,
}

impl Door {
    fn new() -> Door {
        let line = SimulatedLine::new("relay", &LineChoice::Number(17));
        let record = line.record();
        let (sender, reports) = mpsc::channel();
        let lines = Lines { relay: Some(Box::new(line)), ..Lines::default() };
        let latch = Latch::start(lines, SETTINGS, move |report| drop(sender.send(report))).unwrap();
        Door { handle: latch.handle(), latch: Some(latch), record, reports }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    fn states(&self) -> Vec<LineState> {
        self.record().states.clone()
    }

    fn pulse(&self) {
        assert!(self.handle.send(LatchCommand::Pulse { hold: HOLD, captured_at: Instant::now() }));
    }

    fn report(&self) -> LatchReport {
        self.reports.recv_timeout(Duration::from_secs(5)).expect("a report")
    }

    fn stop(&mut self) {
        self.latch = None;
    }
}

#[test]
fn the_relay_is_inactive_first_thing() {
    assert_eq!(Door::new().states(), [Inactive]);
}

#[test]
fn the_relay_releases_by_itself_when_nobody_speaks() {
    let door = Door::new();
    door.pulse();
    let LatchReport::Activated { at, captured_at } = door.report() else { panic!("it is activated first") };
    assert!(at >= captured_at && door.handle.relay_active());
    assert_eq!(door.report(), LatchReport::Released);
    assert!(at.elapsed() >= HOLD);
    assert_eq!(door.states(), [Inactive, Active, Inactive]);
    assert!(!door.handle.relay_active());
}

#[test]
fn a_stale_decision_never_opens() {
    let mut door = Door::new();
    let long_ago = Instant::now() - Duration::from_millis(1500);
    door.handle.send(LatchCommand::Pulse { hold: HOLD, captured_at: long_ago });
    assert!(matches!(door.report(), LatchReport::Stale { age } if age > Duration::from_secs(1)));
    door.stop();
    assert!(!door.states().contains(&Active));
}

#[test]
fn stopping_in_the_middle_of_a_pulse_releases_the_relay() {
    let mut door = Door::new();
    door.pulse();
    door.report();
    door.stop();
    assert_eq!(door.states().last(), Some(&Inactive));
    assert!(!door.handle.send(LatchCommand::Pulse { hold: HOLD, captured_at: Instant::now() }), "and it stays so");
}

#[test]
fn off_releases_at_once() {
    let door = Door::new();
    door.pulse();
    door.report();
    door.handle.send(LatchCommand::Off);
    assert_eq!(door.report(), LatchReport::Released);
    assert_eq!(door.states().last(), Some(&Inactive));
}

#[test]
fn a_panic_in_the_latch_itself_releases_the_relay() {
    let line = SimulatedLine::new("relay", &LineChoice::Number(17));
    let record = line.record();
    let lines = Lines { relay: Some(Box::new(line)), ..Lines::default() };
    let latch = Latch::start(lines, SETTINGS, |_| panic!("on purpose, by the test")).unwrap();
    latch.handle().send(LatchCommand::Pulse { hold: HOLD, captured_at: Instant::now() });
    while latch.is_running() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(record.lock().unwrap().states, [Inactive, Active, Inactive]);
}

#[test]
fn a_relay_that_cannot_be_released_is_tried_until_it_is() {
    let door = Door::new();
    door.pulse();
    door.report();
    door.record().failures_to_come = 3;
    assert_eq!(door.report(), LatchReport::Released);
    assert_eq!(door.record().failures_to_come, 0);
    assert_eq!(door.states().last(), Some(&Inactive));
}

#[test]
fn a_relay_that_cannot_be_activated_stays_inactive_and_says_so() {
    let door = Door::new();
    door.record().failures_to_come = 1;
    door.pulse();
    assert!(matches!(door.report(), LatchReport::Failed(_)));
    assert!(!door.handle.relay_active());
    assert_eq!(door.states(), [Inactive, Inactive]);
}

#[test]
fn a_relay_that_cannot_be_driven_at_start_starts_nothing() {
    let line = SimulatedLine::new("relay", &LineChoice::Number(17));
    line.record().lock().unwrap().failures_to_come = 1;
    assert!(Latch::start(Lines { relay: Some(Box::new(line)), ..Lines::default() }, SETTINGS, |_| {}).is_err());
}

#[test]
fn a_refusal_blinks_three_times() {
    let line = SimulatedLine::new("LED denied", &LineChoice::Number(24));
    let record = line.record();
    let lines = Lines { denied: Some(Box::new(line)), ..Lines::default() };
    let latch = Latch::start(lines, SETTINGS, |_| {}).unwrap();
    latch.handle().send(LatchCommand::ShowDenied);
    thread::sleep(BLINK * 8);
    let lit = record.lock().unwrap().states.iter().filter(|state| **state == Active).count();
    assert_eq!((lit, record.lock().unwrap().states.last()), (3, Some(&Inactive)));
}

proptest::proptest! {
    /// Whatever pulses come whenever: no stretch is longer than `max_hold`, and after such a stretch there is a rest.
    #[test]
    fn the_relay_is_never_active_longer_than_max_hold(
        pulses in proptest::collection::vec((0u64..300, 1u64..1000), 1..60)
    ) {
        let max_hold = Duration::from_millis(400);
        let mut timer = PulseTimer::new(max_hold);
        let (mut now, mut since) = (Instant::now(), None);
        for (pause, hold) in pulses {
            let until = now + Duration::from_millis(pause);
            // The thread wakes up at each deadline.
            while let Some(deadline) = timer.deadline().filter(|deadline| *deadline <= until) {
                proptest::prop_assert!(timer.expired(deadline));
                let started: Instant = since.take().expect("it was active");
                proptest::prop_assert!(deadline - started <= max_hold);
            }
            now = until;
            if timer.pulse(Duration::from_millis(hold), now) {
                since.get_or_insert(now);
            }
        }
    }
}
