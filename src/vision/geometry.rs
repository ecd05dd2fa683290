//! Points, boxes and detections, in pixels of the frame they were found in.
//!
//! The origin is the top left corner, x grows to the right, y downwards; a whole-numbered coordinate is a pixel's centre.

/// A position in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

/// An axis-parallel rectangle in pixels; `x2 ≥ x1` and `y2 ≥ y1` wherever the cascade produced it. It may reach beyond the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BoundingBox {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
}

impl BoundingBox {
    pub fn width(&self) -> f32 {
        self.x2 - self.x1
    }

    pub fn height(&self) -> f32 {
        self.y2 - self.y1
    }

    /// The longer side, in pixels: what this crate means by the size of a face.
    pub fn side(&self) -> f32 {
        self.width().max(self.height())
    }

    pub fn center(&self) -> Point {
        Point { x: (self.x1 + self.x2) / 2.0, y: (self.y1 + self.y2) / 2.0 }
    }

    pub fn area(&self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// Intersection over union, 0 to 1; 0 when both are empty.
    pub fn iou(&self, other: &BoundingBox) -> f32 {
        let width = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let height = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        let intersection = width * height;
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }
}

/// MTCNN's five points in its order: the eye on the left of the picture, the eye on the right, nose tip, mouth corner on
/// the left of the picture, mouth corner on the right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Landmarks(pub [Point; 5]);

/// One face as O-Net found it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    pub bounding_box: BoundingBox,
    /// O-Net's probability that this is a face, 0 to 1.
    pub score: f32,
    pub landmarks: Landmarks,
}
