//! Who the runner of a volume is: the `runAs` rule of the security model. Does not build the pod.
//!
//! | asked | namespace allows root | consumer's uid | runner |
//! |---|---|---|---|
//! | Root | yes | any | root |
//! | Root | no | any | refused |
//! | Auto | yes | any | root |
//! | Auto, Workload | no | known, not 0 | that uid, its groups and its SELinux level |
//! | Auto, Workload | no | 0, unknown, no consumer | 65532, and the status says how to allow more |
//! | Workload | yes | known, not 0 | that uid |
//! | Workload | yes | 0 | root |

use holdfast_api::names::ANNOTATION_ALLOW_ROOT_RUNNER;
use holdfast_api::refs::{Identity, RunAs};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::consumers::volumes_of_claim;
use crate::jobs;

/// The uid and gid of a runner that copies nobody: the "nonroot" user of distroless images, and of ours.
pub const NOBODY: i64 = crate::jobs::build::UNPRIVILEGED;

/// What the runner does with the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

/// Who the runner is, and what that may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Who the runner is.
    pub identity: Identity,
    /// Why it may not be able to read or write everything, and how to allow it.
    pub limits: Option<String>,
}

/// Root was asked for in a namespace that does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "runAs is Root, but the namespace does not allow it: an administrator has to annotate the namespace with {}=true, \
     or runAs has to be Auto or Workload",
    ANNOTATION_ALLOW_ROOT_RUNNER
)]
pub struct RootNotAllowed;

/// Chooses who the runner of a claim is. `consumer` is a pod that uses the claim, or one made up from the template
/// of a workload that would.
pub fn choose_identity(
    asked: RunAs,
    access: Access,
    claim: &str,
    consumer: Option<&Pod>,
    root_allowed: bool,
) -> Result<Choice, RootNotAllowed> {
    let root = Choice { identity: root(), limits: None };
    match asked {
        RunAs::Root | RunAs::Auto if root_allowed => return Ok(root),
        RunAs::Root => return Err(RootNotAllowed),
        RunAs::Auto | RunAs::Workload => {}
    }
    let user = consumer.map(|pod| user_of(pod, claim));
    let why = match user {
        Some(user) if user.uid == Some(0) && root_allowed => return Ok(root),
        Some(User { uid: Some(uid), gid, groups, selinux_level }) if uid != 0 => {
            let identity = Identity {
                uid,
                gid: Some(gid.unwrap_or(uid)),
                supplemental_groups: groups,
                fs_group: None,
                selinux_level,
                mode: Some(RunAs::Workload),
            };
            return Ok(Choice { identity, limits: owners_note(access) });
        }
        Some(User { uid: Some(_), .. }) => "the pod that uses the claim runs as root",
        Some(_) => "the user of the pod that uses the claim is not known",
        None => "no pod uses the claim",
    };
    let groups = consumer.map(|pod| user_of(pod, claim).groups).unwrap_or_default();
    let identity = Identity {
        uid: NOBODY,
        gid: Some(NOBODY),
        supplemental_groups: groups,
        fs_group: None,
        selinux_level: consumer.and_then(|pod| user_of(pod, claim).selinux_level),
        mode: None,
    };
    let cost = match access {
        Access::Read => "files that are not readable by everyone cannot be saved",
        Access::Write => {
            "files of other users will belong to it, which makes the Restore PartiallyFailed, and directories of others \
             cannot be written to"
        }
    };
    let limits = format!(
        "{why}, so the runner has the uid {NOBODY}: {cost}. To allow it, annotate the namespace with \
         {ANNOTATION_ALLOW_ROOT_RUNNER}=true"
    );
    Ok(Choice { identity, limits: Some(limits) })
}

/// The identity for a volume that nobody has written to yet. Its root belongs to root, and a runner that is not root
/// could write nothing: it gets the runner's group. What uses the volume later and has an `fsGroup` of its own takes it
/// over.
pub fn for_fresh_volume(identity: Identity) -> Identity {
    let fs_group = identity.gid.filter(|gid| identity.uid != 0 && *gid != 0);
    Identity { fs_group, ..identity }
}

/// What to do when a runner of this identity could not read or write everything.
pub fn advice(identity: Option<&Identity>) -> String {
    match identity {
        Some(identity) if identity.uid != 0 => format!(
            "the runner had the uid {}; to let it be root, annotate the namespace with \
             {ANNOTATION_ALLOW_ROOT_RUNNER}=true (and leave runAs at Auto)",
            identity.uid
        ),
        Some(_) | None => "look at the files named in the status".to_owned(),
    }
}

/// The runner's identity in its pod.
pub fn runner_identity(identity: &Identity, access: Access) -> jobs::Identity {
    let Identity { uid, gid, supplemental_groups, fs_group, selinux_level, mode: _ } = identity.clone();
    match (uid, access) {
        (0, Access::Read) => jobs::Identity::RootReader { selinux_level },
        (0, Access::Write) => jobs::Identity::RootWriter { selinux_level },
        _ => jobs::Identity::Workload { uid, gid, supplemental_groups, fs_group, selinux_level },
    }
}

fn root() -> Identity {
    Identity {
        uid: 0,
        gid: Some(0),
        supplemental_groups: Vec::new(),
        fs_group: None,
        selinux_level: None,
        mode: Some(RunAs::Root),
    }
}

fn owners_note(access: Access) -> Option<String> {
    (access == Access::Write).then(|| {
        format!(
            "the runner has the uid of the workload, so files of other users will belong to it, and are counted; to give \
             them back to these, annotate the namespace with {ANNOTATION_ALLOW_ROOT_RUNNER}=true"
        )
    })
}

#[derive(Debug, Default)]
struct User {
    uid: Option<i64>,
    gid: Option<i64>,
    groups: Vec<i64>,
    selinux_level: Option<String>,
}

/// The user of the first container that mounts the claim. What the pod asks for counts before what the kubelet
/// reports, which is the container's first process only.
fn user_of(pod: &Pod, claim: &str) -> User {
    let volumes = volumes_of_claim(pod, claim);
    let Some(spec) = &pod.spec else { return User::default() };
    let Some(container) = spec.containers.iter().find(|container| mounts(container, &volumes)) else {
        return User { groups: pod_groups(spec), ..User::default() };
    };
    let pod_context = spec.security_context.as_ref();
    let context = container.security_context.as_ref();
    let reported = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .find(|status| status.name == container.name)
        .and_then(|status| status.user.as_ref())
        .and_then(|user| user.linux.as_ref());
    let mut groups = pod_groups(spec);
    groups.extend(reported.iter().flat_map(|user| user.supplemental_groups.iter().flatten()));
    groups.sort_unstable();
    groups.dedup();
    groups.truncate(64);
    let selinux = context
        .and_then(|context| context.se_linux_options.as_ref())
        .or_else(|| pod_context.and_then(|context| context.se_linux_options.as_ref()));
    User {
        uid: context
            .and_then(|context| context.run_as_user)
            .or_else(|| pod_context.and_then(|context| context.run_as_user))
            .or_else(|| reported.map(|user| user.uid)),
        gid: context
            .and_then(|context| context.run_as_group)
            .or_else(|| pod_context.and_then(|context| context.run_as_group))
            .or_else(|| reported.map(|user| user.gid)),
        groups,
        selinux_level: selinux.and_then(|options| options.level.clone()),
    }
}

/// The groups of the whole pod. Its `fsGroup` counts as a plain group of the runner: as an `fsGroup` it would make
/// the kubelet change the owner of the application's files.
fn pod_groups(spec: &PodSpec) -> Vec<i64> {
    let Some(context) = &spec.security_context else { return Vec::new() };
    let mut groups: Vec<i64> =
        context.supplemental_groups.iter().flatten().copied().chain(context.fs_group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn mounts(container: &Container, volumes: &[&str]) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| volumes.contains(&mount.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(yaml: &str) -> Pod {
        serde_saphyr::from_str(yaml).unwrap()
    }

    const AS_999: &str = r"
metadata: {name: db-0}
spec:
  securityContext: {fsGroup: 999, supplementalGroups: [3000], seLinuxOptions: {level: 's0:c1,c2'}}
  containers:
    - {name: sidecar, securityContext: {runAsUser: 7}}
    - name: db
      securityContext: {runAsUser: 999, runAsGroup: 998}
      volumeMounts: [{name: data, mountPath: /x}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
";

    #[test]
    fn workload_is_copied_from_the_container_that_mounts_the_claim() {
        let choice = choose_identity(RunAs::Auto, Access::Read, "data", Some(&pod(AS_999)), false).unwrap();
        assert_eq!(choice.identity.uid, 999);
        assert_eq!(choice.identity.gid, Some(998));
        assert_eq!(choice.identity.supplemental_groups, [999, 3000]);
        assert_eq!(choice.identity.selinux_level.as_deref(), Some("s0:c1,c2"));
        assert_eq!(choice.limits, None);
    }

    #[test]
    fn the_uid_that_the_kubelet_reports_serves_where_the_pod_asks_for_none() {
        let yaml = r"
metadata: {name: web}
spec:
  containers: [{name: web, volumeMounts: [{name: d, mountPath: /d}]}]
  volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]
status:
  containerStatuses:
    - {name: web, image: x, imageID: x, ready: true, restartCount: 0, user: {linux: {uid: 33, gid: 34, supplementalGroups: [34]}}}
";
        let choice = choose_identity(RunAs::Workload, Access::Read, "data", Some(&pod(yaml)), false).unwrap();
        assert_eq!((choice.identity.uid, choice.identity.gid), (33, Some(34)));
    }

    #[test]
    fn root_needs_the_annotation() {
        assert_eq!(choose_identity(RunAs::Root, Access::Read, "data", None, false), Err(RootNotAllowed));
        let auto = choose_identity(RunAs::Auto, Access::Write, "data", Some(&pod(AS_999)), true).unwrap();
        assert_eq!(auto.identity.mode, Some(RunAs::Root));
        assert_eq!(auto.identity.uid, 0);
        let workload =
            choose_identity(RunAs::Workload, Access::Write, "data", Some(&pod(AS_999)), true).unwrap();
        assert_eq!(workload.identity.uid, 999);
    }

    #[test]
    fn only_a_fresh_volume_is_given_to_the_runners_group_and_only_where_it_is_not_root() {
        let known = choose_identity(RunAs::Auto, Access::Write, "data", Some(&pod(AS_999)), false).unwrap();
        assert_eq!(known.identity.fs_group, None);
        assert_eq!(for_fresh_volume(known.identity).fs_group, Some(998));
        assert_eq!(for_fresh_volume(root()).fs_group, None);
        let nobody = choose_identity(RunAs::Auto, Access::Write, "data", None, false).unwrap();
        assert_eq!(for_fresh_volume(nobody.identity).fs_group, Some(NOBODY));
    }

    #[test]
    fn a_consumer_that_runs_as_root_is_not_copied_without_leave() {
        let as_root = AS_999.replace("runAsUser: 999", "runAsUser: 0");
        let choice = choose_identity(RunAs::Auto, Access::Read, "data", Some(&pod(&as_root)), false).unwrap();
        assert_eq!(choice.identity.uid, NOBODY);
        assert!(choice.limits.unwrap().contains("allow-root-runner"));
    }
}
