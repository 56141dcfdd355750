//! What the API server would say of a document by its schema alone, for whoever reads the same YAML
//! without an API server; pure.
//!
//! Covers what the schemas of this crate use: types, required and unknown fields, enums, patterns,
//! and bounds of numbers, texts, lists and maps. Rules (CEL) are not evaluated: `validate` and
//! `validate_change` of each kind say the same.

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::{Map, Value};

/// Something in a document that its schema does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as `spec.pools[0].replicas`.
    pub path: String,
    /// What is wrong, and what may be written.
    pub says: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.says)
    }
}

/// All that `schema` does not allow in `value`, which stands at `path`.
#[must_use]
pub fn check(schema: &JSONSchemaProps, path: &str, value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(&mut problems, schema, path, value);
    problems
}

fn walk(problems: &mut Vec<Problem>, schema: &JSONSchemaProps, path: &str, value: &Value) {
    let mut say = |says: String| {
        problems.push(Problem {
            path: path.to_owned(),
            says,
        });
    };
    // A null is a field that is not given.
    if value.is_null() {
        if schema.nullable != Some(true) {
            say("is empty: give a value, or take it out".to_owned());
        }
        return;
    }
    if !is_of_type(schema, value) {
        let wanted = schema.type_.as_deref().unwrap_or("integer or string");
        say(format!("is {}, and should be {wanted}", kind_of(value)));
        return;
    }
    if let Some(allowed) = &schema.enum_
        && !allowed.iter().any(|one| one.0 == *value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(|one| one.0.as_str()).collect();
        say(format!("{value} is not one of {}", allowed.join(", ")));
    }
    match value {
        Value::String(text) => text_problems(schema, text).into_iter().for_each(say),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if schema.minimum.is_some_and(|least| number < least) {
                say(format!("is less than {}", schema.minimum.unwrap_or(0.0)));
            }
            if schema.maximum.is_some_and(|most| number > most) {
                say(format!("is more than {}", schema.maximum.unwrap_or(0.0)));
            }
        }
        Value::Array(items) => {
            count_problems(items.len(), "entries", (schema.min_items, schema.max_items))
                .into_iter()
                .for_each(say);
            list(problems, schema, path, items);
        }
        Value::Object(fields) => {
            let bounds = (schema.min_properties, schema.max_properties);
            count_problems(fields.len(), "entries", bounds)
                .into_iter()
                .for_each(say);
            object(problems, schema, path, fields);
        }
        _ => {}
    }
}

fn text_problems(schema: &JSONSchemaProps, text: &str) -> Vec<String> {
    let length = text.chars().count();
    let mut problems = count_problems(length, "characters", (schema.min_length, schema.max_length));
    // Patterns are our own: a test holds that all of them compile.
    if let Some(pattern) = &schema.pattern
        && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        problems.push(format!("'{text}' does not match {pattern}"));
    }
    problems
}

fn count_problems(
    count: usize,
    of: &str,
    (least, most): (Option<i64>, Option<i64>),
) -> Vec<String> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let mut problems = Vec::new();
    if let Some(least) = least.filter(|least| count < *least) {
        problems.push(format!("has {count} {of}, and needs {least} at least"));
    }
    if let Some(most) = most.filter(|most| count > *most) {
        problems.push(format!("has {count} {of}, and may have {most}"));
    }
    problems
}

fn list(problems: &mut Vec<Problem>, schema: &JSONSchemaProps, path: &str, items: &[Value]) {
    if let Some(JSONSchemaPropsOrArray::Schema(of)) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            walk(problems, of, &format!("{path}[{index}]"), item);
        }
    }
    let keys = schema.x_kubernetes_list_map_keys.iter().flatten();
    let keys: Vec<&String> = keys.collect();
    if keys.is_empty() {
        return;
    }
    let key_of =
        |item: &Value| -> Vec<Value> { keys.iter().map(|key| item[*key].clone()).collect() };
    for (index, item) in items.iter().enumerate() {
        if items[..index]
            .iter()
            .any(|other| key_of(other) == key_of(item))
        {
            problems.push(Problem {
                path: format!("{path}[{index}]"),
                says: format!("has the {} of another entry", keys[0]),
            });
        }
    }
}

fn object(
    problems: &mut Vec<Problem>,
    schema: &JSONSchemaProps,
    path: &str,
    fields: &Map<String, Value>,
) {
    for name in schema.required.iter().flatten() {
        if fields.get(name).is_none_or(Value::is_null) {
            problems.push(Problem {
                path: format!("{path}.{name}"),
                says: "is missing".to_owned(),
            });
        }
    }
    if let Some(JSONSchemaPropsOrBool::Schema(of)) = &schema.additional_properties {
        for (name, value) in fields {
            walk(problems, of, &format!("{path}['{name}']"), value);
        }
        return;
    }
    let open = schema.x_kubernetes_preserve_unknown_fields == Some(true);
    for (name, value) in fields {
        match schema.properties.as_ref().and_then(|all| all.get(name)) {
            Some(of) => walk(problems, of, &format!("{path}.{name}"), value),
            None if open => {}
            None => {
                let known = schema
                    .properties
                    .iter()
                    .flatten()
                    .map(|(known, _)| known.as_str());
                let known: Vec<&str> = known.collect();
                problems.push(Problem {
                    path: format!("{path}.{name}"),
                    says: match known.is_empty() {
                        true => "there is no such field".to_owned(),
                        false => format!("there is no such field; there are {}", known.join(", ")),
                    },
                });
            }
        }
    }
}

fn is_of_type(schema: &JSONSchemaProps, value: &Value) -> bool {
    if schema.x_kubernetes_int_or_string == Some(true) {
        return value.is_string() || value.is_i64();
    }
    match schema.type_.as_deref() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reference;

    fn schema_of(kind: &str) -> JSONSchemaProps {
        let all = reference::definitions().into_iter();
        let mut of_kind = all.filter(|(_, one)| one.spec.names.kind == kind);
        let (_, definition) = of_kind.next().expect("a kind of ours");
        let version = definition.spec.versions.into_iter().next();
        let schema = version.and_then(|version| version.schema);
        let schema = schema.and_then(|schema| schema.open_api_v3_schema);
        schema.expect("every version has a schema")
    }

    fn patterns(schema: &JSONSchemaProps, found: &mut Vec<String>) {
        found.extend(schema.pattern.clone());
        for field in schema.properties.iter().flatten() {
            patterns(field.1, found);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(of)) = &schema.items {
            patterns(of, found);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(of)) = &schema.additional_properties {
            patterns(of, found);
        }
    }

    #[test]
    fn every_pattern_compiles() {
        let mut all = Vec::new();
        for kind in ["Cluster", "Topic", "ConsumerGroup"] {
            patterns(&schema_of(kind), &mut all);
        }
        assert!(all.len() > 5);
        for pattern in all {
            assert!(Regex::new(&pattern).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn what_the_schema_does_not_allow_is_named_with_its_place() {
        let cluster = schema_of("Cluster");
        let spec = &cluster.properties.as_ref().expect("fields")["spec"];
        let good = json!({"pools": [{"name": "a", "replicas": 3, "storage": {"size": "1Gi"},
            "resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}], "config": {"num.partitions": "3"}});
        assert_eq!(check(spec, "spec", &good), []);
        let says = |change: &dyn Fn(&mut Value)| {
            let mut changed = good.clone();
            change(&mut changed);
            let found: Vec<String> = check(spec, "spec", &changed)
                .iter()
                .map(ToString::to_string)
                .collect();
            found.join("\n")
        };
        for (change, wanted) in [
            (
                &(|v: &mut Value| v["pools"][0]["replica"] = json!(3)) as &dyn Fn(&mut Value),
                "spec.pools[0].replica: there is no such field; there are name, remove, replicas, resources, storage",
            ),
            (
                &|v| v["pools"][0]["replicas"] = json!("3"),
                "spec.pools[0].replicas: is a string, and should be integer",
            ),
            (
                &|v| v["pools"][0]["replicas"] = json!(1000),
                "spec.pools[0].replicas: is more than 100",
            ),
            (
                &|v| v["pools"][0]["replicas"] = json!(-1),
                "spec.pools[0].replicas: is less than 0",
            ),
            (
                &|v| v["pools"] = json!([]),
                "spec.pools: has 0 entries, and needs 1 at least",
            ),
            (
                &|v| v["pools"] = json!(null),
                "spec.pools: is missing\nspec.pools: is empty: give a value, or take it out",
            ),
            (
                &|v| v["pools"][0]["storage"]["size"] = json!("1GB"),
                "spec.pools[0].storage.size: '1GB' does not match",
            ),
            (
                &|v| v["pools"][0]["name"] = json!("a".repeat(21)),
                "spec.pools[0].name: has 21 characters, and may have 20",
            ),
            (
                &|v| v["config"]["num.partitions"] = json!(3),
                "spec.config['num.partitions']: is a number, and should be string",
            ),
            (
                &|v| v["disruption"] = json!({"mode": "Never ever"}),
                "spec.disruption.mode: \"Never ever\" is not one of Automatic, Approval, Never",
            ),
            (
                &|v| {
                    let pool = v["pools"][0].clone();
                    v["pools"] = json!([pool, pool]);
                },
                "spec.pools[1]: has the name of another entry",
            ),
        ] {
            let found = says(change);
            assert!(found.starts_with(wanted), "'{found}' instead of '{wanted}'");
        }
    }
}
