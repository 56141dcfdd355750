//! `tidemark doctor`: looks for what is wrong; each finding says what, why it matters, and what to type next.

mod brokers;
pub mod certificates;
mod clocks;
mod disks;
mod files;
mod groups;
mod leaders;
mod quorum;
mod replicas;
mod settings;

use serde::{Deserialize, Serialize};
use tidemark_client::{Cluster, ClusterInfo, Topics};

use crate::commands::kube::{self, Place};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Out, plural};
use crate::progress::Progress;

/// Look for what is wrong, say why, and what to type next
///
/// Exit code 1 when something was found. With --cluster it looks at a Cluster on Kubernetes, through
/// kubectl.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Cluster on Kubernetes: its resources, the metrics of its brokers, and the doctor beside one of them
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Its namespace; that of kubectl's context where it is not given
    #[arg(long, short = 'n', requires = "cluster", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, requires = "cluster", value_name = "CONTEXT")]
    context: Option<String>,
    /// A disk with less than this share free is a finding
    #[arg(long, env = "TIDEMARK_LOW_DISK_PERCENT", default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    low_disk: u8,
}

/// Something that is wrong, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is, a sentence without its full stop.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The next command to type, or what to do.
    pub next: String,
}

impl Finding {
    /// What, why and what next.
    pub fn new(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            next: next.into(),
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    name: String,
    /// What was seen when nothing was wrong.
    seen: String,
    /// What was wrong.
    findings: Vec<Finding>,
}

impl Check {
    /// A check with what it saw.
    pub fn new(name: &str, seen: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self {
            name: name.to_owned(),
            seen: seen.into(),
            findings,
        }
    }

    /// The same, with what to type next said otherwise.
    #[must_use]
    pub fn with_next(mut self, say: impl Fn(&str) -> String) -> Self {
        for finding in &mut self.findings {
            finding.next = say(&finding.next);
        }
        self
    }

    /// What was wrong.
    #[cfg(test)]
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    cluster_id: Option<&'a str>,
    findings: usize,
    checks: &'a [Check],
}

/// What the checks look at.
struct Patient<'a> {
    cluster: &'a Cluster,
    info: &'a ClusterInfo,
    /// Brokers that answer at the address they advertise.
    reachable: Vec<i32>,
    bootstrap: &'a str,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    if let Some(name) = &args.cluster {
        let place = Place {
            namespace: args.namespace,
            context: args.context,
        };
        let checks = kube::doctor(name, &place, args.low_disk).await?;
        return report(None, &checks, context);
    }
    let mut progress = Progress::new();
    let mut checks = Vec::new();
    progress.update(|| "bootstrap".to_owned());
    checks.push(brokers::bootstrap(context).await?);
    let cluster = context.cluster().await?;
    let info = cluster.metadata(Topics::All).await?;
    let mut patient = Patient {
        cluster: &cluster,
        info: &info,
        reachable: Vec::new(),
        bootstrap: &context.bootstrap,
    };
    progress.update(|| "brokers".to_owned());
    let (advertised, reachable) =
        brokers::advertised(&patient, &context.cluster_options().connection).await;
    checks.push(advertised);
    patient.reachable = reachable;
    let tls = context.tls.as_ref();
    checks.extend(certificates::check(&patient, tls, context.timeout).await);
    checks.push(replicas::check(&patient).await);
    checks.push(leaders::check(&patient));
    progress.update(|| "quorum".to_owned());
    checks.push(quorum::check(&patient).await);
    progress.update(|| "disks".to_owned());
    checks.push(disks::check(&patient, args.low_disk).await);
    checks.push(files::check(&patient));
    progress.update(|| "clocks".to_owned());
    checks.push(clocks::check(&patient).await);
    progress.update(|| "settings".to_owned());
    checks.push(settings::check(&patient).await);
    progress.update(|| "groups".to_owned());
    checks.push(groups::check(&patient).await);
    progress.clear();
    report(info.cluster_id.as_deref(), &checks, context)
}

fn report(
    cluster_id: Option<&str>,
    checks: &[Check],
    context: &mut Context,
) -> Result<Exit, Failure> {
    let findings = checks.iter().map(|check| check.findings.len()).sum();
    let report = Report {
        cluster_id,
        findings,
        checks,
    };
    context.out.show(&report, |out| write(out, &report))?;
    Ok(if findings == 0 {
        Exit::Ok
    } else {
        Exit::Finding
    })
}

fn write(out: &mut Out, report: &Report<'_>) -> Result<(), Failure> {
    for check in report.checks {
        if check.findings.is_empty() {
            out.line(&format!("ok    {}: {}", check.name, check.seen))?;
            continue;
        }
        for finding in &check.findings {
            out.line(&format!("FIND  {}: {}", check.name, finding.what))?;
            out.line(&format!("      why:  {}", finding.why))?;
            out.line(&format!("      next: {}", finding.next))?;
        }
    }
    match report.findings {
        0 => out.line("Nothing found."),
        number => out.line(&format!("{}.", plural(number as i64, "finding"))),
    }
}
