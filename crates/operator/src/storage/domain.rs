//! Whether a store is part of the cluster that it is to outlive. Pure; what is looked up is in `dereference`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;

/// Most addresses of a name that are looked at.
const MAX_ADDRESSES: usize = 8;

/// Where a store is, seen from the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Domain {
    /// Not in this cluster, as far as addresses tell.
    Elsewhere,
    /// This part of the cluster.
    Here(String),
    /// Its name is not known here.
    Unknown,
}

/// Host and port of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// A name in lower case, or an address without brackets.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub(super) fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let usual = if scheme.eq_ignore_ascii_case("http") { 80 } else { 443 };
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => usual,
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        (!host.is_empty()).then_some(Self { host, port })
    }

    /// The Services that the name means inside a cluster, with their namespaces: `name`, `name.namespace`,
    /// `name.namespace.svc` and longer. `namespace` is that of the pod that asks.
    pub(super) fn service_names(&self, namespace: &str) -> Vec<(String, String)> {
        if self.host.parse::<IpAddr>().is_ok() {
            return Vec::new();
        }
        match self.host.split('.').collect::<Vec<_>>().as_slice() {
            [name] => vec![((*name).to_owned(), namespace.to_owned())],
            // A pod behind a headless Service: `pod.name.namespace.svc`.
            [_, name, namespace, "svc", ..] => vec![((*name).to_owned(), (*namespace).to_owned())],
            [name, namespace] | [name, namespace, "svc", ..] => {
                vec![((*name).to_owned(), (*namespace).to_owned())]
            }
            _ => Vec::new(),
        }
    }
}

/// The first addresses, each once.
pub(super) fn distinct(addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    addresses.take(64).collect::<BTreeSet<_>>().into_iter().take(MAX_ADDRESSES).collect()
}

pub(super) fn is_service(service: &Service) -> Domain {
    // One that only gives another name to something outside is no part of the cluster by itself.
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Domain::Elsewhere;
    }
    Domain::Here(format!("Service {}/{}", service.namespace().unwrap_or_default(), service.name_any()))
}

pub(super) fn is_pod(pod: &Pod) -> Domain {
    Domain::Here(format!("pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
}

/// Whether an endpoint is what a load balancer of the cluster answers to, or a node.
pub(super) fn behind(
    host: &str,
    addresses: &BTreeSet<IpAddr>,
    balanced: &[Service],
    nodes: &[Node],
) -> Domain {
    let is_ours = |text: &str| text.parse().is_ok_and(|address: IpAddr| addresses.contains(&address));
    for service in balanced {
        let ingress = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref())
            .and_then(|balancer| balancer.ingress.as_deref())
            .unwrap_or_default();
        let answers = ingress.iter().any(|point| {
            point.ip.as_deref().is_some_and(is_ours)
                || point.hostname.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host))
        });
        if answers {
            return is_service(service);
        }
    }
    for node in nodes {
        let known = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        if known.iter().any(|address| is_ours(&address.address) || address.address.eq_ignore_ascii_case(host))
        {
            return Domain::Here(format!("node {}", node.name_any()));
        }
    }
    Domain::Elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_saphyr::from_str(text).unwrap()
    }

    fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
        distinct(all.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn host_and_port_are_read_out_of_any_endpoint() {
        for (url, host, port) in [
            ("https://s3.example", "s3.example", 443),
            ("http://MinIO.storage:9000/", "minio.storage", 9000),
            ("https://s3.example.:8443", "s3.example", 8443),
            ("http://10.0.0.1", "10.0.0.1", 80),
            ("https://[fd00::1]:9000", "fd00::1", 9000),
            ("https://[fd00::1]", "fd00::1", 443),
        ] {
            assert_eq!(Endpoint::of(url), Some(Endpoint { host: host.into(), port }), "{url}");
        }
        assert_eq!(Endpoint::of("https://:1"), None);
        assert_eq!(Endpoint::of("https://a:b"), None);
    }

    #[test]
    fn names_of_services_are_understood_in_all_their_lengths() {
        let names = |host: &str| Endpoint { host: host.into(), port: 1 }.service_names("backup");
        for host in ["minio.storage", "minio.storage.svc", "minio.storage.svc.cluster.local"] {
            assert_eq!(names(host), [("minio".to_owned(), "storage".to_owned())], "{host}");
        }
        assert_eq!(names("minio"), [("minio".to_owned(), "backup".to_owned())]);
        assert_eq!(
            names("pod-0.minio.storage.svc.cluster.local"),
            [("minio".to_owned(), "storage".to_owned())]
        );
        for host in ["s3.eu-central-1.amazonaws.com", "10.96.0.7", "fd00::1"] {
            assert!(names(host).is_empty(), "{host}");
        }
    }

    #[test]
    fn balancers_and_nodes_are_found_by_address_and_by_name() {
        let balanced: Vec<Service> = yaml(
            "[{metadata: {name: minio, namespace: storage}, status: {loadBalancer: {ingress: [{ip: 203.0.113.7}, {hostname: lb.example}]}}}]",
        );
        let nodes: Vec<Node> =
            yaml("[{metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 10.0.0.11}]}}]");
        let judge = |host: &str, all: &[&str]| behind(host, &addresses(all), &balanced, &nodes);
        assert_eq!(judge("s3.example", &["203.0.113.7"]), Domain::Here("Service storage/minio".into()));
        assert_eq!(judge("lb.example", &["198.51.100.1"]), Domain::Here("Service storage/minio".into()));
        assert_eq!(judge("10.0.0.11", &["10.0.0.11"]), Domain::Here("node n1".into()));
        assert_eq!(judge("s3.example", &["198.51.100.1"]), Domain::Elsewhere);
    }

    #[test]
    fn a_service_that_only_names_something_outside_is_outside() {
        let inside: Service = yaml("{metadata: {name: s, namespace: n}, spec: {type: ClusterIP}}");
        assert_eq!(is_service(&inside), Domain::Here("Service n/s".into()));
        let outside: Service = yaml("{metadata: {name: s, namespace: n}, spec: {type: ExternalName}}");
        assert_eq!(is_service(&outside), Domain::Elsewhere);
    }

    #[test]
    fn a_name_with_very_many_addresses_is_looked_at_in_part() {
        let many = (0..=255).map(|n| IpAddr::from([10, 0, 0, n]));
        assert_eq!(distinct(many).len(), MAX_ADDRESSES);
    }
}
