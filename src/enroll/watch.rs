//! Looks at the enroll folder when something happens in it.
//!
//! The system's notifications only wake; what is true is read from the folder. So a lost notification, a network file system
//! that sends none, or a folder that was replaced cost half a minute and nothing else.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Changes, EnrollError, Enroller, begun::Reading};

/// After a notification, so that a burst of them is one look.
const BURST: Duration = Duration::from_millis(100);
/// While a picture is being written.
const UNSETTLED: Duration = Duration::from_millis(250);
/// So long pictures are read before what was found counts and the folder is looked at again. What is removed meanwhile waits
/// for that, and so does a command that enrols.
const ROUND: Duration = Duration::from_millis(400);
/// Between two rounds: time for whoever waits for the enroller.
const BETWEEN: Duration = Duration::from_millis(20);
/// Without any notification.
const IDLE: Duration = Duration::from_secs(30);

/// The running thread; dropping it stops it.
pub struct EnrollWatcher {
    wake: Sender<Wake>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    reading: Reading,
}

enum Wake {
    Something,
    Stop,
}

impl EnrollWatcher {
    /// Starts watching. `report` hears of every look that changed something or failed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        enroller: Arc<Mutex<Enroller>>,
        report: impl Fn(Result<Changes, EnrollError>) + Send + 'static,
    ) -> std::io::Result<EnrollWatcher> {
        let (wake, woken) = mpsc::channel();
        let sender = wake.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reading = enroller.lock().unwrap_or_else(PoisonError::into_inner).reading();
        let thread = thread::Builder::new().name("enroll".into()).spawn(move || {
            let folder = enroller.lock().unwrap_or_else(PoisonError::into_inner).folder().to_owned();
            let _watcher = notifications(&folder, sender);
            let (mut pause, mut failing) = (UNSETTLED, false);
            loop {
                match woken.recv_timeout(pause) {
                    Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Ok(Wake::Something) => {
                        thread::sleep(BURST);
                        if woken.try_iter().any(|wake| matches!(wake, Wake::Stop)) {
                            return;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                }
                let mut enroller = enroller.lock().unwrap_or_else(PoisonError::into_inner);
                let begun = Instant::now();
                let go_on = || !stopped.load(Ordering::Relaxed) && begun.elapsed() < ROUND;
                let result = enroller.round(SystemTime::now(), go_on);
                drop(enroller);
                pause = match &result {
                    Ok(changes) if changes.more => BETWEEN,
                    Ok(changes) if changes.unsettled => UNSETTLED,
                    _ => IDLE,
                };
                // A folder that cannot be read is said once, not every half minute.
                let said = failing && result.is_err();
                failing = result.is_err();
                if !said && !result.as_ref().is_ok_and(Changes::is_empty) {
                    report(result);
                }
            }
        })?;
        Ok(EnrollWatcher { wake, stop, thread, reading })
    }
}

fn notifications(folder: &Path, wake: Sender<Wake>) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Opening and reading files, which the look itself does, is nothing new.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = wake.send(Wake::Something);
        }
    });
    let watching = watcher.and_then(|mut watcher| watcher.watch(folder, RecursiveMode::Recursive).map(|()| watcher));
    watching
        .map_err(|error| log::warn!("{}: no notifications ({error}); it is looked at every {IDLE:?}", folder.display()))
        .ok()
}

impl Drop for EnrollWatcher {
    /// Waits for the picture that is being read, but not for long: nothing half done is ever in the store.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.wake.send(Wake::Stop);
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        self.reading.end();
    }
}
