//! Who answers a request, and what does the answer tell of it?

use std::sync::{Arc, OnceLock};

#[cfg(feature = "record")]
use arc_swap::ArcSwapOption;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::Requests;
use tiltyard_types::RequestId;

#[cfg(feature = "record")]
use crate::capture::Captured;
use crate::drift::Watched;

/// The arm of an endpoint without a plan.
pub const CHAMPION: &str = "champion";

/// The arm of requests that name a version: part of no plan.
pub const PINNED: &str = "pinned";

static PREDICTION_ID: HeaderName = HeaderName::from_static("tiltyard-prediction-id");

/// A deployment in its part under one name. Made with a catalog, never for a request.
pub struct Arm {
    /// The part's name in answers and metrics.
    pub name: String,
    /// The name that clients call.
    pub endpoint: String,
    /// What answers.
    pub deployment: Arc<Deployment>,
    /// Its version as the protocols write it.
    pub version: String,
    /// Counts the requests that reach it in this part.
    pub requests: Arc<Requests>,
    /// What of them is captured, once somebody asked, until the rules are read again.
    #[cfg(feature = "record")]
    pub(crate) captured: ArcSwapOption<Captured>,
    /// What watches it, once somebody asked; `None` inside where nothing does.
    pub(crate) watched: OnceLock<Option<Arc<Watched>>>,
    headers: HeaderMap,
    grpc_headers: HeaderMap,
}

impl Arm {
    /// The arm `name` of `endpoint`, which is `deployment`.
    pub fn new(endpoint: &str, name: &str, deployment: &Arc<Deployment>) -> Arc<Arm> {
        let identity = &deployment.identity;
        let pairs = [
            ("tiltyard-endpoint", endpoint.to_owned()),
            ("tiltyard-model", identity.model.clone()),
            ("tiltyard-version", identity.version.to_string()),
            ("tiltyard-digest", identity.digest.to_string()),
            ("tiltyard-arm", name.to_owned()),
        ];
        // A model's name may hold characters that a header cannot.
        let pairs = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)));
        let mut headers = HeaderMap::with_capacity(10);
        // The first, where a copy finds it at once.
        headers.insert(&PREDICTION_ID, HeaderValue::from_static(""));
        headers.extend(pairs);
        let mut grpc_headers = headers.clone();
        grpc_headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Arc::new(Arm {
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            version: identity.version.to_string(),
            requests: deployment.stats.way(endpoint, name),
            #[cfg(feature = "record")]
            captured: ArcSwapOption::empty(),
            watched: OnceLock::new(),
            deployment: Arc::clone(deployment),
            headers,
            grpc_headers,
        })
    }

    /// What every answer tells about who gave it, as headers.
    pub fn headers(&self, id: RequestId) -> HeaderMap {
        answer_of(&self.headers, id)
    }

    /// The headers of an answer over gRPC: the same, and the content type.
    pub fn grpc_headers(&self, id: RequestId) -> HeaderMap {
        answer_of(&self.grpc_headers, id)
    }
}

/// Headers that were made once, for the answer to this request. To copy them is much less work than to insert them.
fn answer_of(made: &HeaderMap, id: RequestId) -> HeaderMap {
    let mut headers = made.clone();
    if let (Some(value), Ok(mut id)) = (headers.values_mut().next(), HeaderValue::from_bytes(&id.first_prediction())) {
        // No other answer has it, so that it is not worth a place in a connection's table of headers.
        id.set_sensitive(true);
        *value = id;
    }
    headers
}
