//! Hooks: on some events a program is run, or an address is told.
//!
//! One thread takes every event from its channel at once and hands it to the hooks it is for; each hook has a thread and a short
//! queue of its own. A hook that hangs loses its own events, and nobody else's.

mod address;
mod command;

pub use address::trusted;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    config::HookConfig,
    outside::{name_of, notice},
    store::Event,
    telemetry::Counters,
};

/// So many events wait for a hook; more are lost.
const QUEUE: usize = 64;
/// How often it is looked whether everything has to stop.
const LOOK_UP: Duration = Duration::from_millis(100);
/// At the end hooks get so long for what they have to do yet.
const FAREWELL: Duration = Duration::from_secs(1);

type Notice = serde_json::Map<String, serde_json::Value>;

/// The threads. Dropping it lets the hooks do what they have to do yet, for a second at most.
pub struct Hooks {
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Hooks {
    /// # Errors
    /// There can be no thread.
    pub fn start(hooks: &[HookConfig], events: Receiver<Event>, counters: &Counters) -> io::Result<Hooks> {
        let stop = Stop::default();
        let mut queues = Vec::new();
        let mut started = Hooks { stop: stop.clone(), threads: Vec::new() };
        for (i, config) in hooks.iter().enumerate() {
            let name = format!("hook {} ({})", i + 1, who(config));
            let (queue, waiting) = sync_channel(QUEUE);
            queues.push(Queue { on: config.clone(), name: name.clone(), queue, loss_told: false });
            let hook =
                Hook { config: config.clone(), name, counters: counters.clone(), stop: stop.clone(), failing: false };
            started.threads.push(thread::Builder::new().name("hook".into()).spawn(move || hook.serve(&waiting))?);
        }
        if !hooks.is_empty() {
            let counters = counters.clone();
            let hand_out = move || hand_out(&events, queues, &stop, &counters);
            started.threads.push(thread::Builder::new().name("hooks".into()).spawn(hand_out)?);
        }
        Ok(started)
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Relaxed);
        let until = Instant::now() + FAREWELL + 2 * LOOK_UP;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        // An address that takes longer ends by itself at its time-out; nobody waits for it.
    }
}

/// Set when everything has to stop.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits; false when everything has to stop.
    fn wait(&self, how_long: Duration) -> bool {
        let until = Instant::now() + how_long;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LOOK_UP));
        }
        false
    }
}

/// The program, or the address without what may be secret in it.
pub fn who(config: &HookConfig) -> String {
    match config.command.first() {
        Some(program) => program.clone(),
        None => {
            let host = config.url.split('/').nth(2).unwrap_or_default();
            host.rsplit('@').next().unwrap_or_default().to_owned()
        }
    }
}

/// The way to a hook's thread.
struct Queue {
    on: HookConfig,
    name: String,
    queue: SyncSender<Notice>,
    loss_told: bool,
}

fn hand_out(events: &Receiver<Event>, mut queues: Vec<Queue>, stop: &Stop, counters: &Counters) {
    loop {
        let event = match events.recv_timeout(LOOK_UP) {
            Ok(event) => event,
            // All that came before the stop is handed out.
            Err(RecvTimeoutError::Timeout) if !stop.is_set() => continue,
            Err(_) => return,
        };
        let (name, notice) = (name_of(&event.kind), notice(&event));
        for queue in queues.iter_mut().filter(|queue| queue.on.on.contains(&name)) {
            counters.increment("hook_queue");
            if queue.queue.try_send(notice.clone()).is_err() {
                counters.decrement("hook_queue");
                counters.increment("hook_events_lost");
                if !std::mem::replace(&mut queue.loss_told, true) {
                    let name = &queue.name;
                    log::warn!(
                        "{name}: too slow, {QUEUE} events wait; more are lost, which is only counted from now on"
                    );
                }
            }
        }
    }
}

/// What a hook's thread has.
struct Hook {
    config: HookConfig,
    name: String,
    counters: Counters,
    stop: Stop,
    failing: bool,
}

impl Hook {
    /// Until nobody hands out events any more, and the queue is empty.
    fn serve(mut self, waiting: &Receiver<Notice>) {
        let mut stopped: Option<Instant> = None;
        while let Ok(notice) = waiting.recv() {
            self.counters.decrement("hook_queue");
            if self.stop.is_set() && stopped.get_or_insert_with(Instant::now).elapsed() >= FAREWELL {
                return;
            }
            let done = if self.config.url.is_empty() {
                command::run(&self.config, &notice, &self.name, &self.stop)
            } else {
                address::tell(&self.config, notice, &self.name, &self.stop)
            };
            self.say(done);
        }
    }

    /// That a hook fails is said once, and that it works again.
    fn say(&mut self, done: Result<(), String>) {
        match done {
            Ok(()) if self.failing => log::info!("{}: works again", self.name),
            Ok(()) => {}
            Err(problem) => {
                self.counters.increment("hooks_failed");
                let level = if self.failing { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "{}: {problem}", self.name);
                self.failing = true;
                return;
            }
        }
        self.failing = false;
    }
}

#[cfg(test)]
mod tests;
