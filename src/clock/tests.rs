use proptest::prelude::*;

use super::*;
use crate::store::{Event, EventKind};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// 2026-11-01.
const NOVEMBER: i64 = 1_793_491_200_000;

fn corrected(events: &[Event]) -> Vec<Option<i64>> {
    let mut sorted = events.to_vec();
    sorted.sort_by_key(|event| event.id);
    let history = History::of(spans(&sorted));
    events.iter().map(|event| history.time(event.stamp())).collect()
}

fn newest_before(events: &[Event], at_ms: i64) -> Option<u64> {
    let history = History::of(spans(events));
    let of = |stretch: Stretch| {
        let old = |event: &&Event| {
            stretch.ids.contains(&event.id) && history.time(event.stamp()).is_some_and(|at| at < at_ms)
        };
        events.iter().filter(old).map(|event| event.id).max()
    };
    history.before(at_ms).find_map(of)
}

/// A machine that is switched on at a moment, with a clock that may be wrong.
struct Machine {
    events: Vec<Event>,
    boot: String,
    on: i64,
    /// Wall clock less the true time.
    error: i64,
}

impl Machine {
    fn new() -> Machine {
        Machine { events: Vec::new(), boot: String::new(), on: 0, error: 0 }
    }

    /// Switched on at `on`; its clock says `shows`.
    fn boot(&mut self, on: i64, shows: i64) -> &mut Machine {
        self.boot = format!("boot {}", self.events.len());
        (self.on, self.error) = (on, shows - on);
        self.event(on + 30 * SECOND)
    }

    fn event(&mut self, at: i64) -> &mut Machine {
        let event = Event {
            id: self.events.len() as u64 + 1,
            at_ms: at + self.error,
            boot_id: self.boot.clone(),
            since_boot: Duration::from_millis((at - self.on) as u64),
            kind: EventKind::Started,
        };
        self.events.push(event);
        self
    }

    /// `count` events, evenly from one moment to another.
    fn events(&mut self, from: i64, to: i64, count: i64) -> &mut Machine {
        for i in 0..count {
            self.event(from + (to - from) * i / count);
        }
        self
    }

    /// At `at` the clock was set; it is wrong by `error` now.
    fn set(&mut self, at: i64, error: i64) -> &mut Machine {
        self.error = error;
        self.event(at)
    }

    /// Corrected times less the true ones.
    fn errors(&self, truth: &[i64]) -> Vec<Option<i64>> {
        assert_eq!(truth.len(), self.events.len());
        corrected(&self.events).iter().zip(truth).map(|(found, truth)| found.map(|at| at - truth)).collect()
    }

    /// The moments at which the events really were, for machines whose history is told in a chain.
    fn all_right(&self, truth: &[i64]) -> bool {
        self.errors(truth).iter().all(|error| error.is_some_and(|error| error.abs() <= JUMP_MS))
    }
}

#[test]
fn a_clock_that_is_right_is_left_alone() {
    let mut machine = Machine::new();
    machine.boot(NOVEMBER, NOVEMBER).events(NOVEMBER + HOUR, NOVEMBER + 3 * DAY, 50);
    let recorded: Vec<_> = machine.events.iter().map(|event| Some(event.at_ms)).collect();
    assert_eq!(corrected(&machine.events), recorded);
}

#[test]
fn a_boot_in_1970_is_dated_when_the_network_tells_the_time() {
    let mut machine = Machine::new();
    machine.boot(NOVEMBER, 0).event(NOVEMBER + 5 * MINUTE);
    assert_eq!(corrected(&machine.events), [None, None], "not yet");
    machine.set(NOVEMBER + 7 * MINUTE, 0).event(NOVEMBER + HOUR);
    assert!(machine.all_right(&[30 * SECOND, 5 * MINUTE, 7 * MINUTE, HOUR].map(|after| NOVEMBER + after)));
}

#[test]
fn a_boot_at_the_time_of_the_last_shutdown_is_dated_too() {
    let mut machine = Machine::new();
    machine.boot(NOVEMBER, NOVEMBER).event(NOVEMBER + HOUR);
    // Off for eight hours.
    let on = NOVEMBER + 9 * HOUR;
    machine.boot(on, NOVEMBER + HOUR).event(on + 2 * MINUTE).set(on + 3 * MINUTE, 0);
    let truth = [NOVEMBER + 30 * SECOND, NOVEMBER + HOUR, on + 30 * SECOND, on + 2 * MINUTE, on + 3 * MINUTE];
    assert!(machine.all_right(&truth), "{:?}", machine.errors(&truth));
}

#[test]
fn a_year_back_by_mistake_and_right_again_changes_nothing() {
    let mut machine = Machine::new();
    let (wrong, right) = (NOVEMBER + 2 * DAY, NOVEMBER + 2 * DAY + 20 * HOUR);
    machine.boot(NOVEMBER, NOVEMBER).event(wrong - HOUR).set(wrong, -YEAR).event(right - HOUR);
    let mut truth = vec![NOVEMBER + 30 * SECOND, wrong - HOUR, wrong, right - HOUR];
    assert!(machine.all_right(&truth), "while it is wrong: {:?}", machine.errors(&truth));
    machine.set(right, 0).event(right + HOUR);
    truth.extend([right, right + HOUR]);
    assert!(machine.all_right(&truth), "{:?}", machine.errors(&truth));
}

#[test]
fn a_year_forward_by_mistake_and_right_again_changes_nothing() {
    let mut machine = Machine::new();
    let wrong = NOVEMBER + 20 * DAY;
    machine.boot(NOVEMBER, NOVEMBER).event(wrong - HOUR).set(wrong, YEAR).event(wrong + HOUR).set(wrong + 2 * HOUR, 0);
    let truth = [NOVEMBER + 30 * SECOND, wrong - HOUR, wrong, wrong + HOUR, wrong + 2 * HOUR];
    assert!(machine.all_right(&truth), "at the very moment it is put right: {:?}", machine.errors(&truth));
}

#[test]
fn a_clock_in_another_time_zone_is_put_right() {
    let mut machine = Machine::new();
    machine.boot(NOVEMBER, NOVEMBER + 2 * HOUR).event(NOVEMBER + DAY).set(NOVEMBER + DAY + MINUTE, 0);
    assert!(machine.all_right(&[30 * SECOND, DAY, DAY + MINUTE].map(|after| NOVEMBER + after)));
}

#[test]
fn a_boot_that_was_wrong_from_end_to_end_spoils_no_other() {
    for wrong in [-YEAR, YEAR] {
        let mut machine = Machine::new();
        let mut truth = Vec::new();
        for (day, error) in [(0, 0), (2, 0), (4, wrong), (6, 0), (8, 0)] {
            let on = NOVEMBER + day * DAY;
            machine.boot(on, on + error).events(on + HOUR, on + DAY, 20);
            truth.push(on + 30 * SECOND);
            truth.extend((0..20).map(|i| on + HOUR + (DAY - HOUR) * i / 20));
        }
        let errors = machine.errors(&truth);
        assert!(errors[..42].iter().chain(&errors[63..]).all(|error| *error == Some(0)), "{errors:?}");
        assert!(errors[42..63].iter().all(Option::is_none), "nothing tells when that was: {errors:?}");
    }
}

#[test]
fn an_earlier_offset_is_tried_where_the_last_one_cannot_be() {
    let mut machine = Machine::new();
    let on = NOVEMBER + 5 * DAY;
    machine.boot(NOVEMBER, NOVEMBER).events(NOVEMBER + HOUR, NOVEMBER + DAY, 30);
    // Wrong for longer than it was right, and switched off before anybody noticed.
    machine.boot(on, on).event(on + HOUR).set(on + 2 * HOUR, -YEAR).event(on + 2 * DAY);
    machine.boot(on + 3 * DAY, on + 3 * DAY).event(on + 4 * DAY);
    let errors = &corrected(&machine.events)[31..];
    let truth = [on + 30 * SECOND, on + HOUR, on + 2 * HOUR, on + 2 * DAY, on + 3 * DAY + 30 * SECOND, on + 4 * DAY];
    assert_eq!(errors, truth.map(Some));
}

#[test]
fn an_event_of_an_unknown_boot_keeps_its_time() {
    let event = |at_ms, boot: &str, since_boot| Event {
        id: 1,
        at_ms,
        boot_id: boot.into(),
        since_boot: Duration::from_secs(since_boot),
        kind: EventKind::Stopped,
    };
    let events =
        [event(NOVEMBER, "", 5), event(NOVEMBER + 9, "b", 0), event(12, "", 0), event(i64::MAX, "c", u64::MAX)];
    assert_eq!(corrected(&events), [Some(NOVEMBER), Some(NOVEMBER + 9), None, None]);
}

#[test]
fn what_was_recorded_in_1970_is_as_old_as_its_neighbours() {
    let mut machine = Machine::new();
    machine.boot(NOVEMBER, 0).event(NOVEMBER + MINUTE).set(NOVEMBER + HOUR, 0).event(NOVEMBER + DAY);
    assert_eq!(newest_before(&machine.events, NOVEMBER - DAY), None, "1970 is not older than what is kept");
    assert_eq!(newest_before(&machine.events, NOVEMBER + HOUR), Some(2));
}

#[test]
fn a_clock_that_is_set_is_noticed_once() {
    let mut watch = ClockWatch::default();
    assert_eq!(watch.look(30_000, 30_000), None);
    assert_eq!(watch.look(31_400, 31_000), None, "the network time's small steps");
    assert_eq!(watch.look(NOVEMBER, 32_000), Some(NOVEMBER - 32_000));
    assert_eq!(watch.look(NOVEMBER + 1_000, 33_000), None);
    for step in 1..=5 {
        assert_eq!(watch.look(NOVEMBER + 1_000 + 400 * step, 33_000), None, "small steps add up");
    }
    assert_eq!(watch.look(NOVEMBER + 3_400, 33_000), Some(2_400));
    assert_eq!(watch.look(NOVEMBER - YEAR, 33_000), Some(-YEAR - 3_400));
}

#[test]
fn spans_have_two_units() {
    for (ms, words) in [
        (2_300, "2 s"),
        (-90_000, "1 min 30 s"),
        (HOUR, "1 h"),
        (DAY + 5 * MINUTE, "1 d"),
        (YEAR + HOUR, "365 d 1 h"),
        (0, "0 s"),
    ] {
        assert_eq!(span_in_words(ms), words);
    }
}

proptest! {
    /// Boots whose clock starts behind by anything and is set right before they end.
    #[test]
    fn whoever_is_set_right_before_the_end_is_dated(
        boots in prop::collection::vec((0..NOVEMBER, 1..100i64, prop::collection::vec(1..HOUR, 1..6)), 1..6)
    ) {
        let mut machine = Machine::new();
        let mut truth = Vec::new();
        let mut now = NOVEMBER;
        for (behind, minutes_off, pauses) in boots {
            now += minutes_off * MINUTE;
            machine.boot(now, now - behind);
            now += 30 * SECOND;
            truth.push(now);
            for pause in pauses {
                now += pause;
                machine.event(now);
                truth.push(now);
            }
            now += SECOND;
            machine.set(now, 0);
            truth.push(now);
        }
        prop_assert!(machine.all_right(&truth), "{:?}", machine.errors(&truth));
    }

    #[test]
    fn rubbish_never_panics_and_the_order_does_not_matter(
        recorded in prop::collection::vec((any::<i64>(), 0..4u8, any::<u64>()), 0..40),
        turned in 0..40usize
    ) {
        let event = |(id, (at_ms, boot, since)): (usize, (i64, u8, u64))| Event {
            id: id as u64,
            at_ms,
            boot_id: if boot == 0 { String::new() } else { boot.to_string() },
            since_boot: Duration::from_millis(since),
            kind: EventKind::Started,
        };
        let mut events: Vec<Event> = recorded.into_iter().enumerate().map(event).collect();
        let mut times = corrected(&events);
        let by = turned.min(events.len());
        events.rotate_left(by);
        times.rotate_left(by);
        prop_assert_eq!(corrected(&events), times);
    }
}
