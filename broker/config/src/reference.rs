//! The settings reference (`docs/settings.md`), generated from the table.

use crate::exceptions::{DEVIATIONS, Mutability, REFUSED, Status};
use crate::{Scope, Setting, settings};

/// The whole reference as markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# Settings\n\n\
         Generated from the table in `broker/config`; do not edit. Names, types, bounds and \
         defaults are Apache Kafka 4.3's except where this page says otherwise.\n\n\
         **Effect**: *yes*: honoured. *kept*: accepted, stored and shown, without effect yet; \
         the broker warns of it once. *refused*: values that Tidemark cannot act on are \
         refused, because ignoring them would lose data or protection.\n\n\
         **Changes**: *live*: with `tidemark topic`, `kafka-configs` or any admin client, \
         without a restart; *start*: in the broker's configuration, at start.\n",
    );
    section_deviations(&mut page);
    section_refused(&mut page);
    for (scope, title) in [
        (Scope::Topic, "Topic settings"),
        (Scope::Broker, "Broker settings"),
        (Scope::Group, "Group settings"),
    ] {
        section_table(&mut page, scope, title);
    }
    page
}

fn section_deviations(page: &mut String) {
    page.push_str(
        "\n## Defaults that differ from Kafka's\n\n| scope | name | default | why |\n|---|---|---|---|\n",
    );
    for d in DEVIATIONS {
        line(
            page,
            &[
                &d.scope.to_string(),
                &code(d.name),
                &default_text(d.default),
                d.reason,
            ],
        );
    }
}

fn section_refused(page: &mut String) {
    page.push_str("\n## Refused\n\n| scope | name | why |\n|---|---|---|\n");
    for r in REFUSED {
        line(page, &[&r.scope().to_string(), &code(r.name()), r.reason]);
    }
}

fn section_table(page: &mut String, scope: Scope, title: &str) {
    page.push_str(&format!(
        "\n## {title}\n\n| name | type | default | valid | effect | changes | what it does |\n|---|---|---|---|---|---|---|\n"
    ));
    for s in settings(scope) {
        line(
            page,
            &[
                &code(s.name),
                &s.value_type.name().to_lowercase(),
                &default_text(s.default),
                &s.valid.replace('|', "\\|"),
                effect(s),
                changes(s),
                s.doc,
            ],
        );
    }
}

fn effect(s: &Setting) -> &'static str {
    match s.status {
        Status::Honoured => "yes",
        Status::Kept => "kept",
        Status::Refused(_) => "refused",
    }
}

fn changes(s: &Setting) -> &'static str {
    match s.mutability {
        Mutability::ReadOnly => "start",
        Mutability::PerBroker => "live, by broker",
        Mutability::ClusterWide => "live",
    }
}

fn default_text(default: Option<&str>) -> String {
    match default {
        None => "none".to_owned(),
        Some("") => "empty".to_owned(),
        Some(value) => code(value),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn line(page: &mut String, cells: &[&str]) {
    page.push_str("| ");
    page.push_str(&cells.join(" | "));
    page.push_str(" |\n");
}
