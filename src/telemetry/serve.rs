//! The metrics of `rollcall serve`, made once. All series are there from the start, at zero.

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use super::labels::{ByLabel, Label};
use super::metrics::{Exporter, info};

const SECONDS: &str = "rollcall_serve_request_seconds";
const REQUESTS: &str = "rollcall_serve_requests_total";

/// A round trip to Redis on one host takes 0.1 ms; the longest a request may take is a setting, at
/// most a minute.
const SECONDS_BUCKETS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    60.0,
];

/// What is answered. Any other is counted as 500.
const STATUSES: &[u16] = &[200, 204, 304, 400, 404, 405, 414, 429, 431, 500, 503];

/// By route, which is a closed enum of the role.
pub struct ServeMetrics<R> {
    requests: ByLabel<R, Vec<Counter>>,
    seconds: ByLabel<R, Histogram>,
    pub connections: Gauge,
    pub streams: Gauge,
    exporter: Exporter,
}

impl<R: Label> ServeMetrics<R> {
    #[expect(clippy::new_without_default, reason = "each call is another set of series")]
    pub fn new() -> ServeMetrics<R> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(SECONDS.to_owned()), SECONDS_BUCKETS)
            .expect("the buckets are not empty")
            .build_recorder();
        // Local, as in `Metrics`.
        metrics::with_local_recorder(&recorder, || {
            info();
            describe_counter!(REQUESTS, Unit::Count, "Requests answered, by route and status");
            let help = "From a request's head to the head of its answer";
            describe_histogram!(SECONDS, Unit::Seconds, help);
            let (connections, streams) = ("rollcall_serve_connections", "rollcall_serve_streams");
            describe_gauge!(connections, Unit::Count, "Connections that are open");
            describe_gauge!(streams, Unit::Count, "Streams of snapshots that are open");
            ServeMetrics {
                requests: ByLabel::new(|route| {
                    let of = |status: u16| {
                        let status = status.to_string();
                        counter!(REQUESTS, "route" => route, "status" => status)
                    };
                    STATUSES.iter().map(|status| of(*status)).collect()
                }),
                seconds: ByLabel::new(|route| histogram!(SECONDS, "route" => route)),
                connections: gauge!(connections),
                streams: gauge!(streams),
                exporter: Exporter::new(recorder.handle()),
            }
        })
    }

    pub fn answered(&self, route: R, status: u16, took: Duration) {
        let at = |status: u16| STATUSES.iter().position(|other| *other == status);
        debug_assert!(at(status).is_some(), "{status} is not among the statuses");
        if let Some(at) = at(status).or_else(|| at(500)) {
            self.requests.of(route)[at].increment(1);
        }
        self.seconds.of(route).record(took);
    }

    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::Outcome;
    use super::*;

    #[test]
    fn every_series_is_there_at_zero_with_its_help() {
        // Any closed enum does for the routes.
        let metrics = ServeMetrics::<Outcome>::new();
        let line = |status, n| {
            format!("rollcall_serve_requests_total{{route=\"ack\",status=\"{status}\"}} {n}")
        };
        let page = metrics.exporter().render();
        for status in STATUSES {
            assert!(page.contains(&line(*status, 0)), "{status} is not in\n{page}");
        }
        metrics.answered(Outcome::Ack, 200, Duration::from_millis(3));
        metrics.exporter().run_upkeep();
        let page = metrics.exporter().render();
        assert!(page.contains(&line(200, 1)), "{page}");
        let bucket =
            |le| format!("rollcall_serve_request_seconds_bucket{{route=\"ack\",le=\"{le}\"}}");
        assert!(page.contains(&format!("{} 1", bucket("0.005"))), "{page}");
        assert!(page.contains(&format!("{} 0", bucket("0.002"))), "{page}");
        for metric in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = metric.split(' ').next().unwrap();
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
}
