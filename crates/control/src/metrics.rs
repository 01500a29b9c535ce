//! What the daemon counts, and how it is written for Prometheus.

mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::app::Control;
use crate::computes::{Cause, Phase};
use crate::db::{branches, projects};
use crate::error::{ConnectError, Error};
use crate::model::State;
use process::ProcessFacts;
use text::{Kind, Text};

/// Upper bounds of the buckets of durations, seconds.
const BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Durations by bucket.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    pub fn note(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Bounds with the number of durations up to each, the number of all, their sum in seconds.
    fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut so_far = 0;
        let buckets = BUCKETS.iter().zip(&self.buckets).map(|(bound, bucket)| {
            so_far += bucket.load(Ordering::Relaxed);
            (*bound, so_far)
        });
        let buckets = buckets.collect();
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        (buckets, self.count.load(Ordering::Relaxed), sum)
    }
}

/// Counters by label.
#[derive(Default)]
pub(crate) struct Counters {
    values: Mutex<BTreeMap<Vec<(&'static str, String)>, u64>>,
}

impl Counters {
    pub fn count<const N: usize>(&self, labels: [(&'static str, &str); N]) {
        let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
        *self.values.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default() += 1;
    }

    fn write(&self, text: &mut Text) {
        for (labels, value) in self.values.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            text.sample(&labels, *value as f64);
        }
    }
}

/// Everything that is counted since the daemon started.
#[derive(Default)]
pub struct Metrics {
    /// From the wish for a compute to its readiness, its turn included.
    pub(crate) wakes: Histogram,
    /// Of that, until its turn came.
    pub(crate) turns: Histogram,
    pub(crate) suspends: Counters,
    pub(crate) connections: AtomicU64,
    pub(crate) refusals: Counters,
    pub(crate) operations: Counters,
    pub(crate) errors: Counters,
    responses: Counters,
}

impl Metrics {
    /// An answer of the HTTP API went out.
    pub fn count_response(&self, method: &str, status: u16) {
        self.responses.count([("method", method), ("code", &status.to_string())]);
    }

    pub(crate) fn count_suspend(&self, cause: Cause) {
        self.suspends.count([("cause", cause.as_str())]);
    }

    pub(crate) fn count_refusal(&self, error: &ConnectError) {
        let reason = match error {
            ConnectError::Disabled => "disabled",
            ConnectError::TooManyWaiting { .. } => "no_room",
            ConnectError::CannotStart(_) => "cannot_start",
        };
        self.refusals.count([("reason", reason)]);
    }

    /// Something failed that nobody asked for at that moment, or that is our own fault.
    pub(crate) fn count_error(&self, source: &'static str) {
        self.errors.count([("source", source)]);
    }
}

impl Control {
    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All figures in the text format of Prometheus.
    ///
    /// # Errors
    /// The database failed.
    pub async fn metrics_text(self: &Arc<Self>) -> Result<String, Error> {
        self.blocking(|control| {
            let mut text = Text::default();
            control.write_gauges(&mut text)?;
            control.write_counters(&mut text);
            Ok(text.finish())
        })
        .await
    }

    fn write_gauges(&self, text: &mut Text) -> Result<(), Error> {
        let (count, live) = self.db.read(|c| {
            let count = projects::list(c, false)?.len();
            Ok((count, branches::uids(c, State::Ready)?))
        })?;
        if let Ok(facts) = ProcessFacts::read() {
            text.family("process_resident_bytes", Kind::Gauge, "Memory of the daemon.");
            text.sample(&[], facts.resident_bytes as f64);
            text.family(
                "process_open_fds",
                Kind::Gauge,
                "Open descriptors of the daemon; each endpoint has one.",
            );
            text.sample(&[], facts.descriptors as f64);
            text.family("process_max_fds", Kind::Gauge, "Most descriptors that the daemon may have.");
            text.sample(&[], facts.most_descriptors as f64);
            text.family("process_threads", Kind::Gauge, "Threads of the daemon.");
            text.sample(&[], facts.threads as f64);
        }
        text.family("build_info", Kind::Gauge, "Version of the daemon.");
        text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        text.family("projects", Kind::Gauge, "Projects.");
        text.sample(&[], count as f64);
        text.family("branches", Kind::Gauge, "Branches that can be used.");
        text.sample(&[], live.len() as f64);
        let mut phases = BTreeMap::from(Phase::ALL.map(|phase| (phase.as_str(), 0u64)));
        let (mut open, mut waiting, mut known) = (0, 0, 0);
        for (_, slot) in self.computes.all().into_iter().filter(|(branch, _)| live.contains(branch)) {
            *phases.entry(slot.phase().as_str()).or_default() += 1;
            open += slot.connections().saturating_sub(slot.waiting());
            waiting += slot.waiting();
            known += 1;
        }
        // Of the others nobody has wanted the compute yet.
        *phases.entry(Phase::Asleep.as_str()).or_default() += live.len() as u64 - known;
        text.family("computes", Kind::Gauge, "Computes of usable branches by state.");
        for (phase, number) in phases {
            text.sample(&[("state", phase)], number as f64);
        }
        text.family("connections", Kind::Gauge, "Open connections to computes.");
        text.sample(&[], open as f64);
        text.family("connections_waiting", Kind::Gauge, "Connections that wait for a compute to wake.");
        text.sample(&[], waiting as f64);
        if let Some(bytes) = self.own_space.last_counted() {
            text.family(
                "branch_own_bytes",
                Kind::Gauge,
                "Disk space that single branches use, all together, as last counted.",
            );
            text.sample(&[], bytes as f64);
        }
        text.family(
            "branch_shared_bytes",
            Kind::Gauge,
            "Disk space of layers that several branches use, each counted once, as far as it is known.",
        );
        text.sample(&[], self.engine.shared_layer_bytes() as f64);
        let room = self.room();
        text.family(
            "memory_reckoned_bytes",
            Kind::Gauge,
            "Memory that running computes are reckoned to take.",
        );
        text.sample(&[], room.used as f64);
        text.family("memory_limit_bytes", Kind::Gauge, "Memory for all computes together.");
        text.sample(&[], room.memory as f64);
        text.family("computes_waiting", Kind::Gauge, "Computes that wait for room on this host.");
        text.sample(&[], room.waiting as f64);
        Ok(())
    }

    fn write_counters(&self, text: &mut Text) {
        let metrics = &self.metrics;
        text.family(
            "wake_seconds",
            Kind::Histogram,
            "Time until a sleeping compute was ready, its turn included.",
        );
        text.histogram(metrics.wakes.read());
        text.family("turn_seconds", Kind::Histogram, "Time until a sleeping compute had its turn.");
        text.histogram(metrics.turns.read());
        text.family("suspends_total", Kind::Counter, "Suspended computes by cause.");
        metrics.suspends.write(text);
        text.family("connections_total", Kind::Counter, "Connections handed to computes.");
        text.sample(&[], metrics.connections.load(Ordering::Relaxed) as f64);
        text.family(
            "connections_refused_total",
            Kind::Counter,
            "Connections that got no compute, by reason.",
        );
        metrics.refusals.write(text);
        text.family("operations_total", Kind::Counter, "Finished operations by kind, verb and outcome.");
        metrics.operations.write(text);
        text.family("http_responses_total", Kind::Counter, "Answers of the HTTP API by method and status.");
        metrics.responses.write(text);
        text.family("errors_total", Kind::Counter, "Failures inside the daemon by source.");
        metrics.errors.write(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_buckets() {
        let histogram = Histogram::default();
        for millis in [1, 60, 60, 200_000] {
            histogram.note(Duration::from_millis(millis));
        }
        let (buckets, count, sum) = histogram.read();
        assert_eq!(buckets[0], (0.01, 1));
        assert_eq!(buckets[3], (0.1, 3));
        assert_eq!(buckets[11], (60.0, 3));
        assert_eq!(count, 4);
        assert!((sum - 200.121).abs() < 1e-6);
    }

    #[test]
    fn counters_keep_their_labels_apart() {
        let metrics = Metrics::default();
        metrics.count_response("GET", 200);
        metrics.count_response("GET", 200);
        metrics.count_response("POST", 500);
        let mut text = Text::default();
        text.family("x", Kind::Counter, "X.");
        metrics.responses.write(&mut text);
        let text = text.finish();
        assert!(text.contains("anabranch_x{method=\"GET\",code=\"200\"} 2\n"), "{text}");
        assert!(text.contains("anabranch_x{method=\"POST\",code=\"500\"} 1\n"), "{text}");
    }
}
