//! Can brokers be reached, where one typed and where they say they are?

use std::net::IpAddr;

use tidemark_client::cluster::parse_bootstrap;
use tidemark_client::{Broker, ClientError, Connection, ConnectionOptions};
use tidemark_wire::messages::{MetadataRequest, MetadataResponse};

use super::{Check, Finding, Patient};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::plural;

/// Every bootstrap address; a failure (exit 3) when none answers.
pub async fn bootstrap(context: &Context) -> Result<Check, Failure> {
    let addresses = parse_bootstrap(&context.bootstrap)?;
    let mut findings = Vec::new();
    let options = context.cluster_options().connection;
    for address in &addresses {
        if let Err(error) = Connection::connect(address, &options).await {
            findings.push((address, error));
        }
    }
    let nobody_answers = findings.len() == addresses.len();
    let findings = findings.into_iter();
    let findings = findings.map(|(address, error)| unreachable(address, &error, nobody_answers));
    let mut findings: Vec<Finding> = findings.collect();
    if nobody_answers {
        let finding = findings.swap_remove(0);
        return Err(Failure {
            exit: Exit::Unreachable,
            message: format!("{}: {}", finding.what, finding.why),
            next: Some(finding.next),
            quiet: false,
        });
    }
    let seen = format!(
        "{} of {} bootstrap addresses answer",
        addresses.len() - findings.len(),
        addresses.len()
    );
    Ok(Check::new("bootstrap", seen, findings))
}

/// `alone` where no other address answers either.
fn unreachable(address: &str, error: &ClientError, alone: bool) -> Finding {
    let reason = error.to_string();
    let (why, next) = match error {
        ClientError::Unreachable { reason, .. } if reason.contains("refused") => (
            "nobody listens there: the broker does not run, or listens elsewhere".to_owned(),
            match alone {
                true => format!("tidemark dev --listen {address}"),
                false => format!(
                    "start the broker of {address} again; if it is gone for good, take the address out of --bootstrap"
                ),
            },
        ),
        ClientError::Unreachable { reason, .. }
            if reason.contains("lookup") || reason.contains("resolve") =>
        {
            (
                format!("the name is not known here: {reason}"),
                format!(
                    "getent hosts {}",
                    address.rsplit_once(':').map_or(address, |(host, _)| host)
                ),
            )
        }
        ClientError::ResponseTooLarge { .. }
        | ClientError::Closed { .. }
        | ClientError::Decode { .. } => (
            format!("something answers, but not as a Kafka listener does: {reason}"),
            "check that the port is a listener for clients; one of SSL needs --command-config FILE with security.protocol=SSL".to_owned(),
        ),
        _ => (reason, format!("nc -vz {}", address.replace(':', " "))),
    };
    Finding::new(format!("{address} does not answer"), why, next)
}

/// Every broker at the address it advertises; answers the ids of those that are really there.
pub async fn advertised(patient: &Patient<'_>, options: &ConnectionOptions) -> (Check, Vec<i32>) {
    let mut findings = Vec::new();
    let mut reachable = Vec::new();
    for broker in patient.info.brokers.values() {
        match who_is_there(&broker.address(), options).await {
            Ok(found) => match wrong_broker(broker, patient.info.cluster_id.as_deref(), &found) {
                None => reachable.push(broker.id),
                Some(finding) => findings.push(finding),
            },
            Err(error) => findings.push(unreachable_broker(broker, patient.bootstrap, &error)),
        }
    }
    let seen = format!(
        "{} where they say they are",
        plural(reachable.len() as i64, "broker")
    );
    (
        Check::new("advertised addresses", seen, findings),
        reachable,
    )
}

async fn who_is_there(
    address: &str,
    options: &ConnectionOptions,
) -> Result<MetadataResponse, ClientError> {
    let connection = Connection::connect(address, options).await?;
    let request = MetadataRequest {
        topics: Some(Vec::new()),
        ..MetadataRequest::default()
    };
    connection.send(&request).await
}

/// Somebody else's broker behind an address: a port forward, or two clusters in one list.
fn wrong_broker(
    broker: &Broker,
    cluster_id: Option<&str>,
    found: &MetadataResponse,
) -> Option<Finding> {
    if found.cluster_id.as_deref() == cluster_id {
        return None;
    }
    Some(Finding::new(
        format!(
            "broker {} advertises {}, where cluster {} answers instead of {}",
            broker.id,
            broker.address(),
            found.cluster_id.as_deref().unwrap_or("?"),
            cluster_id.unwrap_or("?"),
        ),
        "clients are sent there and would write into another cluster",
        advertise_hint(broker),
    ))
}

fn unreachable_broker(broker: &Broker, bootstrap: &str, error: &ClientError) -> Finding {
    let loopback = broker.host == "localhost"
        || broker
            .host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let typed_loopback = bootstrap.contains("127.0.0.1")
        || bootstrap.contains("localhost")
        || bootstrap.contains("[::1]");
    let why = if loopback && !typed_loopback {
        "a loopback address means every client its own machine: only clients beside the broker reach it".to_owned()
    } else {
        format!("clients are sent there after the bootstrap address: {error}")
    };
    Finding::new(
        format!(
            "broker {} advertises {}, which does not answer",
            broker.id,
            broker.address()
        ),
        why,
        advertise_hint(broker),
    )
}

fn advertise_hint(broker: &Broker) -> String {
    format!(
        "restart broker {} with --set advertised.listeners=PLAINTEXT://HOST:PORT, an address that clients reach",
        broker.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(host: &str) -> Broker {
        Broker {
            id: 1,
            host: host.to_owned(),
            port: 9092,
            rack: None,
        }
    }

    fn refused() -> ClientError {
        ClientError::Unreachable {
            address: "h:1".to_owned(),
            reason: "Connection refused (os error 111)".to_owned(),
        }
    }

    #[test]
    fn a_loopback_address_behind_a_remote_one_is_explained() {
        let finding =
            unreachable_broker(&broker("127.0.0.1"), "kafka.example.org:9092", &refused());
        assert!(finding.why.contains("loopback"), "{}", finding.why);
        let finding = unreachable_broker(&broker("10.1.2.3"), "kafka.example.org:9092", &refused());
        assert!(finding.why.contains("refused"), "{}", finding.why);
        assert!(finding.next.contains("advertised.listeners"));
    }

    #[test]
    fn another_cluster_behind_an_address_is_found() {
        let found = MetadataResponse {
            cluster_id: Some("other".to_owned()),
            ..MetadataResponse::default()
        };
        assert!(wrong_broker(&broker("h"), Some("other"), &found).is_none());
        let finding = wrong_broker(&broker("h"), Some("mine"), &found).unwrap();
        assert!(finding.what.contains("other"), "{}", finding.what);
    }

    #[test]
    fn a_port_where_nobody_listens_says_what_to_start() {
        let finding = unreachable("127.0.0.1:9092", &refused(), true);
        assert_eq!(finding.next, "tidemark dev --listen 127.0.0.1:9092");
        let finding = unreachable("127.0.0.1:9092", &refused(), false);
        assert!(finding.next.contains("start the broker of 127.0.0.1:9092"));
    }
}
