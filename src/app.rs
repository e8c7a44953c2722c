//! The start-up order of each role. `main` picks one; nothing else decides what runs beside what.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cli::{self, Outcome, Output};
use crate::config::Config;
use crate::event::Reason;
use crate::health::{self, Health};
use crate::ingest::breaker::Breaker;
use crate::ingest::guard::{self, Guard};
use crate::ingest::ledger::Ledger;
use crate::ingest::outage::Outage;
use crate::ingest::servers::Real;
use crate::ingest::supervisor::{self, Drained, Shared, WorkerConfig};
use crate::ingest::{close_max, keeper, report, watch};
use crate::projection::{Projection, Reader};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Dependency, Exporter, Metrics, ServeMetrics, Spans};
use crate::{broker, http, manage, read, serve, store, top};

/// Queue -> Postgres -> Redis, until told to stop.
pub async fn worker(config: Config) -> Result<Outcome> {
    let (broker, store, projection) = config.worker()?;
    telemetry::init(config.log_format, &config.log_filter)?;
    let shutdown = Shutdown::new();
    let _signals = shutdown.listen().context("listening for signals")?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        settings = config.redacted().join(" "),
        memory_bytes_max = config.memory_needed(),
        "starting"
    );

    // The ops endpoint first: whoever watches sees a worker that is not ready, and why.
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let metrics = Arc::new(Metrics::new(&reasons));
    let needs = [Dependency::Rabbitmq, Dependency::Postgres, Dependency::Redis];
    let health = Arc::new(Health::new(&needs));
    let listener = health::bind(config.ops).await?;
    let worker = async {
        let prefix = config.sets.prefix();
        // Connects when it is needed: ingest begins without it, where it is away for long.
        let redis = Projection::unconnected(projection, prefix)?;
        let ledger = Ledger::new(guard::process_name(), config.ingest.lanes, Instant::now());
        let ledger = Arc::new(Mutex::new(ledger));
        let shared = Shared {
            config: Arc::new(WorkerConfig {
                queue: broker.queue.clone(),
                ingest: config.ingest.clone(),
                sets: config.sets.clone(),
                limits: config.limits.clone(),
            }),
            servers: Real {
                broker: broker.clone(),
                store: store.clone(),
                projection: redis.clone(),
                sets: config.sets.clone(),
                prefix: prefix.into(),
                guard: Arc::new(Guard::new(ledger.clone())),
                metrics: metrics.clone(),
                generation_missing: Arc::default(),
                silences: Arc::default(),
                looker: Arc::default(),
            },
            metrics: metrics.clone(),
            health: health.clone(),
            wrong_type_log: Arc::default(),
            breaker: Arc::new(Mutex::new(Breaker::new(
                config.ingest.breaker_percent,
                config.ingest.breaker_events,
            ))),
            ledger,
            outage: Arc::new(Outage::new(config.redis_hold)),
            spans: Spans::start(),
        };
        // Boxed: for as long as the process lives, and their types are deep ones. Partitions are
        // made ahead beside ingest, by whichever worker comes first.
        let drained = tokio::select! {
            drained = Box::pin(supervisor::run(&shared, &shutdown)) => drained,
            never = manage::keep_partitions(store, &metrics) => match never {},
            never = Box::pin(watch::run(&shared)) => match never {},
            never = Box::pin(keeper::run(&shared)) => match never {},
        };
        let limit = close_max(shared.config.ingest.drain);
        let goodbye = async {
            // What stays of it where Redis is away others take for a process that died.
            let _ = guard::leave(&shared.servers).await;
            let _ = report::leave(&shared).await;
            redis.close().await;
        };
        // Side by side: the drain has no more time than for one of them.
        let goodbye = tokio::time::timeout(limit, goodbye);
        let _ = tokio::join!(goodbye, shared.spans.close(limit));
        anyhow::Ok(drained)
    };
    let ended = Notify::new();
    let ops = watched(listener, &health, metrics.exporter(), &shutdown, &ended);
    let worker = async {
        let drained = supervisor::beating(&health, worker).await;
        ended.notify_one();
        drained
    };
    let (drained, ()) = tokio::join!(worker, ops);
    match drained? {
        Drained::Whole => {
            info!("drained: everything that was taken has been settled");
            Ok(Outcome::Done)
        }
        Drained::CutShort => {
            warn!("ended with unsettled deliveries: the broker hands them to another worker");
            Ok(Outcome::TryLater)
        }
    }
}

/// The ops endpoint, where there is one. Answers through the drain, so that it can be watched,
/// until the work has ended.
async fn watched(
    listener: Option<TcpListener>,
    health: &Arc<Health>,
    exporter: &Exporter,
    shutdown: &Shutdown,
    ended: &Notify,
) {
    let Some(listener) = listener else { return };
    let draining = async {
        shutdown.draining().await;
        health.drain();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = health::serve(listener, health.clone(), exporter.clone(), ended.notified()) => {}
        () = draining => {}
    }
}

/// Redis -> readers, until told to stop. Needs no other server.
pub async fn serve(config: Config) -> Result<Outcome> {
    let projection = config.projection()?;
    telemetry::init(config.log_format, &config.log_filter)?;
    let shutdown = Shutdown::new();
    let _signals = shutdown.listen().context("listening for signals")?;
    let settings = config.redacted().join(" ");
    info!(version = env!("CARGO_PKG_VERSION"), settings, "starting");
    let metrics = Arc::new(ServeMetrics::new());
    let health = Arc::new(Health::new(&[Dependency::Redis]));
    let ops = health::bind(config.ops).await?;
    let listener = http::bind(config.serve.addr, "readers").await?;
    info!(addr = %listener.local_addr().context("the address of readers")?, "serving readers");
    // Connects when it is needed: where Redis is away it says so, and waits.
    let redis = Reader::unconnected(projection, config.sets.prefix())?;
    let ended = Notify::new();
    let ops = watched(ops, &health, metrics.exporter(), &shutdown, &ended);
    let work = async {
        let work =
            serve::run(&config, redis.clone(), listener, &health, metrics.clone(), &shutdown);
        supervisor::beating(&health, Box::pin(work)).await;
        redis.close().await;
        ended.notify_one();
    };
    tokio::join!(work, ops);
    info!("drained: what was asked has been answered");
    Ok(Outcome::Done)
}

/// Redis -> a terminal. Needs Redis and nothing else, and says so where it is away.
pub async fn top(config: Config, args: cli::Top) -> Result<Outcome> {
    let shutdown = Shutdown::new();
    let _signals = shutdown.listen_at_terminal().context("listening for signals")?;
    let redis = Reader::unconnected(config.projection()?, config.sets.prefix())?;
    let outcome = top::run(&args, redis.clone(), &config, &shutdown).await;
    redis.close().await;
    outcome
}

pub async fn manage(config: Config, command: cli::Manage) -> Result<Outcome> {
    match command {
        cli::Manage::Migrate(output) => manage::migrate(config.store()?, output).await?,
        cli::Manage::Topology(output) => manage::topology(config.broker()?, output).await?,
        cli::Manage::Partitions(output) => manage::partitions(config.store()?, output).await?,
        cli::Manage::Index(args) => {
            return manage::index::run(config.store()?, &config.sets, &args).await;
        }
        cli::Manage::Access(args) => return manage::access::run(&config, &args),
        cli::Manage::Forget(args) => return manage::forget::run(&config, &args).await,
        cli::Manage::Status(output) => return manage::status::run(&config, output).await,
        cli::Manage::Retention(args) => return manage::retention::run(&config, &args).await,
        repair => {
            // What it tells beside its answer: a replica that lags, a Redis that went back.
            telemetry::init(config.log_format, &config.log_filter)?;
            // Boxed, as its type is a deep one.
            return Box::pin(manage::repair(&config, repair)).await;
        }
    }
    Ok(Outcome::Done)
}

/// Needs Redis and nothing else.
pub async fn read(config: Config, command: cli::Read) -> Result<Outcome> {
    let redis = Projection::connect(config.projection()?, config.sets.prefix()).await?;
    let known = read::run(command, &config.sets, &redis).await;
    redis.close().await;
    match known? {
        read::Known::Yes => Ok(Outcome::Done),
        read::Known::No => Ok(Outcome::TryLater),
    }
}

/// Asks every server that is configured; changes nothing anywhere.
pub async fn check(config: Config, output: Output) -> Result<Outcome> {
    let (broker, store, projection) = config.worker()?;
    let (rabbitmq, postgres, redis) = tokio::join!(
        check_broker(broker),
        check_store(store),
        check_projection(projection, config.sets.prefix()),
    );
    let mut all = json!({});
    let mut failed = None;
    for (name, result) in [("rabbitmq", rabbitmq), ("postgres", postgres), ("redis", redis)] {
        let (status, detail) = match result {
            Ok(detail) => ("ok", detail),
            Err(error) => {
                let detail = json!({"error": format!("{error:#}")});
                // The first to fail decides the exit code; the others are shown all the same.
                failed.get_or_insert(error.context(name));
                ("failed", detail)
            }
        };
        if !output.json {
            say!("{name:<9} {status:<7} {detail}");
        }
        all[name] = detail;
        all[name]["status"] = json!(status);
    }
    all["sets"] = config.sets.iter().map(|set| set.text.as_str()).collect();
    if output.json {
        say!("{all}");
    }
    failed.map_or(Ok(Outcome::Done), Err)
}

async fn check_broker(config: &crate::config::Broker) -> Result<Value> {
    let depth = broker::topology::depth(config).await?;
    Ok(json!({
        "queue": {
            "name": config.queue,
            "ready": depth.queue.ready,
            "consumers": depth.queue.consumers,
        },
        "dead_letters": {"name": config.dead_letters, "ready": depth.dead_letters.ready},
    }))
}

async fn check_store(config: &crate::config::Store) -> Result<Value> {
    let server = store::ping(config).await?;
    store::schema_state(config).await?.required()?;
    let replica = store::ping_replica(config).await.context("replica")?;
    Ok(json!({
        "version": server.version,
        "schema": "current",
        "replica": replica.map(|replica| replica.version),
    }))
}

async fn check_projection(config: &crate::config::Projection, prefix: &str) -> Result<Value> {
    let redis = Projection::connect(config, prefix).await?;
    let asked = async {
        redis.ensure_noeviction().await?;
        let (info, meta) = (redis.server_info().await?, redis.meta().await?);
        anyhow::Ok(json!({
            "version": info.version,
            "maxmemory_policy": info.maxmemory_policy,
            "generation": meta.generation,
            "state": meta.state.map(|state| state.as_str()),
        }))
    };
    let answer = asked.await;
    redis.close().await;
    answer
}

/// Asks the worker of this machine.
pub fn healthcheck(config: &Config, ready: bool) -> Result<Outcome> {
    Ok(health::probe(config.ops, ready).map(|()| Outcome::Done)?)
}
