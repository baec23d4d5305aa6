//! Whose gRPC call is it, and may the caller make it?

use std::sync::Arc;

use http::HeaderMap;
use tiltyard_types::Result;

use super::{INFERENCE, health};
use crate::locks::calls::{Call, Caller};
use crate::locks::certificate::ClientCertificate;
use crate::service::Service;

/// Somebody who is known, or anybody where there are no locks.
#[derive(Clone)]
pub(super) struct Known(Option<Arc<Caller>>);

impl Known {
    /// Fails with FORBIDDEN where the caller may not.
    pub(super) fn may(&self, call: Call<'_>) -> Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(caller) => caller.may(call),
        }
    }
}

/// Who calls. Fails with UNAUTHENTICATED unless the caller is known or the method is open to everybody. What a message
/// says more of, such as the model, is for [`Known::may`].
pub(super) fn known(
    service: &Service,
    path: &str,
    headers: &HeaderMap,
    certificate: Option<&ClientCertificate>,
) -> Result<Known> {
    let Some(access) = &service.access else { return Ok(Known(None)) };
    if is_health(path) {
        access.judge(headers, certificate, Call::Health)?;
        // Nothing else is asked of a caller of these.
        return Ok(Known(None));
    }
    let caller = access.who(headers, certificate)?;
    // Reflection, and what is nothing at all. The methods of inference ask for themselves, some once they know the model.
    if !path.starts_with(INFERENCE) {
        caller.may(Call::Server)?;
    }
    Ok(Known(Some(caller)))
}

fn is_health(path: &str) -> bool {
    path.starts_with(health::PATH_PREFIX)
        || path.strip_prefix(INFERENCE).is_some_and(|method| matches!(method, "ServerLive" | "ServerReady"))
}
