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
