//! What the wall clock showed, and what it should have shown.
//!
//! A board without a battery for its clock starts in 1970, or at the time it was last
//! switched off, until the network tells it better. Within one start of the machine
//! ("boot") the wall clock is `time since boot + offset`, and the offset changes only
//! when somebody sets the clock: corrections by small steps of the network time reach
//! both alike. So the offset that a boot ended with dates what was recorded before it was
//! known. See [`History`] for the cases in which it is not believed.
//!
//! Nothing here reads a clock.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Range, RangeInclusive},
    time::Duration,
};

/// A difference of more than this between wall clock and time since boot is a jump: /proc/uptime has steps of 10 ms, a leap second is one.
const JUMP_MS: i64 = 2_000;
/// 2026-01-01, the year this program is from, and 2200-01-01: no event is of a time outside.
const PLAUSIBLE_MS: Range<i64> = 1_767_225_600_000..7_258_118_400_000;
/// Two offsets of a boot that are so near to each other are the same one: the clock was put right again.
const SAME_MS: i64 = 120_000;
/// Set back by more than this, a clock was more probably set wrongly than put right; hours are a clock that ran in another time zone.
const DOUBTFUL_MS: i64 = 86_400_000;
/// Within a span, events are in the order of time but for so much.
pub const SLACK_MS: i64 = 600_000;
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

/// What is recorded with an event by every clock there is.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The event's number.
    pub id: u64,
    pub at_ms: i64,
    pub boot_id: &'a str,
    pub since_boot: Duration,
}

/// What one event says about the clocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Empty where the system did not tell.
    pub boot_id: String,
    /// Wall clock less time since boot. Of an event without boot, 0 where its time can be
    /// right.
    pub offset_ms: i64,
    pub since_ms: i64,
}

impl Mark {
    pub fn of(event: Stamp) -> Mark {
        if bootless(&event) {
            let offset_ms = if plausible(event.at_ms) { 0 } else { i64::MIN };
            return Mark { boot_id: String::new(), offset_ms, since_ms: 0 };
        }
        let since_ms = since_boot(&event);
        Mark { boot_id: event.boot_id.to_owned(), offset_ms: event.at_ms.saturating_sub(since_ms), since_ms }
    }

    /// Whether the clock was left alone between the event that began a span and a later
    /// one.
    pub fn goes_on(&self, next: &Mark) -> bool {
        self.boot_id == next.boot_id && self.offset_ms.saturating_sub(next.offset_ms).saturating_abs() <= JUMP_MS
    }
}

/// Events that follow each other in one boot in which nobody set the clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Numbers of the first event and the last.
    pub first: u64,
    pub last: u64,
    /// What the first event says.
    pub begin: Mark,
    /// Time since boot of the last event.
    pub until_ms: i64,
}

/// When events really were, from the spans of all of them.
///
/// For each boot the last offset counts for all of it, except that
/// - times before this program was written are never believed;
/// - an offset that is more than a day behind the one before, which held for longer, is taken for a mistake;
/// - boots follow each other: one that would have run at the same time as others, because its clock was wrong all the time, is
///   believed only if more events would have to be disbelieved otherwise. Of such a boot, an earlier offset is tried.
///
/// An event without boot id or time since boot (the system did not tell) keeps the time it was recorded with.
#[derive(Debug, Default)]
pub struct History {
    spans: Vec<Span>,
    /// Of each span, the offset that counts for its boot.
    offsets: Vec<Option<i64>>,
}

impl History {
    /// Of spans in the order of their numbers.
    pub fn of(spans: Vec<Span>) -> History {
        let boots = boots(&spans);
        let mut found = vec![None; spans.len()];
        for (boot, offset) in boots.iter().zip(offsets(&boots)) {
            boot.spans.iter().for_each(|&place| found[place] = offset);
        }
        History { spans, offsets: found }
    }

    /// When an event was, in milliseconds since 1970; None where nothing tells: the clock
    /// was wrong and was never put right in that boot.
    pub fn time(&self, event: Stamp) -> Option<i64> {
        let place = self.spans.partition_point(|span| span.first <= event.id).checked_sub(1)?;
        if bootless(&event) || !self.spans[place].in_boot() {
            return Some(event.at_ms).filter(|at| plausible(*at));
        }
        let offset = self.offsets[place]?;
        // What the offset that counts was in force for keeps the very time it was
        // recorded with.
        let recorded = offset == self.spans[place].begin.offset_ms;
        Some(if recorded { event.at_ms } else { since_boot(&event).saturating_add(offset) })
    }

    /// Where the events of a time lie, and those that may be of it because their time is
    /// not known.
    pub fn stretches(&self, window: Range<i64>) -> Vec<Stretch> {
        let mut found = Vec::new();
        for (place, span) in self.spans.iter().enumerate() {
            let wanted = match self.offsets[place] {
                _ if !span.in_boot() => Some(i64::MIN..i64::MAX),
                Some(offset) => span.crossing(window.start.saturating_sub(offset)..window.end.saturating_sub(offset)),
                None => {
                    let (not_before, not_after) = self.around(place);
                    (not_before < window.end && not_after >= window.start).then_some(i64::MIN..i64::MAX)
                }
            };
            found.extend(wanted.map(|since_ms| Stretch { ids: span.first..=span.last, since_ms }));
        }
        found
    }

    /// Where the events lie that were recorded with a time from this one on, by the clock
    /// as it was then.
    pub fn recorded_since(&self, at_ms: i64) -> Vec<Stretch> {
        let wanted = self.spans.iter().filter_map(|span| {
            let all = i64::MIN..i64::MAX;
            let since = at_ms.saturating_sub(span.begin.offset_ms)..i64::MAX;
            let since_ms = if span.in_boot() { span.crossing(since)? } else { all };
            Some(Stretch { ids: span.first..=span.last, since_ms })
        });
        wanted.collect()
    }

    /// The end of what is dated before a span, and the begin of what is dated after it.
    fn around(&self, place: usize) -> (i64, i64) {
        let dated = |place: usize| {
            let span = &self.spans[place];
            let offset = self.offsets[place].filter(|_| span.in_boot())?;
            Some((span.begin.since_ms.saturating_add(offset), span.until_ms.saturating_add(offset)))
        };
        let before = (0..place).rev().find_map(dated).map_or(i64::MIN, |(_, end)| end);
        let after = (place + 1..self.spans.len()).find_map(dated).map_or(i64::MAX, |(begin, _)| begin);
        (before, after)
    }

    /// Where the newest event of before a moment lies, for each span that has one, the
    /// newest span first.
    pub fn before(&self, at_ms: i64) -> impl Iterator<Item = Stretch> {
        let wanted = self.spans.iter().zip(&self.offsets).rev().filter_map(move |(span, offset)| {
            let since_ms = match offset {
                _ if !span.in_boot() => i64::MIN..i64::MAX,
                Some(offset) => {
                    let moment = at_ms.saturating_sub(*offset);
                    Some(moment..moment).filter(|_| span.begin.since_ms < moment)?
                }
                None => return None,
            };
            Some(Stretch { ids: span.first..=span.last, since_ms })
        });
        wanted
    }
}

/// A part of the events: those of a span that are of some time since boot. An event near
/// either end may belong to it and may not.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    pub ids: RangeInclusive<u64>,
    pub since_ms: Range<i64>,
}

impl Span {
    /// False: its events have no boot, so that each has a time of its own.
    fn in_boot(&self) -> bool {
        !self.begin.boot_id.is_empty()
    }

    /// A time since boot, if some of the span is of it.
    fn crossing(&self, since_ms: Range<i64>) -> Option<Range<i64>> {
        let near = self.begin.since_ms < since_ms.end.saturating_add(SLACK_MS)
            && self.until_ms >= since_ms.start.saturating_sub(SLACK_MS);
        near.then_some(since_ms)
    }
}

fn bootless(event: &Stamp) -> bool {
    event.boot_id.is_empty() || event.since_boot.is_zero()
}

fn plausible(at_ms: i64) -> bool {
    PLAUSIBLE_MS.contains(&at_ms)
}

fn since_boot(event: &Stamp) -> i64 {
    i64::try_from(event.since_boot.as_millis()).unwrap_or(i64::MAX)
}

/// What was recorded between two starts of the machine.
struct Boot {
    /// Places in the list of spans.
    spans: Vec<usize>,
    events: u64,
    parts: Vec<Part>,
    /// Time since boot of the first and of the last event.
    first: i64,
    last: i64,
}

/// A part of a boot in which nobody set the clock.
struct Part {
    /// Wall clock less time since boot.
    offset: i64,
    /// Times since boot between which it was in force, as far as events show it.
    from: i64,
    until: i64,
}

/// By the first event of each.
fn boots(spans: &[Span]) -> Vec<Boot> {
    let mut boots: Vec<Boot> = Vec::new();
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for (place, span) in spans.iter().enumerate().filter(|(_, span)| span.in_boot()) {
        let (since, until) = (span.begin.since_ms, span.until_ms);
        let boot = *by_id.entry(&span.begin.boot_id).or_insert_with(|| {
            boots.push(Boot { spans: Vec::new(), events: 0, parts: Vec::new(), first: since, last: until });
            boots.len() - 1
        });
        let boot = &mut boots[boot];
        boot.spans.push(place);
        boot.events += span.last.saturating_sub(span.first) + 1;
        (boot.first, boot.last) = (boot.first.min(since), boot.last.max(until));
        // The clock was set some time before this event; it held until then.
        if let Some(part) = boot.parts.last_mut() {
            part.until = since;
        }
        boot.parts.push(Part { offset: span.begin.offset_ms, from: since, until });
    }
    boots
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
        self.parts.iter().filter(same).map(|part| part.until.saturating_sub(part.from)).fold(0, i64::saturating_add)
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
    let weights: Vec<u64> = boots.iter().map(|boot| boot.events).collect();
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
fn heaviest_sequence(spans: &[Option<(i64, i64)>], weights: &[u64]) -> Vec<bool> {
    // By the end of a sequence: what it weighs and its last span. Those that end later weigh more.
    let mut best: BTreeMap<i64, (u64, usize)> = BTreeMap::new();
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

/// The spans of events in the order of their numbers.
#[cfg(test)]
pub(crate) fn spans(events: &[crate::store::Event]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for event in events {
        let mark = Mark::of(event.stamp());
        match spans.last_mut().filter(|span| span.begin.goes_on(&mark)) {
            Some(span) => (span.last, span.until_ms) = (event.id, mark.since_ms),
            None => {
                let (first, last, until_ms) = (event.id, event.id, mark.since_ms);
                spans.push(Span { first, last, begin: mark, until_ms });
            }
        }
    }
    spans
}

#[cfg(test)]
mod tests;
