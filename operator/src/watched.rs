//! Objects as they are read from the API server, and kept.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use serde::{Deserialize, Deserializer};

/// An object, or why it cannot be read: one that cannot must not stop all the others.
///
/// Who manages which of its fields is left out: nobody here asks for that, and it names all fields once
/// more in each of thousands of objects that are kept.
#[derive(Debug, Clone)]
pub struct Watched<K>(pub Result<K, InvalidObject>);

impl<'de, K> Deserialize<'de> for Watched<K>
where
    K: Deserialize<'de> + Resource,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = DeserializeGuard::<K>::deserialize(deserializer)?;
        object.meta_mut().managed_fields = None;
        Ok(Self(object.0))
    }
}

impl<K: Resource> Resource for Watched<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => object.meta(),
            Err(invalid) => &invalid.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(object) => object.meta_mut(),
            Err(invalid) => &mut invalid.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt;
    use serde_json::json;
    use tidemark_crds::Topic;

    fn read(partitions: &serde_json::Value) -> Watched<Topic> {
        let object = json!({
            "apiVersion": "tidemark.dev/v1alpha1",
            "kind": "Topic",
            "metadata": {
                "name": "orders",
                "resourceVersion": "7",
                "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}],
            },
            "spec": {"clusterRef": {"name": "c"}, "partitions": partitions},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn whoever_manages_fields_is_not_kept() {
        let topic = read(&json!(3));
        assert_eq!(topic.0.as_ref().unwrap().spec.partitions, 3);
        assert_eq!(topic.resource_version().as_deref(), Some("7"));
        assert!(topic.meta().managed_fields.is_none());
    }

    #[test]
    fn one_that_cannot_be_read_is_known_by_its_name() {
        let topic = read(&json!("many"));
        assert!(topic.0.is_err());
        assert_eq!(topic.name_any(), "orders");
        assert!(topic.meta().managed_fields.is_none());
    }
}
