//! The relay's pulse and the LEDs: one thread owns the lines and locks again by itself.
//!
//! The relay is driven inactive before anything else happens, at the deadline of each pulse, and
//! when the thread ends for whatever reason. How long it may be active is bounded twice: by
//! [`Settings::max_hold`] at a stretch, and by [`Settings::max_active_per_minute`] in any minute.
//! Each pulse has an answer channel of its own: what was answered as opened was opened.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    error::ErrorKind,
    gpio::{GpioError, LineState, OutputLine},
};

/// How long to wait before a relay that could not be released is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// After this number of failures in a row a relay is stuck.
const STUCK_AFTER: u32 = 5;
/// A latch that ends tries to release its relay for this long: a stop must end, too.
const GIVE_UP: Duration = Duration::from_secs(2);
/// A relay that is active for longer than this after its deadline is stuck.
const OVERDUE: Duration = Duration::from_secs(1);
/// The latch begins a pulse within this time, or not at all; it takes microseconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pulses with a shorter pause between them are one stretch.
pub const REST: Duration = Duration::from_secs(1);
/// A pulse that would leave the relay active for less than this is refused.
const LEAST: Duration = Duration::from_millis(500);
/// What [`Settings::max_active_per_minute`] is counted over.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Half a period of a blinking LED.
const BLINK: Duration = Duration::from_millis(150);

/// What the LEDs show.
#[derive(Clone, Debug, PartialEq)]
pub enum LatchCommand {
    /// Light the LED "granted" for this long.
    ShowGranted(Duration),
    /// Blink the LED "denied".
    ShowDenied,
    /// The LED "ready": on, or blinking when not.
    ShowReady(bool),
}

/// Why the relay was not pulsed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("mode = \"attendance\": nothing opens the door; set mode = \"unlock\" if it should")]
    Attendance,
    #[error("there is no relay: latch.line is not set")]
    NoRelay,
    #[error("the decision was {age:.1?} old")]
    Stale { age: Duration },
    #[error("the relay was active for max_hold and rests; try again in a second")]
    Rests,
    #[error("the relay was active for max_active_per_minute; try again in a minute")]
    Budget,
    #[error("the relay cannot be released: {0}")]
    Stuck(String),
    #[error(transparent)]
    Line(GpioError),
    #[error("the latch does not answer")]
    Silent,
}

impl Refusal {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Refusal::Attendance | Refusal::NoRelay => ErrorKind::Conflict,
            Refusal::Rests | Refusal::Budget | Refusal::Stuck(_) | Refusal::Line(_) => ErrorKind::Unavailable,
            Refusal::Stale { .. } | Refusal::Silent => ErrorKind::Internal,
        }
    }
}

/// The lines that are fitted.
#[derive(Default)]
pub struct Lines {
    pub relay: Option<Box<dyn OutputLine>>,
    pub ready: Option<Box<dyn OutputLine>>,
    pub granted: Option<Box<dyn OutputLine>>,
    pub denied: Option<Box<dyn OutputLine>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// False in attendance mode: the relay is held inactive, and every pulse is refused.
    pub opens: bool,
    /// The relay is not active for longer than this at a stretch.
    pub max_hold: Duration,
    /// ... and of any minute not for longer than this.
    pub max_active_per_minute: Duration,
    /// A pulse whose cause is older than this is refused.
    pub max_decision_age: Duration,
}

/// The running thread. Dropping it locks.
pub struct Latch {
    handle: LatchHandle,
    thread: Option<JoinHandle<()>>,
}

/// For whoever sends commands. It may outlive the latch; then nothing happens any more.
#[derive(Clone)]
pub struct LatchHandle {
    messages: Sender<Message>,
    state: Arc<Mutex<RelayState>>,
}

enum Message {
    Pulse(Pulse),
    Show(LatchCommand),
    /// When the relay was active before this latch was there, oldest first.
    Past(Vec<Active>),
    Stop,
}

/// Since when, and until when.
pub type Active = (Instant, Instant);

/// Unlock for `hold`, provided that `captured_at` (the moment of the frame, or of the request) is
/// younger than the limit, and that `answer_by` has not passed, when the latch gets to it.
struct Pulse {
    hold: Duration,
    captured_at: Instant,
    answer_by: Instant,
    answer: Sender<Result<Instant, Refusal>>,
}

/// How the relay is, for other threads.
#[derive(Debug, Default)]
struct RelayState {
    /// When it is to be released; None: it is inactive.
    active_until: Option<Instant>,
    /// Why it cannot be released.
    stuck: Option<String>,
}

impl LatchHandle {
    /// Returns false when the latch has ended: nothing will happen.
    pub fn send(&self, command: LatchCommand) -> bool {
        self.messages.send(Message::Show(command)).is_ok()
    }

    /// Counts what the relay was active for before, oldest first: a start brings no new minute.
    pub fn remember(&self, past: Vec<Active>) {
        // To a latch that has ended nothing counts any more.
        let _ = self.messages.send(Message::Past(past));
    }

    /// Pulses the relay, and waits until it is active; the moment it became so. `captured_at` is
    /// the moment of the frame, or of the request, that led to this.
    ///
    /// # Errors
    /// The relay was not pulsed, and will not be for this call.
    pub fn pulse(&self, hold: Duration, captured_at: Instant) -> Result<Instant, Refusal> {
        let (answer, answered) = mpsc::channel();
        let answer_by = Instant::now() + PATIENCE;
        let pulse = Pulse { hold, captured_at, answer_by, answer };
        self.messages.send(Message::Pulse(pulse)).map_err(|_| Refusal::Silent)?;
        // A pulse begun at the last moment is waited for. Later than this there is no receiver,
        // and the latch takes back what it did.
        answered.recv_timeout(PATIENCE * 2).map_err(|_| Refusal::Silent)?
    }

    pub fn relay_active(&self) -> bool {
        locked(&self.state).active_until.is_some()
    }

    /// Why the relay is active though it should not be; None: all is well.
    pub fn stuck(&self, now: Instant) -> Option<String> {
        let state = locked(&self.state);
        let overdue = state.active_until.is_some_and(|until| now > until + OVERDUE);
        let silent = || "the line does not answer".to_owned();
        state.stuck.clone().or_else(|| overdue.then(silent))
    }
}

fn locked(state: &Mutex<RelayState>) -> MutexGuard<'_, RelayState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Latch {
    /// Drives the relay inactive, then starts the thread.
    ///
    /// # Errors
    /// The relay cannot be driven: nothing was started.
    pub fn start(mut lines: Lines, settings: Settings) -> Result<Latch, GpioError> {
        if let Some(relay) = &mut lines.relay {
            relay.set(LineState::Inactive)?;
        }
        let (messages, received) = mpsc::channel();
        let state = Arc::default();
        let worker = Worker::new(lines, settings, Arc::clone(&state));
        let thread =
            thread::Builder::new().name("latch".into()).spawn(move || worker.run(&received)).map_err(|error| {
                GpioError::unavailable("latch".into(), format!("its thread cannot be started: {error}"))
            })?;
        Ok(Latch { handle: LatchHandle { messages, state }, thread: Some(thread) })
    }

    pub fn handle(&self) -> LatchHandle {
        self.handle.clone()
    }

    /// False when the thread has ended, which it does by itself only after a panic.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Locks and ends the thread.
    ///
    /// # Errors
    /// The relay could not be released within [`GIVE_UP`], and why.
    pub fn stop(mut self) -> Result<(), String> {
        self.close();
        self.handle.stuck(Instant::now()).map_or(Ok(()), Err)
    }

    /// A line that does not return is left behind with its thread.
    fn close(&mut self) {
        // An error means that the thread has ended already, and its relay with it.
        let _ = self.handle.messages.send(Message::Stop);
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + GIVE_UP + OVERDUE;
        while !thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            locked(&self.handle.state).stuck.get_or_insert_with(|| "the line does not answer".into());
        }
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        self.close();
    }
}

/// When a relay that is pulsed has to be released. Pure: time is an argument.
#[derive(Debug)]
struct PulseTimer {
    max_hold: Duration,
    per_minute: Duration,
    active: Option<Active>,
    /// When it was active within the last minute, oldest first.
    past: VecDeque<Active>,
}

impl PulseTimer {
    fn new(max_hold: Duration, per_minute: Duration) -> PulseTimer {
        PulseTimer { max_hold, per_minute, active: None, past: VecDeque::new() }
    }

    /// Before the first pulse. Pulses that overlap were one.
    fn remember(&mut self, past: Vec<Active>) {
        for (since, until) in past {
            let begins = self.past.back().map_or(since, |(_, before)| since.max(*before));
            self.past.push_back((begins, until.max(begins)));
        }
    }

    /// A pulse at `now`; until when the relay is active by it. A pulse while the relay is active
    /// moves the deadline as far as the limits allow.
    fn pulse(&mut self, hold: Duration, now: Instant) -> Result<Instant, Refusal> {
        self.past.retain(|(_, end)| now.saturating_duration_since(*end) < MINUTE);
        let least = hold.min(LEAST);
        let (since, before) = self.active.unwrap_or((now, now));
        let wanted = (now + hold).min(self.stretch_began(now) + self.max_hold);
        let affordable = self.active_in_minute_before(wanted, since) <= self.per_minute;
        let until = if affordable { wanted.max(before) } else { before };
        if until.saturating_duration_since(now) < least {
            return Err(if affordable { Refusal::Rests } else { Refusal::Budget });
        }
        self.active = Some((since, until));
        Ok(until)
    }

    /// Since when the relay was never inactive for as long as [`REST`].
    fn stretch_began(&self, now: Instant) -> Instant {
        let mut began = self.active.map_or(now, |(since, _)| since);
        for (since, until) in self.past.iter().rev() {
            if began.saturating_duration_since(*until) >= REST {
                break;
            }
            began = *since;
        }
        began
    }

    /// How long of the minute that ends at `end` the relay will have been active, if it is so from
    /// `since` on. While it is active this never falls, so the end of a pulse is its worst moment.
    fn active_in_minute_before(&self, end: Instant, since: Instant) -> Duration {
        let age = |moment: Instant| end.saturating_duration_since(moment).min(MINUTE);
        let past = self.past.iter().map(|(since, until)| age(*since) - age(*until));
        past.sum::<Duration>() + age(since)
    }

    fn deadline(&self) -> Option<Instant> {
        self.active.map(|(_, until)| until)
    }

    /// Whether the relay has to be released now.
    fn expired(&mut self, now: Instant) -> bool {
        let expired = self.active.is_some_and(|(_, until)| now >= until);
        if expired {
            self.end(now);
        }
        expired
    }

    fn end(&mut self, now: Instant) {
        self.past.extend(self.active.take().map(|(since, _)| (since, now)));
    }
}

/// The relay's line; inactive when this is dropped, in a panic too.
struct Relay {
    line: Option<Box<dyn OutputLine>>,
    state: Arc<Mutex<RelayState>>,
    /// It could not be released.
    failing: Option<Failing>,
    closed: bool,
}

struct Failing {
    times: u32,
    problem: String,
    retry_at: Instant,
}

impl Relay {
    fn activate(&mut self, until: Instant) -> Result<(), GpioError> {
        let Some(line) = &mut self.line else { return Ok(()) };
        // Before the line is driven: whoever asks in between should rather hear "active".
        locked(&self.state).active_until = Some(until);
        line.set(LineState::Active)
    }

    /// A relay that cannot be released is a door that stands open: after a failure this is called
    /// again at [`Failing::retry_at`], as long as it takes.
    fn release(&mut self, now: Instant) {
        let Some(line) = &mut self.line else { return };
        let released = line.set(LineState::Inactive);
        let mut state = locked(&self.state);
        let times = self.failing.as_ref().map_or(0, |failing| failing.times);
        match released {
            Ok(()) => {
                if times > 0 {
                    log::warn!("relay: released at last, after {times} failures");
                }
                *state = RelayState::default();
                self.failing = None;
            }
            Err(error) => {
                let problem = error.to_string();
                if times == 0 {
                    log::error!("relay: cannot be released ({problem}); retrying every {RETRY:?}");
                }
                state.active_until.get_or_insert(now);
                state.stuck = (times + 1 >= STUCK_AFTER).then(|| problem.clone());
                self.failing = Some(Failing { times: times + 1, problem, retry_at: now + RETRY });
            }
        }
    }

    fn retry_at(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.retry_at)
    }

    /// Releases for good; a relay that cannot be released within [`GIVE_UP`] stays stuck.
    fn close(&mut self) {
        let until = Instant::now() + GIVE_UP;
        self.closed = true;
        self.release(Instant::now());
        while self.failing.is_some() && Instant::now() < until {
            thread::sleep(RETRY);
            self.release(Instant::now());
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.closed {
            self.close();
        }
    }
}

/// An LED with what it shows. Its failures are not worth more than a debug line: it decides nothing.
struct Led {
    line: Option<Box<dyn OutputLine>>,
    lit: bool,
    pattern: Pattern,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pattern {
    Steady(bool),
    On {
        until: Instant,
    },
    /// Changes at `next`; `changes` more times, or for ever.
    Blink {
        next: Instant,
        changes: Option<u32>,
    },
}

impl Led {
    fn new(line: Option<Box<dyn OutputLine>>) -> Led {
        let mut led = Led { line, lit: true, pattern: Pattern::Steady(false) };
        led.light(false);
        led
    }

    fn show(&mut self, pattern: Pattern, now: Instant) {
        self.pattern = pattern;
        self.light(!matches!(pattern, Pattern::Steady(false)));
        self.advance(now);
    }

    fn deadline(&self) -> Option<Instant> {
        match self.pattern {
            _ if self.line.is_none() => None,
            Pattern::Steady(_) => None,
            Pattern::On { until } => Some(until),
            Pattern::Blink { next, .. } => Some(next),
        }
    }

    fn advance(&mut self, now: Instant) {
        match self.pattern {
            Pattern::On { until } if now >= until => {
                self.pattern = Pattern::Steady(false);
                self.light(false);
            }
            Pattern::Blink { next, changes } if now >= next => {
                self.light(!self.lit);
                self.pattern = match changes {
                    Some(0) => Pattern::Steady(false),
                    _ => Pattern::Blink { next: now + BLINK, changes: changes.map(|left| left - 1) },
                };
                if changes == Some(0) {
                    self.light(false);
                }
            }
            _ => {}
        }
    }

    fn light(&mut self, lit: bool) {
        let Some(line) = &mut self.line else { return };
        if lit != self.lit {
            let state = if lit { LineState::Active } else { LineState::Inactive };
            if let Err(error) = line.set(state) {
                log::debug!("LED: {error}");
            }
            self.lit = lit;
        }
    }
}

struct Worker {
    relay: Relay,
    ready: Led,
    granted: Led,
    denied: Led,
    timer: PulseTimer,
    settings: Settings,
}

impl Worker {
    fn new(lines: Lines, settings: Settings, state: Arc<Mutex<RelayState>>) -> Worker {
        Worker {
            relay: Relay { line: lines.relay, state, failing: None, closed: false },
            ready: Led::new(lines.ready),
            granted: Led::new(lines.granted),
            denied: Led::new(lines.denied),
            timer: PulseTimer::new(settings.max_hold, settings.max_active_per_minute),
            settings,
        }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match self.deadline() {
                Some(deadline) => messages.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now = Instant::now();
            match message {
                Ok(Message::Pulse(pulse)) => self.pulse(&pulse, now),
                Ok(Message::Show(command)) => self.show(&command, now),
                Ok(Message::Past(past)) => self.timer.remember(past),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.advance(now);
        }
        // The relay is released first, by its drop at the latest; LEDs go dark.
        self.relay.close();
        for led in [&mut self.ready, &mut self.granted, &mut self.denied] {
            led.light(false);
        }
    }

    /// When [`Worker::advance`] has something to do.
    fn deadline(&self) -> Option<Instant> {
        let leds = [&self.ready, &self.granted, &self.denied].map(Led::deadline);
        let relay = [self.timer.deadline(), self.relay.retry_at()];
        leds.into_iter().chain(relay).flatten().min()
    }

    fn advance(&mut self, now: Instant) {
        if self.timer.expired(now) || self.relay.retry_at().is_some_and(|at| now >= at) {
            self.relay.release(now);
        }
        for led in [&mut self.ready, &mut self.granted, &mut self.denied] {
            led.advance(now);
        }
    }

    fn show(&mut self, command: &LatchCommand, now: Instant) {
        match *command {
            LatchCommand::ShowGranted(time) => self.granted.show(Pattern::On { until: now + time }, now),
            LatchCommand::ShowDenied => {
                self.denied.show(Pattern::Blink { next: now + BLINK, changes: Some(4) }, now);
            }
            LatchCommand::ShowReady(true) => self.ready.show(Pattern::Steady(true), now),
            LatchCommand::ShowReady(false) => {
                self.ready.show(Pattern::Blink { next: now + BLINK, changes: None }, now);
            }
        }
    }

    /// A pulse whose asker has gone is taken back: it was answered as not opened.
    fn pulse(&mut self, pulse: &Pulse, now: Instant) {
        let done = match self.admit(pulse, now) {
            Ok(until) => self.relay.activate(until).map(|()| Instant::now()),
            Err(refusal) => return drop(pulse.answer.send(Err(refusal))),
        };
        let opened = done.is_ok();
        let heard = pulse.answer.send(done.map_err(Refusal::Line)).is_ok();
        if !opened || !heard {
            self.timer.end(now);
            self.relay.release(now);
        }
    }

    /// Until when the relay is active by this pulse.
    fn admit(&mut self, pulse: &Pulse, now: Instant) -> Result<Instant, Refusal> {
        let age = now.saturating_duration_since(pulse.captured_at);
        if !self.settings.opens {
            return Err(Refusal::Attendance);
        }
        if self.relay.line.is_none() {
            return Err(Refusal::NoRelay);
        }
        if age > self.settings.max_decision_age {
            return Err(Refusal::Stale { age });
        }
        if now > pulse.answer_by {
            return Err(Refusal::Silent);
        }
        if let Some(failing) = &self.relay.failing {
            return Err(Refusal::Stuck(failing.problem.clone()));
        }
        self.timer.pulse(pulse.hold, now)
    }
}

#[cfg(test)]
mod tests;
