//! Looks at the enroll folder when something happens in it.
//!
//! The system's notifications only wake; what is true is read from the folder. So a lost
//! notification, or a network file system that sends none, costs half a minute and
//! nothing else.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};

use super::{Changes, EnrollError, Enroller, begun::Reading};

/// After a notification, so that a burst of them is one look.
const BURST: Duration = Duration::from_millis(100);
/// While a picture is being written.
const UNSETTLED: Duration = Duration::from_millis(250);
/// While the folder is lost: of its return nothing tells.
const LOST: Duration = Duration::from_secs(2);
/// So long pictures are read before what was found counts and the folder is looked at again. What is removed meanwhile waits
/// for that, and so does a command that enrols.
const ROUND: Duration = Duration::from_millis(400);
/// Between two rounds: time for whoever waits for the enroller.
const BETWEEN: Duration = Duration::from_millis(20);
/// Without any notification.
const IDLE: Duration = Duration::from_secs(30);

/// The running thread; dropping it stops it.
pub struct EnrollWatcher {
    wake: Arc<OwnedFd>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    reading: Reading,
}

impl EnrollWatcher {
    /// Starts watching. `report` hears of every look that changed something or failed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        enroller: Arc<Mutex<Enroller>>,
        report: impl Fn(Result<Changes, EnrollError>) + Send + 'static,
    ) -> io::Result<EnrollWatcher> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (woken, stopped) = (Arc::clone(&wake), Arc::clone(&stop));
        let reading = enroller.lock().unwrap_or_else(PoisonError::into_inner).reading();
        let thread = thread::Builder::new().name("enroll".into()).spawn(move || {
            let mut watches = Watches::start();
            watches.follow(enroller.lock().unwrap_or_else(PoisonError::into_inner).folders());
            let (mut pause, mut failing) = (UNSETTLED, false);
            loop {
                watches.wait(&woken, pause);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let mut enroller = enroller.lock().unwrap_or_else(PoisonError::into_inner);
                let begun = Instant::now();
                let go_on = || !stopped.load(Ordering::Relaxed) && begun.elapsed() < ROUND;
                let result = enroller.round(SystemTime::now(), go_on);
                // What was put into a new folder before it was watched has told nobody.
                let unseen = watches.follow(enroller.folders());
                pause = match &result {
                    Ok(changes) if changes.more => BETWEEN,
                    Ok(changes) if changes.unsettled || unseen => UNSETTLED,
                    _ if enroller.is_lost() => LOST,
                    _ => IDLE,
                };
                drop(enroller);
                // An error is said once, not every half minute.
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

impl Drop for EnrollWatcher {
    /// Waits for the picture that is being read, but not for long: nothing half done is
    /// ever in the store.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        self.reading.end();
    }
}

/// Notifications of the folder and of each folder in it that can be read.
struct Watches {
    notifications: Option<OwnedFd>,
    watched: HashSet<i32>,
    /// That some folder is not watched was said.
    told: bool,
}

impl Watches {
    fn start() -> Watches {
        let notifications = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let notifications =
            notifications.map_err(|error| log::warn!("enroll folder: no notifications ({error}); {}", polled())).ok();
        Watches { notifications, watched: HashSet::new(), told: false }
    }

    /// Watches these folders, the first of which is the enroll folder, and no others;
    /// whether one of them was not watched before.
    fn follow(&mut self, folders: impl Iterator<Item = PathBuf>) -> bool {
        let Some(notifications) = &self.notifications else { return false };
        let (mut watched, mut problem) = (HashSet::new(), None);
        for (index, folder) in folders.enumerate() {
            match watch(notifications, &folder, index == 0) {
                Ok(watch) => drop(watched.insert(watch)),
                // The look says what cannot be read; what went meanwhile is known by the
                // next one.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(error) => problem = Some((folder, error)),
            }
        }
        for gone in self.watched.difference(&watched) {
            // The system forgets the watches of folders that are removed.
            let _ = inotify::remove_watch(notifications, *gone);
        }
        if let Some((folder, error)) = problem.as_ref().filter(|_| !self.told) {
            let folder = crate::telemetry::printable(&folder.display().to_string());
            log::warn!("{folder}: no notifications ({error}); {}", polled());
        }
        self.told = problem.is_some();
        let unseen = !watched.is_subset(&self.watched);
        self.watched = watched;
        unseen
    }

    /// Until something happens in the folder, somebody wakes, or the time is over.
    fn wait(&self, wake: &OwnedFd, longest: Duration) {
        let timeout = Timespec { tv_sec: longest.as_secs() as _, tv_nsec: longest.subsec_nanos() as _ };
        let mut sources = vec![PollFd::new(wake, PollFlags::IN)];
        sources.extend(self.notifications.as_ref().map(|source| PollFd::new(source, PollFlags::IN)));
        // Interrupted or failed: a look too many does no harm.
        let _ = poll(&mut sources, Some(&timeout));
        let notified = sources.get(1).is_some_and(|source| !source.revents().is_empty());
        if let Some(notifications) = self.notifications.as_ref().filter(|_| notified) {
            thread::sleep(BURST);
            let mut told = [0; 4096];
            while rustix::io::read(notifications, &mut told).is_ok_and(|length| length > 0) {}
        }
    }
}

fn polled() -> String {
    format!("it is looked at every {IDLE:?}")
}

/// Asks for what may change pictures. A file tells when it is closed, not with each of
/// its parts.
fn watch(notifications: &OwnedFd, folder: &Path, root: bool) -> rustix::io::Result<i32> {
    let own = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    let files =
        WatchFlags::CREATE | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ATTRIB;
    // The path of the enroll folder may lead through links; nothing below it does.
    let link = if root { WatchFlags::empty() } else { WatchFlags::DONT_FOLLOW };
    inotify::add_watch(notifications, folder, own | files | link | WatchFlags::ONLYDIR)
}

#[cfg(test)]
mod tests;
