//! Which codes does each kind of failure have on the wire? The one table, for all protocols.

use http::StatusCode;
use tiltyard_types::ErrorKind;

use super::grpc::wire::Code;

/// The HTTP status and the gRPC code of a kind.
pub(crate) const fn codes(kind: ErrorKind) -> (u16, Code) {
    match kind {
        ErrorKind::Invalid => (400, Code::InvalidArgument),
        ErrorKind::Unauthenticated => (401, Code::Unauthenticated),
        ErrorKind::Forbidden => (403, Code::PermissionDenied),
        ErrorKind::NotFound => (404, Code::NotFound),
        ErrorKind::TooLarge => (413, Code::ResourceExhausted),
        // Not 503: proxies take a host that answers 503 out of rotation.
        ErrorKind::Overloaded => (429, Code::ResourceExhausted),
        ErrorKind::NotReady | ErrorKind::Draining => (503, Code::Unavailable),
        ErrorKind::Deadline => (504, Code::DeadlineExceeded),
        ErrorKind::Cancelled => (499, Code::Cancelled),
        ErrorKind::Engine => (500, Code::Internal),
        ErrorKind::Unsupported => (501, Code::Unimplemented),
    }
}

/// The HTTP status of a kind.
pub(crate) fn http_status(kind: ErrorKind) -> StatusCode {
    StatusCode::from_u16(codes(kind).0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
