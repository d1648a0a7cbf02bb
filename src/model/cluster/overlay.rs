//! What runtime says of a cluster in place of its configuration.
//!
//! Takes in a cluster and the values of runtime; gives out the cluster that is to serve. The keys are Envoy's: some
//! hold of every cluster, some name one, and two are named by the clusters themselves.

use super::{Breakers, Cluster, HealthCheck, LbPolicy, OutlierDetection, RetryBudget, Thresholds};
use crate::model::Runtime;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Keys that a cluster names for its load balancer's numbers; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LbKeys {
    /// For the bias of least request.
    pub bias: String,
    /// For the aggression of slow start.
    pub aggression: String,
}

/// Begins the keys of one cluster's limits.
const BREAKERS: &str = "circuit_breakers.";
const OUTLIERS: &str = "outlier_detection.";
/// Defaults of a budget of which runtime says one half.
const BUDGET: RetryBudget = RetryBudget { budget_permyriad: 2_000, min_concurrency: 3 };

impl Cluster {
    /// The cluster as it is to serve under `runtime`: itself where that says nothing of it.
    pub fn under(self: &Arc<Self>, runtime: &Runtime) -> Arc<Cluster> {
        let mut now = self.clone();
        balancing(&mut now, runtime);
        if runtime.has_any(BREAKERS) {
            let own = format!("{BREAKERS}{}.", self.name);
            if runtime.has_any(&own) {
                let mut breakers = self.breakers;
                limits(&mut breakers, &own, runtime);
                change(&mut now, |model| &mut model.breakers, breakers);
            }
        }
        if let Some(outlier) = &self.outlier
            && runtime.has_any(OUTLIERS)
        {
            let mut outlier = (**outlier).clone();
            detection(&mut outlier, runtime);
            change(&mut now, |model| &mut model.outlier, Some(Arc::new(outlier)));
        }
        if !self.health_checks.is_empty() && runtime.has_any("health_check.") {
            let checks = self.health_checks.iter().map(|check| Arc::new(paced(check, runtime))).collect();
            change(&mut now, |model| &mut model.health_checks, checks);
        }
        if runtime.has_any("upstream.maintenance_mode.") {
            let key = format!("upstream.maintenance_mode.{}", self.name);
            let share = small(runtime, &key).unwrap_or(0).min(100);
            change(&mut now, |model| &mut model.maintenance, share);
        }
        now
    }
}

/// Copies the cluster only for what differs.
fn change<T: PartialEq>(now: &mut Arc<Cluster>, field: impl Fn(&mut Cluster) -> &mut T, value: T) {
    let mut copy = (**now).clone();
    let place = field(&mut copy);
    if *place != value {
        *place = value;
        *now = Arc::new(copy);
    }
}

/// A whole number.
fn whole(runtime: &Runtime, key: &str) -> Option<u64> {
    let number = runtime.number(key)?;
    (number >= 0.0 && number.fract() == 0.0).then_some(number as u64)
}

fn small(runtime: &Runtime, key: &str) -> Option<u32> {
    whole(runtime, key).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn balancing(now: &mut Arc<Cluster>, runtime: &Runtime) {
    if let Some(percent) = small(runtime, "upstream.healthy_panic_threshold") {
        change(now, |model| &mut model.panic_threshold, percent.min(100));
        change(now, |model| &mut model.panic_by_default, false);
    }
    let Some(keys) = now.lb_keys.clone() else { return };
    let number = |key: &str| runtime.number(key).filter(|number| !key.is_empty() && *number >= 0.0);
    if let (Some(bias), LbPolicy::LeastRequest { choices, full_scan, .. }) = (number(&keys.bias), now.lb) {
        change(now, |model| &mut model.lb, LbPolicy::LeastRequest { choices, bias, full_scan });
    }
    if let (Some(aggression), Some(slow)) = (number(&keys.aggression), &now.slow_start)
        && aggression > 0.0
    {
        let slow = super::SlowStart { aggression, ..**slow };
        change(now, |model| &mut model.slow_start, Some(Box::new(slow)));
    }
}

fn limits(breakers: &mut Breakers, own: &str, runtime: &Runtime) {
    for (word, limits) in [("default", &mut breakers.default), ("high", &mut breakers.high)] {
        let Thresholds {
            max_connections, max_pending_requests, max_requests, max_retries, retry_budget, ..
        } = limits;
        for (name, limit) in [
            ("max_connections", max_connections),
            ("max_pending_requests", max_pending_requests),
            ("max_requests", max_requests),
            ("max_retries", max_retries),
        ] {
            if let Some(said) = small(runtime, &format!("{own}{word}.{name}")) {
                *limit = said;
            }
        }
        let percent = runtime.number(&format!("{own}{word}.retry_budget.budget_percent"));
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let least = small(runtime, &format!("{own}{word}.retry_budget.min_retry_concurrency"));
        if percent.is_some() || least.is_some() {
            let budget = retry_budget.get_or_insert(BUDGET);
            if let Some(percent) = percent {
                budget.budget_permyriad = (percent * 100.0).round() as u32;
            }
            if let Some(least) = least {
                budget.min_concurrency = least;
            }
        }
    }
}

fn detection(of: &mut OutlierDetection, runtime: &Runtime) {
    for (name, number) in [
        ("consecutive_5xx", &mut of.consecutive_5xx),
        ("enforcing_consecutive_5xx", &mut of.enforcing_consecutive_5xx),
        ("consecutive_gateway_failure", &mut of.consecutive_gateway_failure),
        ("enforcing_consecutive_gateway_failure", &mut of.enforcing_consecutive_gateway_failure),
        ("consecutive_local_origin_failure", &mut of.consecutive_local_origin_failure),
        ("enforcing_consecutive_local_origin_failure", &mut of.enforcing_consecutive_local_origin_failure),
        ("enforcing_success_rate", &mut of.enforcing_success_rate),
        ("enforcing_local_origin_success_rate", &mut of.enforcing_local_origin_success_rate),
        ("success_rate_minimum_hosts", &mut of.success_rate_minimum_hosts),
        ("success_rate_request_volume", &mut of.success_rate_request_volume),
        ("success_rate_stdev_factor", &mut of.success_rate_stdev_factor),
        ("failure_percentage_threshold", &mut of.failure_percentage_threshold),
        ("enforcing_failure_percentage", &mut of.enforcing_failure_percentage),
        ("enforcing_failure_percentage_local_origin", &mut of.enforcing_failure_percentage_local_origin),
        ("failure_percentage_minimum_hosts", &mut of.failure_percentage_minimum_hosts),
        ("failure_percentage_request_volume", &mut of.failure_percentage_request_volume),
        ("max_ejection_percent", &mut of.max_ejection_percent),
    ] {
        if let Some(said) = small(runtime, &format!("{OUTLIERS}{name}")) {
            *number = said;
        }
    }
    for (name, time) in [
        ("interval_ms", &mut of.interval),
        ("base_ejection_time_ms", &mut of.base_ejection_time),
        ("max_ejection_time_ms", &mut of.max_ejection_time),
        ("max_ejection_time_jitter_ms", &mut of.max_ejection_time_jitter),
    ] {
        if let Some(said) = whole(runtime, &format!("{OUTLIERS}{name}")) {
            *time = Duration::from_millis(said);
        }
    }
    // A detector that never rests would do nothing else.
    of.interval = of.interval.max(Duration::from_millis(1));
    of.max_ejection_time = of.max_ejection_time.max(of.base_ejection_time);
}

fn paced(check: &HealthCheck, runtime: &Runtime) -> HealthCheck {
    let bound = |key| whole(runtime, key).map(Duration::from_millis);
    let mut check = check.clone();
    if let Some(least) = bound("health_check.min_interval") {
        check.least_interval = least;
    }
    if let Some(most) = bound("health_check.max_interval") {
        // Nobody is asked without a pause.
        check.most_interval = most.max(Duration::from_millis(1));
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Discovery, Endpoints, RuntimeValue, SlowStart};

    fn runtime(values: &[(&str, f64)]) -> Runtime {
        let mut all = Runtime::default();
        values.iter().for_each(|(key, value)| all.set(*key, RuntimeValue::Number(*value)));
        all
    }

    fn cluster() -> Cluster {
        let mut model = Cluster::new("a.b", Discovery::Static(Arc::new(Endpoints::of("a.b", []))));
        model.outlier = Some(Arc::default());
        model.lb = LbPolicy::LeastRequest { choices: 2, bias: 1.0, full_scan: false };
        model.slow_start =
            Some(SlowStart { window: Duration::from_secs(1), aggression: 1.0, min_weight: 0.1 }.into());
        model.lb_keys = Some(Arc::new(LbKeys { bias: "my.bias".into(), aggression: "my.ramp".into() }));
        model
    }

    #[test]
    fn what_is_said_of_others_changes_nothing() {
        let model = Arc::new(cluster());
        let others = [("circuit_breakers.a.default.max_requests", 1.0), ("outlier_detection.nothing", 1.0)];
        for values in [&others[..], &[("upstream.maintenance_mode.a", 5.0), ("any", 1.0)]] {
            assert!(Arc::ptr_eq(&model.under(&runtime(values)), &model), "{values:?}");
        }
    }

    #[test]
    fn keys_of_one_and_of_all() {
        let model = Arc::new(cluster());
        let now = model.under(&runtime(&[
            ("upstream.healthy_panic_threshold", 170.0),
            ("upstream.maintenance_mode.a.b", 30.0),
            ("circuit_breakers.a.b.default.max_requests", 7.0),
            ("circuit_breakers.a.b.high.max_connections", 8.0),
            ("circuit_breakers.a.b.default.retry_budget.budget_percent", 12.5),
            ("outlier_detection.consecutive_5xx", 2.0),
            ("outlier_detection.base_ejection_time_ms", 400_000.0),
            ("my.bias", 0.5),
            ("my.ramp", 2.0),
        ]));
        assert_eq!((now.panic_threshold, now.panic_by_default, now.maintenance), (100, false, 30));
        let Breakers { default, high } = now.breakers;
        assert_eq!((default.max_requests, high.max_connections, high.max_requests), (7, 8, 1024));
        let budget = default.retry_budget.unwrap();
        assert_eq!((budget.budget_permyriad, budget.min_concurrency), (1250, 3));
        let outlier = now.outlier.as_ref().unwrap();
        assert_eq!((outlier.consecutive_5xx, outlier.max_ejection_time), (2, Duration::from_secs(400)));
        assert_eq!(now.lb, LbPolicy::LeastRequest { choices: 2, bias: 0.5, full_scan: false });
        assert_eq!(now.slow_start.as_ref().unwrap().aggression, 2.0);
    }

    #[test]
    fn what_is_no_whole_number_is_passed_over() {
        let model = Arc::new(cluster());
        let values = [("upstream.healthy_panic_threshold", 0.5), ("my.ramp", 0.0), ("my.bias", -1.0)];
        assert!(Arc::ptr_eq(&model.under(&runtime(&values)), &model));
    }
}
