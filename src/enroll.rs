//! The enroll folder.
