//! Writing objects: server-side apply with one field manager.

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Error;

/// Who writes.
pub const MANAGER: &str = "tidemark-operator";

fn name_of(object: &Value) -> Result<&str, Error> {
    object["metadata"]["name"]
        .as_str()
        .ok_or_else(|| Error::Malformed(format!("an object without a name: {object}")))
}

/// Applies an object: what of it is ours becomes so.
///
/// # Errors
/// Kubernetes'.
pub async fn apply<K>(api: &Api<K>, object: &Value) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = name_of(object)?;
    let patch = PatchParams::apply(MANAGER).force();
    api.patch(name, &patch, &Patch::Apply(object))
        .await
        .map_err(Error::kube(format!("applying {} {name}", K::kind(&()))))
}

/// Applies an object where what was found is not so already: at rest nothing is written.
///
/// # Errors
/// Kubernetes'.
pub async fn ensure<K>(api: &Api<K>, found: Option<&K>, wanted: &Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let is_so = found.is_some_and(|found| contains(&serde_json::json!(found), wanted));
    if !is_so {
        apply(api, wanted).await?;
    }
    Ok(())
}

/// Whether an object has all that is wanted of it. What it has beside that was defaulted by
/// Kubernetes, or is somebody else's.
pub(crate) fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            let there = found.get(key);
            there.map_or_else(|| is_nothing(value), |there| contains(there, value))
        }),
        (Value::Array(found), Value::Array(wanted)) => {
            let pairs = || found.iter().zip(wanted);
            found.len() == wanted.len() && pairs().all(|(found, wanted)| contains(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

/// What Kubernetes does not keep.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    }
}

/// Changes some fields of an object that is there; `what` is for what is said when that fails.
///
/// # Errors
/// Kubernetes'.
pub async fn merge<K>(api: &Api<K>, name: &str, patch: &Value, what: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(Error::kube(what))?;
    Ok(())
}

/// Writes a status, if it says something new.
///
/// # Errors
/// Kubernetes'.
pub async fn status<K, S>(api: &Api<K>, name: &str, old: Option<&S>, new: &S) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq,
{
    if old == Some(new) {
        return Ok(());
    }
    // Applied, not merged: what is not told any more is to go.
    let object = serde_json::json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": new,
    });
    let params = PatchParams::apply(MANAGER).force();
    api.patch_status(name, &params, &Patch::Apply(&object))
        .await
        .map_err(Error::kube(format!("status of {} {name}", K::kind(&()))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_so_already_is_not_written_and_whatever_differs_is() {
        let wanted = json!({
            "metadata": {"name": "a", "labels": {"x": "1"}, "ownerReferences": []},
            "spec": {"ports": [{"port": 1}, {"port": 2}]},
        });
        let found = json!({
            "metadata": {"name": "a", "uid": "u", "labels": {"x": "1", "theirs": "2"}},
            "spec": {"ports": [{"port": 1, "protocol": "TCP"}, {"port": 2}], "type": "ClusterIP"},
        });
        assert!(contains(&found, &wanted));
        for (path, value) in [
            ("/metadata/labels/x", json!("2")),
            ("/spec/ports/1/port", json!(3)),
            ("/spec/ports", json!([{"port": 1}])),
            ("/spec/ports", json!([{"port": 2}, {"port": 1}])),
            ("/metadata/labels", json!({})),
            ("/spec", Value::Null),
        ] {
            let mut other = found.clone();
            *other.pointer_mut(path).expect("it is there") = value;
            assert!(!contains(&other, &wanted), "{path}");
        }
    }
}
