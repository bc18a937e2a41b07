//! What went wrong between us and the API server, as a person needs to hear it. Pure.

use std::error::Error as StdError;

use kube::config::KubeconfigError;

use super::names;
use crate::exit;
use crate::failure::Failure;

/// Message that the API server has for paths that it does not serve.
const NOT_SERVED: &str = "the server could not find the requested resource";

/// What kind of failure it is, as far as commands go different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The named object, or the namespace, is not there.
    NotFound,
    /// The kind is not served: the definitions are not installed.
    NotServed,
    /// The caller may not do it.
    Forbidden,
    /// The API server does not know who is calling.
    Unauthenticated,
    /// An object of this name exists.
    Exists,
    /// The object is not as the kind wants it.
    Invalid,
    /// No answer.
    Unreachable,
    /// The answer is not one that this version understands.
    Incomprehensible,
    /// Anything else.
    Other,
}

/// Tells failures apart.
pub(super) fn sort(error: &kube::Error) -> Fault {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => Fault::Unauthenticated,
            403 => Fault::Forbidden,
            // An unknown path has no JSON in its answer, or a status without a name.
            404 if status.message.contains(NOT_SERVED) || status.details.is_none() => Fault::NotServed,
            404 => Fault::NotFound,
            409 if status.reason == "AlreadyExists" => Fault::Exists,
            400 | 422 => Fault::Invalid,
            429 | 500..=599 => Fault::Unreachable,
            _ => Fault::Other,
        },
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
            Fault::Unreachable
        }
        kube::Error::SerdeError(_) => Fault::Incomprehensible,
        kube::Error::Auth(_) => Fault::Unauthenticated,
        _ => Fault::Other,
    }
}

/// The failure of a request. `doing` says what was tried and on what, e.g. `list Snapshots in shop`; `server` is the
/// API server's address.
pub(super) fn explain(error: &kube::Error, doing: &str, server: &str) -> Failure {
    let fault = sort(error);
    let said = match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    };
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let (cause, advice) = match fault {
        Fault::Unreachable => (
            format!("{doing}: the API server {server} does not answer: {said}"),
            "check that the cluster is up and that this is the right context (`kubectl config current-context`)",
        ),
        Fault::Unauthenticated => (
            format!("{doing}: the API server {server} does not accept the login of this kubeconfig: {said}"),
            "log in again, or name another context with --context",
        ),
        Fault::Forbidden => (
            format!("{doing}: {said}"),
            "ask an administrator for the role `edit` in this namespace (`view` to look only); `holdfast doctor` lists what you may do",
        ),
        Fault::NotServed => (
            format!("{doing}: the API server {server} does not know Holdfast's kinds"),
            "install Holdfast in this cluster (helm install holdfast …), or name another cluster with --context",
        ),
        Fault::Exists => (
            format!("{doing}: it exists already"),
            "choose another name, or leave the name out: one is made up then",
        ),
        Fault::Incomprehensible => (
            format!("{doing}: this version does not understand the answer: {said}"),
            "use the version of `holdfast` that is installed in the cluster; `holdfast doctor` compares them",
        ),
        Fault::NotFound => (format!("{doing}: {said}"), "check the name and the namespace (-n)"),
        Fault::Invalid => (format!("{doing}: {said}"), "change what the message names, and try again"),
        Fault::Other => (format!("{doing}: {said}"), "`holdfast doctor` looks for what may be wrong"),
    };
    Failure {
        cause,
        advice: Some(advice.to_owned()),
        kind: match fault {
            Fault::NotFound => "NotFound",
            Fault::NotServed => "NotInstalled",
            Fault::Forbidden => "Forbidden",
            Fault::Unauthenticated => "Unauthenticated",
            Fault::Exists => "AlreadyExists",
            Fault::Invalid => "Invalid",
            Fault::Unreachable => "Unreachable",
            Fault::Incomprehensible => "VersionMismatch",
            Fault::Other => "Api",
        },
        code: if fault == Fault::Invalid { exit::USAGE } else { exit::FATAL },
    }
}

/// The failure to understand a kubeconfig.
pub(super) fn kubeconfig(error: &KubeconfigError) -> Failure {
    let said = chain(error);
    match error {
        KubeconfigError::CurrentContextNotSet => names::usage(
            "the kubeconfig names no current context",
            "name one with --context, or set it with `kubectl config use-context NAME`",
        ),
        KubeconfigError::ReadConfig(..) | KubeconfigError::FindPath => names::usage(
            format!("no kubeconfig can be read: {said}"),
            "name the file with --kubeconfig or KUBECONFIG",
        ),
        _ => names::usage(format!("the kubeconfig cannot be used: {said}"), "`kubectl config view` shows it"),
    }
}

/// An error and its causes, each said once.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(json: &str) -> kube::Error {
        kube::Error::Api(serde_json::from_str::<kube::core::Status>(json).unwrap().boxed())
    }

    #[test]
    fn each_fault_is_told_apart_and_says_what_to_do() {
        let cases = [
            (
                r#"{"code":403,"reason":"Forbidden","message":"snapshots.holdfast.dev is forbidden: User \"ann\" cannot list"}"#,
                Fault::Forbidden,
                "role `edit`",
            ),
            (
                r#"{"code":404,"message":"404 page not found","reason":"x"}"#,
                Fault::NotServed,
                "install Holdfast",
            ),
            (
                r#"{"code":404,"reason":"NotFound","message":"the server could not find the requested resource","details":{}}"#,
                Fault::NotServed,
                "install Holdfast",
            ),
            (
                r#"{"code":404,"reason":"NotFound","message":"backups.holdfast.dev \"x\" not found","details":{"name":"x","kind":"backups"}}"#,
                Fault::NotFound,
                "check the name",
            ),
            (
                r#"{"code":409,"reason":"AlreadyExists","message":"m","details":{"name":"x"}}"#,
                Fault::Exists,
                "another name",
            ),
            (
                r#"{"code":422,"reason":"Invalid","message":"spec.tags[0] is wrong"}"#,
                Fault::Invalid,
                "change what",
            ),
            (r#"{"code":503,"reason":"x","message":"etcd is away"}"#, Fault::Unreachable, "cluster is up"),
            (
                r#"{"code":401,"reason":"Unauthorized","message":"Unauthorized"}"#,
                Fault::Unauthenticated,
                "log in",
            ),
        ];
        for (json, fault, word) in cases {
            let error = api(json);
            assert_eq!(sort(&error), fault, "{json}");
            let failure = explain(&error, "list Snapshots in shop", "https://c:6443");
            assert!(failure.advice.as_deref().is_some_and(|a| a.contains(word)), "{failure:?}");
            assert!(failure.cause.starts_with("list Snapshots in shop: "), "{failure:?}");
            assert!(!failure.cause.contains("ApiError"), "{failure:?}");
        }
    }

    #[test]
    fn an_invalid_object_is_a_matter_of_usage() {
        let error = api(r#"{"code":422,"reason":"Invalid","message":"m"}"#);
        assert_eq!(explain(&error, "create a Backup", "s").code, exit::USAGE);
    }
}
