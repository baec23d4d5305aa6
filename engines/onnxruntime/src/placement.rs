//! Which nodes of a graph run on which execution provider?
//!
//! The library records it for sessions that are made with [`RECORD`]; `ort` has no call that asks for it.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;

use ort::AsPointer;
use ort::session::Session;
use ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtStatusPtr};
use tiltyard_runtime::providers::Placement;

use crate::provider::Provider;

/// The entry of a session's options that has it recorded.
pub(crate) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// What the library recorded, one entry per provider. Fails where the session was made without [`RECORD`].
pub(crate) fn of(session: &Session) -> Result<Vec<Placement>, ort::Error> {
    let mut parts: *const *const OrtEpAssignedSubgraph = ptr::null();
    let mut count = 0;
    let session = session.inner();
    // SAFETY: the session is live to the end of this function, and what it gives belongs to it; the out-pointers are
    // valid.
    check(unsafe { (ort::api().Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut parts, &mut count) })?;
    let mut found: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    // SAFETY: the call succeeded, so `parts` holds `count` live pointers.
    for &part in unsafe { list(parts, count) } {
        // SAFETY: `part` is live, and the function gives a string that belongs to it.
        let provider = unsafe { text(|out| (ort::api().EpAssignedSubgraph_GetEpName)(part, out)) }?;
        let operators = found.entry(Provider::own_name(&provider).to_owned()).or_default();
        let mut nodes: *const *const OrtEpAssignedNode = ptr::null();
        let mut count = 0;
        // SAFETY: as for the parts.
        check(unsafe { (ort::api().EpAssignedSubgraph_GetNodes)(part, &mut nodes, &mut count) })?;
        // SAFETY: the call succeeded, so `nodes` holds `count` live pointers.
        for &node in unsafe { list(nodes, count) } {
            // SAFETY: `node` is live, and the function gives a string that belongs to it.
            let operator = unsafe { text(|out| (ort::api().EpAssignedNode_GetOperatorType)(node, out)) }?;
            *operators.entry(operator).or_default() += 1;
        }
    }
    Ok(found.into_iter().map(|(provider, operators)| Placement { provider, operators }).collect())
}

/// The list of `count` pointers at `start`, which may be null where there are none.
///
/// # Safety
///
/// `start` must hold `count` pointers that stay for `'a`.
unsafe fn list<'a, T>(start: *const *const T, count: usize) -> &'a [*const T] {
    if start.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count) }
}

/// A copy of the string that `ask` gives.
///
/// # Safety
///
/// Where `ask` succeeds, it must have stored a NUL-terminated string that lives until this returns.
unsafe fn text(ask: impl FnOnce(*mut *const c_char) -> OrtStatusPtr) -> Result<String, ort::Error> {
    let mut start: *const c_char = ptr::null();
    check(ask(&mut start))?;
    if start.is_null() {
        return Ok(String::new());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned())
}

/// Turns a status into a result and releases it.
fn check(status: OrtStatusPtr) -> Result<(), ort::Error> {
    // SAFETY: every status comes straight from a call of the library and is handed over here only.
    unsafe { ort::Error::result_from_status(status) }
}
