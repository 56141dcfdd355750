//! Do the certificates that brokers show last? Only where the listener speaks TLS.

use std::sync::Arc;
use std::time::Duration;

use tidemark_env::{clock, net};

use super::{Check, Finding, Patient};
use crate::output::plural;
use crate::when::{format_duration, format_moment};

/// One that ends within this is worth a word: it should have been renewed.
pub const SOON_MS: i64 = 14 * 86_400_000;

/// Looks at what each broker shows; `None` where nothing is shown.
pub(super) async fn check(
    patient: &Patient<'_>,
    tls: Option<&Arc<tidemark_tls::Client>>,
    patience: Duration,
) -> Option<Check> {
    let tls = tls?;
    let mut findings = Vec::new();
    let mut seen = 0;
    for broker in patient.info.brokers.values() {
        let address = broker.address();
        // That it does not answer, or cannot be trusted, was found already.
        let Ok(stream) = net::connect(&address, patience).await else {
            continue;
        };
        if let Ok(Some(ends_s)) = tls.shown_until(stream, &address, patience).await {
            seen += 1;
            let whose = format!("of broker {}", broker.id);
            let next = "put a new one into the file of ssl.keystore.location: it is in use within seconds, without a restart";
            findings.extend(judge(
                &whose,
                ends_s.saturating_mul(1_000),
                clock::now_ms(),
                next,
            ));
        }
    }
    let seen = format!("{} last", plural(seen, "certificate"));
    Some(Check::new("certificates", seen, findings))
}

/// What is to be said of a certificate that ends then.
pub fn judge(whose: &str, ends_ms: i64, now_ms: i64, next: &str) -> Option<Finding> {
    let left_ms = ends_ms.saturating_sub(now_ms);
    if left_ms > SOON_MS {
        return None;
    }
    let what = match left_ms > 0 {
        true => format!(
            "the certificate {whose} ends in {}",
            format_duration(left_ms)
        ),
        false => format!(
            "the certificate {whose} ended at {}",
            format_moment(ends_ms)
        ),
    };
    let why = "clients and brokers refuse one that has ended";
    Some(Finding::new(what, why, next))
}
