//! The reference (`docs/metrics.md`), generated from the table.

use super::families::ALL;
use std::fmt::Write;

/// The reference that is `docs/metrics.md`.
pub(super) fn reference() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         Generated from the table in `broker/server/src/metrics/families.rs`; do not edit. \
         After a change there: `UPDATE=1 cargo test -p tidemark-server metrics`.\n\n\
         In Prometheus' text format on the health port. Names begin with `tidemark_`, units are base units \
         (seconds, bytes), counters end in `_total` and start at 0 with the process.\n\n\
         ## `/metrics`\n\n",
    );
    table(&mut out, false);
    out.push_str(&format!(
        "\nProduce and Fetch, and the errors of theirs that tell of trouble, are there from the start. Others appear \
         once there is something to tell: an API after its first request, an error after it was first answered.\n\n\
         Labels are bounded. Topics: the {topics} largest by bytes have series of their own, the rest is \
         `topic=\"other\"` (a topic of that very name is counted there too). A topic that becomes one of the \
         largest gets a series with its full count; `other` never goes back for it, so rates stay true. Groups: \
         of those that a broker coordinates, the {groups} with the most lag, the rest is `group=\"other\"`, without \
         an age or a state.\n\n\
         ## `/metrics/partitions`\n\n\
         Scrape it where partitions are to be told apart, and less often. At most {partitions} partitions are \
         listed; a comment at the end says how many were not.\n\n",
        topics = super::topics::SHOWN_TOPICS,
        groups = crate::groups::lag::SHOWN_GROUPS,
        partitions = super::snapshot::SHOWN_PARTITIONS,
    ));
    table(&mut out, true);
    out
}

fn table(out: &mut String, of_partitions: bool) {
    out.push_str("| name | type | labels | unit | meaning |\n|---|---|---|---|---|\n");
    for family in ALL.iter().filter(|f| f.of_partitions == of_partitions) {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        // Writing to a string cannot fail.
        writeln!(
            out,
            "| `{}` | {} | {} | {} | {} |",
            family.name,
            family.kind.name(),
            labels.join(", "),
            family.unit,
            family.help
        )
        .unwrap_or_default();
    }
}
