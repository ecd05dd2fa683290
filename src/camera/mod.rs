//! Where frames come from.

use std::time::Duration;

use crate::vision::frame::Frame;

/// A source of frames, already open.
pub trait Camera: Send {
    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`CameraError::BrokenFrame`] concerns one frame only: ask again. After any other error the camera is to be dropped and opened anew.
    fn next_frame(&mut self) -> Result<Frame, CameraError>;

    /// What was chosen, for people: device, format, size, rate. One line.
    fn describe(&self) -> String;

    /// True when every frame must be looked at, as when a folder is played once: capture then waits for the recogniser
    /// where it would else keep only the newest frame.
    fn wants_every_frame(&self) -> bool {
        false
    }
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    #[error("broken frame: {0}")]
    BrokenFrame(String),
    #[error("{device}: no frame for {waited:?}; is it in use, asleep or covered by another program?")]
    TimedOut { device: String, waited: Duration },
    /// The device, program or folder is not there or not usable; text says which, what was expected and what to do.
    #[error("{device}: {problem}")]
    Unavailable { device: String, problem: String },
    /// A folder played once has come to its end.
    #[error("no more pictures")]
    Ended,
}
