//! Who was there: days made of recognised visits.
//!
//! A *sighting* is an event of a known person; sightings with less than `gap` between them are one *visit*, however often the person
//! was recognised in it. A *day* is what of a person's visits lies between one `day_start` and the next, in local time. Times are
//! those of [`clock::corrected`]; how long something took is counted in real time, so a night in which the clocks change has 7 or 9 hours.
//!
//! Everybody goes by the name they have now. Names are those of the enroll folder, where each is there once; a person who was
//! forgotten and enrolled anew under the same name is the same one here.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    config::{AttendanceConfig, Direction},
    gallery::PersonId,
    names::canonical,
    store::{Event, EventKind},
    telemetry::printable,
};

/// Days asked for when nothing is said, the present one included.
const USUAL_DAYS: i64 = 7;
/// More rows make a message that the control socket does not carry.
const MOST_ROWS: usize = 40_000;

/// How days are made.
#[derive(Clone, Debug)]
pub struct Rules {
    pub gap_ms: i64,
    pub day_start: Time,
    pub zone: TimeZone,
    pub direction: Direction,
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The first day; None: so that there are seven.
    pub from: Option<Date>,
    /// The last day; None: the present one.
    pub to: Option<Date>,
    /// A name, in any case; None: everybody.
    pub person: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attendance {
    pub from: Date,
    pub to: Date,
    /// By person and date; days without a visit are left out.
    pub days: Vec<Day>,
    /// Visits that may belong to these days, but when they were cannot be told: the clock was wrong.
    pub undated: Vec<Undated>,
}

/// One person's day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Day {
    pub date: Date,
    pub person: String,
    /// None: not known; or, where `present_s` is known, the person was there already when the day began.
    pub first_in: Option<LocalTime>,
    /// None: not known; or, where `present_s` is known, the person was there still when the day ended.
    pub last_out: Option<LocalTime>,
    /// Visits that began on this day.
    pub visits: u32,
    /// Seconds between coming and going; None: not known.
    pub present_s: Option<i64>,
}

/// Visits of a person at times that are not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Undated {
    pub person: String,
    pub visits: u32,
}

/// A moment as `2026-03-29T08:00:00+02:00`, in the time zone of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LocalTime(String);

impl LocalTime {
    /// `2026-03-29`
    pub fn date(&self) -> &str {
        self.0.get(..10).unwrap_or_default()
    }

    /// `08:00:00`
    pub fn clock(&self) -> &str {
        self.0.get(11..19).unwrap_or_default()
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AttendanceError {
    #[error("nobody of that name is enrolled or was seen; `facelatch people` lists the names")]
    Nobody,
    #[error("the first day, {from}, is after the last, {to}")]
    Backwards { from: Date, to: Date },
    #[error("{count} rows are too many for one answer; ask for fewer days, or for one person")]
    TooMany { count: usize },
}

impl Rules {
    pub fn new(config: &AttendanceConfig) -> Rules {
        Rules {
            gap_ms: i64::try_from(config.gap.as_millis()).unwrap_or(i64::MAX),
            day_start: config.day_start,
            // A configuration with a time zone that is not known was refused when it was loaded.
            zone: config.zone().unwrap_or(TimeZone::UTC),
            direction: config.direction,
        }
    }

    /// The day to which a moment belongs; None at the ends of the calendar.
    pub fn day_of(&self, at_ms: i64) -> Option<Date> {
        let calendar = self.zone.to_datetime(Timestamp::from_millisecond(at_ms).ok()?).date();
        // Where clocks change at the very hour at which a day begins, its date may not be the calendar's on either side.
        let around = [calendar.tomorrow(), Ok(calendar), calendar.yesterday()];
        around.into_iter().flatten().find(|date| self.begin(*date).is_some_and(|begin| begin <= at_ms))
    }

    /// When a day begins, milliseconds since 1970. An hour that the change of clocks leaves out is taken for the one after it, of one that
    /// comes twice the first counts.
    fn begin(&self, date: Date) -> Option<i64> {
        let begin = self.zone.to_zoned(date.to_datetime(self.day_start)).ok()?;
        Some(begin.timestamp().as_millisecond())
    }

    fn end(&self, date: Date) -> Option<i64> {
        self.begin(date.tomorrow().ok()?)
    }

    fn local(&self, at_ms: i64) -> Option<LocalTime> {
        let time = Timestamp::from_millisecond(at_ms).ok()?.to_zoned(self.zone.clone());
        Some(LocalTime(time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()))
    }
}

impl Attendance {
    /// Works it out from the events, in any order, and the people enrolled with their present names.
    ///
    /// # Errors
    /// A name that nobody has or had, days in the wrong order, too much for one answer.
    pub fn of(
        events: &[Event],
        people: &[(PersonId, String)],
        rules: &Rules,
        question: &Question,
        now_ms: i64,
    ) -> Result<Attendance, AttendanceError> {
        let to = question.to.or_else(|| rules.day_of(now_ms)).unwrap_or(Date::MAX);
        let from = question.from.unwrap_or_else(|| to.saturating_sub((USUAL_DAYS - 1).days()));
        if from > to {
            return Err(AttendanceError::Backwards { from, to });
        }
        let names = names(events, people);
        let mut sightings = Sightings::of(events, &names);
        if let Some(wanted) = &question.person {
            let spelled = |name: &str| canonical(name).to_lowercase();
            let is_meant = |name: &str| spelled(name) == spelled(wanted);
            if !names.values().any(|name| is_meant(name)) {
                return Err(AttendanceError::Nobody);
            }
            sightings.0.retain(|name, _| is_meant(name));
        }
        let window = rules.begin(from).unwrap_or(i64::MIN)..rules.end(to).unwrap_or(i64::MAX);
        let mut attendance = Attendance { from, to, days: Vec::new(), undated: Vec::new() };
        let mut sightings: Vec<_> = sightings.0.into_iter().collect();
        sightings.sort_by_cached_key(|(name, _)| name.to_lowercase());
        for (person, seen) in sightings {
            let visits = visits(seen.dated, rules.gap_ms);
            let visits = visits.into_iter().filter(|(begin, end)| *begin < window.end && *end >= window.start);
            attendance.days.extend(days(&person, visits, rules, from, to));
            let mut undated = 0;
            for boot in seen.undated.into_values() {
                let possible = boot
                    .into_iter()
                    .filter(|(not_before, not_after, _)| *not_before < window.end && *not_after >= window.start);
                undated += visits_of(possible.map(|(.., since_boot)| since_boot).collect(), rules.gap_ms);
            }
            if undated > 0 {
                attendance.undated.push(Undated { person, visits: undated });
            }
        }
        if attendance.days.len() > MOST_ROWS {
            return Err(AttendanceError::TooMany { count: attendance.days.len() });
        }
        Ok(attendance)
    }

    /// As a table for spreadsheets: RFC 4180, with a heading.
    pub fn csv(&self) -> String {
        csv(&self.days)
    }
}

/// What everybody is called now; of those who are not enrolled any more, what they were called last.
fn names(events: &[Event], people: &[(PersonId, String)]) -> HashMap<PersonId, String> {
    let mut last: HashMap<PersonId, (u64, &str)> = HashMap::new();
    for event in events {
        let (person, name) = match &event.kind {
            EventKind::Granted { person, name, .. }
            | EventKind::Enrolled { person, name, .. }
            | EventKind::Forgotten { person, name, .. }
            | EventKind::Renamed { person, to: name, .. } => (*person, name),
            _ => continue,
        };
        let newest = last.entry(person).or_insert((event.id, name));
        if event.id >= newest.0 {
            *newest = (event.id, name);
        }
    }
    let mut names: HashMap<_, _> = last.into_iter().map(|(person, (_, name))| (person, name.to_owned())).collect();
    names.extend(people.iter().cloned());
    names
}

/// Sightings by name.
struct Sightings(BTreeMap<String, Seen>);

#[derive(Default)]
struct Seen {
    /// Milliseconds since 1970.
    dated: Vec<i64>,
    /// By boot: not before, not after, and milliseconds since boot.
    undated: HashMap<String, Vec<(i64, i64, i64)>>,
}

impl Sightings {
    fn of(events: &[Event], names: &HashMap<PersonId, String>) -> Sightings {
        let times = clock::corrected(events);
        let mut order: Vec<usize> = (0..events.len()).collect();
        order.sort_by_key(|&place| events[place].id);
        // An event whose time is not known was after the last one before it whose time is, and before the next.
        let mut not_after = vec![i64::MAX; events.len()];
        let mut next = i64::MAX;
        for &place in order.iter().rev() {
            next = times[place].unwrap_or(next);
            not_after[place] = next;
        }
        let mut sightings: BTreeMap<String, Seen> = BTreeMap::new();
        let mut not_before = i64::MIN;
        for place in order {
            let event = &events[place];
            not_before = times[place].unwrap_or(not_before);
            let EventKind::Granted { person, name, .. } = &event.kind else { continue };
            let seen = sightings.entry(names.get(person).unwrap_or(name).clone()).or_default();
            match times[place] {
                Some(at) => seen.dated.push(at),
                None => {
                    let since_boot = i64::try_from(event.since_boot.as_millis()).unwrap_or(i64::MAX);
                    let boot = seen.undated.entry(event.boot_id.clone()).or_default();
                    boot.push((not_before, not_after[place], since_boot));
                }
            }
        }
        Sightings(sightings)
    }
}

/// First and last sighting of each visit.
fn visits(mut sightings: Vec<i64>, gap_ms: i64) -> Vec<(i64, i64)> {
    sightings.sort_unstable();
    let mut visits: Vec<(i64, i64)> = Vec::new();
    for at in sightings {
        match visits.last_mut() {
            Some((_, last)) if at.saturating_sub(*last) < gap_ms => *last = at,
            _ => visits.push((at, at)),
        }
    }
    visits
}

fn visits_of(sightings: Vec<i64>, gap_ms: i64) -> u32 {
    u32::try_from(visits(sightings, gap_ms).len()).unwrap_or(u32::MAX)
}

/// What of somebody's visits lies in one day.
#[derive(Default)]
struct Parts {
    visits: u32,
    /// When the first visit of the day began, and the last one ended.
    came: Option<i64>,
    went: Option<i64>,
    /// The visit with which the day begins had begun before it; the one with which it ends goes on after it.
    from_before: bool,
    goes_on: bool,
}

fn days(person: &str, visits: impl Iterator<Item = (i64, i64)>, rules: &Rules, from: Date, to: Date) -> Vec<Day> {
    let mut days: BTreeMap<Date, Parts> = BTreeMap::new();
    for (begin, end) in visits {
        let (Some(first), Some(last)) = (rules.day_of(begin), rules.day_of(end)) else { continue };
        for date in first.max(from).series(1.day()).take_while(|date| *date <= last.min(to)) {
            let parts = days.entry(date).or_default();
            if date == first {
                parts.visits += 1;
                parts.came.get_or_insert(begin);
            } else {
                parts.from_before = true;
            }
            if date == last {
                parts.went = Some(end);
            } else {
                parts.goes_on = true;
            }
        }
    }
    days.into_iter().filter_map(|(date, parts)| parts.day(date, person, rules)).collect()
}

impl Parts {
    /// None: in the direction that is watched, nothing happened on this day.
    fn day(&self, date: Date, person: &str, rules: &Rules) -> Option<Day> {
        let (came, went, present_s) = match rules.direction {
            Direction::Entry => (Some(self.came?), None, None),
            Direction::Exit => (None, Some(self.went?), None),
            Direction::Both => {
                let came = self.came.filter(|_| !self.from_before);
                // Seen on one visit only, somebody came and was missed on the way out, or the other way round.
                let once = self.visits == 1 && !self.from_before && !self.goes_on;
                let went = self.went.filter(|_| !self.goes_on && !once);
                let (since, until) = (came.or_else(|| rules.begin(date))?, went.or_else(|| rules.end(date))?);
                // In whole seconds, as the times are shown.
                let present = until.div_euclid(1000) - since.div_euclid(1000);
                (came, went, Some(present).filter(|_| !once))
            }
        };
        let (first_in, last_out) = (came.and_then(|at| rules.local(at)), went.and_then(|at| rules.local(at)));
        Some(Day { date, person: person.to_owned(), first_in, last_out, visits: self.visits, present_s })
    }
}

/// Days as CSV (RFC 4180): dates and times as spreadsheets read them, `present` as hours, minutes and seconds.
pub fn csv(days: &[Day]) -> String {
    let mut lines = String::from("date,person,first_in,last_out,visits,present\r\n");
    let time = |time: &Option<LocalTime>| {
        time.as_ref().map_or_else(String::new, |time| format!("{} {}", time.date(), time.clock()))
    };
    for day in days {
        let (first_in, last_out) = (time(&day.first_in), time(&day.last_out));
        let present =
            day.present_s.map_or_else(String::new, |s| format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60));
        let cells = [day.date.to_string(), cell(&day.person), first_in, last_out, day.visits.to_string(), present];
        lines.push_str(&cells.join(","));
        lines.push_str("\r\n");
    }
    lines
}

/// A text from outside as a cell: quoted where it has to be, and never a formula.
fn cell(text: &str) -> String {
    let text = printable(text);
    let formula = text.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    let text = if formula { format!("'{text}") } else { text };
    if text.contains([',', '"', '\r', '\n']) || text.trim() != text {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests;
