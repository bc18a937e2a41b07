//! Licences of everything that is linked: each is one that deny.toml allows. `cargo deny` says the same and more
//! (advisories, sources), but is not on every machine; this check is never left out.

use std::collections::BTreeSet;
use std::process::Command;

use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::Error;
use crate::workspace::{Problem, Workspace};

/// Where the rules are.
const RULES: &str = "deny.toml";

#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None for our own.
    source: Option<String>,
}

/// Crates whose licence is not allowed, and allowed licences that nothing has.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Problem>, Error> {
    let text = workspace.read(RULES)?.unwrap_or_default();
    let rules: Rules = toml::from_str(&text).map_err(Error::Rules)?;
    let mut packages = Vec::new();
    for target in &rules.graph.targets {
        packages.extend(dependencies(workspace, target)?);
    }
    Ok(judge(&rules.licenses.allow, &packages))
}

fn dependencies(workspace: &Workspace, target: &str) -> Result<Vec<Package>, Error> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
        .current_dir(workspace.path(""))
        .output()
        .map_err(Error::Cargo)?;
    if !output.status.success() {
        return Err(Error::Metadata(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(Error::MetadataJson)?;
    Ok(metadata.packages.into_iter().filter(|p| p.source.is_some()).collect())
}

fn judge(allowed: &BTreeSet<String>, packages: &[Package]) -> Vec<Problem> {
    let mut wrong = BTreeSet::new();
    let mut used = BTreeSet::new();
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let stated = package.license.as_deref().unwrap_or_default();
        // Old crates separate alternatives by a slash.
        let Ok(expression) = Expression::parse_mode(stated, ParseMode::LAX) else {
            wrong.insert((name, format!("its licence {stated:?} cannot be understood; look at its text")));
            continue;
        };
        let permitted = expression.evaluate(|requirement| {
            let one = requirement.to_string();
            let known = allowed.contains(&one);
            if known {
                used.insert(one);
            }
            known
        });
        if !permitted {
            wrong.insert((name, format!("its licence {stated} is not among those of {RULES}")));
        }
    }
    let mut problems: Vec<Problem> =
        wrong.into_iter().map(|(name, message)| Problem::new(name, message)).collect();
    problems.extend(allowed.iter().filter(|a| !used.contains(*a)).map(|unused| {
        Problem::new(RULES, format!("no dependency has the licence {unused} any more: take it out"))
    }));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, license: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
            source: Some("registry".into()),
        }
    }

    #[test]
    fn one_alternative_must_be_allowed_and_all_parts_of_a_sum() {
        let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
        let packages = [
            package("either", Some("GPL-3.0-only OR MIT")),
            package("slash", Some("MIT/Apache-2.0")),
            package("sum", Some("ISC AND MIT")),
            package("partly", Some("MIT AND GPL-3.0-only")),
            package("none", None),
        ];
        let found: Vec<String> = judge(&allowed, &packages).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("none 1.0.0"), "{found:?}");
        assert!(found[1].starts_with("partly 1.0.0"), "{found:?}");
    }

    #[test]
    fn a_licence_that_nothing_has_is_not_allowed_for_ever() {
        let allowed = ["MIT", "0BSD"].map(str::to_owned).into();
        let found = judge(&allowed, &[package("one", Some("MIT"))]);
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().contains("0BSD"));
    }
}
