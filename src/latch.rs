//! The relay's pulse and the LEDs: one thread owns the lines and locks again by itself.
//!
//! The relay is driven inactive before anything else happens, at the deadline of each pulse, and when the thread ends for
//! whatever reason. A pulse while the relay is active moves the deadline, but never beyond [`Settings::max_hold`] after the relay became active.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::gpio::{GpioError, LineState, OutputLine};

/// How long to wait before a relay that could not be driven is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// Half a period of a blinking LED.
const BLINK: Duration = Duration::from_millis(150);

/// What the latch is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum LatchCommand {
    /// Unlock for `hold`, provided that `captured_at` (the moment of the frame, or of the request, that led to this) is
    /// younger than the limit when the latch gets to it.
    Pulse { hold: Duration, captured_at: Instant },
    /// Lock at once.
    Off,
    /// Light the LED "granted" for this long.
    ShowGranted(Duration),
    /// Blink the LED "denied".
    ShowDenied,
    /// The LED "ready": on, or blinking when not.
    ShowReady(bool),
}

/// What the latch has to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum LatchReport {
    Activated {
        at: Instant,
        captured_at: Instant,
    },
    Released,
    /// The pulse was too old when its turn came.
    Stale {
        age: Duration,
    },
    Failed(String),
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
    /// The relay is not active for longer than this at a stretch.
    pub max_hold: Duration,
    /// A pulse whose cause is older than this is dropped.
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
    active: Arc<AtomicBool>,
}

enum Message {
    Command(LatchCommand),
    Stop,
}

impl LatchHandle {
    /// Returns false when the latch has ended: nothing will happen.
    pub fn send(&self, command: LatchCommand) -> bool {
        self.messages.send(Message::Command(command)).is_ok()
    }

    pub fn relay_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }
}

impl Latch {
    /// Drives the relay inactive, then starts the thread. `report` is called from it and must return soon.
    ///
    /// # Errors
    /// The relay cannot be driven: nothing was started.
    pub fn start(
        mut lines: Lines,
        settings: Settings,
        report: impl Fn(LatchReport) + Send + 'static,
    ) -> Result<Latch, GpioError> {
        if let Some(relay) = &mut lines.relay {
            relay.set(LineState::Inactive)?;
        }
        let (messages, received) = mpsc::channel();
        let active = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            relay: Relay { line: lines.relay, active: Arc::clone(&active) },
            ready: Led::new(lines.ready),
            granted: Led::new(lines.granted),
            denied: Led::new(lines.denied),
            timer: PulseTimer::new(settings.max_hold),
            max_decision_age: settings.max_decision_age,
            report: Box::new(report),
        };
        let thread =
            thread::Builder::new().name("latch".into()).spawn(move || worker.run(&received)).map_err(|error| {
                GpioError { line: "latch".into(), problem: format!("its thread cannot be started: {error}") }
            })?;
        Ok(Latch { handle: LatchHandle { messages, active }, thread: Some(thread) })
    }

    pub fn handle(&self) -> LatchHandle {
        self.handle.clone()
    }

    /// False when the thread has ended, which it does by itself only after a panic.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        // An error means that the thread has ended already, and its relay with it.
        let _ = self.handle.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// When a relay that is pulsed has to be released. Pure: time is an argument.
#[derive(Debug)]
struct PulseTimer {
    max_hold: Duration,
    /// Since when, and until when.
    active: Option<(Instant, Instant)>,
    /// Released by `max_hold`, it may not be active again before this.
    rest_until: Option<Instant>,
}

impl PulseTimer {
    fn new(max_hold: Duration) -> PulseTimer {
        PulseTimer { max_hold, active: None, rest_until: None }
    }

    /// A pulse at `now`; false when the relay has to rest.
    fn pulse(&mut self, hold: Duration, now: Instant) -> bool {
        if self.rest_until.is_some_and(|rest| now < rest) {
            return false;
        }
        let since = self.active.map_or(now, |(since, _)| since);
        let limit = since + self.max_hold;
        let until = (now + hold).min(limit).max(self.active.map_or(now, |(_, until)| until));
        self.active = Some((since, until));
        true
    }

    fn deadline(&self) -> Option<Instant> {
        self.active.map(|(_, until)| until)
    }

    /// Whether the relay has to be released now. After a stretch as long as `max_hold` it rests for a second, so that
    /// pulses in a row cannot hold a door open for all but a moment.
    fn expired(&mut self, now: Instant) -> bool {
        match self.active {
            Some((since, until)) if now >= until => {
                self.rest_until = (until >= since + self.max_hold).then(|| now + Duration::from_secs(1));
                self.active = None;
                true
            }
            _ => false,
        }
    }

    fn off(&mut self) {
        self.active = None;
    }
}

/// The relay's line; inactive when this is dropped, in a panic too.
struct Relay {
    line: Option<Box<dyn OutputLine>>,
    active: Arc<AtomicBool>,
}

impl Relay {
    fn activate(&mut self) -> Result<(), GpioError> {
        let Some(line) = &mut self.line else { return Ok(()) };
        // Before the line is driven: whoever asks in between should rather hear "active".
        self.active.store(true, Ordering::Relaxed);
        line.set(LineState::Active)
    }

    /// Does not give up: a relay that cannot be released is a door that stands open.
    fn release(&mut self) {
        let Some(line) = &mut self.line else { return };
        let mut failed = false;
        while let Err(error) = line.set(LineState::Inactive) {
            if !failed {
                log::error!("the relay cannot be released: {error}; trying again every {RETRY:?}");
                failed = true;
            }
            thread::sleep(RETRY);
        }
        if failed {
            log::warn!("the relay is released at last");
        }
        self.active.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.release();
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
    max_decision_age: Duration,
    report: Box<dyn Fn(LatchReport) + Send>,
}

impl Worker {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let deadlines =
                [self.timer.deadline(), self.ready.deadline(), self.granted.deadline(), self.denied.deadline()];
            let message = match deadlines.into_iter().flatten().min() {
                Some(deadline) => messages.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let now = Instant::now();
            match message {
                Ok(Message::Command(command)) => self.obey(command, now),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.timer.expired(now) {
                self.relay.release();
                (self.report)(LatchReport::Released);
            }
            for led in [&mut self.ready, &mut self.granted, &mut self.denied] {
                led.advance(now);
            }
        }
        // The relay is released first, by its drop at the latest; LEDs go dark.
        self.relay.release();
        for led in [&mut self.ready, &mut self.granted, &mut self.denied] {
            led.light(false);
        }
    }

    fn obey(&mut self, command: LatchCommand, now: Instant) {
        match command {
            LatchCommand::Pulse { hold, captured_at } => self.pulse(hold, captured_at, now),
            LatchCommand::Off => {
                self.timer.off();
                self.relay.release();
                (self.report)(LatchReport::Released);
            }
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

    fn pulse(&mut self, hold: Duration, captured_at: Instant, now: Instant) {
        let age = now.saturating_duration_since(captured_at);
        if age > self.max_decision_age {
            (self.report)(LatchReport::Stale { age });
            return;
        }
        if !self.timer.pulse(hold, now) {
            (self.report)(LatchReport::Failed("the relay was active for max_hold and rests".into()));
            return;
        }
        match self.relay.activate() {
            Ok(()) => (self.report)(LatchReport::Activated { at: Instant::now(), captured_at }),
            Err(error) => {
                self.timer.off();
                self.relay.release();
                (self.report)(LatchReport::Failed(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
