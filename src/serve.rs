//! `rollcall serve`: readers' questions over HTTP, answered from Redis alone.
//!
//! `route` says what can be asked, `query` reads the parameters, `api` answers, `answer` and
//! `problem` give answers their form, `gate` bounds how much is asked, `maker` makes one snapshot a
//! second for all who listen (`live`), and `page` is what a browser gets. It has no way to write:
//! all it holds of Redis is a [`Reader`].
//!
//! Never: a "no" or a 0 that Redis did not say while it held a generation.

mod answer;
mod api;
mod gate;
mod live;
mod maker;
mod page;
mod problem;
mod query;
mod route;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{self, Config};
use crate::health::Health;
use crate::http::{self, Bounds};
use crate::projection::Reader;
use crate::shutdown::Shutdown;
use crate::snapshot::{Asker, Looker};
use crate::telemetry::ServeMetrics;
use answer::{Answer, Fixed};
use gate::Gate;
use maker::Made;
use page::Page;
use problem::Problem;
pub use route::Route;

/// What one request's head may be: the line, and everything.
const URL_BYTES_MAX: usize = 8 * 1024;
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// What hyper reads of a head before it answers 431 by itself: above the two, so that they are told
/// in our words, and enough for the largest answer to be written in few pieces.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Of one answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Idle connections are closed after it, and clients that send their heads too slowly.
const HEAD_MAX_WAIT: Duration = Duration::from_secs(10);
const WRITE_MAX_WAIT: Duration = Duration::from_secs(10);
/// So that clients spread over new processes. A stream goes on.
const CONNECTION_MAX: Duration = Duration::from_secs(300);

const OPENAPI: &str = include_str!("../schema/openapi.json");

/// What every request is answered from.
struct App {
    asker: Asker,
    made: watch::Receiver<Arc<Made>>,
    gate: Gate,
    page: Page,
    openapi: Fixed,
    metrics: Arc<ServeMetrics<Route>>,
    shutdown: Shutdown,
    timeout: Duration,
    cors_origin: Option<HeaderValue>,
}

/// Serves until the drain, and then what is under way. Never writes.
pub async fn run(
    config: &Config,
    redis: Reader,
    listener: TcpListener,
    health: &Health,
    metrics: Arc<ServeMetrics<Route>>,
    shutdown: &Shutdown,
) {
    let serve = &config.serve;
    let looker = Looker::new(redis, config.sets.clone());
    let asker = looker.asker().clone();
    let (maker, made) = maker::new(looker, serve.timeout);
    let app = Arc::new(App {
        asker: asker.clone(),
        made,
        gate: Gate::new(serve),
        page: Page::new(),
        openapi: Fixed::json(OPENAPI),
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
        timeout: serve.timeout,
        cors_origin: serve.cors_origin.as_deref().and_then(|origin| origin.parse().ok()),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request.into_parts().0).await) }
    });
    let open = |connections: usize| metrics.connections.set(connections as f64);
    let until = shutdown.draining();
    let bounds = bounds(serve, config.ingest.drain);
    tokio::select! {
        () = http::serve(listener, service, bounds, open, until) => {}
        never = maker.run(health) => match never {},
        never = asker.walk() => match never {},
    }
}

fn bounds(serve: &config::Serve, drain: Duration) -> Bounds {
    Bounds {
        connections_max: serve.connections_max,
        head_bytes_max: HEAD_BYTES_MAX,
        head_max_wait: HEAD_MAX_WAIT,
        write_max_wait: WRITE_MAX_WAIT,
        keep_alive: true,
        connection_max: CONNECTION_MAX,
        // A request ends within its timeout, a stream with whoever listens.
        finish_max: None,
        stop_max: drain,
    }
}

impl App {
    async fn answer(&self, head: Parts) -> Response<Body> {
        let began = Instant::now();
        let routed = route::find(head.uri.path());
        let route = routed.as_ref().map_or(Route::Other, |(route, _)| *route);
        let answer = match self.admitted(&head, routed).await {
            Ok(answer) => answer,
            Err(problem) => problem.into_answer(),
        };
        let mut response = answer.into_response(&head);
        self.allow_origin(&mut response);
        self.metrics.answered(route, response.status().as_u16(), began.elapsed());
        response
    }

    /// In the order of what is cheapest to refuse.
    async fn admitted(
        &self,
        head: &Parts,
        routed: Option<(Route, Option<&str>)>,
    ) -> Result<Answer, Problem> {
        if head.uri.to_string().len() > URL_BYTES_MAX {
            return Err(Problem::url_too_long(URL_BYTES_MAX));
        }
        let headers = head.headers.iter();
        if headers.map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
            > HEADERS_BYTES_MAX
        {
            return Err(Problem::headers_too_large(HEADERS_BYTES_MAX));
        }
        self.gate.pass()?;
        let (route, set) = routed.ok_or_else(Problem::no_route)?;
        match head.method {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS if self.cors_origin.is_some() => return Ok(Answer::preflight()),
            _ => return Err(Problem::method()),
        }
        if route == Route::Live && head.method == Method::GET {
            query::Query::parse(head.uri.query(), &[])?;
            let place = self.gate.stream(&self.metrics.streams)?;
            return Ok(Answer::stream(live::stream(
                self.made.clone(),
                self.shutdown.clone(),
                place,
            )));
        }
        let _place = self.gate.enter()?;
        let answered = timeout(self.timeout, self.ask(route, set, head.uri.query())).await;
        answered.unwrap_or_else(|_| Err(Problem::redis_away()))
    }

    async fn ask(
        &self,
        route: Route,
        set: Option<&str>,
        query: Option<&str>,
    ) -> Result<Answer, Problem> {
        if route == Route::Page {
            // Links to it come with parameters of others.
            return Ok(self.page.answer());
        }
        let query = query::Query::parse(query, route.parameters())?;
        match route {
            Route::Openapi => return Ok(self.openapi.answer()),
            Route::Snapshot => return self.snapshot().await,
            // Its head.
            Route::Live => return Ok(Answer::stream(Body::empty())),
            _ => {}
        }
        // Known to be silent: nobody waits for it again to hear the same.
        if self.made.borrow().snapshot.as_ref().is_some_and(|snapshot| snapshot.redis.silent) {
            return Err(Problem::redis_away());
        }
        let asker = &self.asker;
        let answer = match route {
            Route::Sets => api::sets(asker).await?,
            Route::Set => api::set(asker, set.unwrap_or_default(), &query).await?,
            Route::Contains => api::contains(asker, set.unwrap_or_default(), &query).await?,
            Route::Members => api::members(asker, set.unwrap_or_default(), &query).await?,
            Route::Intersect => {
                let _turn = self.gate.heavy().await?;
                api::intersect(asker, &query).await?
            }
            Route::Stats => api::stats(asker).await?,
            Route::Page | Route::Openapi | Route::Snapshot | Route::Live | Route::Other => {
                return Err(Problem::no_route());
            }
        };
        match answer.len() > ANSWER_BYTES_MAX {
            true => Err(Problem::answer_too_large(ANSWER_BYTES_MAX)),
            false => Ok(answer),
        }
    }

    /// The one that was made last; right after the start, the first.
    async fn snapshot(&self) -> Result<Answer, Problem> {
        let mut made = self.made.clone();
        let made = made.wait_for(|made| made.snapshot.is_some()).await;
        made.map(|made| made.answer()).map_err(|_| Problem::redis_away())
    }

    fn allow_origin(&self, response: &mut Response<Body>) {
        let Some(origin) = &self.cors_origin else { return };
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("etag"));
        if response.status() == StatusCode::NO_CONTENT {
            let headers = response.headers_mut();
            let methods = HeaderValue::from_static("GET, HEAD");
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let allowed = HeaderValue::from_static("if-none-match");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
    }
}
