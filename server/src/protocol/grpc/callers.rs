//! Whose gRPC call is it, and may the caller make it?

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use tiltyard_types::Result;

use super::{INFERENCE, health};
use crate::listen::CameIn;
use crate::locks::calls::{Call, Caller};
use crate::locks::certificate::ClientCertificate;
use crate::service::Service;

/// Somebody who is known, or anybody where there are no locks.
#[derive(Clone)]
pub(super) struct Known(Option<Arc<Caller>>);

impl Known {
    /// The caller's name, where there are locks.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|caller| caller.name.as_str())
    }

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

/// What a caller sent along when its stream began. Its credentials are looked at again for each message: a token may have
/// been revoked since, a role taken away, a time be over.
#[derive(Clone)]
pub(super) struct Shown {
    service: Arc<Service>,
    path: String,
    headers: HeaderMap,
    certificate: Option<Arc<ClientCertificate>>,
}

impl Shown {
    pub(super) fn of(service: &Arc<Service>, request: &Parts, came_in: &CameIn) -> Shown {
        Shown {
            service: Arc::clone(service),
            path: request.uri.path().to_owned(),
            headers: request.headers.clone(),
            certificate: came_in.certificate.clone(),
        }
    }

    /// The metadata, which is that of each message.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Who calls, by what holds now. Fails like [`known`].
    pub(super) fn look(&self) -> Result<Known> {
        let known = known(&self.service, &self.path, &self.headers, self.certificate.as_deref());
        known.inspect_err(|error| self.service.totals.note_failure(error.kind()))
    }
}

fn is_health(path: &str) -> bool {
    path.starts_with(health::PATH_PREFIX)
        || path.strip_prefix(INFERENCE).is_some_and(|method| matches!(method, "ServerLive" | "ServerReady"))
}
