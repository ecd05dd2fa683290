//! Why a picture is refused, in the words its owner reads.

use crate::vision::quality::{Flaw, Part};

/// A reason and its remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the name cannot be used: {0}. Rename the file or folder")]
    BadName(String),
    #[error("it is {0}, not a file. Put the picture itself here")]
    NotAFile(&'static str),
    #[error("it cannot be read: {0}. Check its permissions (the group facelatch must be able to read it)")]
    Unreadable(String),
    #[error("the file is larger than 64 MiB. Save it smaller")]
    TooLargeFile,
    #[error(
        "the picture has {size}, more than {most} megapixels (enroll.max_megapixels). Save it smaller, or choose a smaller picture \
         size in the settings of the phone's camera: 12 megapixels are plenty"
    )]
    TooManyPixels { size: String, most: u32 },
    #[error("not a picture this program can read: {0}. Save it as a plain RGB JPEG or PNG")]
    NotAPicture(String),
    #[error("not a picture this program can read: this is {kind}. {remedy}")]
    Foreign { kind: String, remedy: &'static str },
    #[error("the picture needs more than {most} MiB of memory. Save it smaller, and not as progressive JPEG")]
    NeedsMemory { most: u64 },
    #[error(
        "not a picture this program can read: the file is not complete ({0}). Copy it here again, or save the picture once more"
    )]
    Incomplete(String),
    #[error(
        "facelatch ended while it read this picture (killed, out of memory, or a power cut); it is not read again. Save it smaller and \
         put it here once more; if it was a power cut, touch it"
    )]
    EndedProgram,
    #[error("no face found. Take a picture from the front, in good light, in which the face is large")]
    NoFace,
    #[error("{0} faces. Cut the picture so that only one person is on it")]
    SeveralFaces(usize),
    #[error("{flaw}. {}", remedy(flaw))]
    Flawed { flaw: Flaw },
    #[error("the same picture as {0}. Remove one of them")]
    Duplicate(String),
    #[error(
        "looks like {name} at {distance:.2} (nearer than {limit:.2}). If it is the same person, put it into that \
         folder; else take better pictures of both"
    )]
    LooksLike { name: String, distance: f32, limit: f32 },
    #[error(
        "does not look like the other pictures of {name}: {distance:.2} from them on average (at most {limit:.2}), \
         farthest from {picture}. Remove it if it shows another person. If it shows {name}, confirm that: name the \
         file {confirmed}, or add a picture that resembles it and the others"
    )]
    UnlikeOthers { name: String, picture: String, distance: f32, limit: f32, confirmed: String },
    #[error(
        "does not show the same person as {picture}: {distance:.2} apart (at most {limit:.2}), and which of them is \
         {name} cannot be told. Remove the wrong one, or add another picture of {name}. If both show {name}, \
         confirm that: name this file {confirmed}, and the other likewise"
    )]
    Undecided { name: String, picture: String, distance: f32, limit: f32, confirmed: String },
    #[error("nobody more can be enrolled: {0}")]
    OutOfReach(String),
    #[error("pictures of {0} are being read just now. Try again in some seconds")]
    Busy(String),
    /// Found at an earlier start, in the words of that time.
    #[error("{0}")]
    Earlier(String),
    #[error("it could not be examined: {0}")]
    Failed(String),
}

impl Refusal {
    /// Whether the file alone decides: such a verdict stays until the file or the rules
    /// change.
    pub(super) fn lasts(&self) -> bool {
        use Refusal::{EndedProgram, Failed, NotAFile, Unreadable};
        !matches!(self, Unreadable(_) | NotAFile(_) | Failed(_) | EndedProgram)
    }

    /// Whether it says what the owner was told already, figures aside.
    pub(super) fn repeats(&self, told: &Refusal) -> bool {
        use Refusal::{LooksLike, Undecided, UnlikeOthers};
        match (self, told) {
            (LooksLike { name, .. }, LooksLike { name: before, .. }) => name == before,
            (UnlikeOthers { picture, .. }, UnlikeOthers { picture: before, .. })
            | (Undecided { picture, .. }, Undecided { picture: before, .. }) => picture == before,
            _ => self.to_string() == told.to_string(),
        }
    }
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
