use clap::Parser;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    options: WebIdentityOptions,
}

fn options(arguments: &[&str]) -> Result<WebIdentityOptions, String> {
    let all = ["operator"].iter().chain(arguments);
    Program::try_parse_from(all).map(|program| program.options).map_err(|error| error.to_string())
}

fn with_hosts(hosts: &[&str]) -> WebIdentityOptions {
    let services = hosts.iter().map(|host| format!("--web-identity-service={host}=sts.amazonaws.com"));
    let all: Vec<String> = services.collect();
    options(&["--web-identity"].into_iter().chain(all.iter().map(String::as_str)).collect::<Vec<_>>())
        .unwrap()
}

#[test]
fn nothing_is_allowed_unless_it_is_said() {
    let aws = ("https://sts.eu-central-1.amazonaws.com", "sts.amazonaws.com");
    assert_eq!(options(&[]).unwrap().check(aws.0, aws.1), Err(NotAllowed::Off));
    let listed = "--web-identity-service=sts.*.amazonaws.com=sts.amazonaws.com";
    assert_eq!(
        options(&[listed]).unwrap().check(aws.0, aws.1),
        Err(NotAllowed::Off),
        "a list turns nothing on"
    );
    let refused = |options: &WebIdentityOptions, endpoint: &str, audience: &str| {
        matches!(options.check(endpoint, audience), Err(NotAllowed::Service { .. }))
    };
    assert!(refused(&options(&["--web-identity=true"]).unwrap(), aws.0, aws.1));
    let minio = "--web-identity-service=minio:9000=minio";
    let two = options(&["--web-identity", listed, minio]).unwrap();
    assert_eq!(two.check(aws.0, aws.1), Ok(()));
    assert_eq!(two.check("https://minio:9000", "minio"), Ok(()));
    // A service does not get tokens that another one takes.
    assert!(refused(&two, "https://minio:9000", "sts.amazonaws.com") && refused(&two, aws.0, "minio"));
    for other in ["sts.amazonaws.co", "STS.amazonaws.com", "", "sts.amazonaws.com "] {
        assert!(refused(&two, aws.0, other), "{other}");
    }
    let service = NotAllowed::Service { endpoint: "h".into(), audience: "a".into() };
    for (error, word) in [(NotAllowed::Off, "webIdentity.enabled"), (service, "webIdentity.services")] {
        let text = error.to_string();
        assert!(text.contains(word) && text.contains("administrator"), "{text}");
    }
}

#[test]
fn a_host_is_that_host_and_no_other() {
    let options =
        with_hosts(&["minio.storage.svc:9000", "sts.example.com", "10.0.0.7:8443", "[fd00::1]:9000"]);
    let is_allowed = |url: &str| options.check(url, "sts.amazonaws.com").is_ok();
    for good in [
        "https://minio.storage.svc:9000",
        "https://minio.storage.svc:9000/",
        "https://MinIO.Storage.SVC:9000",
        "https://sts.example.com",
        "https://sts.example.com:443",
        "https://10.0.0.7:8443",
        "https://[fd00::1]:9000",
        "https://[fd00:0:0:0:0:0:0:1]:9000",
        // Other ways to write the same address, which is what is connected to.
        "https://0x0a000007:8443",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "http://sts.example.com",
        "https://minio.storage.svc",
        "https://minio.storage.svc:9001",
        "https://sts.example.com:8443",
        "https://sts.example.com.",
        "https://sts.example.com.evil.example",
        "https://evil-sts.example.com",
        "https://evil.sts.example.com",
        "https://sts.example.com@evil.example",
        "https://sts.example.com:443@evil.example",
        "https://user@sts.example.com",
        "https://user:word@sts.example.com",
        "https://evil.example#sts.example.com",
        "https://evil.example?sts.example.com",
        "https://evil.example/sts.example.com",
        "https://evil.example\\@sts.example.com",
        "https://sts.example.com/path",
        "https://sts.example.com/?query",
        "https://10.0.0.7",
        "https://10.0.0.77:8443",
        "https://[fd00::2]:9000",
        "https://[::ffff:10.0.0.7]:8443",
        "https://",
        "sts.example.com",
        "",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
    // A name that means the same in the end is the same: it is what is connected to as well.
    assert!(is_allowed("https://ｓts.example.com"));
    assert!(!is_allowed("https://ѕts.example.com"), "a letter that only looks alike");
}

#[test]
fn aws_is_its_service_in_a_region_and_none_of_its_customers() {
    let options = with_hosts(&["sts.*.amazonaws.com"]);
    let is_allowed = |host: &str| options.check(&format!("https://{host}"), "sts.amazonaws.com").is_ok();
    for region in ["eu-central-1", "us-gov-west-1", "ap-southeast-5", "us-iso-east-1", "me-south-1"] {
        assert!(is_allowed(&format!("sts.{region}.amazonaws.com")), "{region}");
    }
    assert!(is_allowed("STS.EU-central-1.AMAZONAWS.com"));
    for host in [
        // Buckets of that name.
        "sts.s3.amazonaws.com",
        "sts.s3-eu-west-1.amazonaws.com",
        "sts.s3.eu-west-1.amazonaws.com",
        // Machines, balancers and interfaces of anybody.
        "ec2-198-51-100-1.eu-central-1.compute.amazonaws.com",
        "sts.eu-central-1.elb.amazonaws.com",
        "x.execute-api.eu-central-1.amazonaws.com",
        "sts.x.eu-central-1.amazonaws.com",
        "sts.eu-central-1.amazonaws.com.evil.example",
        "sts.eu-central-1.amazonaws.com.cn",
        "sts.eu-central-1.amazonaws.com.",
        "sts.eu-central-1.evilamazonaws.com",
        "evil.sts.eu-central-1.amazonaws.com",
        "sts.eu-central-1.amazonaws.com:8443",
        "sts..amazonaws.com",
        "sts.amazonaws.com",
        "sts.eu-central.amazonaws.com",
        "sts.eu-1.amazonaws.com",
        "sts.eu-central-01.amazonaws.com",
        "sts.eu--1.amazonaws.com",
        "sts.euc-central-1.amazonaws.com",
    ] {
        assert!(!is_allowed(host), "{host}");
    }
    assert!(
        with_hosts(&["sts.*.amazonaws.com.cn"])
            .check("https://sts.cn-north-1.amazonaws.com.cn", "sts.amazonaws.com")
            .is_ok()
    );
    assert!(
        with_hosts(&["sts.amazonaws.com"]).check("https://sts.amazonaws.com", "sts.amazonaws.com").is_ok()
    );
}

#[test]
fn an_option_that_would_allow_more_than_it_says_is_refused() {
    for host in [
        "*",
        "*.amazonaws.com",
        "sts.*",
        "sts.*.example.com",
        "*.example.com:9000",
        "https://sts.example.com",
        "user@sts.example.com",
        "sts.example.com/",
        "sts.example.com/path",
        "sts.example.com?x",
        "sts.example.com#x",
        "sts.example.com.",
        "sts.example.com:",
        "sts.example.com:99999",
        "sts example.com",
        ":9000",
        "a\\b",
        "sts.*.amazonaws.com:8443",
    ] {
        let parsed = StsHost::parse(host);
        // An empty port is that of the scheme.
        let is_default = parsed == Ok(StsHost::One { host: "sts.example.com".into(), port: 443 });
        assert!(parsed.is_err() || (host.ends_with(':') && is_default), "{host} gave {parsed:?}");
    }
    for own in [
        "https://kubernetes.default.svc",
        "https://kubernetes.default.svc.cluster.local",
        "HTTPS://Kubernetes.default.svc",
        "kubernetes.default.svc",
        "kubernetes",
        "",
        "a b",
    ] {
        assert!(audience(own).is_err(), "{own}");
    }
    assert_eq!(audience("sts.amazonaws.com").unwrap(), "sts.amazonaws.com");
    for service in
        ["sts.example.com", "sts.example.com=", "=sts", "*=sts", "sts.example.com=kubernetes.default.svc"]
    {
        assert!(Service::parse(service).is_err(), "{service}");
    }
    assert_eq!(Service::parse("sts.example.com=a=b").unwrap().audience, "a=b");
    assert!(options(&["--web-identity-ca=no certificate"]).unwrap_err().contains("PEM"));
    assert_eq!(options(&[]).unwrap().ca(), None);
}
