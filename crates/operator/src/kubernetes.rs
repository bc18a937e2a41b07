//! How objects are read and written by all reconcilers: one field manager, status by server-side apply, creation
//! that never overwrites. Decides nothing.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{
    Api, DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions,
    PropagationPolicy,
};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// The one field manager of all our writes.
pub const MANAGER: &str = "holdfast";

/// Objects that most functions here work on: namespaced, typed.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

/// A request to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {kind} {namespace}/{name}")]
pub struct RequestError {
    /// What was tried.
    pub verb: &'static str,
    /// On which kind.
    pub kind: String,
    /// In which namespace.
    pub namespace: String,
    /// On which object, or with which selector.
    pub name: String,
    /// What the server or the connection said.
    #[source]
    pub source: Box<kube::Error>,
}

impl RequestError {
    fn new<K: Namespaced>(verb: &'static str, namespace: &str, name: &str, source: kube::Error) -> Self {
        let (kind, source) = (K::kind(&()).into_owned(), Box::new(source));
        Self { verb, kind, namespace: namespace.into(), name: name.into(), source }
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.is_not_found())
    }

    /// The server understood and will not have it: a quota, an admission rule, an object that is not valid or too large.
    pub fn is_refused(&self) -> bool {
        // What is larger than etcd takes is an internal error, by its code.
        let too_large = |message: &str| message.contains("request is too large");
        matches!(&*self.source, kube::Error::Api(status)
            if matches!(status.code, 400 | 403 | 413 | 422) || too_large(&status.message))
    }

    /// The namespace is going away, so nothing can be made in it any more.
    pub fn namespace_is_terminating(&self) -> bool {
        is_namespace_terminating(&self.source)
    }

    /// The object was changed by somebody else in between, or exists already.
    pub fn is_conflict(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.code == 409)
    }
}

/// Whether the server refused because the namespace is going away.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
}

/// Reads an object; `None` when it is not there.
pub async fn get<K: Namespaced>(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Option<K>, RequestError> {
    Api::<K>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(|e| RequestError::new::<K>("read", namespace, name, e))
}

/// Objects of one answer to a list.
const PAGE: u32 = 50;
/// What the server answers when it does not know the place any more at which a list was to go on.
const EXPIRED: u16 = 410;

/// Lists objects, page by page, and drops what nobody here reads: who manages which field is most of what an object takes
/// in memory, and a run may have hundreds of Jobs and pods.
async fn all_pages<K: Namespaced>(api: &Api<K>, selector: &str) -> kube::Result<Vec<K>> {
    let mut found = Vec::new();
    let mut page = labelled(selector).limit(PAGE);
    loop {
        let list = match api.list(&page).await {
            // What has changed meanwhile is not worth a second try in pieces.
            Err(kube::Error::Api(status)) if status.code == EXPIRED && page.continue_token.is_some() => {
                found.clear();
                page = labelled(selector);
                continue;
            }
            other => other?,
        };
        let next = list.metadata.continue_.filter(|token| !token.is_empty());
        found.extend(list.items.into_iter().map(|mut object| {
            object.meta_mut().managed_fields = None;
            object
        }));
        match next {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Lists the objects of a namespace that match a label selector (all when empty), without their managed fields.
pub async fn list<K: Namespaced>(
    client: &Client,
    namespace: &str,
    selector: &str,
) -> Result<Vec<K>, RequestError> {
    all_pages(&Api::<K>::namespaced(client.clone(), namespace), selector)
        .await
        .map_err(|e| RequestError::new::<K>("list", namespace, selector, e))
}

/// Lists names, labels and annotations of the objects of a namespace that match a label selector, without their content.
pub async fn list_metadata<K: Namespaced>(
    client: &Client,
    namespace: &str,
    selector: &str,
) -> Result<Vec<PartialObjectMeta<K>>, RequestError> {
    Api::<K>::namespaced(client.clone(), namespace)
        .list_metadata(&labelled(selector))
        .await
        .map(|list| list.items)
        .map_err(|e| RequestError::new::<K>("list", namespace, selector, e))
}

/// Lists the objects of all namespaces that match a label selector, without their managed fields.
pub async fn list_everywhere<K: Namespaced>(client: &Client, selector: &str) -> Result<Vec<K>, RequestError> {
    all_pages(&Api::<K>::all(client.clone()), selector)
        .await
        .map_err(|e| RequestError::new::<K>("list", "*", selector, e))
}

fn labelled(selector: &str) -> ListParams {
    if selector.is_empty() { ListParams::default() } else { ListParams::default().labels(selector) }
}

/// What came of a creation.
#[derive(Debug)]
pub enum Created<K> {
    /// It was made now.
    New(K),
    /// An object of this name was there before; it was not touched.
    Existing(K),
}

impl<K> Created<K> {
    /// The object, whoever made it.
    pub fn into_inner(self) -> K {
        match self {
            Self::New(object) | Self::Existing(object) => object,
        }
    }
}

/// Makes an object, or reads the one of this name that is there. Never changes an existing one.
pub async fn create<K: Namespaced>(client: &Client, object: &K) -> Result<Created<K>, RequestError> {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match api.create(&params, object).await {
        Ok(made) => Ok(Created::New(made)),
        Err(kube::Error::Api(status)) if status.is_already_exists() => api
            .get(&name)
            .await
            .map(Created::Existing)
            .map_err(|e| RequestError::new::<K>("read", &namespace, &name, e)),
        Err(error) => Err(RequestError::new::<K>("create", &namespace, &name, error)),
    }
}

/// Asks whether an object would be admitted, without making it. That one of its name is there already is fine.
pub async fn try_create<K: Namespaced>(client: &Client, object: &K) -> Result<(), RequestError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let params = PostParams { field_manager: Some(MANAGER.into()), dry_run: true };
    match Api::<K>::namespaced(client.clone(), &namespace).create(&params, object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(RequestError::new::<K>("create", &namespace, &name, error)),
    }
}

/// Writes the status of an object by server-side apply: fields that we set before and do not set now go.
/// The object's uid goes with it, so that a namesake made meanwhile is never written to.
pub async fn apply_status<K, S>(client: &Client, object: &K, status: &S) -> Result<K, RequestError>
where
    K: Namespaced,
    S: Serialize,
{
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "namespace": namespace, "uid": object.uid()},
        "status": status,
    });
    Api::<K>::namespaced(client.clone(), &namespace)
        .patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))
        .await
        .map_err(|e| RequestError::new::<K>("write the status of", &namespace, &name, e))
}

/// Deletes an object together with what it owns; that it is gone already is fine. With a uid, only that very
/// object is deleted and never a namesake.
pub async fn delete<K: Namespaced>(
    client: &Client,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(), RequestError> {
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match Api::<K>::namespaced(client.clone(), namespace).delete(name, &params).await {
        Ok(_) => Ok(()),
        // 404: gone. 409: the object of that uid is gone and a namesake took its place.
        Err(kube::Error::Api(status)) if status.is_not_found() || (uid.is_some() && status.code == 409) => {
            Ok(())
        }
        Err(error) => Err(RequestError::new::<K>("delete", namespace, name, error)),
    }
}

/// Adds or removes a finalizer under the object's resourceVersion. No change, no request.
pub async fn set_finalizer<K: Namespaced>(
    client: &Client,
    object: &K,
    finalizer: &str,
    present: bool,
) -> Result<(), RequestError> {
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|f| f == finalizer) == present {
        return Ok(());
    }
    if present {
        finalizers.push(finalizer.to_owned());
    } else {
        finalizers.retain(|f| f != finalizer);
    }
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let body = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    match Api::<K>::namespaced(client.clone(), &namespace)
        .patch(&name, &PatchParams::default(), &Patch::Merge(&body))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() && !present => Ok(()),
        Err(error) => Err(RequestError::new::<K>("change the finalizers of", &namespace, &name, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that gives these answers, one after another; and the queries that it got.
    async fn listed(answers: Vec<Value>) -> (Result<Vec<Pod>, RequestError>, Vec<String>) {
        let queries = std::sync::Arc::new(Mutex::new(Vec::new()));
        let seen = std::sync::Arc::clone(&queries);
        let answers = Mutex::new(answers.into_iter());
        let server = tower::service_fn(move |request: Request<Body>| {
            let token = request.uri().query().unwrap_or_default().to_owned();
            seen.lock().unwrap().push(token);
            let answer = answers.lock().unwrap().next().unwrap();
            let code = answer["code"].as_u64().map_or(200, |code| u16::try_from(code).unwrap());
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            ready(Response::builder().status(code).body(body).map_err(std::io::Error::other))
        });
        let pods = list(&Client::new(server, "ns"), "ns", "run=x").await;
        let queries = queries.lock().unwrap().clone();
        (pods, queries)
    }

    fn page(names: &[&str], more: &str) -> Value {
        let pods: Vec<Value> = names
            .iter()
            .map(|name| json!({"metadata": {"name": name, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]}}))
            .collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": more}, "items": pods})
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page_and_without_managed_fields() {
        let (pods, queries) = listed(vec![page(&["a", "b"], "next"), page(&["c"], "")]).await;
        let pods = pods.unwrap();
        assert_eq!(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(pods.iter().all(|pod| pod.metadata.managed_fields.is_none()));
        let [first, second] = &queries[..] else { panic!("{queries:?}") };
        assert!(first.contains("labelSelector=run%3Dx") && first.contains("limit=50"), "{first}");
        assert!(second.contains("continue=next") && second.contains("labelSelector=run%3Dx"), "{second}");
    }

    #[tokio::test]
    async fn a_list_whose_rest_expired_is_read_anew_in_one_piece() {
        let expired = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410});
        let (pods, queries) =
            listed(vec![page(&["a"], "next"), expired.clone(), page(&["a", "b"], "")]).await;
        assert_eq!(pods.unwrap().len(), 2);
        assert!(!queries[2].contains("limit=") && !queries[2].contains("continue="), "{queries:?}");
        let (pods, _) = listed(vec![expired]).await;
        assert!(pods.is_err(), "an answer that is no page that ran out is told");
    }
}
