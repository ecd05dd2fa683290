//! How well faces are told apart: pictures of known people in, rates and thresholds out.
//!
//! [`collection`] reads folders of people and lists of pairs and runs the daemon's own chain over the pictures; [`statistics`]
//! makes numbers of embeddings and labels, [`population`] those of one group of people, with intervals by
//! [`bootstrap`] over people, [`scale`] the other distances of the manifest; [`door`] simulates a
//! door's own evidence; [`plot`] draws them.
//!
//! ```
//! use facelatch::eval::statistics::Distances;
//! let measured = Distances::new(vec![0.1, 0.2, 0.4], vec![0.3, 0.6, 0.7, 0.8]).expect("some of each kind");
//! let point = measured.at(0.25).expect("four comparisons show one in four");
//! assert_eq!((point.distance, point.tar), (0.6, 1.0));
//! ```

pub mod bootstrap;
pub mod collection;
pub mod door;
pub mod plot;
pub mod population;
pub mod scale;
pub mod statistics;
