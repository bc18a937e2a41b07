//! Debian packages: installing what the machine misses, and fetching package files of any suite from the mirror
//! that the machine itself uses. Images and stock restic are made from these files; nothing else is downloaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::command::{command, logged, output, try_output};
use crate::error::{Error, Result};
use crate::layout::{self, Layout};
use crate::progress::Progress;

/// What the test bed runs on this machine.
const MACHINE_PACKAGES: &[&str] = &[
    "binutils",
    "ca-certificates",
    "conntrack",
    "containernetworking-plugins",
    "curl",
    "debian-archive-keyring",
    "e2fsprogs",
    "gcc",
    "iproute2",
    "iptables",
    "libc6-dev",
    "mount",
    "nftables",
    "openssl",
    "runc",
    "util-linux",
];

/// The keyring that every suite of Debian is signed with, old and new.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists older than this are fetched again.
const LISTS_FRESH: Duration = Duration::from_hours(24);

/// Fails unless we are root.
pub(crate) fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

/// Installs what is missing; asks nothing of the network if nothing is.
pub(crate) fn install_machine_packages(layout: &Layout, progress: &Progress) -> Result<()> {
    let missing = missing_packages(MACHINE_PACKAGES)?;
    if missing.is_empty() {
        return Ok(());
    }
    require_root()?;
    let log = layout.build_logs().join("apt.log");
    progress.step(&format!("installing Debian packages: {}", missing.join(" ")), String::new, || {
        logged(
            "apt-get update",
            command("apt-get", &["update", "-q"]).env("DEBIAN_FRONTEND", "noninteractive"),
            &log,
        )?;
        let mut install = command("apt-get", &["install", "-y", "-q", "--no-install-recommends"]);
        // Another apt on a fresh machine (unattended upgrades) is waited for instead of failing on its lock.
        install
            .args(["-o", "DPkg::Lock::Timeout=300"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive");
        logged("apt-get install", &mut install, &log)
    })
}

fn missing_packages(wanted: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut query = command("dpkg-query", &["-W", "-f", "${db:Status-Abbrev} ${Package}\n"]);
    // It fails when it knows nothing of a package; what it does know is on stdout all the same.
    let said = try_output(query.args(wanted))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let installed: Vec<&str> = said.lines().filter_map(|l| l.strip_prefix("ii ")).map(str::trim).collect();
    Ok(wanted.iter().filter(|w| !installed.contains(w)).copied().collect())
}

/// A source of packages as apt's configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Source {
    /// Debian itself, not a third party's repository that uses Debian's suite names.
    fn is_debian(&self) -> bool {
        self.components.iter().any(|c| c == "main")
            && self.signed_by.as_deref().is_none_or(|s| s.contains("debian-archive"))
    }
}

/// Where this machine gets Debian from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    archive: String,
    security: Option<String>,
}

impl Mirror {
    fn of_this_machine() -> Result<Self> {
        let mut sources = Vec::new();
        let parts = layout::entries(Path::new("/etc/apt/sources.list.d"));
        for path in std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(parts) {
            let Ok(text) = fs::read_to_string(&path) else { continue };
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => sources.extend(parse_one_line(&text)),
                Some("sources") => sources.extend(parse_deb822(&text)),
                _ => {}
            }
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename =
            release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")).unwrap_or("bookworm");
        Self::choose(&sources, codename.trim_matches('"')).ok_or_else(|| {
            Error::Unsupported(
                "apt's sources name no Debian mirror; the test bed takes its images from Debian packages and \
                 needs Debian 12 or newer with its `main` component in /etc/apt/sources.list.d"
                    .to_owned(),
            )
        })
    }

    fn choose(sources: &[Source], codename: &str) -> Option<Self> {
        let uri_of = |matches: &dyn Fn(&str) -> bool| {
            let source = sources.iter().find(|s| s.is_debian() && s.suites.iter().any(|s| matches(s)))?;
            Some(source.uris.first()?.trim_end_matches('/').to_owned())
        };
        let names = [codename, "stable", "oldstable", "testing"];
        Some(Self {
            archive: uri_of(&|suite| names.contains(&suite))?,
            security: uri_of(&|suite| names.iter().any(|n| suite == format!("{n}-security"))),
        })
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The format of `*.sources` files (`sources.list(5)`, "deb822-style").
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain(std::iter::once("")) {
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) && !line.trim().is_empty() {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
            continue;
        }
        if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            continue;
        }
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let enabled = !field("enabled").is_some_and(|v| matches!(v, "no" | "false" | "0"));
        if enabled && field("types").is_some_and(|t| words(t).iter().any(|t| t == "deb")) {
            found.push(Source {
                uris: words(field("uris").unwrap_or_default()),
                suites: words(field("suites").unwrap_or_default()),
                components: words(field("components").unwrap_or_default()),
                signed_by: field("signed-by").map(str::to_owned),
            });
        }
        fields.clear();
    }
    found
}

/// The format of `*.list` files: `deb [options] uri suite component…`.
fn parse_one_line(text: &str) -> Vec<Source> {
    let parse = |line: &str| {
        let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split('#').next()?.split_whitespace().map(str::to_owned);
        Some(Source {
            uris: vec![words.next()?],
            suites: vec![words.next()?],
            components: words.collect(),
            signed_by: options
                .split_whitespace()
                .find_map(|o| o.strip_prefix("signed-by="))
                .map(str::to_owned),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// One suite of Debian with package lists of its own: the machine's apt is neither read nor changed.
pub(crate) struct Suite {
    name: &'static str,
    dir: PathBuf,
    log: PathBuf,
    /// Two callers would write the same lists.
    _lock: fs::File,
}

impl Suite {
    /// Opens a suite ("bookworm", "trixie", "sid") and fetches its package lists if they are not fresh.
    pub(crate) fn open(layout: &Layout, name: &'static str) -> Result<Self> {
        let dir = layout.root().join("debian").join(name);
        let log = layout.build_logs().join(format!("debian-{name}.log"));
        let lock = layout.lock(&format!("debian-{name}"), || {})?;
        let suite = Self { name, dir, log, _lock: lock };
        for part in ["lists/partial", "cache/archives/partial", "none"] {
            layout::make_dir(&suite.dir.join(part))?;
        }
        layout::write(&suite.dir.join("status"), "")?;
        let sources = suite.sources(&Mirror::of_this_machine()?);
        let (path, stamp) = (suite.dir.join("suite.sources"), suite.dir.join("updated"));
        let fresh = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age < LISTS_FRESH));
        if !fresh || fs::read_to_string(&path).ok().as_deref() != Some(sources.as_str()) {
            layout::write(&path, sources)?;
            suite.update()?;
            layout::write(&stamp, "")?;
        }
        Ok(suite)
    }

    fn update(&self) -> Result<()> {
        logged(
            &format!("fetching the package lists of Debian {}", self.name),
            self.apt().args(["-o", "APT::Update::Error-Mode=any", "update", "-q"]),
            &self.log,
        )
    }

    fn sources(&self, mirror: &Mirror) -> String {
        let stanza = |uri: &str, suite: &str| {
            format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n")
        };
        let mut text = stanza(&mirror.archive, self.name);
        if let Some(security) = mirror.security.as_ref().filter(|_| self.name != "sid") {
            text.push_str(&stanza(security, &format!("{}-security", self.name)));
        }
        text
    }

    fn apt(&self) -> std::process::Command {
        let mut apt = command::<&str>("apt-get", &[]);
        let mut option = |name: &str, value: &Path| {
            apt.arg("-o").arg(format!("{name}={}", value.display()));
        };
        option("Dir::Etc::sourcelist", &self.dir.join("suite.sources"));
        option("Dir::Etc::sourceparts", &self.dir.join("none"));
        option("Dir::Etc::preferencesparts", &self.dir.join("none"));
        option("Dir::Etc::preferences", &self.dir.join("none/preferences"));
        option("Dir::State::Lists", &self.dir.join("lists"));
        option("Dir::State::status", &self.dir.join("status"));
        option("Dir::Cache", &self.dir.join("cache"));
        // apt's own user cannot enter a directory below root's home.
        option("APT::Sandbox::User", Path::new("root"));
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    }

    /// What would be installed on a machine that has nothing yet: the packages and all they depend on, without
    /// the unwanted ones, as `name=version`.
    fn resolve(&self, packages: &[&str], unwanted: &[&str]) -> Result<Vec<String>> {
        let mut apt = self.apt();
        let said = output(apt.args(["-s", "-qq", "--no-install-recommends", "install"]).args(packages))?;
        Ok(parse_plan(&said, unwanted))
    }

    /// Fetches package files into a directory. `unwanted` names dependencies to leave out; a trailing `*` matches
    /// any rest. With `dependencies` false only the named packages are fetched.
    pub(crate) fn fetch(
        &self,
        packages: &[&str],
        dependencies: bool,
        unwanted: &[&str],
        into: &Path,
    ) -> Result<Vec<PathBuf>> {
        let wanted = if dependencies {
            self.resolve(packages, unwanted)?
        } else {
            packages.iter().map(|p| (*p).to_owned()).collect()
        };
        layout::make_dir(into)?;
        let what = format!("fetching {} package files of Debian {}", wanted.len(), self.name);
        let download =
            || logged(&what, self.apt().args(["download", "-q"]).args(&wanted).current_dir(into), &self.log);
        if download().is_err() {
            // The mirror may have moved on since the lists were fetched.
            self.update()?;
            download()?;
        }
        Ok(layout::entries(into).into_iter().filter(|p| p.extension().is_some_and(|e| e == "deb")).collect())
    }
}

/// Reads apt's simulation: `Inst libacl1 (2.3.1-3 Debian:12.15/oldstable [amd64])`.
fn parse_plan(said: &str, unwanted: &[&str]) -> Vec<String> {
    let is_unwanted = |name: &str| {
        unwanted.iter().any(|u| match u.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *u,
        })
    };
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let version = rest.split_whitespace().next()?;
        (!is_unwanted(name)).then(|| format!("{name}={version}"))
    };
    said.lines().filter_map(package).collect()
}

/// Unpacks package files into a root directory with merged `/usr`; runs none of their scripts.
pub(crate) fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        layout::make_dir(&root.join(target))?;
        let link = root.join(link);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(target, &link).map_err(Error::file("link", &link))?;
        }
    }
    // Packages still ship /bin and /lib: they must fall through the links instead of replacing them.
    let script = "set -o pipefail; dpkg-deb --fsys-tarfile \"$1\" | \
                  tar -x -p --numeric-owner --keep-directory-symlink -C \"$2\"";
    for package in packages {
        output(command("bash", &["-c", script, "unpack"]).arg(package).arg(root))?;
    }
    Ok(())
}

/// The distribution that images are made of.
pub(crate) const IMAGE_SUITE: &str = "bookworm";

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb
# a note
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
";

    #[test]
    fn the_mirror_is_read_from_deb822_sources() {
        let mirror = Mirror::choose(&parse_deb822(DEB822), "bookworm").unwrap();
        assert_eq!(mirror.archive, "http://mirror.example/debian");
        assert_eq!(mirror.security.as_deref(), Some("http://mirror.example/debian-security"));
    }

    #[test]
    fn the_mirror_is_read_from_one_line_sources_and_third_parties_are_passed_over() {
        let text = "# deb http://commented.example/debian bookworm main\n\
            deb-src http://src.example/debian bookworm main\n\
            deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://apt.vendor.example bookworm main\n\
            deb https://download.vendor.example/linux/debian bookworm stable\n\
            deb [arch=amd64] http://mirror.example/debian bookworm main contrib # ours\n";
        let mirror = Mirror::choose(&parse_one_line(text), "bookworm").unwrap();
        assert_eq!(mirror, Mirror { archive: "http://mirror.example/debian".into(), security: None });
    }

    #[test]
    fn a_machine_without_debian_sources_has_no_mirror() {
        let text = "deb https://apt.vendor.example cloud-bookworm main\n";
        assert_eq!(Mirror::choose(&parse_one_line(text), "bookworm"), None);
    }

    #[test]
    fn the_plan_leaves_out_what_is_unwanted() {
        let said = "Inst libc6 (2.36-9 Debian:12/oldstable [amd64])\n\
            Inst perl-base (5.36.0-7 Debian:12/oldstable [amd64]) []\n\
            Inst libllvm14 (1:14.0.6-12 Debian:12/oldstable [amd64])\n\
            Conf libc6 (2.36-9 Debian:12/oldstable [amd64])\n";
        assert_eq!(parse_plan(said, &["perl*", "libllvm14"]), ["libc6=2.36-9"]);
        assert_eq!(parse_plan(said, &["perl"]).len(), 3);
    }
}
