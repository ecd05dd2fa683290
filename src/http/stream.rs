//! The live view: frames become JPEGs once for everybody who looks, and only while somebody does.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::{body::Bytes, response::sse::Event as SseEvent};
use futures_util::{Stream, stream};
use image::{RgbImage, codecs::jpeg::JpegEncoder, imageops};
use serde_json::json;
use tokio::sync::{broadcast, watch};

use crate::{
    live::{View, Viewer, give_way},
    service::Services,
    store::Event,
};

/// Enough for a look at a door; about 40 kB at 640×480.
const JPEG_QUALITY: u8 = 75;
/// A wider picture is made smaller.
const WIDEST: u32 = 1280;
/// How often the thread looks for events and whether it has to end.
const LOOK_UP: Duration = Duration::from_millis(200);
/// Events that a slow reader may be behind.
const EVENTS: usize = 64;
const BOUNDARY: &str = "facelatch-frame";

/// A frame as it is sent.
#[derive(Debug)]
pub(super) struct Shown {
    pub jpeg: Bytes,
    /// The picture as a part of a multipart message.
    part: Bytes,
}

/// What the thread hands out.
#[derive(Clone)]
pub(super) struct Feed {
    shown: watch::Receiver<Option<Arc<Shown>>>,
    faces: watch::Receiver<String>,
    events: broadcast::Sender<Event>,
    /// How many want pictures, not only faces.
    pictures: Arc<AtomicUsize>,
    services: Arc<Services>,
}

/// The thread that encodes. Dropping it ends it.
pub(super) struct Encoder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Encoder {
    pub(super) fn start(services: &Arc<Services>) -> io::Result<(Encoder, Feed)> {
        let (shown, see_shown) = watch::channel(None);
        let (faces, see_faces) = watch::channel(String::new());
        let (events, _) = broadcast::channel(EVENTS);
        let (pictures, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let feed = Feed {
            shown: see_shown,
            faces: see_faces,
            events: events.clone(),
            pictures: Arc::clone(&pictures),
            services: Arc::clone(services),
        };
        let (services, stopped) = (Arc::clone(services), Arc::clone(&stop));
        let thread = thread::Builder::new().name("viewer".into()).spawn(move || {
            give_way();
            let happened = services.store.follow();
            let between = Duration::from_secs(1) / services.config.http.fps.max(1);
            let (mut last, mut next) = (0, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let view = services.live.next_view(last, LOOK_UP);
                for event in happened.try_iter() {
                    // Nobody listens: nobody misses it.
                    let _ = events.send(event);
                }
                let Some(view) = view else {
                    if services.live.viewers() == 0 {
                        // Nobody's picture is kept for whoever looks next.
                        shown.send_if_modified(|shown| shown.take().is_some());
                    }
                    continue;
                };
                last = view.number;
                if Instant::now() < next {
                    continue;
                }
                next = Instant::now() + between;
                faces.send_replace(faces_json(&view));
                if pictures.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                match encode(&view) {
                    Ok(picture) => drop(shown.send_replace(Some(Arc::new(picture)))),
                    Err(problem) => log::debug!("a frame cannot be shown: {problem}"),
                }
            }
        })?;
        Ok((Encoder { stop, thread: Some(thread) }, feed))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Width and height of the upright picture.
fn upright(view: &View) -> (u32, u32) {
    match view.rotate {
        90 | 270 => (view.frame.height, view.frame.width),
        _ => (view.frame.width, view.frame.height),
    }
}

fn faces_json(view: &View) -> String {
    let (width, height) = upright(view);
    json!({ "width": width, "height": height, "faces": view.faces }).to_string()
}

fn encode(view: &View) -> Result<Shown, String> {
    // What a camera sends as a JPEG goes on as it is.
    let as_sent = if view.rotate == 0 && view.frame.width <= WIDEST { view.frame.jpeg() } else { None };
    let jpeg = match as_sent {
        Some(jpeg) => Bytes::from(jpeg),
        None => Bytes::from(jpeg_of(&upright_picture(view)?)?),
    };
    let mut part = Vec::with_capacity(jpeg.len() + 128);
    part.extend_from_slice(
        format!("--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len()).as_bytes(),
    );
    part.extend_from_slice(&jpeg);
    part.extend_from_slice(b"\r\n");
    Ok(Shown { jpeg, part: part.into() })
}

fn upright_picture(view: &View) -> Result<RgbImage, String> {
    let picture = view.frame.rgb().map_err(|error| error.to_string())?;
    let picture = match view.rotate {
        90 => imageops::rotate90(&picture),
        180 => imageops::rotate180(&picture),
        270 => imageops::rotate270(&picture),
        _ => picture,
    };
    if picture.width() <= WIDEST {
        return Ok(picture);
    }
    let height = (u64::from(picture.height()) * u64::from(WIDEST) / u64::from(picture.width())).max(1) as u32;
    Ok(imageops::thumbnail(&picture, WIDEST, height))
}

fn jpeg_of(picture: &RgbImage) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    picture.write_with_encoder(encoder).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Somebody who wants pictures.
struct Looker {
    _viewer: Viewer,
    pictures: Arc<AtomicUsize>,
}

impl Looker {
    fn new(feed: &Feed) -> Looker {
        feed.pictures.fetch_add(1, Ordering::Relaxed);
        Looker { _viewer: feed.services.live.viewer(), pictures: Arc::clone(&feed.pictures) }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.pictures.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn multipart_type() -> String {
    format!("multipart/x-mixed-replace; boundary={BOUNDARY}")
}

impl Feed {
    /// The pictures, each as soon as there is one and the one before was taken; what a slow reader misses is not kept for it.
    pub(super) fn pictures(&self) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
        let mut shown = self.shown.clone();
        shown.mark_changed();
        let state = (Looker::new(self), shown);
        stream::unfold(state, |(looker, mut shown)| async move {
            loop {
                shown.changed().await.ok()?;
                let part = shown.borrow_and_update().as_ref().map(|shown| shown.part.clone());
                if let Some(part) = part {
                    return Some((Ok(part), (looker, shown)));
                }
            }
        })
    }

    /// The next picture.
    pub(super) async fn snapshot(&self) -> Option<Arc<Shown>> {
        let mut shown = self.shown.clone();
        shown.mark_unchanged();
        let _looker = Looker::new(self);
        loop {
            shown.changed().await.ok()?;
            if let Some(picture) = shown.borrow_and_update().clone() {
                return Some(picture);
            }
        }
    }

    /// Faces in view and events, as they come.
    pub(super) fn news(&self) -> impl Stream<Item = Result<SseEvent, Infallible>> + use<> {
        let (faces, events) = (self.faces.clone(), self.events.subscribe());
        let state = (self.services.live.viewer(), faces, events);
        stream::unfold(state, |(viewer, mut faces, mut events)| async move {
            let message = tokio::select! {
                changed = faces.changed() => {
                    changed.ok()?;
                    SseEvent::default().event("faces").data(faces.borrow_and_update().as_str())
                }
                event = events.recv() => match event {
                    Ok(event) => {
                        SseEvent::default().event("event").data(serde_json::to_string(&event).unwrap_or_default())
                    }
                    // The reader was too slow: it asks for the list anew.
                    Err(broadcast::error::RecvError::Lagged(_)) => SseEvent::default().event("missed").data(""),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
            };
            Some((Ok(message), (viewer, faces, events)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::frame::{Frame, PixelFormat};

    fn view(format: PixelFormat, bytes: Vec<u8>, rotate: u32) -> View {
        let (width, height) = (32, 16);
        let stride = if format == PixelFormat::Grey { width } else { 0 };
        let frame = Frame { bytes, format, width, height, stride, sequence: 1, captured_at: Instant::now() };
        View { number: 1, frame, rotate, faces: vec![] }
    }

    #[test]
    fn a_frame_is_shown_upright() {
        let view = view(PixelFormat::Grey, vec![90; 32 * 16], 90);
        let shown = encode(&view).unwrap();
        let picture = image::load_from_memory(&shown.jpeg).unwrap();
        assert_eq!((picture.width(), picture.height()), (16, 32));
        let faces = faces_json(&view);
        assert!(faces.contains("\"width\":16") && faces.contains("\"height\":32"), "{faces}");
        let header = String::from_utf8_lossy(&shown.part[..100]).into_owned();
        assert!(header.starts_with("--facelatch-frame\r\n") && header.contains(&shown.jpeg.len().to_string()));
    }

    #[test]
    fn what_comes_as_a_jpeg_goes_on_as_it_is() {
        let jpeg = jpeg_of(&RgbImage::new(32, 16)).unwrap();
        assert_eq!(encode(&view(PixelFormat::Mjpeg, jpeg.clone(), 0)).unwrap().jpeg, jpeg);
    }

    #[test]
    fn a_broken_frame_is_an_error() {
        assert!(encode(&view(PixelFormat::Grey, vec![90; 3], 0)).is_err());
        assert!(encode(&view(PixelFormat::Mjpeg, vec![0xff, 0xd8, 0], 180)).is_err());
    }
}
