//! The drill: `docs/disaster-recovery.md`, carried out. A namespace is saved, its whole cluster goes, and in a new one the
//! page's own commands bring it back from a copy of the bucket, its keys and the recovery password.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use holdfast_e2e::install::{self, bed_failure, binary, load_images, repository_root};
use holdfast_e2e::kubectl::{Failure, Kubectl, Result, phase, run};
use holdfast_e2e::page::{self, DISASTER_RECOVERY};
use holdfast_e2e::story::{ENDED, RUN, Story};
use holdfast_e2e::tree;
use holdfast_e2e::workload::{self, Keeper};
use holdfast_testbed::{Layout, Progress, Testbed, down, restic, up, verify};

/// Small files of the application, beside its odd ones.
const FILES: u32 = 3_000;

/// What the database is asked before and after.
const QUESTION: &str =
    "select count(*) || ' orders, digest ' || md5(string_agg(item, ',' order by id)) from orders";

fn main() -> ExitCode {
    match drill() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nThe drill failed: {e}");
            ExitCode::FAILURE
        }
    }
}

/// In a directory that `hack/drill` has made, which also takes the last cluster down.
fn drill() -> Result<()> {
    let work = std::env::args_os().nth(1).map(PathBuf::from);
    let work = work.ok_or_else(|| Failure("run it by hack/drill, which gives it a directory".into()))?;
    let (layout, progress) = (Layout::from_env().map_err(bed_failure)?, Progress::new());
    let old = save(&work, &progress)?;
    down(&layout, &progress).map_err(bed_failure)?;
    verify(&layout).map_err(bed_failure)?;
    tell("the cluster is gone; what is left: a copy of the bucket, and its recovery password");
    up(&layout, &progress).map_err(bed_failure)?;
    let new = NewCluster::new(&work, &progress, &old)?;
    new.follow_the_page().map_err(|e| Failure(format!("{e}\n{}", new.look_around())))
}

fn tell(text: &str) {
    println!("\n== {text}");
}

/// What is known of the application before the disaster.
struct Old {
    /// Its namespace, and the bucket of the same name.
    name: String,
    /// Its manifests, for they are in somebody's repository.
    manifests: String,
    files: String,
    rows: String,
}

/// In the old cluster: an application, and a Backup of it.
fn save(work: &Path, progress: &Progress) -> Result<Old> {
    tell("the old cluster: an application, and a Backup of its namespace");
    let bed = install::bed()?;
    let story = Story::begin("shop")?;
    let manifests = format!(
        "{}{}{}{}",
        workload::claim("files", "", "1Gi"),
        workload::claim("database", "", "1Gi"),
        workload::keeper(&Keeper::deployment("web", "files")),
        workload::postgres("db", "database"),
    );
    story.apply(&manifests)?;
    workload::ready_pod(&story.kubectl, &story.namespace, "db")?;
    let web = workload::ready_pod(&story.kubectl, &story.namespace, "web")?;
    story.fill(&web, FILES)?;
    workload::sql(
        &story.kubectl,
        &story.namespace,
        "db-0",
        "create table orders as select i as id, md5(i::text) as item from generate_series(1, 50000) i",
    )?;
    let files = tree::describe(&story.kubectl, &story.namespace, &web, "/store")?;
    let rows = workload::sql(&story.kubectl, &story.namespace, "db-0", QUESTION)?;
    story.kubectl.run(&["-n", &story.namespace, "scale", "statefulset/db", "--replicas=0"])?;
    workload::gone(&story.kubectl, &story.namespace, "db")?;
    story.backup("daily", "{}", "Succeeded")?;
    story.nothing_left()?;
    copy(&bed.bucket_directory(&story.bucket)?, &work.join("bucket"))?;
    progress.say("the bucket is copied");
    Ok(Old { name: story.namespace, manifests, files, rows })
}

/// Copies a directory with all that the S3 server keeps with its files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).map_err(|e| Failure(format!("cannot make {}: {e}", to.display())))?;
    run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to), b"").map(drop)
}

/// A block of the page with the namespace's name and other values put in.
fn block(containing: &str, values: &[(&str, &str)]) -> Result<String> {
    page::filled(&page::block(DISASTER_RECOVERY, containing)?, values)
}

/// A command that the page shows with what it prints.
fn console(command: &str) -> Result<&str> {
    let shown = page::block(DISASTER_RECOVERY, &format!("$ {command}\n"))?;
    if shown.is_empty() { Err(Failure(format!("the page has no {command:?}"))) } else { Ok(command) }
}

/// The description of a directory of this machine.
fn described(directory: &Path) -> Result<String> {
    let mut sh = Command::new("sh");
    sh.args(["-c", tree::DESCRIBE_SCRIPT]).current_dir(directory);
    run(&mut sh, b"").map(|out| String::from_utf8_lossy(&out).into_owned())
}

/// A cluster that knows nothing, and a shell for the page's commands.
struct NewCluster<'a> {
    old: &'a Old,
    work: &'a Path,
    testbed: Testbed,
    kubectl: Kubectl,
    image: &'static str,
    /// Where programs are looked for.
    path: String,
}

impl<'a> NewCluster<'a> {
    /// The images are at its nodes, as in a registry that they reach, and the bucket is on its S3 server.
    fn new(work: &'a Path, progress: &Progress, old: &'a Old) -> Result<Self> {
        let testbed = Testbed::connect().map_err(bed_failure)?;
        let image = load_images(&testbed, progress)?;
        let s3 = testbed.s3();
        s3.create_bucket(&old.name).map_err(bed_failure)?;
        copy(&work.join("bucket"), &s3.bucket_path(&old.name))?;
        let ca = work.join("ca.crt");
        std::fs::copy(&s3.env().ca_file, &ca)
            .map_err(|e| Failure(format!("cannot write {}: {e}", ca.display())))?;
        let restic = restic(testbed.layout(), "0.18.0").map_err(bed_failure)?.program;
        let mut programs: Vec<PathBuf> = vec![testbed.env().bin.clone()];
        let whole = |program: PathBuf| {
            std::fs::canonicalize(&program)
                .map_err(|e| Failure(format!("cannot find {}: {e}", program.display())))
        };
        let own = [whole(binary()?)?, whole(restic)?];
        programs.extend(own.iter().filter_map(|program| Some(program.parent()?.to_owned())));
        let programs: Vec<_> = programs.iter().map(|directory| directory.display().to_string()).collect();
        let path = format!("{}:{}", programs.join(":"), std::env::var("PATH").unwrap_or_default());
        let kubectl = Kubectl::new(testbed.env().bin.join("kubectl"), testbed.env().kubeconfig.clone());
        Ok(Self { old, work, testbed, kubectl, image, path })
    }

    /// Runs commands of the page, from the directory in which a person has their files.
    fn shell(&self, commands: &str) -> Result<String> {
        println!("{}", commands.trim_end());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", commands]).current_dir(self.work).env("PATH", &self.path);
        bash.env("KUBECONFIG", &self.testbed.env().kubeconfig)
            .env("RESTIC_PASSWORD_FILE", "recovery-password");
        // Also what a cache would know of an earlier drill.
        bash.env("HOME", self.work).env("XDG_CACHE_HOME", self.work.join("cache"));
        let said = run(&mut bash, b"").map(|out| String::from_utf8_lossy(&out).into_owned());
        said.map_err(|e| Failure(format!("{commands}\n{e}")))
    }

    fn follow_the_page(&self) -> Result<()> {
        let begun = Instant::now();
        self.install()?;
        self.take_back()?;
        let took = begun.elapsed().as_secs();
        self.start_applications()?;
        tell("what is there is what was saved");
        println!(
            "{took} s from an empty cluster to the data, {} s to the application",
            begun.elapsed().as_secs()
        );
        let directory = self.list()?;
        self.without_a_cluster(&directory)?;
        self.back_up_again()
    }

    /// What somebody who finds out what went wrong wants to see.
    fn look_around(&self) -> String {
        let name = self.old.name.as_str();
        let all: [&[&str]; 4] = [
            &[
                "-n",
                name,
                "get",
                "restores,backups,backupstorages,repositories,snapshots,pods,pvc",
                "-o",
                "wide",
            ],
            &["-n", name, "describe", "restores,backups,backupstorages,repositories", "--show-events=false"],
            &["-n", name, "get", "events", "--sort-by=.lastTimestamp", "-o", "wide"],
            &["-n", "holdfast-system", "logs", "deployment/holdfast", "--tail=100"],
        ];
        let seen = all.iter().map(|args| self.kubectl.run(args).unwrap_or_else(|e| e.0));
        seen.collect::<Vec<_>>().join("\n")
    }

    fn install(&self) -> Result<()> {
        tell("step 1: install Holdfast");
        let chart = repository_root().join("deploy/helm/holdfast").display().to_string();
        let (repository, tag) = self.image.rsplit_once(':').unwrap_or((self.image, "dev"));
        let tag = format!("image.tag={tag}");
        let values = [
            ("deploy/helm/holdfast", chart.as_str()),
            ("my-cluster", "new-cluster"),
            ("registry.example/holdfast", repository),
            ("image.tag=0.1.0", &tag),
        ];
        self.shell(&block("helm install holdfast", &values)?)?;
        let said = self.shell(&block("rollout status", &[])?)?;
        if said.contains("successfully rolled out") { Ok(()) } else { Err(Failure(said)) }
    }

    fn take_back(&self) -> Result<()> {
        let name = &self.old.name;
        tell("step 2: prepare the namespace");
        self.shell(&block("create namespace shop", &[("shop", name)])?)?;
        tell("step 3: say where the backups are, and take them");
        let s3 = self.testbed.s3();
        let password = format!("recovery of {name}");
        let keys = format!(
            "AWS_ACCESS_KEY_ID: \"{}\", AWS_SECRET_ACCESS_KEY: \"{}\"",
            s3.env().access_key,
            s3.env().secret_key
        );
        let values = [
            // First, for the other values may contain it.
            ("shop", name.as_str()),
            ("AWS_ACCESS_KEY_ID: \"…\", AWS_SECRET_ACCESS_KEY: \"…\"", keys.as_str()),
            ("the recovery password", &password),
            ("https://s3.example.com", &s3.env().endpoint),
            ("\"backups\"", name),
            ("# caBundleRef", "caBundleRef"),
        ];
        let file = self.work.join("back.yaml");
        std::fs::write(&file, block("kind: Restore\nmetadata: {name: everything-back", &values)?)
            .map_err(|e| Failure(format!("cannot write {}: {e}", file.display())))?;
        self.shell(&page::inline(DISASTER_RECOVERY, "kubectl apply -f back.yaml")?)?;
        tell("step 4: watch");
        let restore = self.kubectl.until(name, "restore", "everything-back", RUN, |object| {
            ENDED.contains(&phase(object)).then(|| object.clone())
        })?;
        if phase(&restore) == "Succeeded" {
            return Ok(());
        }
        let describe = page::inline(DISASTER_RECOVERY, "kubectl -n shop describe restore everything-back")?;
        Err(Failure(self.shell(&page::filled(&describe, &[("shop", name)])?)?))
    }

    fn start_applications(&self) -> Result<()> {
        tell("step 5: start the applications, by the manifests that they have elsewhere");
        let name = &self.old.name;
        self.kubectl.run_with(&["-n", name, "apply", "-f", "-"], self.old.manifests.as_bytes())?;
        workload::ready_pod(&self.kubectl, name, "db")?;
        let web = workload::ready_pod(&self.kubectl, name, "web")?;
        tree::same(&self.old.files, &tree::describe(&self.kubectl, name, &web, "/store")?)?;
        let rows = workload::sql(&self.kubectl, name, "db-0", QUESTION)?;
        if rows == self.old.rows {
            return Ok(());
        }
        Err(Failure(format!("the database answers {rows}, before it was {}", self.old.rows)))
    }

    /// What else is in the bucket: nothing; the old repository's directory.
    fn list(&self) -> Result<String> {
        tell("step 6: what else is in the bucket");
        let name = &self.old.name;
        let list = page::inline(DISASTER_RECOVERY, "kubectl -n shop get backupstorage offsite")?;
        let found = self.shell(&page::filled(&list, &[("shop", name)])?)?;
        let directory = found.trim().strip_prefix(&format!("{name} "));
        let directory = directory.filter(|one| !one.contains(char::is_whitespace)).map(str::to_owned);
        directory.ok_or_else(|| Failure(format!("not one repository: {found}")))
    }

    fn back_up_again(&self) -> Result<()> {
        tell("afterwards: back up again");
        let name = &self.old.name;
        let own = page::inline(DISASTER_RECOVERY, "kubectl -n shop patch backupstorage offsite")?;
        self.shell(&page::filled(&own, &[("shop", name)])?)?;
        self.kubectl.run(&["-n", name, "scale", "statefulset/db", "--replicas=0"])?;
        workload::gone(&self.kubectl, name, "db")?;
        let backup = b"apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: first}\nspec: {}\n";
        self.kubectl.run_with(&["-n", name, "apply", "-f", "-"], backup)?;
        self.kubectl
            .until(name, "backup", "first", RUN, |object| (phase(object) == "Succeeded").then_some(()))
    }

    fn without_a_cluster(&self, directory: &str) -> Result<()> {
        tell("without a cluster: Holdfast and stock restic on the bucket");
        let name = &self.old.name;
        let s3 = self.testbed.s3();
        let env = s3.env();
        std::fs::write(self.work.join("recovery-password"), format!("recovery of {name}"))
            .map_err(|e| Failure(format!("cannot write the password: {e}")))?;
        let bucket = format!("s3:{}/{name}", env.endpoint);
        let keys = format!(
            "export AWS_ACCESS_KEY_ID='{}' AWS_SECRET_ACCESS_KEY='{}' RESTIC_CACERT=./ca.crt\n",
            env.access_key, env.secret_key
        );
        let find = console("holdfast repo -r s3:https://s3.example.com/backups snapshots")?;
        let find = find.replace("s3:https://s3.example.com/backups", &bucket);
        let told = self.shell(&format!("{keys}{find} 2>&1 || true"))?;
        if !told.contains(&format!("there is {bucket}/{directory}")) {
            return Err(Failure(format!("nobody told which repositories there are: {told}")));
        }
        let keys = format!("{keys}export RESTIC_REPOSITORY={bucket}/{directory}\n");
        let listed = self.shell(&format!("{keys}{}", console("holdfast repo snapshots")?))?;
        if !(listed.contains("/data/files") && listed.contains("/data/database")) {
            return Err(Failure(format!("not both claims are listed: {listed}")));
        }
        let ours = block("holdfast repo restore latest:/data/files", &[("./files", "./ours")])?;
        self.shell(&format!("{keys}{ours}"))?;
        let theirs = block("restic --cacert ./ca.crt restore", &[("./files", "./theirs")])?;
        self.shell(&format!("{keys}{theirs}"))?;
        // The directory that the volume was mounted on is the person's own here, and restic fills holes when it is not told to
        // leave them.
        for (directory, apart) in [("ours", &["root "][..]), ("theirs/data/files", &["root ", "sparse "][..])]
        {
            let entries = |text: &str| -> String {
                let lines = text.lines().filter(|line| !apart.iter().any(|start| line.starts_with(start)));
                lines.flat_map(|line| [line, "\n"]).collect()
            };
            tree::same(&entries(&self.old.files), &entries(&described(&self.work.join(directory))?))?;
        }
        Ok(())
    }
}
