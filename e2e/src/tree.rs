//! A directory tree of all sorts of files, and its exact description for comparing.
//!
//! Both are shell scripts that run inside an application's pod (GNU find, coreutils, attr), so that neither Holdfast
//! nor this program stands between the file system and what is compared.

use crate::kubectl::{Failure, Kubectl, Result};

/// Fills the current directory: `files` small files in directories of 100, and one of each odd thing.
///
/// The odd things: empty file and directory, deep path, long name, names with spaces, quotes, newline, backslash and
/// bytes that are not UTF-8, symbolic links (relative, dangling, absolute), hard links over two directories, a
/// sparse file, a FIFO, extended attributes, set-uid, sticky and unreadable modes, several owners, times of long
/// ago with nanoseconds.
pub fn fill_script(files: u32) -> String {
    format!(
        r#"set -e
awk -v n={files} 'BEGIN {{
  srand(7)
  for (i = 0; i < n; i++) {{
    if (i % 100 == 0) {{ d = sprintf("many/%04d", i / 100); system("mkdir -p " d) }}
    f = sprintf("%s/file-%06d.txt", d, i)
    lines = 1 + int(rand() * 40)
    for (k = 0; k < lines; k++) printf "%d %d %f\n", i, k, rand() > f
    close(f)
  }}
}}'
: > empty-file
mkdir -p empty-dir odd/deep/er/and/deep/er/still links attributes modes owners times
printf 'deep\n' > odd/deep/er/and/deep/er/still/file
printf 'spaces\n' > 'odd/ name with  spaces '
printf 'quotes\n' > 'odd/"quoted" and '"'"'single'"'"''
printf 'newline\n' > "$(printf 'odd/new\nline')"
printf 'backslash\n' > 'odd/back\slash'
printf 'latin1\n' > "$(printf 'odd/caf\351')"
printf 'unicode\n' > 'odd/Grüße-日本-🚀'
printf 'long\n' > "odd/$(printf 'n%.0s' $(seq 1 250))"
printf '<html>&amp;\n' > 'odd/<a>&b'
ln -s ../many/0000 links/relative
ln -s /does/not/exist links/dangling
ln -s "$(printf 'caf\351')" links/latin1
printf 'hard\n' > links/hard-a
ln links/hard-a odd/hard-b
ln links/hard-a links/hard-c
dd if=/dev/zero of=sparse bs=1 count=0 seek=200M 2>/dev/null
printf 'middle' | dd of=sparse bs=1 seek=100M conv=notrunc 2>/dev/null
dd if=/dev/urandom of=random.bin bs=1M count=24 2>/dev/null
dd if=/dev/zero of=zeros.bin bs=1M count=4 2>/dev/null
mkfifo fifo
printf 'attr\n' > attributes/file
setfattr -n user.comment -v 'kept with the file' attributes/file
setfattr -n user.binary -v 0x00ff10 attributes/file
setfattr -n user.dir -v yes attributes
printf 'm\n' > modes/setuid; chmod 4755 modes/setuid
printf 'm\n' > modes/readonly; chmod 0400 modes/readonly
printf 'm\n' > modes/none; chmod 0000 modes/none
mkdir modes/sticky; chmod 1777 modes/sticky
if [ "$(id -u)" = 0 ]; then
  for u in 1000 2000 65534; do printf '%s\n' $u > owners/$u; chown $u:$u owners/$u; done
  ln -s x owners/link; chown -h 1000:2000 owners/link
fi
printf 't\n' > times/old; touch -d '1999-12-31 23:59:59.123456789' times/old
printf 't\n' > times/future; touch -d '2031-05-06 07:08:09.000000001' times/future
touch -h -d '2001-02-03 04:05:06.7' links/relative
touch -d '2002-02-02 02:02:02.222222222' empty-dir
"#
    )
}

/// Describes everything below the current directory, one line an entry: type, mode, owner, group, size, time of
/// change of content to the nanosecond, link target, path; then digests of all content, extended attributes, groups
/// of hard links, and allocated space of the sparse file rounded to MiB.
pub const DESCRIBE_SCRIPT: &str = r#"set -e
export LC_ALL=C
find . -mindepth 1 ! -path './lost+found*' \( -type d -printf '%y %m %U %G - %T@ - %P\0' -o -printf '%y %m %U %G %s %T@ %l %P\0' \) | sort -z | tr '\n\0' '\1\n'
find . -printf '' -maxdepth 0 && stat -c 'root %a %u %g %y' .
find . ! -path './lost+found*' -type f -print0 | sort -z | xargs -0 -r sha256sum -z | tr '\n\0' '\1\n'
find . -mindepth 1 ! -path './lost+found*' ! -type l -print0 | sort -z | xargs -0 -r getfattr -h -d -m - -e hex 2>/dev/null || true
find . -type f -links +1 -printf '%i %P\n' | sort -k1,1n -k2 | awk '{ if ($1 != last) { if (line) print "hard" line; line = ""; last = $1 } line = line " " $2 } END { if (line) print "hard" line }' | sort
if [ -f sparse ]; then echo "sparse $(( $(stat -c '%b * %B' sparse | sed 's/ //g; s/*/ * /') / 1048576 )) MiB"; fi
"#;

/// The description of a directory in a pod.
pub fn describe(kubectl: &Kubectl, namespace: &str, pod: &str, directory: &str) -> Result<String> {
    kubectl.shell(namespace, pod, &format!("cd '{directory}'\n{DESCRIBE_SCRIPT}"))
}

/// Fails with the first differing lines when two descriptions differ.
pub fn same(before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let (was, is) = (lines(before), lines(after));
    let show = |sign: char, set: Vec<&String>| {
        set.iter()
            .take(10)
            .map(|l| format!("{sign} {}", l.chars().take(300).collect::<String>()))
            .collect::<Vec<_>>()
            .join(
                "
",
            )
    };
    let missing: Vec<_> = was.difference(&is).collect();
    let new: Vec<_> = is.difference(&was).collect();
    Err(Failure(format!(
        "the trees differ: {} lines are gone, {} are new\n{}\n{}",
        missing.len(),
        new.len(),
        show('-', missing),
        show('+', new)
    )))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// The scripts run as they are on a Debian machine: what they make is described, and described the same twice.
    #[test]
    fn the_scripts_describe_what_they_make() {
        let dir = std::env::temp_dir().join(format!("holdfast-tree-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let sh = |script: &str| {
            let out = Command::new("sh").arg("-c").arg(script).current_dir(&dir).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        sh(&super::fill_script(250));
        let first = sh(super::DESCRIBE_SCRIPT);
        let again = sh(super::DESCRIBE_SCRIPT);
        sh("chmod 600 many/0001/file-000100.txt");
        let changed = sh(super::DESCRIBE_SCRIPT);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(first, again);
        assert!(first.lines().count() > 520, "{}", first.lines().count());
        for needle in
            ["user.comment", "hard links/hard-a links/hard-c odd/hard-b", "sparse 0 MiB", "p 644", "4755"]
        {
            assert!(first.contains(needle), "{needle} is not in the description");
        }
        assert!(super::same(&first, &changed).is_err());
    }
}
