//! The form of every answer: its headers, and whether the client has it already. Decides nothing of
//! what is said.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::{Map, Value};

/// Sets change all the time; a second is what a page and a proxy can do without asking.
const SHORT: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// The page and the document change with the program.
const LONG: HeaderValue = HeaderValue::from_static("public, max-age=60");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Of what is not the page: whatever a browser takes it for, nothing in it may run.
const NOTHING: HeaderValue =
    HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

pub struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    etag: Option<HeaderValue>,
    content: Content,
}

enum Content {
    Whole(Bytes),
    Stream(Body),
}

/// The same for as long as the process lives. Cheap to clone.
#[derive(Clone)]
pub struct Fixed {
    pub kind: HeaderValue,
    pub policy: HeaderValue,
    etag: HeaderValue,
    bytes: Bytes,
}

impl Fixed {
    pub fn new(kind: HeaderValue, policy: Option<HeaderValue>, bytes: Bytes) -> Fixed {
        Fixed { kind, policy: policy.unwrap_or(NOTHING), etag: etag("", &bytes), bytes }
    }

    pub fn json(text: &'static str) -> Fixed {
        Fixed::new(JSON, None, Bytes::from_static(text.as_bytes()))
    }

    pub fn answer(&self) -> Answer {
        let headers = vec![
            (header::CONTENT_TYPE, self.kind.clone()),
            (header::CONTENT_SECURITY_POLICY, self.policy.clone()),
            (header::CACHE_CONTROL, LONG),
        ];
        let content = Content::Whole(self.bytes.clone());
        Answer { status: StatusCode::OK, headers, etag: Some(self.etag.clone()), content }
    }
}

impl Answer {
    /// An object. What changes although nothing happened (an age) is `passing`, and no part of what
    /// a client compares.
    pub fn json(lasting: Map<String, Value>, passing: Map<String, Value>) -> Answer {
        let mut all = lasting;
        // Weak: two answers that it calls the same differ by what passes.
        let etag = etag("W/", Value::Object(all.clone()).to_string().as_bytes());
        all.extend(passing);
        Answer::made((Value::Object(all).to_string() + "\n").into(), etag)
    }

    /// JSON as it is, with the tag of what lasts of it.
    pub fn made(json: Bytes, etag: HeaderValue) -> Answer {
        Answer {
            status: StatusCode::OK,
            headers: vec![
                (header::CONTENT_TYPE, JSON),
                (header::CONTENT_SECURITY_POLICY, NOTHING),
                (header::CACHE_CONTROL, SHORT),
            ],
            etag: Some(etag),
            content: Content::Whole(json),
        }
    }

    pub fn problem(status: StatusCode, body: String) -> Answer {
        Answer::uncached(status, PROBLEM, Content::Whole(body.into()))
    }

    pub fn stream(body: Body) -> Answer {
        let mut answer = Answer::uncached(StatusCode::OK, EVENTS, Content::Stream(body));
        // nginx would gather it otherwise.
        answer.set(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        answer
    }

    /// To a browser that asks whether another page may ask.
    pub fn preflight() -> Answer {
        Answer::uncached(StatusCode::NO_CONTENT, JSON, Content::Whole(Bytes::new()))
    }

    fn uncached(status: StatusCode, kind: HeaderValue, content: Content) -> Answer {
        let headers = vec![
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, NOTHING),
            (header::CACHE_CONTROL, NO_STORE),
        ];
        Answer { status, headers, etag: None, content }
    }

    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
    }

    /// Bytes of the body; 0 of a stream.
    pub fn len(&self) -> usize {
        match &self.content {
            Content::Whole(bytes) => bytes.len(),
            Content::Stream(_) => 0,
        }
    }

    /// As asked for: without its body where the client has it. Of a HEAD the server leaves it out.
    pub fn into_response(self, head: &Parts) -> Response<Body> {
        let Answer { mut status, headers, etag, content } = self;
        let has_it = etag.as_ref().is_some_and(|etag| {
            let asked = head.headers.get_all(header::IF_NONE_MATCH).iter();
            asked.filter_map(|value| value.to_str().ok()).any(|value| names(value, etag))
        });
        let mut body = match content {
            Content::Whole(bytes) => Body::from(bytes),
            Content::Stream(body) => body,
        };
        if has_it && status == StatusCode::OK {
            (status, body) = (StatusCode::NOT_MODIFIED, Body::empty());
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let to = response.headers_mut();
        to.extend(headers);
        to.extend(etag.map(|etag| (header::ETAG, etag)));
        if matches!(status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT) {
            to.remove(header::CONTENT_TYPE);
        }
        to.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        to.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        to.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        response
    }
}

/// Equal for equal bytes, in this version of the program.
pub fn etag(weak: &str, bytes: &[u8]) -> HeaderValue {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    // Letters, digits and quotes: always a header's value.
    HeaderValue::from_str(&format!("{weak}\"{:016x}\"", hasher.finish())).unwrap_or(NO_STORE)
}

/// Whether If-None-Match names this tag, weak or not.
fn names(value: &str, etag: &HeaderValue) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let etag = bare(etag.to_str().unwrap_or_default());
    value.trim() == "*" || value.split(',').any(|one| bare(one) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    fn head(if_none_match: Option<&str>) -> Parts {
        let mut request = axum::http::Request::builder();
        if let Some(tags) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tags);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn answer(cardinality: u64, age: f64) -> Answer {
        let lasting = map(serde_json::json!({"cardinality": cardinality}));
        Answer::json(lasting, map(serde_json::json!({"age_seconds": age})))
    }

    #[test]
    fn who_has_it_gets_no_body_until_something_happens() {
        let first = answer(7, 1.0).into_response(&head(None));
        let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        for tags in [etag.as_str(), "*", &format!("\"other\", {etag}"), &etag[2..]] {
            let again = answer(7, 2.0).into_response(&head(Some(tags)));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{tags}");
            assert_eq!(again.headers()[header::ETAG].to_str().unwrap(), etag);
            assert!(again.headers().get(header::CONTENT_TYPE).is_none());
        }
        let changed = answer(8, 2.0).into_response(&head(Some(&etag)));
        assert_eq!(changed.status(), StatusCode::OK);
    }

    #[test]
    fn a_problem_is_never_kept_and_never_the_same() {
        let answer = Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "{}".to_owned());
        let response = answer.into_response(&head(Some("*")));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
