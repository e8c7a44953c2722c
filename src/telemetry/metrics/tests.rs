use super::*;

#[test]
fn every_series_is_there_at_zero_with_its_help() {
    let page = Metrics::new(&["bad_json", "too_old"]).exporter().render();
    for line in [
        "rollcall_deliveries_total 0",
        "rollcall_settlements_total{outcome=\"ack\"} 0",
        "rollcall_settlements_total{outcome=\"returned\"} 0",
        "rollcall_dead_letters_total{reason=\"too_old\"} 0",
        "rollcall_batches_flushed_total{trigger=\"drain\"} 0",
        "rollcall_flush_seconds_count{stage=\"settle\"} 0",
        "rollcall_flush_seconds_bucket{stage=\"store\",le=\"0.0005\"} 0",
        "rollcall_batch_events_bucket{le=\"20000\"} 0",
        "rollcall_event_lag_seconds_sum 0",
        "rollcall_store_lag_seconds_bucket{le=\"0.005\"} 0",
        "rollcall_drain_messages_per_second 0",
        "rollcall_time_to_empty_seconds NaN",
        "rollcall_drift_members{side=\"phantom\"} 0",
        "rollcall_dependency_up{dependency=\"redis\"} 0",
        "rollcall_watermark_timestamp_seconds 0",
        "rollcall_retries_total{dependency=\"redis\"} 0",
        "rollcall_holding{dependency=\"postgres\"} 0",
        "rollcall_session_errors_total{class=\"config\"} 0",
        concat!("rollcall_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    for metric in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = metric.split(' ').next().unwrap();
        assert!(name.starts_with("rollcall_"), "{name}");
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
}

#[test]
fn what_is_counted_is_rendered_apart() {
    let one = Metrics::new(&["bad_json"]);
    let other = Metrics::new(&["bad_json"]);
    one.deliveries.increment(3);
    one.dead_letter("bad_json");
    one.settlements.of(Outcome::Returned).increment(2);
    one.flush_seconds.of(Stage::Projection).record(0.003);
    one.exporter().run_upkeep();
    let page = one.exporter().render();
    assert!(page.contains("rollcall_deliveries_total 3"));
    assert!(page.contains("rollcall_dead_letters_total{reason=\"bad_json\"} 1"));
    assert!(page.contains("rollcall_settlements_total{outcome=\"returned\"} 2"));
    assert!(page.contains("rollcall_flush_seconds_bucket{stage=\"projection\",le=\"0.005\"} 1"));
    assert!(page.contains("rollcall_flush_seconds_bucket{stage=\"projection\",le=\"0.002\"} 0"));
    assert!(other.exporter().render().contains("rollcall_deliveries_total 0"));
}
