//! What does a build without the record say to those who want requests captured?

use std::sync::Arc;

use http::HeaderMap;
use tiltyard_runtime::job::Answer;
use tiltyard_types::{Error, NamedTensor, Result};

use crate::arm::Arm;
use crate::catalog::Catalog;
use crate::config::{CaptureMode, Config};
use crate::infer::Accepted;

/// There is none.
pub enum Captures {}

/// There are none.
pub enum Rules {}

/// There is none.
pub enum Begun {}

impl Captures {
    /// Fails where the settings ask for a capture.
    pub fn start(config: &Config) -> Result<Option<Arc<Captures>>, String> {
        match config.capture {
            CaptureMode::Off => Ok(None),
            _ => Err("capture: this build of tiltyard cannot capture: it was built without the feature record".into()),
        }
    }

    /// Never called.
    pub fn read(&self, _config: &Config) -> Result<Rules, String> {
        match *self {}
    }

    /// Never called.
    pub fn take(&self, _rules: Rules, _catalog: &Catalog) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn prepare(&self, _catalog: &Catalog) {
        match *self {}
    }

    /// Never called.
    pub fn begin(
        self: &Arc<Self>,
        _: &Arc<Arm>,
        _: Accepted,
        _: Option<u64>,
        _: &[NamedTensor],
        _: &HeaderMap,
    ) -> Option<Begun> {
        match **self {}
    }

    /// Never called.
    pub fn end(&self) {
        match *self {}
    }
}

impl Begun {
    /// Never called.
    pub async fn end(self, _answer: Result<(&Answer, &[usize]), &Error>) -> Result<()> {
        match self {}
    }
}
