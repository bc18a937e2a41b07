//! The cluster that a command speaks to: which one, as whom, and in which namespace; and reading from it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{self, Fault};
use super::names;
use crate::failure::{Failure, Result};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Who wrote it, in the managed fields of what a command makes.
const MANAGER: &str = "holdfast-cli";

/// Which cluster and namespace.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct Connection {
    /// The namespace; that of the context when absent
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// The context of the kubeconfig; the current one when absent
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// The kubeconfig [env: KUBECONFIG; `~/.kube/config` when absent]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A kind of ours or of Kubernetes that lives in namespaces.
pub(super) trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
}

/// A cluster that can be asked.
#[derive(Clone)]
pub(super) struct Cluster {
    /// The connection.
    pub(super) client: Client,
    /// The namespace of the command.
    pub(super) namespace: String,
    /// The API server's address.
    pub(super) server: String,
}

impl Connection {
    /// Reads the kubeconfig, or what a pod is given. Speaks to nobody yet.
    pub(super) async fn open(&self) -> Result<Cluster> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            Client::try_from(config).map_err(|e| fault::explain(&e, "use the kubeconfig", &server))?;
        Ok(Cluster { client, namespace, server })
    }

    async fn config(&self) -> Result<Config> {
        let kubeconfig = match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let kubeconfig = match kubeconfig {
            Ok(kubeconfig) => kubeconfig,
            // In a pod there is none, and none is needed.
            Err(e) if self.kubeconfig.is_none() && self.context.is_none() => {
                return Config::incluster().map_err(|_| fault::kubeconfig(&e));
            }
            Err(e) => return Err(fault::kubeconfig(&e)),
        };
        if let Some(context) = &self.context {
            let there: Vec<String> = kubeconfig.contexts.iter().map(|c| c.name.clone()).collect();
            if !there.contains(context) {
                return Err(names::usage(
                    format!("the kubeconfig has no context {context:?}"),
                    names::advice(context, &there, "`kubectl config get-contexts` lists them"),
                ));
            }
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| fault::kubeconfig(&e))
    }
}

impl Cluster {
    /// The same cluster, another namespace.
    pub(super) fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// Objects of a kind in the command's namespace.
    pub(super) fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The failure of a request.
    pub(super) fn failed(&self, error: &kube::Error, doing: &str) -> Failure {
        fault::explain(error, doing, &self.server)
    }

    /// All objects of a kind, in the command's namespace or in all.
    pub(super) async fn list<K: Kind>(&self, everywhere: bool) -> Result<Vec<K>> {
        self.list_where(everywhere, &ListParams::default()).await
    }

    /// The objects of a kind that a label selector (or the like) admits.
    pub(super) async fn list_where<K: Kind>(&self, everywhere: bool, filter: &ListParams) -> Result<Vec<K>> {
        let api: Api<K> = if everywhere { Api::all(self.client.clone()) } else { self.api() };
        match api.list(filter).await {
            Ok(list) => Ok(list.items),
            Err(e) => {
                let place = if everywhere { "all namespaces".to_owned() } else { self.namespace.clone() };
                Err(self.failed(&e, &format!("list {} in {place}", K::plural(&()))))
            }
        }
    }

    /// One object; when it is not there, what could have been meant.
    pub(super) async fn get<K: Kind>(&self, name: &str) -> Result<K> {
        match self.api::<K>().get(name).await {
            Ok(object) => Ok(object),
            Err(e) if fault::sort(&e) == Fault::NotFound => Err(self.not_found::<K>(name).await),
            Err(e) => {
                let doing = format!("read {} {}/{name}", K::kind(&()), self.namespace);
                Err(self.failed(&e, &doing))
            }
        }
    }

    /// What to say about a name that is not there. Looks for near ones, here and elsewhere.
    pub(super) async fn not_found<K: Kind>(&self, name: &str) -> Failure {
        let kind = K::kind(&());
        let cause = format!("there is no {kind} {name} in namespace {}", self.namespace);
        if let Err(failure) = self.check_namespace().await {
            return failure;
        }
        let here: Vec<String> =
            self.list::<K>(false).await.unwrap_or_default().iter().map(ResourceExt::name_any).collect();
        let elsewhere = self.elsewhere::<K>(name).await;
        let advice = match elsewhere.as_slice() {
            [] => names::advice(
                name,
                &here,
                &format!("`kubectl -n {} get {}` lists them", self.namespace, K::plural(&())),
            ),
            [one] => format!("there is one in namespace {one}: give -n {one}"),
            several => format!("there are such in the namespaces {}: give one with -n", several.join(", ")),
        };
        Failure { kind: "NotFound", ..names::usage(cause, advice) }
    }

    async fn elsewhere<K: Kind>(&self, name: &str) -> Vec<String> {
        let all = Api::<K>::all(self.client.clone());
        // Whoever may not look into other namespaces is not told about them.
        let found = all.list_metadata(&ListParams::default().fields(&format!("metadata.name={name}"))).await;
        found.map(|list| list.items.iter().filter_map(ResourceExt::namespace).collect()).unwrap_or_default()
    }

    /// Fails when the command's namespace does not exist. One that may not be looked at is taken to exist.
    pub(super) async fn check_namespace(&self) -> Result<()> {
        let api = Api::<Namespace>::all(self.client.clone());
        match api.get_metadata(&self.namespace).await {
            Err(e) if fault::sort(&e) == Fault::NotFound => {
                let there = api.list_metadata(&ListParams::default()).await;
                let there: Vec<String> =
                    there.map(|l| l.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default();
                Err(names::usage(
                    format!("there is no namespace {}", self.namespace),
                    names::advice(&self.namespace, &there, "`kubectl get namespaces` lists them"),
                ))
            }
            Err(e) if fault::sort(&e) == Fault::Unreachable => {
                Err(self.failed(&e, &format!("read namespace {}", self.namespace)))
            }
            _ => Ok(()),
        }
    }

    /// Makes an object.
    pub(super) async fn create<K: Kind + Serialize>(&self, object: &K) -> Result<K> {
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match self.api::<K>().create(&parameters, object).await {
            Ok(made) => Ok(made),
            Err(e) => {
                if fault::sort(&e) == Fault::NotFound {
                    self.check_namespace().await?;
                }
                let doing = format!("create {} {}/{}", K::kind(&()), self.namespace, object.name_any());
                Err(self.failed(&e, &doing))
            }
        }
    }
}
