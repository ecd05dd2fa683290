//! Where frames come from: V4L2 devices, a program's output, a folder of pictures.

pub mod capture;
mod command;
pub mod files;
mod mjpeg;
mod pace;
mod still;
pub mod v4l2;

use std::time::Duration;

use crate::{
    config::{CameraConfig, CameraSource},
    vision::frame::Frame,
};

/// How long a camera waits for a frame before it says [`CameraError::NotYet`], so that whoever asks can also stop: a camera
/// that is not dropped would leave its program running.
pub const STEP: Duration = Duration::from_millis(200);

/// A source of frames, already open.
pub trait Camera: Send {
    /// Waits for the next frame, for not much longer than [`STEP`].
    ///
    /// # Errors
    /// [`CameraError::NotYet`], [`CameraError::BrokenFrame`], [`CameraError::Torn`] and
    /// [`CameraError::Late`] concern one frame only: ask again. After any other error the camera
    /// is to be dropped and reopened.
    fn next_frame(&mut self) -> Result<Frame, CameraError>;

    /// What was chosen, for people: device, format, size, rate. One line.
    fn describe(&self) -> String;

    /// True when every frame must be looked at, as when a folder is played once: capture then waits for the recogniser
    /// where it would else keep only the newest frame.
    fn wants_every_frame(&self) -> bool {
        false
    }

    /// A camera that sends no usable frame for so long is opened again; so is one that sends the
    /// same picture for twice as long. None: a folder's pictures may be equal, or broken.
    fn timeout(&self) -> Option<Duration> {
        None
    }
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    /// Nothing is wrong so far: ask again.
    #[error("no frame yet")]
    NotYet,
    #[error("broken frame: {0}")]
    BrokenFrame(String),
    #[error("torn frame: {0}")]
    Torn(String),
    /// The frame is of a backlog, and too old to decide on.
    #[error("late frame")]
    Late,
    #[error("{device}: no frame for {waited:?}; is another program using it, or has it fallen asleep?")]
    TimedOut { device: String, waited: Duration },
    /// The device, program or folder is not there or not usable; the text says what is wrong and what to do.
    #[error("{device}: {problem}")]
    Unavailable { device: String, problem: String },
    /// A folder played once has come to its end.
    #[error("no more pictures")]
    Ended,
}

/// Opens the configured camera.
///
/// # Errors
/// [`CameraError::Unavailable`].
pub fn open(config: &CameraConfig) -> Result<Box<dyn Camera>, CameraError> {
    Ok(match config.source {
        CameraSource::V4l2 => Box::new(v4l2::V4l2Camera::open(config)?),
        CameraSource::Command => Box::new(command::CommandCamera::open(config)?),
        CameraSource::Files => Box::new(files::FilesCamera::open(config)?),
    })
}
