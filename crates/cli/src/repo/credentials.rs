//! How to reach the stores: the variables that restic and each cloud's own tools read, and `-o key=value`.

use std::path::PathBuf;

use holdfast_engine::store::{
    AzureOptions, GcsOptions, KeySource, RestOptions, S3Identity, S3Options, StoreOptions,
};
use secrecy::SecretString;

use super::access::Environment;
use crate::failure::{Failure, Result};

/// Options of all kinds of store, of which the location's kind will use its own.
pub(super) fn resolve(env: Environment<'_>, settings: &[String]) -> Result<StoreOptions> {
    let secret = |name: &str| env(name).map(SecretString::from);
    let path = |name: &str| env(name).map(PathBuf::from);
    let mut s3 = S3Options {
        access_key_id: env("AWS_ACCESS_KEY_ID"),
        secret_access_key: secret("AWS_SECRET_ACCESS_KEY"),
        session_token: secret("AWS_SESSION_TOKEN"),
        region: env("AWS_REGION").or_else(|| env("AWS_DEFAULT_REGION")),
        identity: identity(env),
        ..S3Options::default()
    };
    if s3.access_key_id.is_none() && s3.secret_access_key.is_none() {
        s3.keys_from = profile(env, s3.identity.is_some());
    }
    for setting in settings {
        set(&mut s3, setting)?;
    }
    let gcs = GcsOptions {
        credentials_file: path("GOOGLE_APPLICATION_CREDENTIALS"),
        access_token: secret("GOOGLE_ACCESS_TOKEN"),
        endpoint: env("STORAGE_EMULATOR_HOST")
            .map(|host| if host.contains("://") { host } else { format!("http://{host}") }),
    };
    let azure = AzureOptions {
        account: env("AZURE_ACCOUNT_NAME"),
        key: secret("AZURE_ACCOUNT_KEY"),
        signature: secret("AZURE_ACCOUNT_SAS"),
        endpoint_suffix: env("AZURE_ENDPOINT_SUFFIX"),
        endpoint: env("AZURE_STORAGE_ENDPOINT"),
        client_id: env("AZURE_CLIENT_ID"),
        tenant_id: env("AZURE_TENANT_ID"),
        client_secret: secret("AZURE_CLIENT_SECRET"),
        federated_token_file: path("AZURE_FEDERATED_TOKEN_FILE"),
    };
    let rest =
        RestOptions { username: env("RESTIC_REST_USERNAME"), password: secret("RESTIC_REST_PASSWORD") };
    Ok(StoreOptions { s3, gcs, azure, rest, ..StoreOptions::default() })
}

fn identity(env: Environment<'_>) -> Option<S3Identity> {
    if let (Some(token), Some(role_arn)) = (env("AWS_WEB_IDENTITY_TOKEN_FILE"), env("AWS_ROLE_ARN")) {
        return Some(S3Identity::WebIdentity {
            token_file: token.into(),
            role_arn,
            session_name: env("AWS_ROLE_SESSION_NAME"),
            sts_endpoint: env("AWS_ENDPOINT_URL_STS"),
        });
    }
    let uri = env("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
    let token_file = env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")?.into();
    Some(S3Identity::Container { uri, token_file })
}

/// A profile that was asked for; else the usual file where it is there and nothing better is.
fn profile(env: Environment<'_>, identity: bool) -> Option<KeySource> {
    let named = env("AWS_PROFILE");
    let file = env("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let asked = named.is_some() || file.is_some();
    let file = file.or_else(|| Some(PathBuf::from(env("HOME")?).join(".aws/credentials")))?;
    let profile = named.unwrap_or_else(|| "default".to_owned());
    (asked || (!identity && file.is_file())).then_some(KeySource::Profile { file, profile })
}

fn set(s3: &mut S3Options, setting: &str) -> Result<()> {
    match setting.split_once('=') {
        // As in restic, `auto` means DNS for AWS itself; our location always names a host, and every server of ours
        // takes the path.
        Some(("s3.bucket-lookup", "dns")) => s3.virtual_host = true,
        Some(("s3.bucket-lookup", "path" | "auto")) => s3.virtual_host = false,
        Some(("s3.region", region)) if !region.is_empty() => s3.region = Some(region.to_owned()),
        _ => {
            return Err(Failure::usage(
                format!("{setting:?} is no option of a store"),
                "known are s3.bucket-lookup=dns|path|auto and s3.region=REGION",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn with(pairs: &[(&str, &str)], settings: &[&str]) -> StoreOptions {
        let env = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        resolve(&env, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn each_cloud_reads_its_own_variables() {
        let all = with(
            &[
                ("GOOGLE_APPLICATION_CREDENTIALS", "/g.json"),
                ("STORAGE_EMULATOR_HOST", "127.0.0.1:4443"),
                ("AZURE_ACCOUNT_NAME", "account"),
                ("AZURE_ACCOUNT_KEY", "a2V5"),
                ("AZURE_ENDPOINT_SUFFIX", "core.example"),
                ("RESTIC_REST_USERNAME", "me"),
                ("RESTIC_REST_PASSWORD", "pw"),
            ],
            &[],
        );
        assert_eq!(all.gcs.credentials_file, Some("/g.json".into()));
        assert_eq!(all.gcs.endpoint.as_deref(), Some("http://127.0.0.1:4443"));
        assert_eq!(all.azure.account.as_deref(), Some("account"));
        assert_eq!(all.azure.key.unwrap().expose_secret(), "a2V5");
        assert_eq!(all.azure.endpoint_suffix.as_deref(), Some("core.example"));
        assert_eq!(all.rest.username.as_deref(), Some("me"));
        assert_eq!(all.rest.password.unwrap().expose_secret(), "pw");
    }

    #[test]
    fn keys_in_the_environment_win_over_files_and_these_over_identities() {
        let token = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")];
        let s3 = with(&token, &[]).s3;
        assert!(matches!(s3.identity, Some(S3Identity::WebIdentity { .. })));
        assert_eq!(s3.keys_from, None);
        let s3 = with(&[token[0], token[1], ("AWS_PROFILE", "work"), ("HOME", "/home/me")], &[]).s3;
        let expected =
            KeySource::Profile { file: "/home/me/.aws/credentials".into(), profile: "work".to_owned() };
        assert_eq!(s3.keys_from, Some(expected));
        let s3 = with(
            &[("AWS_PROFILE", "work"), ("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s")],
            &[],
        )
        .s3;
        assert_eq!((s3.keys_from, s3.access_key_id.as_deref()), (None, Some("id")));
        assert_eq!(with(&[("HOME", "/nowhere")], &[]).s3.keys_from, None);
        let pod = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/pod"),
        ];
        assert!(matches!(with(&pod, &[]).s3.identity, Some(S3Identity::Container { .. })));
    }

    #[test]
    fn settings_are_restics() {
        assert!(with(&[], &["s3.bucket-lookup=dns"]).s3.virtual_host);
        assert_eq!(with(&[], &["s3.region=eu"]).s3.region.as_deref(), Some("eu"));
        for bad in ["s3.bucket-lookup=x", "s3.region=", "local.layout=s3legacy", "x"] {
            assert!(resolve(&|_| None, &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
