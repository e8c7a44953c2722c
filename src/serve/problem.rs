//! What is answered instead: problem details (RFC 9457), with a `code` for programs. Holds no
//! address, no key's content and nothing of an error's causes.

use axum::http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::answer::Answer;
use crate::projection::ProjectionError;
use crate::sets::KeyError;

/// Seconds after which a client may ask again: an outage is looked at each second.
const RETRY_AWAY: u16 = 2;
/// Sets are filled by a rebuild, which takes its time.
const RETRY_UNKNOWN: u16 = 5;
const RETRY_BUSY: u16 = 1;

#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    /// The same for the same cause, for ever.
    code: &'static str,
    detail: String,
    retry_after_secs: Option<u16>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), retry_after_secs: None }
    }

    fn later(self, seconds: u16) -> Problem {
        Problem { retry_after_secs: Some(seconds), ..self }
    }

    pub fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    pub fn not_supported(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "not_supported", detail)
    }

    pub fn no_route() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_route", "see /openapi.json for what there is")
    }

    /// Redis keeps it no longer: what it held is not known, and will not be.
    pub fn expired(bucket: &str) -> Problem {
        let detail = format!("the bucket {bucket} has expired: it is not kept any more");
        Problem::new(StatusCode::NOT_FOUND, "expired", detail)
    }

    pub fn method() -> Problem {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET and HEAD are answered")
    }

    pub fn url_too_long(max: usize) -> Problem {
        let detail = format!("a URL has at most {max} bytes");
        Problem::new(StatusCode::URI_TOO_LONG, "url_too_long", detail)
    }

    pub fn headers_too_large(max: usize) -> Problem {
        let detail = format!("the headers have at most {max} bytes together");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Problem::new(status, "headers_too_large", detail)
    }

    pub fn answer_too_large(max: usize) -> Problem {
        Problem::bad(format!("the answer has more than {max} bytes: ask for fewer at once"))
    }

    pub fn too_many(what: &str) -> Problem {
        let detail = format!("too many {what} at the moment");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail).later(RETRY_BUSY)
    }

    pub fn redis_away() -> Problem {
        let detail = "Redis does not answer";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "redis_away", detail).later(RETRY_AWAY)
    }

    /// Redis answers and cannot tell.
    pub fn unknown() -> Problem {
        let detail = "unknown: Redis holds no generation, or not all of history of this set, so \
                      neither a no nor a count of it would say anything";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", detail).later(RETRY_UNKNOWN)
    }

    pub fn wrong_type() -> Problem {
        Problem::hand_needed("the set's key in Redis holds another type")
    }

    fn hand_needed(detail: &str) -> Problem {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "hand_needed", detail);
        problem.later(RETRY_UNKNOWN)
    }

    pub fn into_answer(self) -> Answer {
        let Problem { status, code, detail, retry_after_secs } = self;
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("error"),
            "status": status.as_u16(),
            "detail": detail,
            "code": code,
        });
        let mut answer = Answer::problem(status, body.to_string() + "\n");
        if let Some(seconds) = retry_after_secs {
            answer.set(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            answer.set(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        answer
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Problem {
        match error {
            KeyError::Set { .. } => {
                Problem::new(StatusCode::NOT_FOUND, "no_set", error.to_string())
            }
            KeyError::Group { .. }
            | KeyError::BucketMissing { .. }
            | KeyError::BucketUnwanted { .. }
            | KeyError::BucketFormat { .. }
            | KeyError::Member { .. }
            | KeyError::Component { .. } => Problem::bad(error.to_string()),
        }
    }
}

impl From<ProjectionError> for Problem {
    fn from(error: ProjectionError) -> Problem {
        use crate::retry::Class;
        match &error {
            ProjectionError::NotSupported { .. } => Problem::not_supported(error.to_string()),
            ProjectionError::WrongType { .. } => Problem::wrong_type(),
            other => match other.class() {
                Class::Transient => Problem::redis_away(),
                Class::Config | Class::Data => {
                    // Who may not read, or a command that this Redis does not have. Of the
                    // first the maker says so, once; a line for each request would be a flood.
                    tracing::debug!(error = crate::telemetry::chain(other), "redis refuses");
                    Problem::hand_needed("Redis refuses to answer")
                }
            },
        }
    }
}
