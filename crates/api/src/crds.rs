//! The CustomResourceDefinitions, as they are installed. Made from the types; nothing is decided here but what
//! the API server needs otherwise than the derive writes it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Backup, BackupStorage, PodConfig, Repository, Restore, Snapshot};

/// Annotation that makes Helm keep an object on uninstall. Without it, `helm uninstall` would delete every
/// Backup, Restore and Snapshot of the cluster with the definitions.
const HELM_RESOURCE_POLICY: &str = "helm.sh/resource-policy";

/// The definitions of all kinds, in the order in which a person meets them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        BackupStorage::crd(),
        Repository::crd(),
        Backup::crd(),
        Restore::crd(),
        Snapshot::crd(),
        PodConfig::crd(),
    ]
    .into_iter()
    .map(installed)
    .collect()
}

fn installed(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    crd.metadata
        .annotations
        .get_or_insert_default()
        .insert(HELM_RESOURCE_POLICY.to_owned(), "keep".to_owned());
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|v| v.open_api_v3_schema.as_mut()) {
            adapt(schema);
            default_spec(schema);
        }
    }
    crd
}

/// Lets people leave `spec` out where nothing in it is required: the smallest Backup is a name.
fn default_spec(root: &mut JSONSchemaProps) {
    if let Some(spec) = root.properties.as_mut().and_then(|properties| properties.get_mut("spec"))
        && spec.required.as_ref().is_none_or(Vec::is_empty)
    {
        spec.default = Some(JSON(serde_json::json!({})));
    }
}

/// Brings a schema into the form that the API server treats as we mean it:
/// - Not nullable: a `null` is then dropped before defaults are filled in, so that `x: null` and no `x` mean the
///   same, also to the CEL rules (`has(self.x)`).
/// - Only the formats it knows, since each other one is a warning at every install; what the unsigned formats
///   said stays said by `minimum: 0`.
/// - Descriptions without the line breaks of the source, for `kubectl explain` breaks lines itself.
fn adapt(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(description) = &mut schema.description {
        let paragraphs =
            description.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        *description = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    schema.format = match schema.format.take().as_deref() {
        Some("uint8" | "uint16" | "int8" | "int16") => Some("int32".to_owned()),
        Some("uint32" | "uint64" | "uint") => Some("int64".to_owned()),
        other => other.map(str::to_owned),
    };
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        adapt(property);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => adapt(items),
        Some(JSONSchemaPropsOrArray::Schemas(several)) => several.iter_mut().for_each(adapt),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        adapt(values);
    }
}
