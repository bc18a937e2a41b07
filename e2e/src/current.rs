//! The cluster of somebody's kubeconfig instead of the test bed's: what `hack/on-current` found, asked about and
//! installed, handed on in the environment; and the prefix of a bucket, reached with signed requests of `curl`.

use std::path::PathBuf;

use holdfast_testbed::{Signer, encode};

use crate::holdfast::Holdfast;
use crate::kubectl::{Failure, Kubectl, Result};

/// Label of every namespace that is made on such a cluster; the value is the random suffix of this run. `hack/on-current`
/// finds by it what is to be removed.
const LABEL: &str = "holdfast-demo";

/// A cluster that was there before, and a prefix in a bucket that was there before.
#[derive(Debug, Clone)]
pub struct Current {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// Name of the context in the user's kubeconfig.
    pub context: String,
    /// Random part of all names of this run.
    pub suffix: String,
    /// Namespace of the operator.
    pub operator_namespace: String,
    /// The part of the bucket that this run has for itself.
    pub place: Place,
}

/// Everything in a bucket below one prefix.
#[derive(Debug, Clone)]
pub struct Place {
    /// URL of the object store.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Prefix without a slash at its end. Never empty: what is below it is removed in the end.
    pub prefix: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Certificates to trust besides the well-known ones.
    pub ca_path: Option<PathBuf>,
}

/// An object of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// A setting that `hack/on-current` hands on.
fn setting(name: &str) -> Result<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
        Failure(format!(
            "{name} is not set: use `make demo CLUSTER=current` or `make stories CLUSTER=current`"
        ))
    })
}

impl Current {
    /// Whether this process is to use such a cluster.
    pub fn wanted() -> bool {
        std::env::var_os("HOLDFAST_E2E_SUFFIX").is_some()
    }

    /// The cluster that `hack/on-current` chose.
    pub fn from_env() -> Result<Self> {
        // Which `workload` deploys.
        setting("TOOLS_IMAGE").and_then(|_| setting("POSTGRES_IMAGE"))?;
        Ok(Self {
            kubectl: setting("HOLDFAST_E2E_KUBECTL")?.into(),
            kubeconfig: setting("KUBECONFIG")?.into(),
            context: setting("HOLDFAST_E2E_CONTEXT")?,
            suffix: setting("HOLDFAST_E2E_SUFFIX")?,
            operator_namespace: setting("HOLDFAST_E2E_OPERATOR_NAMESPACE")?,
            place: Place::from_env()?,
        })
    }

    /// `holdfast` of this working tree as the kubeconfig's user.
    pub fn holdfast(&self, program: PathBuf) -> Holdfast {
        Holdfast::new(program, self.kubeconfig.clone())
    }

    /// `kubectl` as the kubeconfig's user.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.kubectl.clone(), self.kubeconfig.clone())
    }

    /// Makes a namespace that is found again by its label, also when this process ends the moment after.
    pub fn make_namespace(&self, name: &str) -> Result<()> {
        let Self { suffix, .. } = self;
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{LABEL}: '{suffix}'}}}}\n"
        );
        self.kubectl().run_with(&["create", "-f", "-"], yaml.as_bytes()).map(drop)
    }
}

impl Place {
    /// The place that the environment names.
    pub fn from_env() -> Result<Self> {
        let ca = std::env::var("S3_CA_FILE").unwrap_or_default();
        Ok(Self {
            endpoint: setting("S3_ENDPOINT")?.trim_end_matches('/').to_owned(),
            region: setting("S3_REGION")?,
            bucket: setting("S3_BUCKET")?,
            prefix: setting("HOLDFAST_E2E_PREFIX")?.trim_matches('/').to_owned(),
            access_key: setting("AWS_ACCESS_KEY_ID")?,
            secret_key: setting("AWS_SECRET_ACCESS_KEY")?,
            ca_path: (!ca.is_empty()).then(|| ca.into()),
        })
    }

    /// All objects below the prefix.
    pub fn objects(&self) -> Result<Vec<Object>> {
        self.objects_below(&self.prefix)
    }

    /// All objects below another prefix of the bucket, which has no slash at its end either.
    pub fn objects_below(&self, prefix: &str) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        let mut token = None;
        loop {
            // Sorted by name, as the signature wants them.
            let mut query =
                token.map_or(String::new(), |t: String| format!("continuation-token={}&", encode_value(&t)));
            query.push_str("list-type=2&prefix=");
            query.push_str(&encode_value(&format!("{prefix}/")));
            let page = self.request("GET", &format!("{}?{query}", self.bucket))?;
            objects.extend(elements(&page, "Contents").filter_map(|one| {
                let key = elements(one, "Key").next()?;
                let size =
                    elements(one, "Size").next().and_then(|s| s.trim().parse().ok()).unwrap_or_default();
                Some(Object { key: unescape(key), size })
            }));
            token = elements(&page, "NextContinuationToken").next().map(unescape).filter(|t| !t.is_empty());
            if token.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Removes all objects below the prefix; how many there were. An error when some are there after that.
    pub fn remove(&self) -> Result<usize> {
        let objects = self.objects()?;
        for object in &objects {
            self.request("DELETE", &format!("{}/{}", self.bucket, encode(&object.key)))?;
        }
        match self.objects()?.as_slice() {
            [] => Ok(objects.len()),
            left => {
                Err(Failure(format!("{} objects are left below {}/{}", left.len(), self.bucket, self.prefix)))
            }
        }
    }

    /// Whether the bucket keeps old versions of what is removed; `None` when the server does not say.
    pub fn versioned(&self) -> Option<bool> {
        let answer = self.request("GET", &format!("{}?versioning=", self.bucket)).ok()?;
        let status = elements(&answer, "Status").next().unwrap_or_default().trim().to_owned();
        Some(!status.is_empty())
    }

    /// A signed request; what was answered.
    fn request(&self, method: &str, path_and_query: &str) -> Result<String> {
        let Self { endpoint, region, access_key, secret_key, ca_path, .. } = self;
        let signer = Signer { endpoint, region, access_key, secret_key, ca_file: ca_path.as_deref() };
        signer
            .request(method, path_and_query, &[])
            .map_err(|e| Failure(format!("{method} {endpoint}/{path_and_query}: {e}")))
    }
}

/// Percent-encodes a value of a query, as the signature wants it.
fn encode_value(text: &str) -> String {
    encode(text).replace('/', "%2F")
}

/// What stands in the elements of this name. They do not nest in an answer of S3.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let end = format!("</{name}>");
    xml.split(&format!("<{name}>"))
        .skip(1)
        .filter_map(move |rest| rest.split_once(&end))
        .map(|(text, _)| text)
        .collect::<Vec<_>>()
        .into_iter()
}

/// The text behind XML's five names.
fn unescape(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (name, sign)| text.replace(name, sign))
}

#[cfg(test)]
mod tests {
    use super::{elements, encode_value, unescape};

    #[test]
    fn a_listing_is_read() {
        let page = "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>p/a&amp;amp;b</Key><Size>7</Size></Contents><Contents><Size>9</Size><Key>p/locks/c</Key></Contents><NextContinuationToken>x+/=</NextContinuationToken></ListBucketResult>";
        let keys: Vec<_> =
            elements(page, "Contents").filter_map(|one| elements(one, "Key").next()).map(unescape).collect();
        assert_eq!(keys, ["p/a&amp;b", "p/locks/c"]);
        let token = elements(page, "NextContinuationToken").next().map(encode_value);
        assert_eq!(token.as_deref(), Some("x%2B%2F%3D"));
        assert_eq!(elements(page, "Status").next(), None);
    }
}
