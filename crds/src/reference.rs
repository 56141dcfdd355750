//! What is generated from the types: the YAML to install, and the page for people.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Cluster, ConsumerGroup, Topic};

/// All custom resource definitions, each with the name of its file.
#[must_use]
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("clusters.yaml", Cluster::crd()),
        ("topics.yaml", Topic::crd()),
        ("consumergroups.yaml", ConsumerGroup::crd()),
    ]
}

/// The page that lists every field, in Markdown.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Custom resources\n\nGenerated from `crds/src`: `UPDATE=1 cargo test -p tidemark-crds`. All kinds are `tidemark.dev/v1alpha1`, namespaced, and in the category `tidemark` (`kubectl get tidemark`).\n",
    );
    for (_, definition) in definitions() {
        let names = &definition.spec.names;
        let short = names.short_names.clone().unwrap_or_default().join(", ");
        page.push_str(&format!("\n## {} ({short})\n", names.kind));
        for version in &definition.spec.versions {
            let schema = version.schema.as_ref();
            let Some(schema) = schema.and_then(|s| s.open_api_v3_schema.as_ref()) else {
                continue;
            };
            let description = schema.description.as_deref().unwrap_or_default();
            page.push_str(&format!("\n{description}\n"));
            for part in ["spec", "status"] {
                let Some(of) = schema.properties.as_ref().and_then(|all| all.get(part)) else {
                    continue;
                };
                page.push_str(&format!(
                    "\n### {} {part}\n\n| field | type | default | |\n|---|---|---|---|\n",
                    names.kind
                ));
                rows(&mut page, "", of);
                rules(&mut page, of);
            }
        }
    }
    page
}

fn rows(page: &mut String, prefix: &str, of: &JSONSchemaProps) {
    for (name, field) in of.properties.iter().flatten() {
        let path = format!("{prefix}{name}");
        let required = of.required.iter().flatten().any(|one| one == name);
        let default = match (&field.default, required) {
            (Some(value), _) => format!("`{}`", value.0),
            (None, true) => "required".to_owned(),
            (None, false) => String::new(),
        };
        let text = field.description.as_deref().unwrap_or_default();
        let text = text.replace('\n', " ").replace('|', "\\|");
        page.push_str(&format!(
            "| `{path}` | {} | {default} | {text} |\n",
            type_of(field)
        ));
        // Kubernetes' own types are documented by Kubernetes.
        if ["resources", "conditions"].contains(&name.as_str()) {
            continue;
        }
        rows(page, &format!("{path}."), field);
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &field.items {
            rows(page, &format!("{path}[]."), item);
        }
    }
}

fn type_of(field: &JSONSchemaProps) -> String {
    if let Some(values) = &field.enum_ {
        let values = values.iter().filter_map(|v| v.0.as_str());
        return values.collect::<Vec<_>>().join(", ");
    }
    let of = |inner: &JSONSchemaProps| inner.type_.clone().unwrap_or_default();
    match (&field.items, &field.additional_properties) {
        (Some(JSONSchemaPropsOrArray::Schema(item)), _) => format!("list of {}", of(item)),
        (_, Some(JSONSchemaPropsOrBool::Schema(value))) => format!("map of {}", of(value)),
        _ => of(field),
    }
}

/// The paths of all fields below `spec` that hold a value, as `pools[].storage.size`.
#[must_use]
pub fn spec_fields(definition: &CustomResourceDefinition) -> Vec<String> {
    let mut found = Vec::new();
    for version in &definition.spec.versions {
        let schema = version.schema.as_ref();
        let schema = schema.and_then(|s| s.open_api_v3_schema.as_ref()?.properties.as_ref());
        if let Some(spec) = schema.and_then(|fields| fields.get("spec")) {
            leaves(&mut found, "", spec);
        }
    }
    found
}

fn leaves(found: &mut Vec<String>, prefix: &str, of: &JSONSchemaProps) {
    for (name, field) in of.properties.iter().flatten() {
        let path = format!("{prefix}{name}");
        let item = match &field.items {
            Some(JSONSchemaPropsOrArray::Schema(item)) => item.properties.as_ref().map(|_| item),
            _ => None,
        };
        // Kubernetes' own types are one field to us.
        match (name.as_str(), item) {
            ("resources", _) => found.push(path),
            (_, Some(item)) => leaves(found, &format!("{path}[]."), item),
            (_, None) if field.properties.is_some() => leaves(found, &format!("{path}."), field),
            _ => found.push(path),
        }
    }
}

/// The messages of all rules below a schema.
fn rules(page: &mut String, of: &JSONSchemaProps) {
    let mut messages = Vec::new();
    collect(&mut messages, of);
    if messages.is_empty() {
        return;
    }
    page.push_str("\nThe API server refuses:\n\n");
    for message in messages {
        page.push_str(&format!("- {message}\n"));
    }
}

/// What every rule of a definition says when it refuses.
#[must_use]
pub fn messages(definition: &CustomResourceDefinition) -> Vec<String> {
    let mut messages = Vec::new();
    for version in &definition.spec.versions {
        let schema = version.schema.as_ref();
        if let Some(schema) = schema.and_then(|s| s.open_api_v3_schema.as_ref()) {
            collect(&mut messages, schema);
        }
    }
    messages
}

fn collect(messages: &mut Vec<String>, of: &JSONSchemaProps) {
    let rules = of.x_kubernetes_validations.iter().flatten();
    messages.extend(rules.filter_map(|rule| rule.message.clone()));
    for field in of.properties.iter().flatten().map(|(_, field)| field) {
        collect(messages, field);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &of.items {
        collect(messages, item);
    }
}
