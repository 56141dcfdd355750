//! The level of what the cluster uses of newer versions: taken when all brokers know it, and nobody
//! is going to take them back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{FeaturePolicy, Features, FeaturesStatus};

use super::observe::Observed;
use crate::context::Context;

/// The feature whose level it is.
pub const FEATURE: &str = "tidemark.version";

/// What a broker says of levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// The newest that it knows.
    pub newest: i16,
    /// The one that the cluster uses, as far as it heard.
    pub level: i16,
    /// When its pod was made, in ms since 1970.
    pub since_ms: i64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is as it should be.
    Idle,
    /// Take this level.
    Take(i16),
    /// Nothing yet, for this reason.
    Wait(String),
}

/// Decides on the level, by what all brokers say.
#[must_use]
pub fn decide(spec: &Features, brokers: &[Levels], now_ms: i64) -> Decision {
    let level = brokers.iter().map(|broker| broker.level).max();
    let newest = brokers.iter().map(|broker| broker.newest).min();
    let (Some(level), Some(newest)) = (level, newest) else {
        return Decision::Idle;
    };
    let wanted = match (spec.policy, spec.level) {
        (_, Some(wanted)) if wanted < level => {
            let text = format!("level {level} is in use, and does not go back to {wanted}");
            return Decision::Wait(text);
        }
        (FeaturePolicy::Manual, Some(wanted)) if wanted > newest => {
            let text = format!(
                "level {wanted} waits for brokers that know it: {newest} is the newest that all of them do"
            );
            return Decision::Wait(text);
        }
        (FeaturePolicy::Automatic, Some(most)) => newest.min(most),
        (FeaturePolicy::Automatic, None) => newest,
        (FeaturePolicy::Manual, Some(wanted)) => wanted,
        (FeaturePolicy::Manual, None) => return Decision::Idle,
    };
    if wanted <= level {
        return Decision::Idle;
    }
    if spec.policy == FeaturePolicy::Manual {
        return Decision::Take(wanted);
    }
    // Checked before, by validate.
    let Ok(Some(soak_ms)) = spec.soak_ms() else {
        return Decision::Wait(format!("level {wanted} is not taken by itself"));
    };
    let last_ms = brokers.iter().map(|broker| broker.since_ms).max();
    let at_ms = last_ms.unwrap_or(now_ms).saturating_add(soak_ms);
    if now_ms >= at_ms {
        return Decision::Take(wanted);
    }
    // In whole seconds, as pods' ages are.
    let at = Timestamp::from_second(at_ms.div_euclid(1_000)).unwrap_or(Timestamp::MAX);
    Decision::Wait(format!(
        "level {wanted} is taken at {at}, if no broker restarts until then"
    ))
}

/// Takes a level when it is time, where nothing else is to be done; answers with what is told of it.
pub async fn step(
    context: &Context,
    cluster: &Cluster,
    observed: &Observed,
    idle: bool,
    now_ms: i64,
) -> Option<FeaturesStatus> {
    let all = observed.brokers.iter();
    let all = all.map(|broker| observed.levels.get(&broker.id).copied());
    let all: Vec<Levels> = all.collect::<Option<_>>()?;
    let mut status = FeaturesStatus {
        level: all.iter().map(|broker| broker.level).max()?,
        newest: all.iter().map(|broker| broker.newest).min()?,
        message: String::new(),
    };
    match (
        decide(&cluster.spec.features, &all, now_ms),
        &observed.contact,
    ) {
        (Decision::Take(level), Some((brokers, _))) if idle => {
            match brokers.raise_feature(FEATURE, level).await {
                Ok(()) => {
                    let note = format!(
                        "level {level} of {FEATURE} is in use: brokers that do not know it cannot come back"
                    );
                    context.tell(cluster, false, "FeatureLevel", &note).await;
                    status.level = level;
                }
                // Such as a broker that is down and registered with an older one.
                Err(error) => status.message = error.to_string(),
            }
        }
        (Decision::Take(level), _) => {
            status.message = format!("level {level} waits until all brokers are as the spec says");
        }
        (Decision::Wait(text), _) => status.message = text,
        (Decision::Idle, _) => {}
    }
    Some(status)
}

/// The levels that a broker tells of, with the age of its pod.
#[must_use]
pub fn levels(state: &serde_json::Value, made: Option<&Time>) -> Option<Levels> {
    let told = &state["features"][FEATURE];
    let number = |name: &str| i16::try_from(told[name].as_i64()?).ok();
    Some(Levels {
        newest: number("max")?,
        level: number("level")?,
        since_ms: made?.0.as_millisecond(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn brokers(newest: [i16; 3], level: i16) -> Vec<Levels> {
        let each = newest.into_iter().zip(0..);
        each.map(|(newest, hour)| Levels {
            newest,
            level,
            since_ms: hour * HOUR_MS,
        })
        .collect()
    }

    fn spec(policy: FeaturePolicy, level: Option<i16>) -> Features {
        Features {
            policy,
            level,
            ..Features::default()
        }
    }

    fn waits(decision: Decision) -> String {
        match decision {
            Decision::Wait(text) => text,
            other => panic!("{other:?} instead of waiting"),
        }
    }

    #[test]
    fn by_itself_a_level_is_taken_when_all_know_it_and_have_run_for_long() {
        let automatic = spec(FeaturePolicy::Automatic, None);
        let of = |brokers: &[Levels], hour| decide(&automatic, brokers, hour * HOUR_MS);
        // The youngest pod is of hour 2.
        let text = waits(of(&brokers([2, 2, 2], 1), 25));
        assert!(
            text.contains("level 2 is taken at 1970-01-02T02:00:00Z"),
            "{text}"
        );
        assert_eq!(of(&brokers([2, 2, 2], 1), 26), Decision::Take(2));
        assert_eq!(of(&brokers([3, 2, 3], 1), 26), Decision::Take(2));
        assert_eq!(of(&brokers([2, 1, 2], 1), 26), Decision::Idle);
        assert_eq!(of(&brokers([2, 2, 2], 2), 26), Decision::Idle);
        assert_eq!(of(&[], 26), Decision::Idle);
        let never = Features {
            soak: "unlimited".into(),
            ..automatic.clone()
        };
        waits(decide(&never, &brokers([2, 2, 2], 1), 1_000 * HOUR_MS));
    }

    #[test]
    fn by_itself_no_level_above_the_one_that_is_given_is_taken() {
        let most = |level| spec(FeaturePolicy::Automatic, Some(level));
        let of = |level| decide(&most(level), &brokers([3, 3, 3], 1), 26 * HOUR_MS);
        assert_eq!(of(1), Decision::Idle);
        assert_eq!(of(2), Decision::Take(2));
        assert_eq!(of(9), Decision::Take(3));
    }

    #[test]
    fn by_hand_a_level_is_taken_as_soon_as_all_know_it() {
        let of =
            |level, newest| decide(&spec(FeaturePolicy::Manual, level), &brokers(newest, 1), 0);
        assert_eq!(of(None, [2, 2, 2]), Decision::Idle);
        assert_eq!(of(Some(1), [2, 2, 2]), Decision::Idle);
        assert_eq!(of(Some(2), [2, 2, 2]), Decision::Take(2));
        let text = waits(of(Some(2), [2, 1, 2]));
        assert!(
            text.contains("waits for brokers that know it: 1 is"),
            "{text}"
        );
    }

    #[test]
    fn no_level_goes_back() {
        for policy in [FeaturePolicy::Manual, FeaturePolicy::Automatic] {
            let decision = decide(&spec(policy, Some(1)), &brokers([3, 3, 3], 2), i64::MAX);
            assert!(waits(decision).contains("does not go back to 1"));
        }
    }

    #[test]
    fn what_a_broker_tells_is_read() {
        let made = Time(Timestamp::from_millisecond(5_000).expect("a time"));
        let state = |level: &str| {
            let text = format!(
                r#"{{"features": {{"tidemark.version": {{"min": 1, "max": 2, "level": {level}}}}}}}"#
            );
            serde_json::from_str(&text).expect("JSON")
        };
        let read = Levels {
            newest: 2,
            level: 1,
            since_ms: 5_000,
        };
        assert_eq!(levels(&state("1"), Some(&made)), Some(read));
        // Of an older version, or not up yet.
        assert_eq!(levels(&state("null"), Some(&made)), None);
        assert_eq!(levels(&state("1"), None), None);
        assert_eq!(levels(&serde_json::Value::Null, Some(&made)), None);
    }
}
