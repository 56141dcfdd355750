//! `tidemark doctor`: looks for what is wrong; each finding says what, why it matters, and what to type next.

mod brokers;
mod clocks;
mod disks;
mod files;
mod replicas;
mod settings;

use serde::Serialize;
use tidemark_client::{Cluster, ClusterInfo, Topics};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Out, plural};
use crate::progress::Progress;

/// Look for what is wrong, say why, and what to type next
///
/// Exit code 1 when something was found.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Something that is wrong, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    name: &'static str,
    /// What was seen when nothing was wrong.
    seen: String,
    /// What was wrong.
    findings: Vec<Finding>,
}

impl Check {
    /// A check with what it saw.
    pub fn new(name: &'static str, seen: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self {
            name,
            seen: seen.into(),
            findings,
        }
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
pub async fn run(_args: Args, context: &mut Context) -> Result<Exit, Failure> {
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
    checks.push(replicas::check(&patient).await);
    progress.update(|| "disks".to_owned());
    checks.push(disks::check(&patient).await);
    checks.push(files::check(&patient));
    progress.update(|| "clocks".to_owned());
    checks.push(clocks::check(&patient).await);
    progress.update(|| "settings".to_owned());
    checks.push(settings::check(&patient).await);
    progress.clear();
    let findings = checks.iter().map(|check| check.findings.len()).sum();
    let report = Report {
        cluster_id: info.cluster_id.as_deref(),
        findings,
        checks: &checks,
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
