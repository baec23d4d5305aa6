//! Is what a model is asked, and what it answers, still what it was made for?
//!
//! Values are counted into bins that were frozen with a baseline, while they are served; windows of counts are compared with it.
//! No IO, no clock, no threads, no chance: the time is handed in, and the same rows in whatever order, over however many shards,
//! replicas and restarts, make the same windows, and these the same alarms, to the bit.
//!
//! | from | to |
//! |---|---|
//! | rows of a file through the served model | [`baseline::Builder`] → [`baseline::Baseline`], JSON with a digest |
//! | first traffic | [`baseline::gather::Gathering`] → a provisional one |
//! | rows that are served, on each thread | [`shard::Shard`] |
//! | shards, every 100 ms or so | [`windows::Windows::absorb`]: hours, days, weeks; [`windows::Windows::write`] for a restart |
//! | windows that are over | [`alarm::Watch::take`] → what changed, and why; [`alarm::Watch::standing`] |
//!
//! ```
//! use tiltyard_drift::alarm::{Level, Rule, Watch};
//! use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
//! use tiltyard_drift::shard::Shard;
//! use tiltyard_drift::values::Values;
//! use tiltyard_drift::windows::Windows;
//! use tiltyard_types::Tensor;
//!
//! // What the model was made for: a thousand ages.
//! let ages: Vec<f32> = (0..1_000).map(|row| 20.0 + (row * 7 % 500) as f32 / 10.0).collect();
//! let column = Tensor::from_slice([1_000], &ages).expect("1,000 of them");
//! let mut builder = Builder::new(1_000);
//! let spec = Spec { name: "age".into(), role: Role::Input, importance: 1.0 };
//! builder.add(spec, &[Values::of(&column, 0).expect("one column")])?;
//! let baseline = Baseline::from_json(&builder.finish()?.to_json())?;
//!
//! // What it is asked: everybody is ten years older, for two days.
//! let (mut shard, mut windows) = (Shard::new(&baseline), Windows::new(&baseline));
//! let mut watch = Watch::new(&baseline, Rule::default());
//! let older: Vec<f32> = ages.iter().map(|age| age + 10.0).collect();
//! let asked = Tensor::from_slice([1_000], &older).expect("1,000 of them");
//! for hour in 0..49 {
//!     shard.rows(1_000);
//!     shard.tensor(&[baseline.position(Role::Input, "age")], &asked);
//!     for closed in windows.absorb(&mut shard, hour * 3_600_000) {
//!         for change in watch.take(&closed) {
//!             println!("{}", change.why);
//!         }
//!     }
//! }
//! let standing = watch.standing(0);
//! assert_eq!(standing.level, Level::Alert);
//! assert!(standing.why.starts_with("input age: distributed otherwise for 2 days or more"), "{}", standing.why);
//! # Ok::<(), String>(())
//! ```

pub mod alarm;
pub mod baseline;
pub mod bins;
mod code;
pub mod counts;
pub mod distinct;
mod exact;
pub mod newcomers;
mod numbers;
pub mod projections;
pub mod shard;
pub mod span;
pub mod statistics;
pub mod values;
pub mod windows;

pub use code::Broken;
