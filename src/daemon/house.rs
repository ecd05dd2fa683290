//! Housekeeping, on a thread of its own: old events and unknown faces are forgotten, and the
//! event log is checked, in steps that no event being recorded waits for.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    service::{Services, now_ms},
    store::StoreError,
    unknown,
};

const EVERY_MINUTES: u64 = 60;
const DAY_MINUTES: u64 = 24 * 60;
const MINUTE: Duration = Duration::from_secs(60);
/// Between two steps, each of which removes about a thousand events.
const PAUSE: Duration = Duration::from_millis(10);

/// Dropping it ends the thread after the step it is at.
pub(super) struct House {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl House {
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(services: Arc<Services>) -> io::Result<House> {
        let (stop, stopped) = mpsc::channel::<()>();
        let goes_on = move |wait| stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
        let thread = thread::Builder::new().name("house".into()).spawn(move || {
            for minute in 0u64.. {
                if minute.is_multiple_of(EVERY_MINUTES) {
                    keep(&services, &goes_on);
                }
                // At a start it was done already.
                if minute > 0 && minute.is_multiple_of(DAY_MINUTES) {
                    services.weigh_strangers();
                }
                check_events(&services, &goes_on);
                services.wants_new_start.store(services.store.wants_opening_again(), Ordering::Relaxed);
                if !goes_on(MINUTE) {
                    return;
                }
            }
        })?;
        Ok(House { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keep(services: &Services, goes_on: &impl Fn(Duration) -> bool) {
    match unknown::tidy(&services.store, services.unknown_rules(), now_ms()) {
        Ok(0) => {}
        Ok(count) => log::info!("{count} unknown faces forgotten"),
        Err(error) => log::error!("unknown faces could not be forgotten: {error}; trying again in an hour"),
    }
    let keep_ms = i64::try_from(services.config.store.keep_events.as_millis()).unwrap_or(i64::MAX);
    match services.store.forget_nearness(Some(now_ms().saturating_sub(keep_ms))) {
        Ok(0) => {}
        Ok(days) => log::info!("strangers: {days} old days forgotten"),
        Err(error) => log::error!("strangers: old days could not be forgotten: {error}; trying again in an hour"),
    }
    match forget_events(services, goes_on) {
        Ok(0) => {}
        Ok(count) => log::info!("{count} old events forgotten"),
        Err(error) => log::error!("old events could not be forgotten: {error}; trying again in an hour"),
    }
}

/// Records which events were lost since the last check.
fn check_events(services: &Services, goes_on: &impl Fn(Duration) -> bool) {
    services.store.look_for_lost_events();
    loop {
        let mut notes = Vec::new();
        let checked = services.store.check_some_events(&mut notes);
        for note in notes {
            log::warn!("{note}");
            services.record(note.event());
        }
        match checked {
            Ok(true) if goes_on(PAUSE) => {}
            Ok(_) => return,
            Err(error) => return log::error!("the event log was not checked: {error}"),
        }
    }
}

fn forget_events(services: &Services, goes_on: &impl Fn(Duration) -> bool) -> Result<u64, StoreError> {
    let (store, rules) = (&services.store, &services.config.store);
    while store.index_some()? {
        if !goes_on(PAUSE) {
            return Ok(0);
        }
    }
    let keep_ms = i64::try_from(rules.keep_events.as_millis()).unwrap_or(i64::MAX);
    let Some(up_to) = store.outlived(now_ms().saturating_sub(keep_ms), rules.max_events)? else { return Ok(0) };
    let mut forgotten = 0;
    loop {
        match store.forget_some_events(up_to)? {
            0 => return Ok(forgotten),
            some => forgotten += some,
        }
        if !goes_on(PAUSE) {
            return Ok(forgotten);
        }
    }
}
