//! The facts of one claim, read out of the API's nested options. Decides nothing.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

/// How far a claim is on its way to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It has a volume.
    Bound,
    /// It has none yet, because its class waits for the first pod that uses it.
    WaitsForConsumer,
    /// It has none yet for another reason.
    Pending,
    /// Its volume is gone.
    Lost,
}

/// A claim and the class it names.
#[derive(Debug, Clone, Copy)]
pub struct ClaimView<'a> {
    claim: &'a PersistentVolumeClaim,
    class: Option<&'a StorageClass>,
}

/// Set by the scheduler when it has chosen the node of a waiting claim's first pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

impl<'a> ClaimView<'a> {
    /// The view of a claim; its class is looked for among `classes`.
    pub fn new(claim: &'a PersistentVolumeClaim, classes: &'a [StorageClass]) -> Self {
        let class = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.as_deref())
            .and_then(|name| classes.iter().find(|class| class.metadata.name.as_deref() == Some(name)));
        Self { claim, class }
    }

    /// The claim itself.
    pub fn object(&self) -> &'a PersistentVolumeClaim {
        self.claim
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.claim.name_any()
    }

    /// Whether it is on its way out.
    pub fn is_terminating(&self) -> bool {
        self.claim.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is a block device rather than a filesystem.
    pub fn is_block(&self) -> bool {
        self.volume_mode() == "Block"
    }

    /// `Filesystem` or `Block`.
    pub fn volume_mode(&self) -> &'a str {
        self.claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem")
    }

    /// Name of its storage class.
    pub fn storage_class(&self) -> Option<&'a str> {
        self.claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref())
    }

    /// Name of its volume, once it has one.
    pub fn volume_name(&self) -> Option<&'a str> {
        self.claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty())
    }

    /// Its access modes, as asked for.
    pub fn access_modes(&self) -> &'a [String] {
        self.claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
    }

    /// Whether only one pod at a time may mount it.
    pub fn is_one_pod_only(&self) -> bool {
        self.access_modes().iter().any(|mode| mode == "ReadWriteOncePod")
    }

    /// Whether pods on several nodes may mount it at once.
    pub fn is_shared(&self) -> bool {
        self.access_modes().iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
    }

    /// Its size: of the volume when there is one, else what was asked for.
    pub fn capacity(&self) -> Option<&'a Quantity> {
        let real = self.claim.status.as_ref().and_then(|status| status.capacity.as_ref());
        let asked = self
            .claim
            .spec
            .as_ref()
            .and_then(|spec| spec.resources.as_ref())
            .and_then(|resources| resources.requests.as_ref());
        real.and_then(|map| map.get("storage")).or_else(|| asked.and_then(|map| map.get("storage")))
    }

    /// How far it is on its way to a volume.
    pub fn binding(&self) -> Binding {
        match self.claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Bound") => Binding::Bound,
            Some("Lost") => Binding::Lost,
            _ if self.waits_for_consumer() => Binding::WaitsForConsumer,
            _ => Binding::Pending,
        }
    }

    fn waits_for_consumer(&self) -> bool {
        self.class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
            && self.volume_name().is_none()
            && !self.claim.annotations().contains_key(SELECTED_NODE)
    }
}

/// The number of bytes that a quantity such as `10Gi`, `1500M` or `1e9` stands for, rounded down. `None` for what
/// is no quantity. Source: the grammar in the Kubernetes API reference, "Quantity".
pub fn quantity_bytes(quantity: &Quantity) -> Option<u64> {
    let value = quantity_value(quantity)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked there: not negative, below 2^64; sizes beyond 2^53 lose their last digits, which no claim has"
    )]
    Some(value as u64)
}

/// The amount that a quantity stands for, in its unit (bytes, cores); none when the text is no quantity, or one that is
/// negative or beyond 64 bits.
pub fn quantity_value(quantity: &Quantity) -> Option<f64> {
    const SUFFIXES: [(&str, i32, i32); 14] = [
        ("Ki", 2, 10),
        ("Mi", 2, 20),
        ("Gi", 2, 30),
        ("Ti", 2, 40),
        ("Pi", 2, 50),
        ("Ei", 2, 60),
        ("n", 10, -9),
        ("u", 10, -6),
        ("m", 10, -3),
        ("k", 10, 3),
        ("M", 10, 6),
        ("G", 10, 9),
        ("T", 10, 12),
        ("P", 10, 15),
    ];
    let text = quantity.0.trim();
    let found = SUFFIXES.iter().find_map(|(suffix, base, power)| {
        text.strip_suffix(suffix).map(|number| (number, f64::from(*base).powi(*power)))
    });
    // A trailing E is the suffix "exa"; an E inside is an exponent, which the number parser understands.
    let (number, factor) = match (found, text.strip_suffix('E')) {
        (Some(found), _) => found,
        (None, Some(number)) => (number, 1e18),
        (None, None) => (text, 1.0),
    };
    let value = number.parse::<f64>().ok()? * factor;
    (0.0..1.8e19).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_means_them() {
        for (text, bytes) in [
            ("10Gi", Some(10 << 30)),
            ("1500M", Some(1_500_000_000)),
            ("1e9", Some(1_000_000_000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("0.5Gi", Some(1 << 29)),
            ("1073741824", Some(1 << 30)),
            ("1500m", Some(1)),
            ("ten", None),
            ("-1", None),
        ] {
            assert_eq!(quantity_bytes(&Quantity(text.into())), bytes, "{text}");
        }
    }

    #[test]
    fn a_claim_whose_first_pod_was_placed_no_longer_waits() {
        let classes: Vec<StorageClass> = serde_saphyr::from_str(
            "[{metadata: {name: local}, provisioner: x, volumeBindingMode: WaitForFirstConsumer}]",
        )
        .unwrap();
        let mut claim: PersistentVolumeClaim = serde_saphyr::from_str(
            "{metadata: {name: data}, spec: {storageClassName: local}, status: {phase: Pending}}",
        )
        .unwrap();
        assert_eq!(ClaimView::new(&claim, &classes).binding(), Binding::WaitsForConsumer);
        claim.annotations_mut().insert(SELECTED_NODE.into(), "n1".into());
        assert_eq!(ClaimView::new(&claim, &classes).binding(), Binding::Pending);
    }
}
