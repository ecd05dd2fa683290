//! Who was there: days made of recognised visits.
//!
//! A *sighting* is an event of a known person; sightings with less than `gap` between
//! them are one *visit*, however often the person was recognised in it. A *day* is what
//! of a person's visits lies between one `day_start` and the next, in local time. Times
//! are those of [`clock::History`]; how long something took is counted in real time, so a
//! night in which the clocks change has 7 or 9 hours.
//!
//! Everybody goes by the name they have now. Names are those of the enroll folder, where each is there once; a person who was
//! forgotten and enrolled anew under the same name is the same one here.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

use crate::{
    clock::{History, Stretch},
    config::{AttendanceConfig, Direction},
    error::ErrorKind,
    gallery::PersonId,
    names::canonical,
    store::{Event, EventKind},
    telemetry::printable,
};

/// Days asked for when nothing is said, the present one included.
const USUAL_DAYS: i64 = 7;
/// More rows make a message that the control socket does not carry.
const MOST_ROWS: usize = 40_000;
/// Visits of a person that wait for being divided into days.
const WAITING: usize = 64;
/// Sightings may come out of order by so much; what is older is divided into days.
const OUT_OF_ORDER_MS: i64 = 86_400_000;

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

impl AttendanceError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        if *self == AttendanceError::Nobody { ErrorKind::NotFound } else { ErrorKind::Invalid }
    }
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

/// Makes days of events that it is shown one by one. It holds the days, never the events.
pub struct Count<'a> {
    rules: &'a Rules,
    history: &'a History,
    names: &'a HashMap<PersonId, String>,
    /// A name as it is compared; None: everybody.
    wanted: Option<String>,
    from: Date,
    to: Date,
    /// Begin and end of these days, milliseconds since 1970.
    window: Range<i64>,
    seen: BTreeMap<String, Seen>,
    rows: usize,
}

impl<'a> Count<'a> {
    /// `names`: of everybody who is enrolled or was seen, as they are called now.
    ///
    /// # Errors
    /// A name that nobody has or had, days in the wrong order.
    pub fn new(
        rules: &'a Rules,
        history: &'a History,
        names: &'a HashMap<PersonId, String>,
        question: &Question,
        now_ms: i64,
    ) -> Result<Count<'a>, AttendanceError> {
        let to = question.to.or_else(|| rules.day_of(now_ms)).unwrap_or(Date::MAX);
        let from = question.from.unwrap_or_else(|| to.saturating_sub((USUAL_DAYS - 1).days()));
        if from > to {
            return Err(AttendanceError::Backwards { from, to });
        }
        let wanted = question.person.as_ref().map(|name| spelled(name));
        if let Some(wanted) = &wanted
            && !names.values().any(|name| spelled(name) == *wanted)
        {
            return Err(AttendanceError::Nobody);
        }
        let window = rules.begin(from).unwrap_or(i64::MIN)..rules.end(to).unwrap_or(i64::MAX);
        Ok(Count { rules, history, names, wanted, from, to, window, seen: BTreeMap::new(), rows: 0 })
    }

    /// Where the events that matter lie.
    pub fn stretches(&self) -> Vec<Stretch> {
        self.history.stretches(self.with_gap())
    }

    /// Whether a visit goes on across the ends of the window is seen from what is a gap
    /// beyond.
    fn with_gap(&self) -> Range<i64> {
        let Range { start, end } = self.window;
        start.saturating_sub(self.rules.gap_ms)..end.saturating_add(self.rules.gap_ms)
    }

    /// Takes one event; those of a person in the order of their numbers. False: there is
    /// too much already.
    pub fn add(&mut self, event: &Event) -> bool {
        let EventKind::Granted { person, name, .. } = &event.kind else { return true };
        let name = self.names.get(person).unwrap_or(name);
        if self.wanted.as_ref().is_some_and(|wanted| spelled(name) != *wanted) {
            return true;
        }
        let time = self.history.time(event.stamp());
        if time.is_some_and(|at| !self.with_gap().contains(&at)) {
            return true;
        }
        if !self.seen.contains_key(name) {
            self.seen.insert(name.clone(), Seen::default());
        }
        let Some(seen) = self.seen.get_mut(name) else { return true };
        match time {
            Some(at) => {
                sighted(&mut seen.visits, at, self.rules.gap_ms);
                if seen.visits.len() >= seen.settle_at.max(WAITING) {
                    self.rows += seen.settle(self.rules, &self.window, (self.from, self.to), OUT_OF_ORDER_MS);
                    seen.settle_at = seen.visits.len() * 2;
                }
            }
            None => seen.undated(event, self.rules.gap_ms),
        }
        self.rows <= MOST_ROWS
    }

    /// # Errors
    /// Too much for one answer.
    pub fn finish(mut self) -> Result<Attendance, AttendanceError> {
        let mut attendance = Attendance { from: self.from, to: self.to, days: Vec::new(), undated: Vec::new() };
        let mut seen: Vec<_> = std::mem::take(&mut self.seen).into_iter().collect();
        seen.sort_by_cached_key(|(name, _)| name.to_lowercase());
        for (person, mut seen) in seen {
            self.rows += seen.settle(self.rules, &self.window, (self.from, self.to), i64::MIN);
            if self.rows > MOST_ROWS {
                return Err(AttendanceError::TooMany { count: self.rows });
            }
            let days = seen.days.into_iter();
            attendance.days.extend(days.filter_map(|(date, parts)| parts.day(date, &person, self.rules)));
            if seen.undated > 0 {
                attendance.undated.push(Undated { person, visits: seen.undated });
            }
        }
        Ok(attendance)
    }
}

impl Attendance {
    /// As a table for spreadsheets: RFC 4180, with a heading.
    pub fn csv(&self) -> String {
        csv(&self.days)
    }
}

/// A name as it is compared.
fn spelled(name: &str) -> String {
    canonical(name).to_lowercase()
}

/// What is known of one person.
#[derive(Default)]
struct Seen {
    /// First and last sighting of visits that later sightings may still belong to.
    visits: Vec<(i64, i64)>,
    /// Visits at which they are divided into days next.
    settle_at: usize,
    days: BTreeMap<Date, Parts>,
    /// Visits at times that are not known; boot and time since boot of the last sighting.
    undated: u32,
    last_undated: Option<(String, i64)>,
}

impl Seen {
    fn undated(&mut self, event: &Event, gap_ms: i64) {
        let since_boot = i64::try_from(event.since_boot.as_millis()).unwrap_or(i64::MAX);
        let same = |(boot, last): &(String, i64)| *boot == event.boot_id && since_boot.saturating_sub(*last) < gap_ms;
        if !self.last_undated.as_ref().is_some_and(same) {
            self.undated = self.undated.saturating_add(1);
        }
        self.last_undated = Some((event.boot_id.clone(), since_boot));
    }

    /// Divides visits into days but for those of the last `keep_ms`; how many days that
    /// adds.
    fn settle(&mut self, rules: &Rules, window: &Range<i64>, (from, to): (Date, Date), keep_ms: i64) -> usize {
        let visits = merged(std::mem::take(&mut self.visits), rules.gap_ms);
        let newest = visits.last().map_or(i64::MIN, |(_, end)| *end);
        let before = self.days.len();
        for (begin, end) in visits {
            if end > newest.saturating_sub(keep_ms) {
                self.visits.push((begin, end));
            } else if begin < window.end && end >= window.start {
                divide(&mut self.days, (begin, end), rules, from, to);
            }
        }
        self.days.len() - before
    }
}

/// Adds a sighting to the visit it belongs to, or begins another.
fn sighted(visits: &mut Vec<(i64, i64)>, at: i64, gap_ms: i64) {
    match visits.last_mut() {
        Some((begin, end)) if *begin <= at && at.saturating_sub(*end) < gap_ms => *end = at.max(*end),
        _ => visits.push((at, at)),
    }
}

/// In their order, those with less than the gap between them as one.
fn merged(mut visits: Vec<(i64, i64)>, gap_ms: i64) -> Vec<(i64, i64)> {
    visits.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::with_capacity(visits.len());
    for (begin, end) in visits {
        match merged.last_mut() {
            Some((_, last)) if begin.saturating_sub(*last) < gap_ms => *last = end.max(*last),
            _ => merged.push((begin, end)),
        }
    }
    merged
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

fn divide(days: &mut BTreeMap<Date, Parts>, (begin, end): (i64, i64), rules: &Rules, from: Date, to: Date) {
    let (Some(first), Some(last)) = (rules.day_of(begin), rules.day_of(end)) else { return };
    for date in first.max(from).series(1.day()).take_while(|date| *date <= last.min(to)) {
        let parts = days.entry(date).or_default();
        if date == first {
            parts.visits += 1;
            parts.came = Some(parts.came.map_or(begin, |came| came.min(begin)));
        } else {
            parts.from_before = true;
        }
        if date == last {
            parts.went = parts.went.max(Some(end));
        } else {
            parts.goes_on = true;
        }
    }
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
