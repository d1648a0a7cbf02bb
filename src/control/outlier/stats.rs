//! `cluster.<name>.outlier_detection.`

use super::detector::Kind;
use crate::stat_group;
use crate::telemetry::{Counter, Gauge};

stat_group! {
    /// What was detected, and what came of it.
    pub struct OutlierStats {
        active: Gauge = "outlier_detection.ejections_active",
        enforced_total: Counter = "outlier_detection.ejections_enforced_total",
        overflow: Counter = "outlier_detection.ejections_overflow",
        detected_5xx: Counter = "outlier_detection.ejections_detected_consecutive_5xx",
        detected_gateway: Counter = "outlier_detection.ejections_detected_consecutive_gateway_failure",
        detected_local: Counter = "outlier_detection.ejections_detected_consecutive_local_origin_failure",
        detected_rate: Counter = "outlier_detection.ejections_detected_success_rate",
        detected_local_rate: Counter = "outlier_detection.ejections_detected_local_origin_success_rate",
        detected_percentage: Counter = "outlier_detection.ejections_detected_failure_percentage",
        detected_local_percentage: Counter = "outlier_detection.ejections_detected_local_origin_failure_percentage",
        enforced_5xx: Counter = "outlier_detection.ejections_enforced_consecutive_5xx",
        enforced_gateway: Counter = "outlier_detection.ejections_enforced_consecutive_gateway_failure",
        enforced_local: Counter = "outlier_detection.ejections_enforced_consecutive_local_origin_failure",
        enforced_rate: Counter = "outlier_detection.ejections_enforced_success_rate",
        enforced_local_rate: Counter = "outlier_detection.ejections_enforced_local_origin_success_rate",
        enforced_percentage: Counter = "outlier_detection.ejections_enforced_failure_percentage",
        enforced_local_percentage: Counter = "outlier_detection.ejections_enforced_local_origin_failure_percentage",
        /// Names of old, kept by Envoy for those who know them.
        total: Counter = "outlier_detection.ejections_total",
        old_5xx: Counter = "outlier_detection.ejections_consecutive_5xx",
        old_rate: Counter = "outlier_detection.ejections_success_rate",
    }
}

impl OutlierStats {
    /// Counts what was detected.
    pub(super) fn detected(&self, kind: Kind) {
        match kind {
            Kind::FiveXx => {
                self.old_5xx.inc();
                self.detected_5xx.inc();
            }
            Kind::Gateway => self.detected_gateway.inc(),
            Kind::LocalOrigin => self.detected_local.inc(),
            Kind::SuccessRate => {
                self.old_rate.inc();
                self.detected_rate.inc();
            }
            Kind::LocalSuccessRate => self.detected_local_rate.inc(),
            Kind::FailurePercentage => self.detected_percentage.inc(),
            Kind::LocalFailurePercentage => self.detected_local_percentage.inc(),
        }
    }

    /// Counts an ejection that was carried out.
    pub(super) fn enforced(&self, kind: Kind) {
        self.enforced_total.inc();
        match kind {
            Kind::FiveXx => self.enforced_5xx.inc(),
            Kind::Gateway => self.enforced_gateway.inc(),
            Kind::LocalOrigin => self.enforced_local.inc(),
            Kind::SuccessRate => self.enforced_rate.inc(),
            Kind::LocalSuccessRate => self.enforced_local_rate.inc(),
            Kind::FailurePercentage => self.enforced_percentage.inc(),
            Kind::LocalFailurePercentage => self.enforced_local_percentage.inc(),
        }
    }
}
