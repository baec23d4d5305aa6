//! How does a rollout live in this process: decided by `tiltyard-rollout`, on the record in `tiltyard-registry`?

pub mod record;
