//! What the wall clock showed, and what it should have shown.
//!
//! A board without a battery for its clock starts in 1970, or at the time it was last switched off, until the network tells it better.
//! Within one start of the machine ("boot") the wall clock is `time since boot + offset`, and the offset changes only when somebody sets the
//! clock: corrections by small steps of the network time reach both alike. So the offset that a boot ended with dates what was
//! recorded before it was known. See [`corrected`] for the cases in which it is not believed.
//!
//! Nothing here reads a clock.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use crate::store::Event;

/// A difference of more than this between wall clock and time since boot is a jump: /proc/uptime has steps of 10 ms, a leap second is one.
const JUMP_MS: i64 = 2_000;
/// 2026-01-01, the year this program is from, and 2200-01-01: no event is of a time outside.
const PLAUSIBLE_MS: Range<i64> = 1_767_225_600_000..7_258_118_400_000;
/// Two offsets of a boot that are so near to each other are the same one: the clock was put right again.
const SAME_MS: i64 = 120_000;
/// Set back by more than this, a clock was more probably set wrongly than put right; hours are a clock that ran in another time zone.
const DOUBTFUL_MS: i64 = 86_400_000;
/// By so much boots may seem to overlap: a board without a clock starts at a time that is written down once an hour.
const OVERLAP_MS: i64 = 7_200_000;

/// Notices that the wall clock was set.
#[derive(Debug, Default)]
pub struct ClockWatch {
    offset_ms: Option<i64>,
}

impl ClockWatch {
    /// Takes both clocks, in milliseconds; by how much the wall clock was set since it was last noticed.
    pub fn look(&mut self, wall_ms: i64, since_boot_ms: i64) -> Option<i64> {
        let offset = wall_ms.saturating_sub(since_boot_ms);
        let before = *self.offset_ms.get_or_insert(offset);
        let by = offset.saturating_sub(before);
        if by.saturating_abs() <= JUMP_MS {
            // The first offset stays, so that many small steps are noticed too.
            return None;
        }
        self.offset_ms = Some(offset);
        Some(by)
    }
}

/// A time span for people: its two largest units.
pub fn span_in_words(ms: i64) -> String {
    let seconds = ms.unsigned_abs() / 1000;
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(3);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (name, length) in units.iter().skip(first).take(2) {
        if rest >= *length || words.is_empty() {
            words.push(format!("{} {name}", rest / length));
        }
        rest %= length;
    }
    words.join(" ")
}

/// When each event really was, in milliseconds since 1970; None where nothing tells: the clock was wrong and was never put right in that boot.
///
/// The events may come in any order. For each boot the last offset counts for all of it, except that
/// - times before this program was written are never believed;
/// - an offset that is more than a day behind the one before, which held for longer, is taken for a mistake;
/// - boots follow each other: one that would have run at the same time as others, because its clock was wrong all the time, is
///   believed only if more events would have to be disbelieved otherwise. Of such a boot, an earlier offset is tried.
///
/// An event without boot id or time since boot (the system did not tell) keeps the time it was recorded with.
pub fn corrected(events: &[Event]) -> Vec<Option<i64>> {
    let mut times: Vec<_> = events.iter().map(|event| Some(event.at_ms).filter(|at| plausible(*at))).collect();
    let boots = boots(events);
    for (boot, offset) in boots.iter().zip(offsets(&boots)) {
        for part in &boot.parts {
            for &event in &boot.events[part.places.clone()] {
                times[event] = offset.map(|offset| {
                    // What the offset that counts was in force for keeps the very time it was recorded with.
                    let recorded = events[event].at_ms;
                    if offset == part.offset { recorded } else { since_boot(&events[event]).saturating_add(offset) }
                });
            }
        }
    }
    times
}

/// The number of the newest event that was before a moment, by corrected times. Events are numbered as they happen, so all up to it were.
pub fn newest_before(events: &[Event], at_ms: i64) -> Option<u64> {
    let old = events.iter().zip(corrected(events)).filter(|(_, at)| at.is_some_and(|at| at < at_ms));
    old.map(|(event, _)| event.id).max()
}

fn plausible(at_ms: i64) -> bool {
    PLAUSIBLE_MS.contains(&at_ms)
}

fn since_boot(event: &Event) -> i64 {
    i64::try_from(event.since_boot.as_millis()).unwrap_or(i64::MAX)
}

/// What was recorded between two starts of the machine.
struct Boot {
    /// Places in the list of events, by time since boot.
    events: Vec<usize>,
    parts: Vec<Part>,
    /// Time since boot of the first and of the last event.
    first: i64,
    last: i64,
}

/// A part of a boot in which nobody set the clock.
struct Part {
    /// Wall clock less time since boot.
    offset: i64,
    /// Places in the boot's events.
    places: Range<usize>,
    /// Times since boot between which it was in force, as far as events show it.
    from: i64,
    until: i64,
}

fn boots(events: &[Event]) -> Vec<Boot> {
    let mut by_id: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, event) in events.iter().enumerate() {
        if !event.boot_id.is_empty() && !event.since_boot.is_zero() {
            by_id.entry(&event.boot_id).or_default().push(place);
        }
    }
    let mut boots: Vec<Vec<usize>> = by_id.into_values().collect();
    for boot in &mut boots {
        boot.sort_by_key(|&place| (events[place].since_boot, events[place].id));
    }
    boots.sort_by_key(|boot| boot.iter().map(|&place| events[place].id).min());
    let boot = |places: Vec<usize>| {
        let ends = places.first().zip(places.last());
        let (first, last) =
            ends.map_or((0, 0), |(first, last)| (since_boot(&events[*first]), since_boot(&events[*last])));
        Boot { parts: parts(events, &places), events: places, first, last }
    };
    boots.into_iter().map(boot).collect()
}

fn parts(events: &[Event], boot: &[usize]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut before = None;
    for (place, &event) in boot.iter().enumerate() {
        let event = &events[event];
        let (since, offset) = (since_boot(event), event.at_ms.saturating_sub(since_boot(event)));
        let jumped = before.is_none_or(|before: i64| offset.saturating_sub(before).saturating_abs() > JUMP_MS);
        before = Some(offset);
        match parts.last_mut() {
            Some(part) if !jumped => {
                part.places.end = place + 1;
                part.until = since;
            }
            last => {
                // The clock was set some time before this event; it held until then.
                if let Some(part) = last {
                    part.until = since;
                }
                parts.push(Part { offset, places: place..place + 1, from: since, until: since });
            }
        }
    }
    parts
}

impl Boot {
    /// When it began and ended as far as events show it, if this was its offset.
    fn span(&self, offset: i64) -> (i64, i64) {
        (self.first.saturating_add(offset), self.last.saturating_add(offset))
    }

    fn believable(&self) -> impl DoubleEndedIterator<Item = &Part> {
        self.parts.iter().filter(|part| plausible(part.offset.saturating_add(part.from)))
    }

    /// For how long an offset was in force until a part ended, together with the times before that it comes back to.
    fn held(&self, part: &Part) -> i64 {
        let same = |other: &&Part| {
            other.from <= part.from && other.offset.saturating_sub(part.offset).saturating_abs() <= SAME_MS
        };
        self.parts.iter().filter(same).map(|part| part.until - part.from).fold(0, i64::saturating_add)
    }

    /// The offset that this boot speaks for by itself.
    fn offset(&self) -> Option<i64> {
        let mut parts = self.believable();
        let mut chosen = parts.next()?;
        for part in parts {
            let set_back_far = part.offset < chosen.offset.saturating_sub(DOUBTFUL_MS);
            if !set_back_far || self.held(part) > self.held(chosen) {
                chosen = part;
            }
        }
        Some(chosen.offset)
    }
}

/// The offset of each boot, so that the boots follow each other.
fn offsets(boots: &[Boot]) -> Vec<Option<i64>> {
    let mut offsets: Vec<Option<i64>> = boots.iter().map(Boot::offset).collect();
    let spans: Vec<_> = boots.iter().zip(&offsets).map(|(boot, offset)| offset.map(|o| boot.span(o))).collect();
    let weights: Vec<usize> = boots.iter().map(|boot| boot.events.len()).collect();
    let kept = heaviest_sequence(&spans, &weights);
    // Of each boot, when the next one that was kept began.
    let mut begin_after = vec![i64::MAX; boots.len()];
    for place in (1..boots.len()).rev() {
        let begin = spans[place].filter(|_| kept[place]).map(|(begin, _)| begin);
        begin_after[place - 1] = begin.unwrap_or(begin_after[place]);
    }
    let mut end_before = i64::MIN;
    for (place, boot) in boots.iter().enumerate() {
        if !kept[place] {
            let fits = |part: &&Part| {
                let (begin, end) = boot.span(part.offset);
                begin >= end_before.saturating_sub(OVERLAP_MS) && end <= begin_after[place].saturating_add(OVERLAP_MS)
            };
            offsets[place] = boot.believable().rev().find(fits).map(|part| part.offset);
        }
        if let Some(offset) = offsets[place] {
            end_before = end_before.max(boot.span(offset).1);
        }
    }
    offsets
}

/// Which of the spans, taken in their order, follow each other in time and together weigh the most; of equal ones the later.
fn heaviest_sequence(spans: &[Option<(i64, i64)>], weights: &[usize]) -> Vec<bool> {
    // By the end of a sequence: what it weighs and its last span. Those that end later weigh more.
    let mut best: BTreeMap<i64, (usize, usize)> = BTreeMap::new();
    let mut before = vec![None; spans.len()];
    for (place, span) in spans.iter().enumerate() {
        let Some((begin, end)) = *span else { continue };
        let longest = best.range(..=begin.saturating_add(OVERLAP_MS)).next_back().map(|(_, found)| *found);
        before[place] = longest.map(|(_, place)| place);
        let weight = weights[place] + longest.map_or(0, |(weight, _)| weight);
        if best.range(..=end).next_back().is_some_and(|(_, (other, _))| *other > weight) {
            continue;
        }
        let lighter: Vec<i64> =
            best.range(end..).take_while(|(_, (other, _))| *other <= weight).map(|(e, _)| *e).collect();
        for end in lighter {
            best.remove(&end);
        }
        best.insert(end, (weight, place));
    }
    let mut kept = vec![false; spans.len()];
    let mut at = best.last_key_value().map(|(_, (_, place))| *place);
    while let Some(place) = at {
        kept[place] = true;
        at = before[place];
    }
    kept
}

#[cfg(test)]
mod tests;
