use std::time::Duration;

use jiff::civil::DateTime;
use proptest::prelude::*;

use super::*;
use crate::clock;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

const ADA: PersonId = PersonId(1);

/// Central Europe: from 29 March 2026 to 25 October 2026 one hour ahead.
fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn rules(direction: Direction) -> Rules {
    Rules { gap_ms: 2 * MINUTE, day_start: Time::constant(4, 0, 0, 0), zone: zone(), direction }
}

/// Milliseconds since 1970 of a local time; of one that comes twice, the first.
fn at(local: &str) -> i64 {
    zone().to_zoned(local.parse::<DateTime>().unwrap()).unwrap().timestamp().as_millisecond()
}

/// The event list of a machine with a right clock.
fn seen(times: &[i64]) -> Vec<Event> {
    let event = |(i, at_ms): (usize, &i64)| granted(i as u64 + 1, ADA, "Ada", *at_ms);
    times.iter().enumerate().map(event).collect()
}

fn granted(id: u64, person: PersonId, name: &str, at_ms: i64) -> Event {
    let kind = EventKind::Granted { person, name: name.into(), distance: 0.2, frames: 3, latency_ms: 9, pulsed: true };
    let since_boot = Duration::from_millis((at_ms - at("2026-01-01T00:00")).unsigned_abs());
    Event { id, at_ms, boot_id: "boot".into(), since_boot, kind }
}

impl Attendance {
    /// From all events, in any order.
    fn of(
        events: &[Event],
        people: &[(PersonId, String)],
        rules: &Rules,
        question: &Question,
        now_ms: i64,
    ) -> Result<Attendance, AttendanceError> {
        let mut events = events.to_vec();
        events.sort_by_key(|event| event.id);
        let history = History::of(clock::spans(&events));
        let named = events.iter().filter_map(|event| event.kind.names());
        let mut names: HashMap<_, _> = named.map(|(person, name)| (person, name.to_owned())).collect();
        names.extend(people.iter().cloned());
        let mut count = Count::new(rules, &history, &names, question, now_ms)?;
        let stretches = count.stretches();
        // As the store does it: what is of no stretch is not read.
        let read = |event: &&Event| {
            let since = i64::try_from(event.since_boot.as_millis()).unwrap_or(i64::MAX);
            stretches.iter().any(|stretch| {
                let Range { start, end } = stretch.since_ms;
                stretch.ids.contains(&event.id)
                    && since >= start.saturating_sub(clock::SLACK_MS)
                    && since <= end.saturating_add(clock::SLACK_MS)
            })
        };
        let _ = events.iter().filter(read).all(|event| count.add(event));
        count.finish()
    }
}

fn visits(sightings: Vec<i64>, gap_ms: i64) -> Vec<(i64, i64)> {
    merged(sightings.into_iter().map(|at| (at, at)).collect(), gap_ms)
}

fn visits_of(sightings: Vec<i64>, gap_ms: i64) -> u32 {
    visits(sightings, gap_ms).len() as u32
}

fn question(from: &str, to: &str) -> Question {
    Question { from: Some(from.parse().unwrap()), to: Some(to.parse().unwrap()), person: None }
}

fn ask(events: &[Event], rules: &Rules, from: &str, to: &str) -> Attendance {
    Attendance::of(events, &[], rules, &question(from, to), 0).unwrap()
}

/// The rows without their heading and the person's column.
fn rows(events: &[Event], rules: &Rules, from: &str, to: &str) -> Vec<String> {
    let csv = ask(events, rules, from, to).csv();
    csv.lines().skip(1).map(|line| line.replacen(",Ada,", " | ", 1)).collect()
}

fn both(times: &[&str], from: &str, to: &str) -> Vec<String> {
    rows(&seen(&times.iter().map(|time| at(time)).collect::<Vec<_>>()), &rules(Direction::Both), from, to)
}

/// What happens to the machine in the month below, by true time.
enum Happens {
    /// Switched on, with a clock that shows this.
    Boots(&'static str),
    /// The clock is set, and is wrong by so many milliseconds now.
    ClockIsOffBy(i64),
    Seen(String),
    Renamed,
    Forgotten,
}

/// A month at the door of a board without a battery for its clock, in the words from which both files in tests/data/attendance were written:
///
/// - Ada Lovelace, an office worker, comes at 08:MM (MM: day of the month), goes to lunch from 12:00 to 12:40, leaves at 17:MM:30. On the 5th she
///   stands in the doorway for four minutes and is recognised every 20 seconds. She is missed when she comes back on the 6th, when she leaves on
///   the 9th, and all but in the morning of the 11th. On the 12th she works until 00:20.
/// - Bob works on weekdays with an even date, from 05:50:15 to 14:10:45; on the 10th he comes at 07:10:15; on the 25th he looks in early.
/// - Eve comes at 10:00 and leaves by another door. On the 13th she is forgotten.
/// - Grace works mornings on Mondays, Wednesdays and Fridays. On the 16th she is renamed to Grace Hopper.
/// - Nils works nights of Fridays and Saturdays, 19:00 to 03:10; in the night of the 28th the clocks go forward. On the 7th he steps out for 90
///   seconds, on the 14th for the two minutes that make another visit. On the 31st he works from 23:00.
///
/// The power fails on the 10th from 06:50 to 07:00; the clock starts in 1970 and is set by the network at 09:30. On the 19th at 14:00 somebody sets it back by
/// a year, and puts it right on the 20th at 10:00. On the 25th at 05:00 the board starts with the time of the evening before, until 05:05.
fn month(the_daemon_notes_jumps: bool) -> Vec<Event> {
    let sheet = include_str!("../../tests/data/attendance/march.sightings.csv");
    let mut story: Vec<(i64, Happens)> = sheet
        .lines()
        .skip(1)
        .map(|line| line.split_once(',').unwrap())
        .map(|(person, time)| (at(&time.replace(' ', "T")), Happens::Seen(person.into())))
        .collect();
    story.extend([
        (at("2026-02-27T12:00"), Happens::Boots("2026-02-27T12:00")),
        (at("2026-03-10T07:00"), Happens::Boots("1970-01-01T01:00")),
        (at("2026-03-10T09:30"), Happens::ClockIsOffBy(0)),
        (at("2026-03-13T09:30"), Happens::Forgotten),
        (at("2026-03-16T08:00"), Happens::Renamed),
        (at("2026-03-19T14:00"), Happens::ClockIsOffBy(-365 * DAY)),
        (at("2026-03-20T10:00"), Happens::ClockIsOffBy(0)),
        (at("2026-03-25T05:00"), Happens::Boots("2026-03-24T21:17")),
        (at("2026-03-25T05:05"), Happens::ClockIsOffBy(0)),
    ]);
    story.sort_by_key(|(at, _)| *at);
    let people = ["", "Ada Lovelace", "Bob", "Eve", "Grace", "Nils"];
    let number = |name: &str| PersonId(people.iter().position(|person| *person == name).unwrap() as u32);
    let (mut events, mut on, mut off_by) = (Vec::new(), 0, 0);
    for (true_ms, happens) in story {
        let kind = match happens {
            Happens::Boots(shows) => {
                (on, off_by) = (true_ms - 20 * SECOND, at(shows) - true_ms);
                EventKind::Started
            }
            Happens::ClockIsOffBy(ms) => {
                let by_ms = ms - off_by;
                off_by = ms;
                if !the_daemon_notes_jumps {
                    continue;
                }
                EventKind::ClockSet { by_ms }
            }
            Happens::Seen(name) => granted(0, number(&name), &name, 0).kind,
            Happens::Renamed => {
                EventKind::Renamed { person: number("Grace"), from: "Grace".into(), to: "Grace Hopper".into() }
            }
            Happens::Forgotten => {
                EventKind::Forgotten { person: number("Eve"), name: "Eve".into(), picture: "Eve.jpg".into() }
            }
        };
        events.push(Event {
            id: events.len() as u64 + 1,
            at_ms: true_ms + off_by,
            boot_id: format!("boot at {on}"),
            since_boot: Duration::from_millis((true_ms - on) as u64),
            kind,
        });
    }
    events
}

#[test]
fn a_month_with_summer_time_and_clock_jumps_is_what_was_worked_out_by_hand() {
    let expected = include_str!("../../tests/data/attendance/march.expected.csv");
    let people: Vec<_> = [(1, "Ada Lovelace"), (2, "Bob"), (4, "Grace Hopper"), (5, "Nils")]
        .map(|(number, name)| (PersonId(number), name.to_owned()))
        .into();
    for the_daemon_notes_jumps in [true, false] {
        let events = month(the_daemon_notes_jumps);
        let question = question("2026-03-01", "2026-03-31");
        let attendance = Attendance::of(&events, &people, &rules(Direction::Both), &question, 0).unwrap();
        assert_eq!(attendance.csv().replace("\r\n", "\n"), expected);
        assert_eq!(attendance.undated, []);
    }
}

#[test]
fn the_first_sighting_is_coming_and_the_last_is_going() {
    let day = ["2026-03-02T08:00", "2026-03-02T12:00", "2026-03-02T12:30", "2026-03-02T17:00:01"];
    let expected = "2026-03-02 | 2026-03-02 08:00:00,2026-03-02 17:00:01,4,9:00:01";
    assert_eq!(both(&day, "2026-03-02", "2026-03-02"), [expected]);
    let missed = [day[0], day[1], day[3]];
    assert_eq!(both(&missed, "2026-03-02", "2026-03-02"), [expected.replace(",4,", ",3,")], "one was missed");
}

#[test]
fn whoever_is_seen_once_came_and_nobody_knows_how_long_they_stayed() {
    let times = ["2026-03-02T08:00:00", "2026-03-02T08:00:07", "2026-03-02T08:01:30"];
    assert_eq!(both(&times, "2026-03-02", "2026-03-02"), ["2026-03-02 | 2026-03-02 08:00:00,,1,"]);
}

#[test]
fn one_direction_tells_half_of_it() {
    let events = seen(&["2026-03-02T08:00", "2026-03-02T12:30", "2026-03-02T12:31"].map(at));
    let of = |direction| rows(&events, &rules(direction), "2026-03-01", "2026-03-31");
    assert_eq!(of(Direction::Entry), ["2026-03-02 | 2026-03-02 08:00:00,,2,"]);
    assert_eq!(of(Direction::Exit), ["2026-03-02 | ,2026-03-02 12:31:00,2,"]);
}

#[test]
fn a_pause_of_the_gap_makes_another_visit() {
    let times = |pause: i64| seen(&[at("2026-03-02T08:00"), at("2026-03-02T08:00") + pause]);
    let visits = |pause| ask(&times(pause), &rules(Direction::Both), "2026-03-02", "2026-03-02").days[0].visits;
    assert_eq!((visits(2 * MINUTE - 1), visits(2 * MINUTE)), (1, 2));
    let no_gap = Rules { gap_ms: 0, ..rules(Direction::Both) };
    assert_eq!(ask(&times(0), &no_gap, "2026-03-02", "2026-03-02").days[0].visits, 2);
}

#[test]
fn whoever_leaves_after_midnight_leaves_on_the_day_they_came() {
    let times = ["2026-12-31T23:50", "2027-01-01T00:10", "2027-01-01T03:59:59.999", "2027-01-01T04:02"];
    assert_eq!(
        both(&times, "2026-12-01", "2027-01-31"),
        ["2026-12-31 | 2026-12-31 23:50:00,2027-01-01 03:59:59,3,4:09:59", "2027-01-01 | 2027-01-01 04:02:00,,1,"]
    );
    assert_eq!(both(&times, "2027-01-01", "2027-01-01").len(), 1, "the year's first day alone");
}

#[test]
fn a_visit_across_the_boundary_of_a_day_is_divided_and_counts_once() {
    let times: Vec<i64> = (0..=20).map(|minute| at("2026-03-02T23:50") + minute * MINUTE).collect();
    let midnight = |direction| Rules { day_start: Time::midnight(), ..rules(direction) };
    let of = |direction, from| rows(&seen(&times), &midnight(direction), from, "2026-03-31");
    let tail = "2026-03-03 | ,2026-03-03 00:10:00,0,0:10:00";
    assert_eq!(of(Direction::Both, "2026-03-01"), ["2026-03-02 | 2026-03-02 23:50:00,,1,0:10:00", tail]);
    assert_eq!(of(Direction::Both, "2026-03-03"), [tail], "the second day alone says the same of itself");
    assert_eq!(of(Direction::Entry, "2026-03-01"), ["2026-03-02 | 2026-03-02 23:50:00,,1,"]);
    assert_eq!(of(Direction::Exit, "2026-03-03"), ["2026-03-03 | ,2026-03-03 00:10:00,0,"]);
}

#[test]
fn a_night_in_which_clocks_change_has_seven_or_nine_hours() {
    assert_eq!(
        both(
            &["2026-03-28T22:00", "2026-03-29T06:00", "2026-10-24T22:00", "2026-10-25T06:00"],
            "2026-01-01",
            "2026-12-31"
        ),
        // Two of them end after 04:00, at which this door's day begins.
        [
            "2026-03-28 | 2026-03-28 22:00:00,,1,",
            "2026-03-29 | 2026-03-29 06:00:00,,1,",
            "2026-10-24 | 2026-10-24 22:00:00,,1,",
            "2026-10-25 | 2026-10-25 06:00:00,,1,"
        ]
    );
    let noon = Rules { day_start: Time::constant(12, 0, 0, 0), ..rules(Direction::Both) };
    let nights = ["2026-03-28T22:00", "2026-03-29T06:00", "2026-10-24T22:00", "2026-10-25T06:00"].map(at);
    assert_eq!(
        rows(&seen(&nights), &noon, "2026-01-01", "2026-12-31"),
        [
            "2026-03-28 | 2026-03-28 22:00:00,2026-03-29 06:00:00,2,7:00:00",
            "2026-10-24 | 2026-10-24 22:00:00,2026-10-25 06:00:00,2,9:00:00"
        ]
    );
}

#[test]
fn a_day_may_begin_in_the_hour_that_is_left_out_or_comes_twice() {
    let rules = Rules { day_start: Time::constant(2, 30, 0, 0), ..rules(Direction::Both) };
    let day = |at_ms| rules.day_of(at_ms).unwrap().to_string();
    // 02:00 is followed by 03:00; 02:30 is taken for 03:30.
    let spring = at("2026-03-29T03:30");
    assert_eq!((day(spring - 1), day(spring)), ("2026-03-28".into(), "2026-03-29".into()));
    // 02:30 comes twice; the day begins at the first.
    let autumn = at("2026-10-25T02:30");
    assert_eq!(
        (day(autumn - 1), day(autumn), day(autumn + 50 * MINUTE)),
        ("2026-10-24".into(), "2026-10-25".into(), "2026-10-25".into())
    );
}

#[test]
fn without_dates_the_last_seven_days_are_meant() {
    let now = at("2026-03-10T03:00");
    let of = |question: &Question| Attendance::of(&[], &[], &rules(Direction::Both), question, now).unwrap();
    let dates = |attendance: Attendance| (attendance.from.to_string(), attendance.to.to_string());
    assert_eq!(dates(of(&Question::default())), ("2026-03-03".into(), "2026-03-09".into()), "it is still the 9th");
    let to = Question { to: Some("2026-01-03".parse().unwrap()), ..Question::default() };
    assert_eq!(dates(of(&to)), ("2025-12-28".into(), "2026-01-03".into()));
    let from = Question { from: Some("2026-04-01".parse().unwrap()), ..Question::default() };
    let backwards = Attendance::of(&[], &[], &rules(Direction::Both), &from, now).unwrap_err();
    assert_eq!(backwards.to_string(), "the first day, 2026-04-01, is after the last, 2026-03-09");
}

#[test]
fn nothing_is_asked_too_much() {
    assert_eq!(ask(&[], &rules(Direction::Both), "-009999-01-01", "9999-12-31").days, []);
    let events = seen(&[at("2026-03-02T08:00")]);
    assert_eq!(ask(&events, &rules(Direction::Both), "-009999-01-01", "9999-12-31").days.len(), 1);
    assert_eq!(ask(&events, &rules(Direction::Both), "2026-03-03", "2026-03-04").days, [], "nobody came");
}

#[test]
fn an_answer_too_long_for_the_socket_is_refused() {
    let days: Vec<i64> = (0..=MOST_ROWS as i64).map(|day| at("2026-03-02T08:00") + day * DAY).collect();
    let question = question("2026-01-01", "2199-12-31");
    let error = Attendance::of(&seen(&days), &[], &rules(Direction::Both), &question, 0).unwrap_err();
    assert!(error.to_string().contains("ask for fewer days"), "{error}");
}

#[test]
fn people_go_by_their_newest_name() {
    let morning = at("2026-03-02T08:00");
    let renamed = |id, from: &str, to: &str| Event {
        kind: EventKind::Renamed { person: ADA, from: from.into(), to: to.into() },
        ..granted(id, ADA, "", morning + HOUR)
    };
    let mut events = vec![
        granted(1, ADA, "Ada", morning),
        renamed(2, "Ada", "Countess"),
        granted(3, ADA, "Countess", morning + 2 * HOUR),
    ];
    let names = |events: &[Event], people: &[(PersonId, String)], person: Option<&str>| {
        let question = Question { person: person.map(str::to_owned), ..question("2026-03-01", "2026-03-31") };
        let found = Attendance::of(events, people, &rules(Direction::Both), &question, 0)?;
        Ok(found.days.into_iter().map(|day| (day.person, day.visits)).collect::<Vec<_>>())
    };
    assert_eq!(names(&events, &[], None), Ok(vec![("Countess".into(), 2)]), "forgotten meanwhile");
    assert_eq!(names(&events, &[(ADA, "Lovelace".into())], None), Ok(vec![("Lovelace".into(), 2)]));
    // Forgotten, and enrolled anew with better pictures.
    events.push(granted(4, PersonId(9), "Countess", morning + 9 * HOUR));
    assert_eq!(names(&events, &[(PersonId(9), "Countess".into())], None), Ok(vec![("Countess".into(), 3)]));
    assert_eq!(names(&events, &[], Some("countess ")), Ok(vec![("Countess".into(), 3)]));
    assert_eq!(names(&events, &[], Some("Ada")), Err(AttendanceError::Nobody), "nobody is called that any more");
    assert_eq!(names(&events, &[(PersonId(7), "Bob".into())], Some("Bob")), Ok(vec![]), "enrolled and never seen");
}

#[test]
fn visits_at_times_that_are_not_known_are_counted_apart() {
    let monday = at("2026-03-02T08:00");
    let in_1970 = |id, since_boot: i64| Event {
        at_ms: since_boot,
        boot_id: "a boot without network".into(),
        since_boot: Duration::from_millis(since_boot as u64),
        ..granted(id, ADA, "Ada", monday)
    };
    let hours = [granted(1, ADA, "Ada", monday), in_1970(2, HOUR), in_1970(3, HOUR + MINUTE), in_1970(4, 2 * HOUR)];
    let events = [&hours[..], &[granted(5, ADA, "Ada", monday + 3 * DAY)]].concat();
    let of = |from, to| ask(&events, &rules(Direction::Both), from, to);
    assert_eq!(of("2026-03-03", "2026-03-04").undated, [Undated { person: "Ada".into(), visits: 2 }]);
    assert_eq!(of("2026-03-01", "2026-03-31").days.len(), 2);
    assert_eq!(of("2026-03-06", "2026-03-31").undated, [], "they were before the 5th");
    assert_eq!(of("2026-02-01", "2026-03-01").undated, [], "and after the 2nd");
}

#[test]
fn only_visits_of_known_people_count() {
    let denied = EventKind::Denied {
        reason: "not in the database".into(),
        nearest: Some((ADA, "Ada".into())),
        distance: Some(0.9),
        frames: 5,
    };
    let morning = at("2026-03-02T08:00");
    let event = |id, kind| Event { kind, ..granted(id, ADA, "", morning) };
    let events = [event(1, denied), event(2, EventKind::Opened { by: "root".into() })];
    assert_eq!(ask(&events, &rules(Direction::Both), "2026-03-01", "2026-03-31").days, []);
}

#[test]
fn no_cell_is_a_formula() {
    for (name, expected) in [
        ("Ada Lovelace", "Ada Lovelace"),
        ("Lovelace, Ada", "\"Lovelace, Ada\""),
        ("Ada \"Countess\" Lovelace", "\"Ada \"\"Countess\"\" Lovelace\""),
        ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "\"' =1+1\""),
        ("a\nb", "a\\nb"),
        ("\t=1", "\\t=1"),
        ("Zoë 李", "Zoë 李"),
        ("", ""),
    ] {
        let found = cell(name);
        // The quotes of " =1+1" are not needed, but harmless.
        assert_eq!(found.trim_matches('"'), expected.trim_matches('"'), "{name:?}");
        assert!(!found.trim_start_matches('"').trim_start().starts_with(['=', '+', '-', '@']), "{name:?}: {found}");
    }
}

/// Sightings within ten days around a change of the clocks.
fn sightings() -> impl Strategy<Value = Vec<i64>> {
    let around = prop::sample::select(vec![at("2026-03-25T00:00"), at("2026-10-21T00:00")]);
    (around, prop::collection::vec(0..10 * DAY, 0..60)).prop_map(|(begin, mut times)| {
        times.iter_mut().for_each(|time| *time += begin);
        times.sort_unstable();
        times
    })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let directions = prop::sample::select(vec![Direction::Both, Direction::Entry, Direction::Exit]);
    (0..12 * HOUR, 0..24i8, 0..60i8, directions).prop_map(|(gap_ms, hour, minute, direction)| Rules {
        gap_ms,
        day_start: Time::constant(hour, minute, 0, 0),
        zone: zone(),
        direction,
    })
}

proptest! {
    #[test]
    fn the_order_of_the_list_does_not_matter(times in sightings(), rules in any_rules(), turned in 0..60usize) {
        let mut events = seen(&times);
        let expected = ask(&events, &rules, "2026-01-01", "2026-12-31");
        let by = turned.min(events.len());
        events.rotate_left(by);
        prop_assert_eq!(ask(&events, &rules, "2026-01-01", "2026-12-31"), expected);
    }

    #[test]
    fn no_day_is_longer_than_it_is_and_nobody_leaves_before_they_come(times in sightings(), rules in any_rules()) {
        let attendance = ask(&seen(&times), &rules, "2026-01-01", "2026-12-31");
        for day in &attendance.days {
            let length = rules.end(day.date).unwrap() - rules.begin(day.date).unwrap();
            prop_assert!([23, 24, 25].contains(&(length / HOUR)) && length % HOUR == 0);
            prop_assert!(day.present_s.is_none_or(|present| (0..=length / SECOND).contains(&present)), "{:?}", day);
            let moment = |time: &Option<LocalTime>| time.as_ref().map(|time| time.to_string().parse::<Timestamp>().unwrap());
            if let Some((first, last)) = moment(&day.first_in).zip(moment(&day.last_out)) {
                prop_assert!(first <= last);
                prop_assert_eq!(day.present_s, Some(last.as_second() - first.as_second()));
            }
            for time in [moment(&day.first_in), moment(&day.last_out)].into_iter().flatten() {
                prop_assert_eq!(rules.day_of(time.as_millisecond()), Some(day.date));
            }
        }
        let counted: u32 = attendance.days.iter().map(|day| day.visits).sum();
        let visits = visits_of(times, rules.gap_ms);
        prop_assert!(counted == visits || rules.direction != Direction::Both && counted < visits);
    }

    #[test]
    fn whoever_stands_there_counts_once(times in sightings(), rules in any_rules()) {
        let once = visits(times.clone(), rules.gap_ms);
        let mut again = times;
        again.extend(once.iter().filter(|(first, last)| first < last).map(|(first, last)| first.midpoint(*last)));
        prop_assert_eq!(visits(again, rules.gap_ms), once);
    }

    #[test]
    fn days_asked_for_one_by_one_are_the_same(times in sightings(), rules in any_rules()) {
        let events = seen(&times);
        let together = ask(&events, &rules, "2026-03-20", "2026-04-10").days;
        let dates = "2026-03-20".parse::<Date>().unwrap().series(1.day()).take(22);
        let apart: Vec<Day> = dates.flat_map(|date| ask(&events, &rules, &date.to_string(), &date.to_string()).days).collect();
        prop_assert_eq!(apart, together);
    }

    #[test]
    fn rubbish_never_panics(
        recorded in prop::collection::vec((any::<i64>(), any::<u64>(), 0..3u32, 0..4u8), 0..30),
        rules in any_rules()
    ) {
        let event = |(id, (at_ms, since, person, boot)): (usize, (i64, u64, u32, u8))| Event {
            at_ms,
            boot_id: boot.to_string(),
            since_boot: Duration::from_millis(since),
            ..granted(id as u64, PersonId(person), "Ada", 0)
        };
        let events: Vec<Event> = recorded.into_iter().enumerate().map(event).collect();
        let everything = ask(&events, &rules, "-009999-01-01", "9999-12-31");
        prop_assert!(everything.days.iter().all(|day| day.present_s.is_none_or(|present| present >= 0)));
        let _ = rules.day_of(i64::MAX);
    }

    #[test]
    fn every_moment_belongs_to_one_day(after in 0..365 * DAY, rules in any_rules()) {
        let moment = at("2026-01-01T00:00") + after;
        let date = rules.day_of(moment).unwrap();
        prop_assert!((rules.begin(date).unwrap()..rules.end(date).unwrap()).contains(&moment));
    }
}

#[test]
fn a_person_is_asked_for_in_any_spelling_of_the_name() {
    let events = [granted(1, ADA, "Zoe\u{308} ", at("2026-03-02T08:00"))];
    for wanted in ["Zo\u{eb}", "zoe\u{308}", "Zo\u{eb} ", "ZO\u{cb}"] {
        let question = Question { person: Some(wanted.into()), ..question("2026-03-02", "2026-03-02") };
        let found = Attendance::of(&events, &[], &rules(Direction::Both), &question, 0);
        assert_eq!(found.map(|found| found.days.len()), Ok(1), "{wanted:?}");
    }
}
