//! Certificates: an authority each for the cluster and for the S3 server, and the leaves they sign. By openssl.

use std::path::Path;

use crate::command::{command, output};
use crate::error::Result;
use crate::layout;

/// The cluster's and the S3 server's certificates end with the bed; this only has to outlast it.
const DAYS: &str = "365";

/// Makes `ca.key` and `ca.crt` in a directory.
pub(crate) fn authority(dir: &Path, name: &str) -> Result<()> {
    let extensions = "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
                      subjectKeyIdentifier = hash\n";
    request(dir, "ca", &[("CN", name)], extensions, &[])
}

/// Makes `<name>.key` and `<name>.crt`, signed by the directory's authority, for clients and servers.
pub(crate) fn leaf(
    dir: &Path,
    name: &str,
    subject: &[(&str, &str)],
    alternative_names: &[String],
) -> Result<()> {
    let mut extensions = "basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         extendedKeyUsage = serverAuth, clientAuth\nsubjectKeyIdentifier = hash\n\
         authorityKeyIdentifier = keyid\n"
        .to_owned();
    if !alternative_names.is_empty() {
        extensions.extend(["subjectAltName = ", &alternative_names.join(", "), "\n"]);
    }
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let signer = [Path::new("-CA"), &certificate, Path::new("-CAkey"), &key];
    request(dir, name, subject, &extensions, &signer)
}

fn request(
    dir: &Path,
    name: &str,
    subject: &[(&str, &str)],
    extensions: &str,
    signer: &[&Path],
) -> Result<()> {
    let file = |extension: &str| dir.join(format!("{name}.{extension}"));
    let subject: Vec<String> = subject.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let subject = subject.concat();
    let config = format!(
        "[req]\nprompt = no\ndistinguished_name = subject\nx509_extensions = extensions\n\
         [subject]\n{subject}[extensions]\n{extensions}"
    );
    layout::write(&file("cnf"), config)?;
    let mut openssl = command("openssl", &["req", "-x509", "-new", "-newkey", "ec", "-nodes", "-days", DAYS]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-config"]).arg(file("cnf"));
    openssl.arg("-keyout").arg(file("key")).arg("-out").arg(file("crt")).args(signer);
    output(&mut openssl)?;
    layout::remove(&file("cnf"))
}

/// Makes the key pair that signs service account tokens.
pub(crate) fn service_account_keys(dir: &Path) -> Result<()> {
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    output(command("openssl", &["genrsa", "-out"]).arg(&private).arg("2048"))?;
    output(command("openssl", &["rsa", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_valid_for_its_names_only() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path(), "test authority").unwrap();
        let names = ["IP:10.77.0.1".to_owned(), "DNS:s3.testbed".to_owned()];
        leaf(dir.path(), "server", &[("O", "people"), ("CN", "server")], &names).unwrap();
        let verify = |option: &str, name: &str| {
            let mut openssl =
                command("openssl", &["verify", "-x509_strict", "-purpose", "sslserver", option, name]);
            output(openssl.arg("-CAfile").arg(dir.path().join("ca.crt")).arg(dir.path().join("server.crt")))
        };
        verify("-verify_ip", "10.77.0.1").unwrap();
        verify("-verify_hostname", "s3.testbed").unwrap();
        assert!(verify("-verify_ip", "10.77.0.2").is_err());
    }
}
