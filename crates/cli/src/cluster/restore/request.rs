//! From arguments and the Snapshots that there are to the spec of a Restore. Pure.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_api::refs::{LocalRef, ObjectRef, PasswordSecretRef, StorageRef};
use holdfast_api::restore::{
    FromRepository, MissingClaims, NewClaim, Quiesce, RestoreFrom, RestorePaths, RestoreTo, RestoreVolume,
};
use holdfast_api::{RestoreSpec, Snapshot, names as api_names};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::super::names;
use super::super::snapshots::{find, holds};
use super::args::{Args, time};
use super::component;
use crate::failure::Result;
use crate::text::local_time;

/// One volume that is asked for.
#[derive(Debug)]
struct Wish {
    claim: String,
    to: RestoreTo,
    /// Whether it goes elsewhere than back.
    away: bool,
}

/// The spec that is asked for. `snapshots` are those of the source's namespace, the newest first.
pub(super) fn spec(
    args: &Args,
    source: &str,
    target: &str,
    snapshots: &[Snapshot],
    now: Timestamp,
) -> Result<RestoreSpec> {
    let wishes = wishes(args)?;
    let at = args.at.as_ref().map(|text| time(text, now, &TimeZone::system())).transpose()?;
    let (from, held) = if let Some(storage) = &args.from_storage {
        (from_storage(args, storage, at, &wishes)?, None)
    } else {
        let snapshot = choose(args, source, snapshots, at, &wishes)?;
        let reference = ObjectRef::seen_from(target, source, snapshot.name_any());
        let from = RestoreFrom { snapshot_ref: Some(reference), ..RestoreFrom::default() };
        (from, Some(held(snapshot, &wishes)?))
    };
    let paths = RestorePaths { include: args.paths.clone(), exclude: args.exclude.clone() };
    let paths = (paths != RestorePaths::default()).then_some(paths);
    let by_file = paths.is_some() || args.delete_extra;
    let volume = |claim: &str, to: RestoreTo| RestoreVolume {
        to,
        paths: paths.clone(),
        delete_extra: args.delete_extra,
        ..RestoreVolume::back_to(component(claim), claim)
    };
    let volumes = if wishes.is_empty() && by_file {
        let claims = held.iter().flatten().filter_map(|name| api_names::claim_of_component(name));
        claims.map(|claim| volume(claim, back(claim))).collect()
    } else {
        wishes
            .iter()
            .filter(|wish| wish.away || by_file)
            .map(|wish| volume(&wish.claim, wish.to.clone()))
            .collect()
    };
    Ok(RestoreSpec {
        from,
        components: wishes.iter().map(|wish| component(&wish.claim)).collect(),
        volumes,
        missing_claims: if args.create_missing { MissingClaims::Create } else { MissingClaims::Refuse },
        quiesce: if args.no_quiesce { Quiesce::None } else { Quiesce::Auto },
        run_as: args.run_as,
        undo: !args.no_undo,
        ..RestoreSpec::default()
    })
}

fn back(claim: &str) -> RestoreTo {
    RestoreTo { existing_claim: Some(LocalRef::new(claim)), new_claim: None }
}

fn wishes(args: &Args) -> Result<Vec<Wish>> {
    let mut wishes = Vec::new();
    for text in &args.claims {
        let (claim, target) = text.split_once('=').unwrap_or((text, text));
        named("--claim", text, &[claim, target])?;
        wishes.push(Wish { claim: claim.to_owned(), to: back(target), away: claim != target });
    }
    for text in &args.new_claims {
        let (claim, new) = text.split_once('=').unwrap_or((text, ""));
        named("--new-claim", text, &[claim, new])?;
        let new = NewClaim {
            name: new.to_owned(),
            storage_class_name: args.storage_class.clone(),
            capacity: args.size.clone().map(Quantity),
            access_modes: args.access_mode.clone(),
            ..NewClaim::default()
        };
        let to = RestoreTo { existing_claim: None, new_claim: Some(new) };
        wishes.push(Wish { claim: claim.to_owned(), to, away: true });
    }
    for (i, wish) in wishes.iter().enumerate() {
        if wishes.iter().take(i).any(|earlier| earlier.claim == wish.claim) {
            return Err(names::usage(
                format!("claim {} is named twice", wish.claim),
                "one Restore puts a volume into one claim; make two for two",
            ));
        }
    }
    Ok(wishes)
}

fn named(flag: &str, text: &str, parts: &[&str]) -> Result<()> {
    if parts.iter().all(|part| !part.is_empty() && !part.contains(['/', '='])) {
        return Ok(());
    }
    Err(names::usage(
        format!("{flag} {text}: this names no claims"),
        if flag == "--claim" { "write CLAIM or CLAIM=TARGET" } else { "write CLAIM=NAME-OF-THE-NEW-ONE" },
    ))
}

/// The Snapshot that is meant.
fn choose<'a>(
    args: &Args,
    namespace: &str,
    snapshots: &'a [Snapshot],
    at: Option<Timestamp>,
    wishes: &[Wish],
) -> Result<&'a Snapshot> {
    if let Some(typed) = &args.snapshot {
        return find(typed, snapshots, namespace);
    }
    // What a Restore saved before it overwrote it is what somebody wanted to be rid of: it is there for `holdfast undo`.
    let fits = |s: &&Snapshot| {
        s.spec.undo_of.is_none()
            && args.repository.as_ref().is_none_or(|name| s.spec.repository_ref.name == *name)
            && wishes.iter().all(|wish| holds(s, &wish.claim))
            && at.is_none_or(|at| s.spec.time.0 <= at)
    };
    let mut candidates = snapshots.iter().filter(fits);
    if args.repository.is_none() {
        of_one_origin(candidates.clone())?;
    }
    let components: Vec<String> = wishes.iter().map(|wish| component(&wish.claim)).collect();
    // What is not asked for may have gaps.
    let is_whole = |s: &&Snapshot| match components.as_slice() {
        [] => s.is_whole(None),
        asked => asked.iter().all(|name| s.is_whole(Some(name))),
    };
    let is_damaged = |s: &&Snapshot| match components.as_slice() {
        [] => s.is_damaged_whole(None),
        asked => asked.iter().any(|name| s.is_damaged_whole(Some(name))),
    };
    if let Some(found) = candidates.clone().find(|s| is_whole(s) || is_damaged(s)) {
        if !is_damaged(&found) {
            return Ok(found);
        }
        let instead = match candidates.find(is_whole) {
            Some(older) => format!(
                "the newest one that can be read is {} of {}: name it if that is what you want",
                older.name_any(),
                local_time(older.spec.time.0)
            ),
            None => "no complete one can be read; `holdfast snapshots` lists what there is".to_owned(),
        };
        return Err(names::usage(
            format!(
                "Snapshot {} of {}, which would be the one, cannot be read any more: it is damaged in the repository",
                found.name_any(),
                local_time(found.spec.time.0)
            ),
            instead,
        ));
    }
    let claims = wishes.iter().map(|wish| wish.claim.as_str()).collect::<Vec<_>>().join(", ");
    let of = if claims.is_empty() { String::new() } else { format!(" with {claims}") };
    let until = at.map(|at| format!(" from {} or before", local_time(at))).unwrap_or_default();
    let cause = format!("there is no complete Snapshot{of}{until} in namespace {namespace}");
    Err(match candidates.next() {
        Some(partial) => names::usage(
            cause,
            format!(
                "the newest one that is not complete is {}: name it to restore what it has",
                partial.name_any()
            ),
        ),
        None => names::usage(cause, format!("`holdfast snapshots -n {namespace}` lists all")),
    })
}

/// Refuses to choose among Snapshots that were made in several clusters or namespaces: some of them are mirrored from
/// elsewhere, and the newest one may be another environment's data.
fn of_one_origin<'a>(candidates: impl Iterator<Item = &'a Snapshot>) -> Result<()> {
    let mut origins: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for snapshot in candidates {
        let origin = (snapshot.spec.cluster.as_str(), snapshot.spec.namespace.as_str());
        origins.entry(origin).or_default().insert(&snapshot.spec.repository_ref.name);
    }
    if origins.len() < 2 {
        return Ok(());
    }
    let listed: Vec<String> = origins
        .iter()
        .map(|((cluster, namespace), repositories)| {
            let names = repositories.iter().copied().collect::<Vec<_>>().join(", ");
            format!("cluster {cluster}, namespace {namespace} (--repository {names})")
        })
        .collect();
    Err(names::usage(
        "the Snapshots that could be meant were made in several places",
        format!("name the Repository, or a Snapshot: {}", listed.join("; ")),
    ))
}

/// The components that the Snapshot has; fails when one that is asked for is not among them.
fn held(snapshot: &Snapshot, wishes: &[Wish]) -> Result<Vec<String>> {
    let components: Vec<String> =
        snapshot.status.iter().flat_map(|s| &s.components).map(|c| c.name.clone()).collect();
    let claims: Vec<String> =
        components.iter().filter_map(|c| api_names::claim_of_component(c)).map(str::to_owned).collect();
    if let Some(absent) = wishes.iter().find(|wish| !claims.contains(&wish.claim)) {
        return Err(names::usage(
            format!("Snapshot {} does not hold claim {}", snapshot.name_any(), absent.claim),
            names::advice(
                &absent.claim,
                &claims,
                &format!("`holdfast snapshots --claim {}` lists those that do", absent.claim),
            ),
        ));
    }
    Ok(components)
}

fn from_storage(args: &Args, storage: &str, at: Option<Timestamp>, wishes: &[Wish]) -> Result<RestoreFrom> {
    let (namespace, name) = names::placed(storage)?;
    let password_secret_ref = args.password_secret.as_ref().map(|text| {
        let (name, key) = text.split_once(':').unwrap_or((text, "password"));
        PasswordSecretRef { name: name.to_owned(), key: key.to_owned() }
    });
    Ok(RestoreFrom {
        repository: Some(FromRepository {
            storage_ref: StorageRef { name, namespace },
            directory: args.directory.clone(),
            password_secret_ref,
            snapshot_id: args.snapshot_id.clone(),
            time: at.map(Time),
            // With one claim, only recovery points that hold it are looked at.
            claim: match wishes {
                [one] => Some(one.claim.clone()),
                _ => None,
            },
        }),
        ..RestoreFrom::default()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::super::output::to_yaml;
    use super::*;
    use crate::exit;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn snapshot(name: &str, time: &str, complete: bool, claims: &[&str]) -> Snapshot {
        let components: Vec<String> =
            claims.iter().map(|c| format!("{{name: volume/{c}, snapshotId: x}}")).collect();
        serde_saphyr::from_str(&format!(
            "
apiVersion: holdfast.dev/v1alpha1
kind: Snapshot
metadata: {{name: {name}, namespace: shop}}
spec: {{repositoryRef: {{name: offsite}}, time: {time}, backup: {{name: b-{name}, uid: u}}, cluster: prod, namespace: shop}}
status: {{complete: {complete}, components: [{}]}}
",
            components.join(", ")
        ))
        .unwrap()
    }

    fn there() -> Vec<Snapshot> {
        vec![
            snapshot("new", "2026-11-20T02:00:00Z", false, &["data"]),
            snapshot("middle", "2026-11-19T02:00:00Z", true, &["data", "logs"]),
            snapshot("old", "2026-11-18T02:00:00Z", true, &["data", "mail"]),
        ]
    }

    fn try_spec(line: &str) -> Result<RestoreSpec> {
        let args = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().args;
        args.check()?;
        let target = args.to_namespace.clone().unwrap_or_else(|| "shop".to_owned());
        spec(&args, "shop", &target, &there(), "2026-11-20T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn gaps_of_a_claim_that_is_not_asked_for_do_not_matter() {
        let mut all = there();
        let status = all[0].status.as_mut().unwrap();
        status.missing = Some(0);
        status.components.push(status.components[0].clone());
        status.components[0].unreadable = Some(0);
        status.components[1].name = "volume/logs".into();
        status.components[1].unreadable = Some(2);
        let choose = |line: &str, all: &[Snapshot]| {
            let args =
                Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().args;
            let wishes = wishes(&args).unwrap();
            choose(&args, "shop", all, None, &wishes).map(ResourceExt::name_any).unwrap()
        };
        assert_eq!(choose("--latest", &all), "middle");
        assert_eq!(choose("--latest --claim data", &all), "new");
        assert_eq!(choose("--latest --claim logs", &all), "middle");
        assert_eq!(choose("--latest --claim data --claim logs", &all), "middle");
        all[0].status.as_mut().unwrap().missing = Some(1);
        assert_eq!(choose("--latest --claim data", &all), "middle", "a run that lost a component");
    }

    #[test]
    fn a_damaged_snapshot_is_not_passed_over_in_silence() {
        let mut all = there();
        let status = all[1].status.as_mut().unwrap();
        (status.complete, status.missing) = (Some(false), Some(0));
        status.components[0].damaged = true;
        for component in &mut status.components {
            component.unreadable = Some(0);
        }
        let choose = |line: &str| {
            let args =
                Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().args;
            let wishes = wishes(&args).unwrap();
            choose(&args, "shop", &all, None, &wishes)
                .map(ResourceExt::name_any)
                .map_err(|e| format!("{e:?}"))
        };
        for line in ["--latest", "--latest --claim data"] {
            let refused = choose(line).unwrap_err();
            assert!(refused.contains("Snapshot middle") && refused.contains("is old of"), "{refused}");
        }
        assert_eq!(choose("--latest --claim logs").unwrap(), "middle", "that one can be read");
        assert_eq!(
            choose("middle").unwrap(),
            "middle",
            "it was named: the operator says what cannot be done"
        );
    }

    #[test]
    fn a_safety_snapshot_and_another_environments_data_are_not_the_newest() {
        let choose = |line: &str, all: &[Snapshot]| {
            let args =
                Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().args;
            choose(&args, "shop", all, None, &[]).map(ResourceExt::name_any).map_err(|e| format!("{e:?}"))
        };
        let mut all = there();
        all[0] = snapshot("safety", "2026-11-20T02:00:00Z", true, &["data"]);
        all[0].spec.undo_of = Some("r".into());
        assert_eq!(choose("--latest", &all).unwrap(), "middle");
        assert_eq!(choose("safety", &all).unwrap(), "safety", "named, it is taken");

        let mut theirs = snapshot("theirs", "2026-11-20T03:00:00Z", true, &["data"]);
        theirs.spec.cluster = "staging".into();
        theirs.spec.repository_ref.name = "mirrored".into();
        all.insert(0, theirs);
        let refused = choose("--latest", &all).unwrap_err();
        assert!(
            refused.contains("--repository mirrored") && refused.contains("--repository offsite"),
            "{refused}"
        );
        assert_eq!(choose("--latest --repository offsite", &all).unwrap(), "middle");
        assert_eq!(choose("--latest --repository mirrored", &all).unwrap(), "theirs");
    }

    /// The fields that differ from the default.
    fn built(line: &str) -> String {
        let spec = try_spec(line).unwrap();
        let all = serde_json::to_value(&spec).unwrap();
        let default =
            serde_json::to_value(RestoreSpec { from: spec.from, ..RestoreSpec::default() }).unwrap();
        let kept: serde_json::Map<_, _> = all
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, value)| *key == "from" || default.get(key.as_str()) != Some(value))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        to_yaml(&kept).unwrap()
    }

    fn refused(line: &str) -> String {
        let failure = try_spec(line).unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
        format!("{}: {}", failure.cause, failure.advice.unwrap())
    }

    #[test]
    fn what_to_restore_from_is_chosen_as_it_is_said() {
        let from = |name: &str| format!("from:\n  snapshotRef:\n    name: {name}");
        assert_eq!(built("new"), from("new"));
        assert_eq!(built("b-old"), from("old"));
        assert_eq!(built("--latest"), from("middle"));
        assert_eq!(built("--at 2026-11-18T12:00:00Z"), from("old"));
        assert_eq!(built("--latest --claim mail"), format!("components:\n- volume/mail\n{}", from("old")));
        assert_eq!(
            built("old --to-namespace other"),
            "from:\n  snapshotRef:\n    name: old\n    namespace: shop"
        );
    }

    #[test]
    fn targets_paths_and_new_claims_become_volumes() {
        assert_eq!(
            built(
                "old --claim data=copy --path /etc --exclude *.tmp --delete-extra --new-claim mail=mail2 --storage-class fast --size 1Gi --access-mode readwriteonce"
            ),
            "components:
- volume/data
- volume/mail
from:
  snapshotRef:
    name: old
volumes:
- component: volume/data
  deleteExtra: true
  paths:
    exclude:
    - \"*.tmp\"
    include:
    - /etc
  to:
    existingClaim:
      name: copy
  verify: true
- component: volume/mail
  deleteExtra: true
  paths:
    exclude:
    - \"*.tmp\"
    include:
    - /etc
  to:
    newClaim:
      accessModes:
      - ReadWriteOnce
      capacity: 1Gi
      name: mail2
      onFailure: Keep
      storageClassName: fast
  verify: true"
        );
        let all = try_spec("middle --delete-extra").unwrap();
        assert_eq!(
            all.volumes.iter().map(|v| v.component.as_str()).collect::<Vec<_>>(),
            ["volume/data", "volume/logs"]
        );
        assert!(all.volumes.iter().all(|v| v.delete_extra));
        assert!(all.undo && !try_spec("middle --no-undo").unwrap().undo);
    }

    #[test]
    fn a_bucket_and_a_password_are_enough() {
        assert_eq!(
            built(
                "--from-storage sys/offsite --directory prod/shop/main-x --password-secret recovery:key --at 2026-11-18T12:00:00Z --claim data --create-missing"
            ),
            "components:
- volume/data
from:
  repository:
    claim: data
    directory: prod/shop/main-x
    passwordSecretRef:
      key: key
      name: recovery
    storageRef:
      name: offsite
      namespace: sys
    time: \"2026-11-18T12:00:00Z\"
missingClaims: Create"
        );
        assert!(built("--from-storage offsite --password-secret recovery").contains("key: password"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        assert!(refused("").contains("--latest"));
        assert!(refused("--latest --claim nothing").contains("holdfast snapshots"));
        assert!(refused("--at 2026-11-17T00:00:00Z").contains("no complete Snapshot from"));
        assert!(refused("new --claim dat").contains("did you mean data?"));
        assert!(refused("newer").contains("did you mean new?"));
        assert!(refused("old --claim data=a --new-claim data=b").contains("named twice"));
        assert!(refused("old --new-claim data").contains("CLAIM=NAME"));
        assert!(refused("old --claim =x").contains("names no claims"));
        assert!(refused("--from-storage offsite --path /etc").contains("--claim"));
        assert!(refused("--from-storage a/b/c").contains("NAMESPACE/NAME"));
    }

    #[test]
    fn an_incomplete_snapshot_is_only_taken_by_name() {
        let args = Line::try_parse_from(["x", "--latest"]).unwrap().args;
        let only = [snapshot("new", "2026-11-20T02:00:00Z", false, &["data"])];
        let failure = spec(&args, "shop", "shop", &only, Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(failure.advice.unwrap().contains("is new: name it"));
    }
}
