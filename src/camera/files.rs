//! A folder of pictures as a camera, played in the order of their names.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{Camera, CameraError};
use crate::{
    config::CameraConfig,
    vision::frame::{Frame, PixelFormat},
};

/// See the module.
pub(super) struct FilesCamera {
    folder: PathBuf,
    files: Vec<PathBuf>,
    next: usize,
    repeat: bool,
    period: Duration,
    due: Instant,
    sequence: u64,
}

impl FilesCamera {
    pub(super) fn open(config: &CameraConfig) -> Result<FilesCamera, CameraError> {
        let folder = config.folder.clone();
        let unavailable = |problem: String| CameraError::Unavailable { device: folder.display().to_string(), problem };
        let entries = fs::read_dir(&folder)
            .map_err(|error| unavailable(format!("{error}; camera.folder must be a folder of pictures")))?;
        let mut files: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_picture(path)).collect();
        files.sort();
        if files.is_empty() {
            return Err(unavailable("there is no .jpg, .jpeg or .png in it".into()));
        }
        let period = Duration::from_secs(1) / config.fps.max(1);
        Ok(FilesCamera {
            folder: config.folder.clone(),
            files,
            next: 0,
            repeat: config.repeat,
            period,
            due: Instant::now(),
            sequence: 0,
        })
    }
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["jpg", "jpeg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// A picture as a frame captured now, of this running number.
///
/// # Errors
/// [`CameraError::BrokenFrame`]: unreadable, or no picture.
pub fn read_frame(path: &Path, sequence: u64) -> Result<Frame, CameraError> {
    let broken = |problem: String| CameraError::BrokenFrame(format!("{}: {problem}", path.display()));
    let bytes = fs::read(path).map_err(|error| broken(error.to_string()))?;
    let reader = image::ImageReader::new(std::io::Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(|error| broken(error.to_string()))?;
    let jpeg = reader.format() == Some(image::ImageFormat::Jpeg);
    let (frame_bytes, format, (width, height)) = if jpeg {
        // As a webcam sends it: decoded by whoever looks at the frame.
        let size = reader.into_dimensions().map_err(|error| broken(error.to_string()))?;
        (bytes, PixelFormat::Mjpeg, size)
    } else {
        let picture = reader.decode().map_err(|error| broken(error.to_string()))?.to_rgb8();
        let size = picture.dimensions();
        (picture.into_raw(), PixelFormat::Rgb, size)
    };
    let stride = if jpeg { 0 } else { width * 3 };
    Ok(Frame { bytes: frame_bytes, format, width, height, stride, sequence, captured_at: Instant::now() })
}

impl Camera for FilesCamera {
    fn next_frame(&mut self) -> Result<Frame, CameraError> {
        if self.next == self.files.len() {
            if !self.repeat {
                return Err(CameraError::Ended);
            }
            self.next = 0;
        }
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
        self.due = (self.due + self.period).max(Instant::now());
        let path = &self.files[self.next];
        self.next += 1;
        self.sequence += 1;
        let mut frame = read_frame(path, self.sequence)?;
        frame.captured_at = Instant::now();
        Ok(frame)
    }

    fn describe(&self) -> String {
        let how = if self.repeat { "in a loop" } else { "once" };
        format!("{} pictures of {}, {how}, one every {:?}", self.files.len(), self.folder.display(), self.period)
    }

    fn wants_every_frame(&self) -> bool {
        !self.repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;

    fn folder(repeat: bool) -> (tempfile::TempDir, CameraConfig) {
        let dir = tempfile::tempdir().unwrap();
        RgbImage::new(16, 12).save(dir.path().join("b.png")).unwrap();
        RgbImage::new(32, 24).save(dir.path().join("a.JPG")).unwrap();
        fs::write(dir.path().join("c.jpg"), "no picture").unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        let config = CameraConfig { folder: dir.path().to_owned(), fps: 60, repeat, ..CameraConfig::default() };
        (dir, config)
    }

    #[test]
    fn a_folder_is_played_once_in_the_order_of_names() {
        let (_dir, config) = folder(false);
        let mut camera = FilesCamera::open(&config).unwrap();
        assert!(camera.wants_every_frame());
        let a = camera.next_frame().unwrap();
        assert_eq!((a.format, a.width, a.sequence), (PixelFormat::Mjpeg, 32, 1));
        assert_eq!(a.rgb().unwrap().dimensions(), (32, 24));
        let b = camera.next_frame().unwrap();
        assert_eq!((b.format, b.rgb().unwrap().dimensions()), (PixelFormat::Rgb, (16, 12)));
        assert!(matches!(camera.next_frame(), Err(CameraError::BrokenFrame(text)) if text.contains("c.jpg")));
        assert!(matches!(camera.next_frame(), Err(CameraError::Ended)));
    }

    #[test]
    fn a_folder_in_a_loop_does_not_end() {
        let (_dir, config) = folder(true);
        let mut camera = FilesCamera::open(&config).unwrap();
        let good = (0..9).filter(|_| camera.next_frame().is_ok()).count();
        assert_eq!(good, 6);
    }

    #[test]
    fn an_empty_or_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("none")] {
            let config = CameraConfig { folder: path.clone(), ..CameraConfig::default() };
            let error = FilesCamera::open(&config).err().unwrap().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
