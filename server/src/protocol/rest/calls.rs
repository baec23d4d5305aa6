//! What does a REST path ask for, as far as permission goes?

use std::sync::Arc;

use http::Method;
use tiltyard_types::{Error, Result};

use super::Head;
use crate::locks::access::Access;
use crate::locks::calls::{Call, Caller};
use crate::locks::certificate::ClientCertificate;

/// Whether the caller may do what it asks for, and who it is. Fails with UNAUTHENTICATED or FORBIDDEN; and with NOT_FOUND, for those who
/// are known, where a path is not in the list below: what somebody adds elsewhere and forgets here stays shut.
pub(super) fn allow(
    access: &Access,
    head: &Head<'_>,
    certificate: Option<&ClientCertificate>,
) -> Result<Option<Arc<Caller>>> {
    match call(head.method, head.path) {
        Some(call) => access.judge(head.headers, certificate, call),
        None => {
            access.judge(head.headers, certificate, Call::Server)?;
            Err(Error::not_found(format!("nothing is at {} /{}", head.method, head.path.join("/"))))
        }
    }
}

fn call<'a>(method: &Method, path: &[&'a str]) -> Option<Call<'a>> {
    let reads = *method == Method::GET || *method == Method::HEAD;
    Some(match path {
        ["v2", "health", ..] => Call::Health,
        ["v2"] => Call::Server,
        [] | ["docs", ..] => Call::Docs,
        ["v1", "feedback"] => Call::Feedback,
        ["v2", "models", "stats"] | ["v2", "repository", "index"] | ["v2", "repository", _, "index"] => Call::SeeAll,
        ["v2", "models", model, rest @ ..] | ["v1", "models", model, rest @ ..] => match rest {
            ["infer" | "score" | "explain" | "generate" | "generate_stream"] => Call::Score(model),
            ["versions", _, "infer" | "score" | "explain" | "generate" | "generate_stream"] => Call::Score(model),
            [] | ["ready" | "config" | "stats"] => Call::See(model),
            ["versions", _] | ["versions", _, "ready" | "config" | "stats"] => Call::See(model),
            // Nothing can be changed there but to what it is.
            ["trace", "setting"] => Call::See(model),
            _ => return None,
        },
        ["v2", "repository", "models", model, _] | ["v2", "repository", _, "models", model, _] => Call::Deploy(model),
        ["v2", "logging"] | ["v2", "trace", "setting"] if reads => Call::SeeSettings,
        ["v2", "logging"] | ["v2", "trace", "setting"] => Call::ChangeSettings,
        // Not offered, which is told.
        ["v2", "systemsharedmemory" | "cudasharedmemory", ..] => Call::Server,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for() {
        let check = |line: &str, expected: Option<Call<'_>>| {
            let (method, path) = line.split_once(" /").unwrap();
            let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            assert_eq!(call(&method.parse().unwrap(), &path), expected, "{line}");
        };
        check("GET /", Some(Call::Docs));
        check("GET /docs/openapi.json", Some(Call::Docs));
        check("GET /v2", Some(Call::Server));
        check("GET /v2/health/ready", Some(Call::Health));
        check("POST /v2/models/m/infer", Some(Call::Score("m")));
        check("POST /v2/models/m/versions/1/infer", Some(Call::Score("m")));
        check("POST /v1/models/m/score", Some(Call::Score("m")));
        check("POST /v1/models/m/explain", Some(Call::Score("m")));
        check("POST /v1/models/m/versions/2/explain", Some(Call::Score("m")));
        check("POST /v1/feedback", Some(Call::Feedback));
        check("GET /v2/models/m", Some(Call::See("m")));
        check("GET /v2/models/m/versions/1/stats", Some(Call::See("m")));
        check("GET /v2/models/stats", Some(Call::SeeAll));
        check("POST /v2/repository/index", Some(Call::SeeAll));
        check("POST /v2/repository/models/m/load", Some(Call::Deploy("m")));
        check("POST /v2/repository/r/models/m/unload", Some(Call::Deploy("m")));
        check("GET /v2/logging", Some(Call::SeeSettings));
        check("POST /v2/logging", Some(Call::ChangeSettings));
        check("POST /v2/trace/setting", Some(Call::ChangeSettings));
        check("POST /v2/systemsharedmemory/region/r/register", Some(Call::Server));
        check("GET /etc/passwd", None);
        check("POST /v2/models/m/secrets", None);
        check("POST /v3/models/m/infer", None);
    }
}
