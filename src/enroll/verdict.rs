//! Why a picture is refused, in the words its owner reads.

use crate::vision::quality::{Flaw, Part};

/// A reason and its remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the name cannot be used: {0}. Rename the file or folder")]
    BadName(String),
    #[error("a link out of the enroll folder. Put the picture itself here")]
    OutsideFolder,
    #[error("it cannot be read: {0}. Check its permissions (the group facelatch must be able to read it)")]
    Unreadable(String),
    #[error("the file is larger than 64 MiB. Save it smaller")]
    TooLargeFile,
    #[error("the picture has {size}, more than {most} megapixels. Save it smaller")]
    TooManyPixels { size: String, most: u32 },
    #[error("not a picture this program can read: {0}. Save it as a plain RGB JPEG or PNG")]
    NotAPicture(String),
    #[error("no face found. Take a picture from the front, in good light, in which the face is large")]
    NoFace,
    #[error("{0} faces. Cut the picture so that only one person is on it")]
    SeveralFaces(usize),
    #[error("{flaw}. {}", remedy(flaw))]
    Flawed { flaw: Flaw },
    #[error("the same picture as {0}. Remove one of them")]
    Duplicate(String),
    #[error(
        "looks like {name} at {distance:.2} (nearer than {limit:.2}). If it is the same person, put it into that folder; else take better pictures of both"
    )]
    LooksLike { name: String, distance: f32, limit: f32 },
    #[error(
        "does not look like the other pictures of {name}: {distance:.2} (at most {limit:.2}). Is this the same person?"
    )]
    UnlikeOthers { name: String, distance: f32, limit: f32 },
    #[error("it could not be examined: {0}")]
    Failed(String),
}

fn remedy(flaw: &Flaw) -> &'static str {
    match flaw {
        Flaw::TooSmall { .. } => "Take the picture from nearer, or with more pixels",
        Flaw::Blurred { .. } => "Hold still, or take another picture",
        Flaw::TooDark { .. } => "Take it in better light",
        Flaw::TooBright { .. } => "Take it in softer light",
        Flaw::Turned { .. } => "Look straight into the camera",
        Flaw::Cut { .. } => "Take a picture that shows the whole head",
        Flaw::Shaded { .. } => "Take it in light from the front",
        Flaw::Hidden { part: Part::Mouth } => "Take one without mask, scarf or hand before the face",
        Flaw::Hidden { part: Part::Eyes } => "Take one without dark glasses, with the hair out of the eyes",
    }
}
